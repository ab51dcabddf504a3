"""multipart/form-data for the look-alike upstream: bytes in, parts out, in constant memory."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from addons.cli.fake_openai.wire import Head

HELD = 16 * 1024 * 1024
"""Bytes of a part that are kept; of a larger one only its length and hash are known."""


@dataclass(slots=True)
class Part:
    """One part of a multipart body: hashed as it came, its content held up to HELD bytes."""

    name: str
    filename: str | None
    type: str
    size: int = 0
    content: bytearray = field(default_factory=bytearray)
    hash: Any = field(default_factory=hashlib.sha256)

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self.size += len(data)
        self.hash.update(data)
        self.content += data[: HELD - len(self.content)]


class Multipart:
    """An incremental parser of multipart/form-data: bytes in, `parts` out, in constant memory."""

    def __init__(self, boundary: str) -> None:
        self.parts: list[Part] = []
        self.done = False
        self._mark = b"\r\n--" + boundary.encode("latin-1")
        self._buffer = bytearray(b"\r\n")  # so that the first boundary is found like the others
        self._inside = False

    @classmethod
    def of(cls, head: Head) -> "Multipart | None":
        """A parser for this request's body, if it is multipart/form-data."""
        found = re.match(r'multipart/form-data;.*boundary="?([^";]+)', head.get("content-type") or "", re.IGNORECASE)
        return cls(found[1]) if found else None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        self._buffer += data
        while not self.done and self._step():
            pass

    def _step(self) -> bool:
        at = self._buffer.find(self._mark)
        if at < 0:
            self._pour(max(0, len(self._buffer) - len(self._mark) + 1))
            return False
        self._pour(at)
        rest = self._buffer[len(self._mark) :]
        if rest.startswith(b"--"):
            self.done = True
            return False
        end = rest.find(b"\r\n\r\n")
        if end < 0:
            self._inside = False
            return False
        self.parts.append(_part(bytes(rest[:end])))
        self._inside = True
        del self._buffer[: len(self._mark) + end + 4]
        return True

    def _pour(self, size: int) -> None:
        if self._inside and size:
            self.parts[-1].feed(bytes(self._buffer[:size]))
        del self._buffer[:size]


def _part(head: bytes) -> Part:
    text = head.decode("utf-8", "replace")
    name = re.search(r'[; ]name="([^"]*)"', text)
    filename = re.search(r'filename="([^"]*)"', text)
    kind = re.search(r"content-type:\s*([^\r\n;]+)", text, re.IGNORECASE)
    return Part(name[1] if name else "", filename[1] if filename else None, kind[1] if kind else "text/plain")
