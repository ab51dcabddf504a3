"""Fair turns: everything is measured in each round, forwards, then backwards, and compared only within a round."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Protocol


class Named(Protocol):
    """What has its turns, known by its name."""

    @property
    def name(self) -> str:
        """As a table has it."""


def rotate[N: Named, T](targets: Sequence[N], rounds: int, measure: Callable[[N], T]) -> dict[str, list[T]]:
    """What `measure` finds for each target, once a round. One that fails in a round is left out of the result."""
    found: dict[str, list[T]] = {target.name: [] for target in targets}
    for number in range(rounds):
        for target in targets if number % 2 == 0 else reversed(targets):
            if target.name not in found:
                continue
            try:
                found[target.name].append(measure(target))
            except subprocess.SubprocessError as error:
                print(f"bench: {target.name} failed and is left out here: {error}", file=sys.stderr)
                del found[target.name]
    return found


def middle[T](found: Sequence[T], value: Callable[[T], float]) -> float:
    """The median."""
    return median(value(each) for each in found)


def ratio[T](found: Mapping[str, Sequence[T]], name: str, other: str, value: Callable[[T], float]) -> float | None:
    """The median of name / other over the rounds; None where there is nothing to compare."""
    pairs = zip(found.get(name, ()), found.get(other, ()), strict=False)
    ratios = [value(one) / value(two) for one, two in pairs if value(two)]
    return median(ratios) if ratios else None
