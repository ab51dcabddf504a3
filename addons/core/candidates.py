"""Where a request may go up: keys and upstreams, in the order in which a conversation prefers them.

The order of an upstream's keys is that of rendezvous hashing (Thaler and Ravishankar, 1998): each key has a weight for
each conversation, and the heaviest comes first. So all processes agree without telling each other, a conversation stays
with its key as long as that works, and when a key goes only its own conversations move.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True, slots=True)
class Candidate:
    """An upstream by its name, and one of its keys by its hash."""

    upstream: str
    key: str


def key_hash(key: str) -> str:
    """What stands for a key in weights. Not to be shown or kept: whoever guesses a key could check the guess."""
    return sha256(b"relay key\0" + key.encode("utf-8", "surrogateescape")).hexdigest()


def preferred(conversation: str, upstream: str, keys: Iterable[str]) -> list[Candidate]:
    """An upstream's keys, by their hashes, as a conversation prefers them."""

    def weight(key: str) -> bytes:
        said = f"{upstream}\0{key}\0{conversation}".encode("utf-8", "surrogateescape")
        return sha256(said).digest()

    return [Candidate(upstream, key) for key in sorted(keys, key=weight, reverse=True)]


def choose(
    order: Sequence[Candidate], tried: Iterable[Candidate], free: Callable[[Candidate], bool | None]
) -> Candidate | None:
    """The first candidate that was not tried and is `free`; where none is, the first that may be all the same.

    `free` is True for one that works as far as is known, None for one that has failed of late and may be tried where
    there is no better one, False for one that has asked to be left alone.
    """
    gone = set(tried)
    left = [each for each in order if each not in gone]
    states = [(each, free(each)) for each in left]
    for wanted in (True, None):
        found = next((each for each, state in states if state is wanted), None)
        if found is not None:
            return found
    return None
