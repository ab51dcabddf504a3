"""Whether a function's work grows with its input and not faster: hostile texts of any length, and a way to time it.

1. A `Shape` is a text of any length: a beginning, units repeated (or nested: units on both sides of a middle), an end.
   A `#` in a unit is its number, so that a thousand units are a thousand different ones.
2. `too_much` times a function on ever longer texts of a shape, four times as long each, until the time is long enough
   to mean something or the text is as long as the function ever gets; then it compares that time with the one for a
   quarter of the text. Linear work takes four times as long, quadratic work sixteen times.

Time is the thread's own, so that what else the machine does counts little, and of several tries the shortest one. How
long one call may hold the loop is told in time, so that is measured beside work whose time is known.
"""

import gc
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from hypothesis import strategies as st

FACTOR = 4
MOST = 9.0
"""Times the work that a text four times as long may cost: linear is 4, with noise and caches that overflow; quadratic
is 16."""
TELLING = 0.008
"""Seconds from which a time means something: what is quadratic and takes so long takes seconds for 16 times as much."""
HELD = 0.1
"""Seconds for which one call may hold the loop. 10 ms are aimed at; this leaves room for busy machines."""
_SHORTEST = 512
_TRIES = 3
_MORE_TRIES = 30
_KNOWN = 100_000
_KNOWN_TAKES = 0.0085
"""Seconds that `_known_work` takes on the machine that HELD was chosen on, where nothing else runs."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A text of any length."""

    units: tuple[str, ...]
    before: str = ""
    after: str = ""
    nested: bool = False
    """The second half is made of the units' closing marks."""

    def of(self, size: int) -> str:
        """About so many characters of it."""
        unit = "".join(self.units)
        room = max(len(unit), size - len(self.before) - len(self.after))
        if "#" in unit:
            unit = unit.replace("#", "%05d").replace("%", "%%").replace("%%05d", "%05d")
            return self.before + "".join(_numbered(unit, room)) + self.after
        if not self.nested:
            return self.before + unit * (room // len(unit)) + self.after
        closing = "".join(reversed([_CLOSING.get(each, each) for each in self.units]))
        depth = max(1, room // (len(unit) + len(closing)))
        return self.before + unit * depth + closing * depth + self.after


def _numbered(pattern: str, size: int) -> Iterator[str]:
    numbers = pattern.count("%05d")
    length = len(pattern % ((0,) * numbers))
    return (pattern % ((number % 100_000,) * numbers) for number in range(max(1, size // length)))


_CLOSING = {"[": "]", "{": "}", '{"a":': "}", '{"a":[': "]}", "(": ")", '"': '"'}

UNITS = (
    " ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\\",
    '"',
    "'",
    '\\"',
    "\\\\",
    "\\u0041",
    "\\u00",
    "%41",
    "%",
    "[",
    "{",
    "]",
    "}",
    "[],",
    "{},",
    '{"a":',
    '{"a":[',
    "1,",
    '"a",',
    '"a":1,',
    ":",
    ",",
    ";",
    "&",
    "=",
    "a",
    "A",
    "é",
    "界",
    "\U0001f600",
    "\u2028",
    "\x1b[",
    "\x00",
    "/",
    "//",
    "/v1",
    "/v1/",
    "..",
    "/../",
    "%2e",
    "%2f",
    "*",
    "***",
    "***00000000",
    "-",
    "_",
    ".",
    "apikey",
    "apikey:",
    "apikey=",
    "apikey\n",
    '"apiKey":"',
    "api_key\\",
    "access_token",
    "key=%41",
    "key=%41b#&",
    "token=a#&",
    "a=secretvalue#; ",
    "openai-insecure-api-key.abcdefgh#, ",
    'apikey":"secret#",',
    "apikey=secret#&",
    "Bearer ",
    "Bearer\t",
    "sk-",
    "sk-0123456789ab",
    "sk-0123456789ab# ",
    "sk",
    "eyJ",
    "b'",
    "b'\\",
    "ClientHello: 00",
    "data:",
    "data: ",
    "data:\n",
    "data: x\n\n",
    'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
    '{"choices":[{"delta":{"content":"a"}}]},',
    "event:x\n",
    ":\n",
    "id:1\n",
    "retry:1\n",
    '"content":"',
    '"text":"\\',
    '"model":"',
    '"model" :',
    '{"code": 429, "message": "',
    '"prompt_tokens":1,',
    '{"role":"user","content":"a"},',
    "--b\r\n",
    "\r\n--b",
    "\r\n--b\r\n\r\n",
    'name="',
    ";a=",
    ';"',
    "boundary=",
    "https://a/",
    "://",
    "@",
    "<",
    "\ud800",
)
"""What hostile texts are made of."""


def shapes() -> st.SearchStrategy[Shape]:
    """Any shape: up to three units repeated or nested, with a beginning and an end."""
    unit = st.sampled_from(UNITS)
    edge = st.lists(unit, max_size=3).map("".join)
    units = st.lists(unit, min_size=1, max_size=3).map(tuple)
    return st.builds(Shape, units=units, before=edge, after=edge, nested=st.booleans())


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call took, in seconds of its thread."""

    whole: float
    slice: float
    """The longest part of it in which nobody else had a turn: all of it, unless it is work in slices."""


def cost(call: Callable[[str], object], text: str, tries: int = 1) -> Cost:
    """The least that several calls took."""
    found = [_cost(call, text) for _ in range(tries)]
    return Cost(min(each.whole for each in found), min(each.slice for each in found))


def _cost(call: Callable[[str], object], text: str) -> Cost:
    collecting = gc.isenabled()
    gc.disable()  # what it does depends on everything else that lives
    try:
        longest = 0.0
        begun = before = time.thread_time()
        work = call(text)
        while True:
            now = time.thread_time()
            longest, before = max(longest, now - before), now
            if not isinstance(work, Generator):
                break
            try:
                next(work)
            except (StopIteration, ValueError):  # what it found does not matter here
                work = None
        return Cost(before - begun, longest)
    finally:
        if collecting:
            gc.enable()


def too_much(call: Callable[[str], object], shape: Shape, longest: int, most: float = HELD) -> str | None:
    """Why the work of `call` is too much; None where it is not.

    It may grow no faster than its input, and hold the loop for at most `most` seconds where the input is as long as it
    ever gets, `longest` characters. `call` may return work in slices, which is then done.
    """
    size = _SHORTEST
    while (taken := cost(call, shape.of(size))).whole < TELLING and size < longest:
        size = min(size * FACTOR, longest)
    if taken.whole < TELLING:
        return None
    quarter = cost(call, shape.of(size // FACTOR), _TRIES)
    if not _is_linear(quarter, lambda: cost(call, shape.of(size), _TRIES), taken):
        # A bound may begin to tell just here: then four times as much costs little more.
        taken = cost(call, shape.of(size), _TRIES)
        if not _is_linear(taken, lambda: cost(call, shape.of(size * FACTOR), 2)):
            return f"{size // FACTOR:,} characters take {_ms(quarter.whole)}, {size:,} take {_ms(taken.whole)}: {shape}"
    if taken.slice * (longest / size) > most and (held := _held(call, shape.of(longest), most)) > most:
        return f"{longest:,} characters hold the loop for {_ms(held)}: {shape}"
    return None


def _held(call: Callable[[str], object], text: str, most: float) -> float:
    """Seconds for which a call holds the loop of a machine that is not slow just now; no more tries than are needed."""
    least = float("inf")
    for _ in range(_MORE_TRIES):
        slower = max(1.0, _cost(_known_work, "").whole / _KNOWN_TAKES)
        least = min(least, _cost(call, text).slice / slower)
        if least <= most:
            break
    return least


def _known_work(_: str) -> int:
    return sum(number for number in range(_KNOWN) if number % 3)


def _is_linear(quarter: Cost, again: Callable[[], Cost], whole: Cost | None = None) -> bool:
    if whole is not None and whole.whole <= quarter.whole * MOST:
        return True
    return again().whole <= quarter.whole * MOST


def _ms(time_taken: float) -> str:
    return f"{time_taken * 1000:.1f} ms"
