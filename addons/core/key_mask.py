"""Taking a key out of an answer on its way, for a reader who must not learn it: as many asterisks stand in its place.

Nothing is held back for that, but where a chunk ends in more of the key than its first few characters, which tell
nothing: `sk-proj-` is the beginning of everybody's. An answer that is cut off there ends in asterisks.
"""

_SHORTEST = 12
"""A shorter key is no secret: `ollama`, `lm-studio` and `EMPTY` are what upstreams want that ask for none, and answers
are full of such words."""
_PASSES = 8
"""Bytes or characters of a key's beginning that may pass before it is known what follows."""


def without_key[Text: (bytes, str)](data: Text, key: Text) -> Text:
    """A whole text in the same length, the key hidden, and at its end what a cut has left of one."""
    mask = KeyMask(key)
    shown = mask.feed(data)
    return shown if mask.idle else shown + mask.feed(data[:0])


class KeyMask[Text: (bytes, str)]:
    """Hides one key in a stream of any length, of bytes or of text. One of less than 12 characters hides nothing."""

    def __init__(self, key: Text) -> None:
        self._key: Text = key if len(key) >= _SHORTEST else key[:0]
        self._asterisks: Text = _asterisks(key)
        self._tail: Text = key[:0]
        """What may be the beginning of the key, at the end of all that came."""
        self._passed = 0
        """How much of it has passed."""

    @property
    def key(self) -> Text:
        """What is hidden; empty where that is nothing."""
        return self._key

    @property
    def idle(self) -> bool:
        """Whether nothing that has come may be the beginning of the key."""
        return not self._tail

    def feed(self, chunk: Text) -> Text:
        """What may pass now; empty where that is nothing. An empty chunk is the end of the stream."""
        if not self._key or (not self._tail and chunk[-1:] not in self._key):  # no key begins at its end
            return self._replaced(chunk)
        data, passed = self._tail + chunk, self._passed
        self._tail, self._passed = data[:0], 0
        if not chunk:  # as much as tells nothing has passed already
            return self._asterisks[: len(data) - passed]
        data = self._replaced(data)
        begun = self._begun(data)
        if not begun:
            return data[passed:]
        before = max(0, passed - (len(data) - begun))
        self._tail = data[-begun:]
        self._passed = max(before, begun if begun <= _PASSES else 0)
        return data[passed : len(data) - begun + self._passed]

    def _replaced(self, data: Text) -> Text:
        return data.replace(self._key, self._asterisks) if self._key and self._key in data else data

    def _begun(self, data: Text) -> int:
        """How much at the end of `data` may be the beginning of the key."""
        if data[-1:] not in self._key:
            return 0
        longest = min(len(self._key) - 1, len(data))
        return next((size for size in range(longest, 0, -1) if data.endswith(self._key[:size])), 0)


def _asterisks[Text: (bytes, str)](text: Text) -> Text:
    return "*" * len(text) if isinstance(text, str) else b"*" * len(text)
