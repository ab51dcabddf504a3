"""Long work in slices: a generator yields wherever others may have a turn, and returns the result.

Nothing that a stranger sends may hold the event loop for longer than some 10 ms, and a thread is no way out: one long
call of json, re or zlib holds the interpreter wherever it runs. So whatever may take longer is written as such a
generator. `addons.flow.turns` runs one on the event loop; `at_once` runs one where nobody waits.
"""

from collections.abc import Generator

type Sliced[T] = Generator[None, None, T]
"""Work that yields between slices of a few milliseconds and returns its result."""


def at_once[T](work: Sliced[T]) -> T:
    """The result of `work`, without a pause."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
