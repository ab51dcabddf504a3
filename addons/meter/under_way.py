"""What is known of an exchange that is metered, from its request to its settlement."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mitmproxy import http

from addons import errors
from addons.core.answer_usage import AnswerUsage, Reported
from addons.core.generations import Generation
from addons.core.relay_keys import RelayKey
from addons.core.slices import Sliced
from addons.exchange import Part
from addons.flow.decoding import TooLong, listener
from addons.meter.gate import Admission
from addons.meter.later import Later
from addons.store.ledger_file import BROKE, GAVE_UP, LEFT

logger = logging.getLogger(__name__)

_HEARD_AT_ONCE = 1 << 14
_HEARD_TOGETHER = 1 << 12
_BEGINNING = 1024
_PIECE = 4096
"""Encoded bytes that are decoded at a time: what comes out of them is bounded, too."""
_MOST_DECODED = 1 << 19
"""Bytes that may come out of one chunk: they are heard at once."""


class Unpacked:
    """The bytes of an answer as they are meant, for somebody who listens; nothing any more once they can't be read."""

    def __init__(self, response: http.Response) -> None:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        plain = encoding in ("", "identity")
        self._decode = None if plain else listener(encoding)
        self._deaf = not plain and self._decode is None

    def feed(self, chunk: bytes, hear: Callable[[bytes], object]) -> None:
        """Have a chunk heard. Never raises."""
        if self._deaf:
            return
        try:
            if self._decode is None:
                hear(chunk)
                return
            decoded = 0
            for start in range(0, len(chunk), _PIECE):
                piece = self._decode(chunk[start : start + _PIECE])
                decoded += len(piece)
                if decoded > _MOST_DECODED:
                    raise TooLong
                hear(piece)
        except ValueError:
            self._deaf = True
        except Exception:
            self._deaf = True
            logger.exception("an answer is not metered")


@dataclass(eq=False)
class Metering:
    """What is known of a generation that is under way."""

    kind: Generation
    at: float
    """Seconds since the epoch."""
    request: str
    caller: str
    upstream: str
    path: str
    model: str = ""
    """As upstream is asked for it, where that was read."""
    admission: Admission | None = None
    size: int = 0
    """Bytes of the request."""
    status: int | None = None
    """Of upstream's answer."""
    first_at: float | None = None
    """When its first bytes came, on the monotonic clock."""
    begun: float = field(default_factory=time.monotonic)
    answer: AnswerUsage = field(default_factory=AnswerUsage)
    cut_short: str | None = None
    """Why the last of several tries has no answer, as settlements say it."""
    beginning: bytes = b""
    """Of an answer of the Responses API, decoded: its id stands there."""
    _unpacked: "Unpacked | None" = None
    _unheard: list[bytes] = field(default_factory=list)
    """Chunks that are looked through together: one by one, their number would cost more than their bytes."""
    _unheard_size: int = 0

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """Upstream is asked once more: of this try nothing is known, until it has answered."""
        self.status, self.begun, self.first_at = None, time.monotonic(), None
        self.answer, self._unheard, self._unheard_size = AnswerUsage(), [], 0
        try:
            yield
        except asyncio.CancelledError:
            self.cut_short = LEFT
            raise
        except errors.RelayError as error:
            self.cut_short = GAVE_UP if isinstance(error, errors.UpstreamTimeout) else BROKE
            raise

    def begin_answer(self, response: http.Response) -> None:
        """Hear an answer from its beginning."""
        self.status = response.status_code
        has_budget = self.admission is not None and self.admission.price is not None
        images, gemini = self.kind == Generation.IMAGE, self.kind is Generation.CONTENT
        self.answer = AnswerUsage(images=images, words=has_budget, gemini=gemini)
        self.first_at = None
        self._unpacked = Unpacked(response)
        self._unheard, self._unheard_size = [], 0

    def hear(self, chunk: bytes) -> None:
        """Take a chunk as it came. Never raises: what can't be heard leaves the usage unknown."""
        if self.first_at is None:
            self.first_at = time.monotonic()
        self._unheard.append(chunk)
        self._unheard_size += len(chunk)
        if self._unheard_size >= _HEARD_TOGETHER or not chunk:
            self._listen()

    def told(self) -> Reported:
        """What the answer has told so far."""
        self._listen()
        return self.answer.told()

    def _listen(self) -> None:
        chunk = b"".join(self._unheard)
        self._unheard, self._unheard_size = [], 0
        if self._unpacked is not None:
            self._unpacked.feed(chunk, self._hear_decoded)

    def _hear_decoded(self, piece: bytes) -> None:
        if self.kind is Generation.RESPONSE and len(self.beginning) < _BEGINNING:
            self.beginning += piece[:_BEGINNING]
        self.answer.feed(piece)

    def hearing(self, body: bytes) -> Sliced[None]:
        """Take a whole answer, in slices."""
        for start in range(0, len(body), _HEARD_AT_ONCE):
            self.hear(body[start : start + _HEARD_AT_ONCE])
            yield


METERING = Part[Metering]("metering")
LATER = Part[Later]("later")
CALLER = Part[RelayKey]("relay_key")
UNCOUNTED = Part[Admission]("uncounted")
"""An admission of a request that is no generation."""
REPLACING = Part[str]("replacing")
"""Why an answer is read before it is passed on: `key`, `models`, or `refusal` for one that is encoded."""
