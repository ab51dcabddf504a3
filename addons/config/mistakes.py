"""What is wrong with relay.yaml, in plain words and without its secrets."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from addons.core.secrets import scrub

Location = tuple[str | int, ...]
"""The way to a value: keys, and numbers for the places in a list."""
Place = tuple[int, int]
"""Line and column in the file, both from 1."""

_KEY = re.compile(r"\bsk-\S+", re.IGNORECASE)
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]{0,20}:/{0,2})?([^/?#]*)([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)
# With a scheme before it, and without one: a key can look like a name, but for the end of that.
_HOST = re.compile(
    r"(?:[A-Za-z0-9_-]{1,20}\.?|(?:[A-Za-z0-9_-]{1,30}\.){1,6}[A-Za-z0-9-]{1,20}|\[[0-9a-f:.]+\])(?::[0-9]*)?"
)
_BARE_HOST = re.compile(
    r"(?:[a-z]{1,12}|(?:[a-z0-9-]{1,30}\.){1,6}[a-z]{2,6}|(?:[0-9]{1,3}\.){3}[0-9]{1,3})(?::[0-9]*)?"
)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_PLAIN_PATH = re.compile(r"(?:/+(?:[a-z._-]{1,20}|v[0-9]{1,2}[a-z]{0,5}))*/*")
_ADDRESSES = ("url", "proxy", "otlp")
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
    """The text as one short line in quotes, without keys. Of an address only what can't be one: see `address`."""
    if "://" in text:
        text = address(text)
    elif "@" in text:
        text = f"***@{text.rpartition('@')[2]}"
    safe = scrub(_KEY.sub("sk-***", text))
    return repr(safe if len(safe) <= _LONGEST else f"{safe[: _LONGEST - 3]}...")


def shown(where: Location, text: str) -> str:
    """A text of the file as `quoted`; where an address is expected anything else may be a key or a password, too."""
    if where and _holds_a_key(where) and not _REFERENCE.fullmatch(text):
        return "'***'"
    expected = where and (where[-1] in _ADDRESSES or (where[0] == "upstreams" and len(where) < 3))
    return quoted(address(text) if expected else text)


def _holds_a_key(where: Location) -> bool:
    if where == ("metrics", "token"):
        return True
    return where[0] in ("keys", "upstreams") and (where[-1] == "key" or "keys" in where[1:-1] or where[-1] == "keys")


def address(text: str) -> str:
    """Scheme, host and a path of plain words; asterisks for user, password, query and whatever else there is.

    What the environment supplies stands there by its name.
    """
    if reference := _REFERENCE.match(text):
        default = f":-{address(reference[2])}" if reference[2] is not None else ""
        return f"${{{reference[1]}{default}}}{'***' if reference.end() < len(text) else ''}"
    found = _ADDRESS.fullmatch(text)
    if found is None or not text:
        return text
    scheme, authority, path, rest = found.groups()
    user = ""
    if "@" in authority + path:  # a password may have a slash in it
        authority, slash, path = (authority + path).rpartition("@")[2].partition("/")
        user, path = "***@", slash + path
    if "@" in rest:  # a password may have had the ? in it
        return f"{scheme or ''}***"
    if not (_HOST if scheme else _BARE_HOST).fullmatch(authority):
        return f"{scheme or ''}***"
    shown_path = path if _PLAIN_PATH.fullmatch(path) else "/***"
    return f"{scheme or ''}{user}{authority}{shown_path}{f'{rest[0]}***' if rest else ''}"


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
        return cls(dotted(where), "" if value is None else shown(where, value), expected)

    def __str__(self) -> str:
        return self.described(None)

    def described(self, place: Place | None) -> str:
        """In a line, with the place in the file where that is known."""
        given = f"{self.value} -- " if self.value else ""
        if not self.path:
            return f"{given}{self.expected}"
        where = f" (line {place[0]}, column {place[1]})" if place is not None else ""
        return f"{self.path}{where}: {given}{self.expected}"


class ConfigError(Exception):
    """relay.yaml is not fit to run with. `problems` holds every mistake in it, `source` the file's name, `places` where
    the values stand, by their paths.
    """

    def __init__(
        self, problems: Sequence[Problem], source: str = "relay.yaml", places: Mapping[str, Place] | None = None
    ) -> None:
        self.problems = tuple(problems)
        self.source = source
        self.places = places or {}
        super().__init__(self.problems, source, self.places)

    def _place(self, path: str) -> Place | None:
        """Where a value stands, or what is around it where it is missing."""
        while path and path not in self.places:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.places.get(path)

    def __str__(self) -> str:
        if len(self.problems) == 1 and not self.problems[0].path:
            return f"{self.source}: {self.problems[0]}"
        count = "1 mistake" if len(self.problems) == 1 else f"{len(self.problems)} mistakes"
        return "\n  ".join(
            [f"{self.source} has {count}:", *(each.described(self._place(each.path)) for each in self.problems)]
        )
