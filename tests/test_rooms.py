"""Imports between the rooms of addons/ go one way, so that whoever changes a room knows who may feel it."""

import ast
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ADDONS = Path(__file__).resolve().parent.parent / "addons"
ORDER = (
    {"core"},
    {"errors", "logs", "config", "signals", "mitmproxy_version"},
    {"addresses", "exchange", "store"},
    {"engine", "workers"},
    {"flow"},
    {"upstreams"},
    {"meter"},
    {"telemetry"},
    {"proxy", "endpoints", "replay", "chain", "opening"},
    {"cli", "inspection"},
    {"relay"},
)
"""Rooms and files, lowest first. One imports what stands below it, or beside it where that is named here."""
BESIDE = {("workers", "engine"), ("cli", "inspection")}
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
FILES = sorted(ADDONS.rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """The rooms that a file imports from."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "addons":
            names = [f"addons.{each.name}" for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names = [node.module or ""]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("addons."))


def room_of(file: Path) -> str:
    return file.relative_to(ADDONS).parts[0].removesuffix(".py")


def test_the_drawing_shows_this_order() -> None:
    text = (ADDONS.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = text.partition("never from one above:\n\n```text\n")[2].partition("```")[0]
    assert [set(line.split()) for line in reversed(drawing.splitlines())] == list(ORDER)


def test_every_room_has_its_place() -> None:
    assert {room_of(file) for file in FILES} == set(RANK)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ADDONS)))
def test_imports_go_one_way(file: Path) -> None:
    own = room_of(file)
    for room in set(imported(file)) - {own}:
        assert RANK[room] < RANK[own] or (own, room) in BESIDE, f"{own} must not import {room}"


def test_what_may_stand_beside_is_used() -> None:
    assert {(room_of(file), room) for file in FILES for room in imported(file)} >= BESIDE


def test_core_knows_nothing_of_the_world() -> None:
    """Values in, values out: no mitmproxy, no clock, no files, no logging, no loop."""
    for file in (ADDONS / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= PURE, file
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("open", "__import__", "input", "print"), file
            assert not called.endswith((".now", ".utcnow", ".today")), file


PURE = {
    *("addons", "array", "base64", "binascii", "bisect", "codecs", "collections", "contextlib", "dataclasses"),
    *("datetime", "decimal", "difflib", "enum", "fnmatch", "functools", "hashlib", "hmac", "html", "http", "io"),
    *("ipaddress", "itertools", "json", "math", "operator", "re", "string", "struct", "typing", "unicodedata"),
    *("urllib", "zlib", "brotli", "zstandard"),
}
"""What core may import: nothing that knows the time, or reaches a file, a socket, another process or a loop."""


def root_of(node: ast.expr) -> str | None:
    """The name that a chain of attributes and items begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def reaches_into_mitmproxy(file: Path) -> Iterator[str]:
    """Private names of mitmproxy's that a file uses, and what it replaces there."""
    tree = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    theirs = set()
    for node in tree:
        if isinstance(node, ast.ImportFrom | ast.Import):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            for each in node.names:
                path = f"{module}.{each.name}".strip(".")
                if path.split(".")[0] == "mitmproxy":
                    theirs.add(each.asname or each.name.split(".")[0])
                    yield from (f"{node.lineno}: {path}" for part in path.split(".") if part.startswith("_"))
    theirs -= {node.arg for node in tree if isinstance(node, ast.arg)}  # a flow that a hook gets is its own to change
    for node in tree:
        private = isinstance(node, ast.Attribute) and node.attr.startswith("_")
        stored = isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del)
        if isinstance(node, ast.expr) and (private or stored) and root_of(node) in theirs:
            yield f"{node.lineno}: {ast.unparse(node)}"
        setting = isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr")
        if setting and isinstance(node, ast.Call) and node.args and root_of(node.args[0]) in theirs:
            yield f"{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Constant) and node.value in PRIVATE:
            yield f"{node.lineno}: {node.value}"


PRIVATE = ("_termlog_addon", "_by_name", "transforms")
"""Of mitmproxy's master, registry and application; what asks for them by getattr names them as text."""


@pytest.mark.parametrize(
    "file", [each for each in FILES if room_of(each) != "engine"], ids=lambda file: str(file.relative_to(ADDONS))
)
def test_the_engine_alone_changes_mitmproxy(file: Path) -> None:
    assert list(reaches_into_mitmproxy(file)) == []


def test_what_the_engine_does_would_be_seen() -> None:
    corrections = ADDONS / "engine" / "corrections"
    for name in ("views", "output", "web", "answers"):
        assert list(reaches_into_mitmproxy(corrections / f"{name}.py")), name


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES} - {ADDONS}), ids=lambda each: each.name)
def test_every_folder_says_at_its_door_who_lives_there(folder: Path) -> None:
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert said is not None and len(said) > 80


NAMED = re.compile(r"(?<![\w/.*-])((?:[\w.-]+/)*[\w-]+\.py|(?:addons|tests|docs)/[\w/]+)\b")


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """The comments and docstrings of a file, those of attributes too, with their lines."""
    with file.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""')):
                yield token.start[0], token.string


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ADDONS)))
def test_the_files_named_in_docstrings_and_comments_exist(file: Path) -> None:
    """From relay's folder, from addons/, or from where they are named."""
    gone = [
        f"{line + text[: match.start()].count(chr(10))}: {match[1]}"
        for line, text in texts(file)
        for match in NAMED.finditer(text)
        if not any((folder / match[1]).exists() for folder in (ADDONS.parent, ADDONS, file.parent))
    ]
    assert gone == []


@pytest.mark.parametrize(
    "room",
    [
        "core",
        "config",
        "store",
        "workers",
        "flow",
        "upstreams",
        "meter",
        "telemetry",
        "proxy",
        "endpoints",
        "inspection",
        "replay",
        "cli",
    ],
)
def test_every_file_is_named_at_its_door(room: str) -> None:
    said = ast.get_docstring(ast.parse((ADDONS / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    named = re.findall(r"\b[\w*]+\.py\b", said)
    files = [file.name for file in (ADDONS / room).glob("*.py") if file.name != "__init__.py"]
    assert [file for file in files if not any(fnmatch(file, each) for each in named)] == []


DISTRIBUTIONS = {
    "genai_prices": "genai-prices",
    "OpenSSL": "pyopenssl",
    "prometheus_client": "prometheus-client",
    "python_socks": "python-socks",
    "yaml": "pyyaml",
}
"""Where a package is called otherwise than what it is imported by."""
AGENTS = ADDONS.parent / "tests" / "agents" / "scripts"
"""Programs of others' libraries, run with these libraries' own Pythons."""


@pytest.mark.parametrize(("folder", "groups"), [("addons", ()), ("tests", ("dev",))])
def test_whatever_is_imported_is_declared(folder: str, groups: tuple[str, ...]) -> None:
    written = tomllib.loads((ADDONS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    project = written["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["redis"]]
    for name in groups:
        named += written["dependency-groups"][name]
    declared = {re.match(r"[\w-]+", each)[0].lower() for each in named}  # type: ignore[index]
    found = set()
    for file in (ADDONS.parent / folder).rglob("*.py"):
        if file.is_relative_to(AGENTS):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names} - {"addons", "tests"}
    third = found - sys.stdlib_module_names
    assert {DISTRIBUTIONS.get(name, name).lower() for name in third} - declared == set()
