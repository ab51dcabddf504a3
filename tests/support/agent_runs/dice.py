"""Chance that gives the same on every machine and Python: it stands on `random.random` alone, which Python promises to
keep.
"""

import random
from collections.abc import Sequence


class Dice:
    """A seeded source of choices; the same seed text gives the same choices, always."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random

    def below(self, limit: int) -> int:
        return int(self._random() * limit)

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, share: float) -> bool:
        return self._random() < share

    def pick[T](self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def shuffled[T](self, values: Sequence[T]) -> list[T]:
        rest = list(values)
        for at in range(len(rest) - 1, 0, -1):
            other = self.below(at + 1)
            rest[at], rest[other] = rest[other], rest[at]
        return rest

    def digits(self, count: int) -> str:
        """So many lower-case hexadecimal digits."""
        return "".join(self.pick("0123456789abcdef") for _ in range(count))

    def uuid(self) -> str:
        return "-".join(self.digits(count) for count in (8, 4, 4, 4, 12))
