"""Taking a key out of an answer on its way, for a reader who must not learn it: as many asterisks stand in its place.

Nothing is held back for that, but where a chunk ends in more of the key than its first few characters, which tell
nothing: `sk-proj-` is the beginning of everybody's.
"""

_MASK = b"*"
_PASSES = 8
"""Bytes of a key's beginning that may pass before it is known what follows."""


def without_key(data: bytes, key: bytes) -> bytes:
    """The same length of bytes, the key hidden."""
    return data.replace(key, _MASK * len(key)) if key in data else data


class KeyMask:
    """Hides one key in a stream of any length; an empty key hides nothing."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._tail = b""
        """What may be the beginning of the key, at the end of all that came."""
        self._passed = 0
        """Bytes of it that have passed."""

    def feed(self, chunk: bytes) -> bytes:
        """What may pass now; b"" where that is nothing. An empty chunk is the end of the stream."""
        if not self._tail and chunk and chunk[-1] not in self._key:  # no key begins at its end
            return without_key(chunk, self._key) if self._key else chunk
        data, passed = self._tail + chunk, self._passed
        self._tail, self._passed = b"", 0
        if not chunk or not self._key:
            return data[passed:]
        data = without_key(data, self._key)
        begun = self._begun(data)
        if not begun:
            return data[passed:]
        before = max(0, passed - (len(data) - begun))
        self._tail = data[-begun:]
        self._passed = max(before, begun if begun <= _PASSES else 0)
        return data[passed : len(data) - begun + self._passed]

    def _begun(self, data: bytes) -> int:
        """Bytes at the end of `data` that may be the beginning of the key."""
        if data[-1] not in self._key:
            return 0
        longest = min(len(self._key) - 1, len(data))
        return next((size for size in range(longest, 0, -1) if data.endswith(self._key[:size])), 0)
