"""What is wrong with relay.yaml, in plain words and without its secrets."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from addons.core.secrets import scrub

Location = tuple[str | int, ...]
"""The way to a value: keys, and numbers for the places in a list."""

_KEY = re.compile(r"\bsk-\S+", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,20}://", re.IGNORECASE)
_USERINFO = re.compile(r"(://)[^\s/]*@")
_LONGEST = 60


def dotted(where: Location) -> str:
    """`upstreams[1].url` from ("upstreams", 1, "url"); a key that is no plain word stands in quotes."""
    path = ""
    for part in where:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            word = part if re.fullmatch(r"[\w-]{1,40}", part) else quoted(part)
            path += f".{word}" if path else word
    return scrub(_KEY.sub("sk-***", path))


def quoted(text: str) -> str:
    """The text as one short line in quotes, without keys and without the user and password of an address."""
    before, at, rest = text.rpartition("@")
    if at:
        scheme = _SCHEME.match(before)
        text = f"{scheme[0] if scheme else ''}***@{rest}"
    safe = scrub(_KEY.sub("sk-***", text))
    return repr(safe if len(safe) <= _LONGEST else f"{safe[: _LONGEST - 3]}...")


def hide_secrets(text: str) -> str:
    """The text whole, but for keys and for the user and password of addresses in it."""
    return scrub(_USERINFO.sub(r"\1***:***@", text))


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands, what is given there, what was expected.

    `value` is fit to be shown, `""` where it says nothing; `path` is `""` for the file as a whole.
    """

    path: str
    value: str
    expected: str

    @classmethod
    def at(cls, where: Location, value: str | None, expected: str) -> Self:
        """The problem of a text at a place; None where the value says nothing."""
        return cls(dotted(where), "" if value is None else quoted(value), expected)

    def __str__(self) -> str:
        given = f"{self.value} -- " if self.value else ""
        return f"{self.path}: {given}{self.expected}" if self.path else f"{given}{self.expected}"


class ConfigError(Exception):
    """relay.yaml is not fit to run with. `problems` holds every mistake in it, `source` the file's name."""

    def __init__(self, problems: Sequence[Problem], source: str = "relay.yaml") -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__(self.problems, source)

    def __str__(self) -> str:
        if len(self.problems) == 1 and not self.problems[0].path:
            return f"{self.source}: {self.problems[0]}"
        count = "1 mistake" if len(self.problems) == 1 else f"{len(self.problems)} mistakes"
        return "\n  ".join([f"{self.source} has {count}:", *map(str, self.problems)])
