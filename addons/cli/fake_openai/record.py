"""What the look-alike upstream remembers of the requests it got."""

import hashlib
import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from addons.cli.fake_openai.form import Multipart
from addons.cli.fake_openai.wire import Head, Headers, header

BODY_KEPT = 64 * 1024 * 1024
"""Bytes of one body that `Seen` keeps; its length and hash are those of the whole."""
BODIES_KEPT = 4 * BODY_KEPT
"""Bytes of all bodies together; the oldest are emptied first."""
SEEN_KEPT = 10_000
ARRIVALS_KEPT = 1000


@dataclass(slots=True)
class Seen:
    """One request as it came. It is in `Upstream.seen` from its head on and fills up as its body comes."""

    method: str
    target: str
    """Raw, as on the wire."""
    version: str
    headers: Headers
    t: float
    """When its head was read; all times are time.monotonic()."""
    connection: int
    """Which accepted connection, counted from 1."""
    body: bytes = b""
    length: int = 0
    sha256: str = ""
    complete: bool = False
    """Whether the whole body has come."""
    trailers: Headers = field(default_factory=list)
    arrived: list[tuple[float, int]] = field(default_factory=list)
    """When how many bytes of the body came; the first 1000 pieces, one per chunk if the chunks are small."""
    answered_at: float | None = None
    """When the answer had been written whole."""
    closed_at: float | None = None
    """When the peer left before the answer had been written whole."""

    @property
    def path(self) -> str:
        """The target without its query."""
        return urlsplit(self.target).path if not self.target.startswith("//") else self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        """The query's values by name."""
        return parse_qs(self.target.partition("?")[2], keep_blank_values=True)

    def header(self, name: str) -> str | None:
        """The first value of this header, whatever its case."""
        return header(self.headers, name)

    def left(self) -> None:
        """The peer is gone."""
        if self.answered_at is None:
            self.closed_at = time.monotonic()

    def json(self) -> Any:
        """The body read as JSON. Raises ValueError."""
        return json.loads(self.body)


class Arrival:
    """A body on its way in: counted, hashed, kept up to a limit, parsed if multipart."""

    def __init__(self, seen: Seen, head: Head) -> None:
        self.seen = seen
        self.form = Multipart.of(head)
        self._kept = bytearray()
        self._hash = hashlib.sha256()

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self.seen.length += len(data)
        if len(self.seen.arrived) < ARRIVALS_KEPT:
            self.seen.arrived.append((time.monotonic(), len(data)))
        self._hash.update(data)
        self._kept += data[: BODY_KEPT - len(self._kept)]
        if self.form:
            self.form.feed(data)

    def close(self) -> None:
        """No more will come."""
        self.seen.body = bytes(self._kept)
        self.seen.sha256 = self._hash.hexdigest()


class Record:
    """The newest requests, bounded in number and in bytes; for use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: deque[Seen] = deque(maxlen=SEEN_KEPT)
        self._with_body: deque[Seen] = deque()
        self._kept = 0

    def add(self, seen: Seen) -> None:
        """Note a request whose head has come."""
        with self._lock:
            self._seen.append(seen)

    def bound(self, seen: Seen) -> None:
        """Account for a body that has come; the oldest bodies make room."""
        with self._lock:
            self._with_body.append(seen)
            self._kept += len(seen.body)
            while self._kept > BODIES_KEPT or len(self._with_body) > SEEN_KEPT:
                oldest = self._with_body.popleft()
                self._kept -= len(oldest.body)
                oldest.body = b""

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._seen.clear()
            self._with_body.clear()
            self._kept = 0

    @property
    def newest(self) -> list[Seen]:
        """Oldest first: a copy of the list, the requests themselves still filling."""
        with self._lock:
            return list(self._seen)
