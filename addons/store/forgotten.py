"""Forgotten: what is to be deleted on a disk that has no room for that.

To delete takes room: what was there is overwritten by way of the log. On a full disk the name of a session to delete is
written over a blank of a file that was made while there was room. From then on nobody reads the session, over a
restart, too, and each sweep tries to delete it.
"""

import errno
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from addons.store.folder import NO_ROOM, make_file

logger = logging.getLogger(__name__)

_PLACE, _PLACES = 41, 512
"""Bytes of a name of a session and its newline, and how many of them `forgotten` has room for."""


class Forgotten:
    """Names of sessions that are to be deleted, in a file whose room was taken when there was some."""

    def __init__(self, path: Path) -> None:
        """Read the names; a file that is none of ours is begun anew. Without room for it there are no places."""
        self._file: io.FileIO | None = None
        self._places: dict[str, int] = {}
        self._free: list[int] = []
        try:
            make_file(path)
            self._file = io.FileIO(path, "r+b")
            data = self._file.read(_PLACES * _PLACE)
            if len(data) < _PLACES * _PLACE:
                data = data.ljust(_PLACES * _PLACE, b"\n")
                self._write(0, data)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            logger.warning(f"on a full disk no session can be deleted, not even later: {error.strerror}")
            return
        for place in range(_PLACES):
            name = data[place * _PLACE : (place + 1) * _PLACE].strip()
            if len(name) == _PLACE - 1 and name.isalnum() and name.isascii():
                self._places[name.decode()] = place
            else:
                self._free.append(place)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def add(self, key: str) -> bool:
        """Remember a name; it is on the disk when this returns. False where there is no place for it."""
        if not self._free:
            return False
        place = self._free.pop()
        try:
            self._write(place, _padded(key))
        except OSError:
            self._free.append(place)
            return False
        self._places[key] = place
        return True

    def drop(self, key: str) -> None:
        """A name need not be remembered any more."""
        place = self._places.pop(key, None)
        if place is not None:
            self._write(place, _padded(""))
            self._free.append(place)

    def _write(self, place: int, data: bytes) -> None:
        if self._file is None:
            return
        self._file.seek(place * _PLACE)
        if self._file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _padded(name: str) -> bytes:
    return name.encode().ljust(_PLACE - 1) + b"\n"
