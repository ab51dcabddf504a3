"""The text of relay.yaml -> a tree of plain values, with what the environment supplies in its place.

Strategy: PyYAML parses and composes; the nodes are turned into values here, since only here is the path of each value
known, and since four things are stricter than in PyYAML's own loader:
1. A key that stands twice in one mapping is a mistake, not an override.
2. Plain words are read as YAML 1.2 does: `no` and `12:30` are text, `010` is ten.
3. `${NAME}` and `${NAME:-default}` are replaced in text that is already parsed, so no secret can break the file.
   `$${` stands for `${`.
4. Nodes are counted, expanded aliases too, and depth is bounded: no file keeps relay from starting or refusing to.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml
import yaml.reader

from addons.config.mistakes import ConfigError, Location, Place, Problem, dotted
from addons.core.printable import is_encodable

MAX_FILE = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 64

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]{1,40}|0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]{1,40}|[0-9]{1,40}(?:\.[0-9]{0,40})?)(?:[eE][-+]?[0-9]{1,4})?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_REFERENCE = re.compile(r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>(?:[^}$]|\$(?!\{))*+))?\})?")


def _to_int(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _to_float(text: str) -> float:
    return float(text.replace(".inf", "inf").replace(".nan", "nan")) if text[-1].isalpha() else float(text)


# YAML 1.2.2, section 10.3.2 (the core schema): what a plain scalar means, in the order in which it is tried.
PLAIN: tuple[tuple[str, re.Pattern[str], Callable[[str], Any]], ...] = (
    ("null", _NULL, lambda text: None),
    ("bool", _BOOL, lambda text: text.lower() == "true"),
    ("int", _INT, _to_int),
    ("float", _FLOAT, lambda text: _to_float(text.lower())),
)


class FromEnviron(str):
    """Text with a reference in it.

    `written` is what the file says, and the only thing to show; `whole`: it is one reference and nothing else;
    `supplied`: the environment gave a part of it, so that it may be a secret.
    """

    written: str
    whole: bool
    supplied: bool

    def __new__(cls, text: str, written: str, *, whole: bool, supplied: bool) -> Self:
        self = super().__new__(cls, text)
        self.written, self.whole, self.supplied = written, whole, supplied
        return self


def plain_value(text: str) -> Any:
    """What a YAML scalar of this text, unquoted, means: null, a boolean, a number or the text."""
    for _, pattern, convert in PLAIN:
        if pattern.fullmatch(text):
            return convert(text)
    return text


def whole(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """The pattern bound to the end of the text, for PyYAML's resolvers, which only match from the start."""
    return re.compile(rf"(?:{pattern.pattern})\Z")


class _Refused(Exception):
    """The whole file is refused, with a reason that needs no place."""


class _Composer(yaml.SafeLoader):
    """PyYAML's loader up to the nodes, with YAML 1.2's plain words, and with bounds."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's, where it is one of the class

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _Refused(f"expected at most {MAX_NODES} keys and values in one file")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Refused(f"expected at most {MAX_DEPTH} levels of nesting")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


for _name, _pattern, _ in PLAIN:
    _Composer.add_implicit_resolver(_TAG + _name, whole(_pattern), None)


class _Builder:
    """Turns nodes into values, and collects what is wrong on the way."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self.places: dict[str, Place] = {}
        """Where each value stands."""
        self._environ = environ
        self._built = 0

    def build(self, node: yaml.Node, where: Location) -> Any:
        # A text counts by its length as well, since an alias may repeat a long one.
        self._built += 1 + (len(node.value) // 64 if isinstance(node, yaml.ScalarNode) else 0)
        if self._built > MAX_NODES or len(where) > MAX_DEPTH:
            raise _Refused(f"expected at most {MAX_NODES} keys and values and {MAX_DEPTH} levels, aliases followed")
        self.places[dotted(where)] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.build(each, (*where, index)) for index, each in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, where)
        return self._wrong(where, node.tag.removeprefix(_TAG), "expected a value without a tag such as !!set")

    def _mapping(self, node: yaml.MappingNode, where: Location) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._wrong(where, None, f"expected a word as a key in line {line}")
                continue
            name = str(key.value)
            if name in mapping:
                self._wrong((*where, name), None, f"this key stands twice, in lines {lines[name]} and {line}; keep one")
                continue
            lines[name] = line
            mapping[name] = self.build(value, (*where, name))
            if (
                not isinstance(value, yaml.ScalarNode) or not value.value
            ):  # its name stands before it, maybe lines before
                self.places[dotted((*where, name))] = (line, key.start_mark.column + 1)
        return mapping

    def _scalar(self, node: yaml.ScalarNode, where: Location) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind == "str":
            return self._text(node.value, where)
        for name, pattern, convert in PLAIN:
            if kind == name and pattern.fullmatch(node.value):
                return convert(node.value)
        return self._wrong(where, f"{node.tag.removeprefix(_TAG)} {node.value}", "expected a value without a tag")

    def _text(self, written: str, where: Location) -> str:
        """The text with its references resolved. What cannot be is left out, and noted once."""
        unset: list[str] = []
        broken = supplied = False

        def resolve(match: re.Match[str]) -> str:
            nonlocal broken, supplied
            name, default = match["name"], match["default"]
            if name is None:
                broken |= match[0] != "$${"
                return "${"
            value = self._environ.get(name)
            if default is not None and not value:
                return str(default)
            supplied = True
            if value is None:
                unset.append(name)
            return value or ""

        text = _REFERENCE.sub(resolve, written)
        if broken:
            self._wrong(where, written, "expected ${NAME} or ${NAME:-default}; for a plain ${ write $${")
        elif unset:
            advice = f"set it, or write ${{{unset[0]}:-default}}"
            # Of what stands around it nothing need be told: it may be half of an address with a password.
            alone = written if _REFERENCE.fullmatch(written) else f"...${{{unset[0]}}}..."
            self._wrong(where, alone, f"{unset[0]} is not set in the environment; {advice}")
        elif not is_encodable(text):
            self._wrong(where, written, "expected text that can be written in UTF-8")
        match = _REFERENCE.fullmatch(written)
        whole = match is not None and match["name"] is not None
        return FromEnviron(text, written, whole=whole, supplied=supplied) if supplied or whole else text

    def _wrong(self, where: Location, value: str | None, expected: str) -> None:
        self.problems.append(Problem.at(where, value, expected))


def text_of(path: Path) -> str:
    """The file's text. Raises ConfigError where there is none to be had."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        advice = "there is no such file; create it (it may be empty), or name another with RELAY_CONFIG"
        raise ConfigError([Problem("", "", advice)], str(path)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        advice = f"this file cannot be read: {reason}; name another with RELAY_CONFIG"
        if path.is_dir():
            advice = f"this file cannot be read: {reason}; name the file in it with RELAY_CONFIG"
        raise ConfigError([Problem("", "", advice)], str(path)) from None
    if len(content) > MAX_FILE:
        raise ConfigError([Problem("", "", "expected a file of at most 1 MiB")], str(path))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        advice = f"expected UTF-8, which line {line} is not; save the file as UTF-8"
        raise ConfigError([Problem("", "", advice)], str(path)) from None


def read(text: str, environ: Mapping[str, str]) -> tuple[Any, list[Problem], Mapping[str, Place]]:
    """The file's value (None for an empty one), every mistake in its writing, and where its values stand.

    A file that is no YAML gives one problem, which names line and column.
    """
    builder = _Builder(environ)
    try:
        loader = _Composer(text)
        node = loader.get_single_node()
        return (None if node is None else builder.build(node, ())), builder.problems, builder.places
    except _Refused as refused:
        return None, [Problem("", "", str(refused))], {}
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, [Problem(f"line {line}", "", "expected text without control characters")], {}
    except yaml.MarkedYAMLError as error:
        return None, [_syntax_problem(error, text)], {}
    except (ValueError, OverflowError):  # PyYAML on escapes such as "\UFFFFFFFF"
        return None, [Problem("", "", "expected YAML; an escape in double quotes names no character")], {}


def _syntax_problem(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    reason = ", ".join(part for part in (error.context, error.problem) if part)
    line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
    if re.search(r"[\[{].*\$\{", line):
        reason += "; inside { } and [ ] put ${NAME} in quotes"
    elif "\t" in line:
        reason += "; indent with blanks, not with tabs"
    return Problem(place, "", f"this is not YAML: {reason}")
