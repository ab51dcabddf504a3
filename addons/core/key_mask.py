"""Taking a key out of an answer on its way, for a reader who must not learn it: as many asterisks stand in its place.

A part of it at the end of a chunk is held until the next one tells what it is. Keys have no line breaks in them, so
whole events are never held.
"""

_MASK = b"*"


def without_key(data: bytes, key: bytes) -> bytes:
    """The same length of bytes, the key hidden."""
    return data.replace(key, _MASK * len(key)) if key in data else data


class KeyMask:
    """Hides one key in a stream of any length; an empty key hides nothing."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What may pass now; b"" where that is nothing. An empty chunk is the end of the stream."""
        data = self._held + chunk if self._held else chunk
        self._held = b""
        if not chunk or not self._key:
            return data
        data = without_key(data, self._key)
        begun = self._begun(data)
        if begun:
            data, self._held = data[:-begun], data[-begun:]
        return data

    def _begun(self, data: bytes) -> int:
        """Bytes at the end of `data` that may be the beginning of the key."""
        if data[-1] not in self._key:
            return 0
        longest = min(len(self._key) - 1, len(data))
        return next((size for size in range(longest, 0, -1) if data.endswith(self._key[:size])), 0)
