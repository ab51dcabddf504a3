"""Imports between the rooms of addons/ go one way, so that whoever changes a room knows who may feel it."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ADDONS = Path(__file__).resolve().parent.parent / "addons"
ORDER = (
    {"core"},
    {"errors", "logs", "config", "signals"},
    {"addresses", "exchange", "store"},
    {"engine", "workers"},
    {"flow"},
    {"meter"},
    {"proxy", "endpoints", "replay", "chain"},
    {"cli", "inspection"},
    {"relay"},
)
"""Rooms and files, lowest first. One imports what stands below it, or beside it where that is named here."""
BESIDE = {
    ("config", "errors"),
    ("logs", "config"),
    ("logs", "errors"),
    ("store", "addresses"),
    ("store", "exchange"),
    ("addresses", "exchange"),
    ("exchange", "addresses"),
    ("workers", "engine"),
}
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


def test_core_knows_nothing_of_the_world() -> None:
    """Values in, values out: no mitmproxy, no clock, no files, no logging, no loop."""
    for file in (ADDONS / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tops = {name.split(".")[0] for name in names}
            assert not tops & {"mitmproxy", "asyncio", "logging", "os", "time", "pathlib", "socket", "random"}, file


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES} - {ADDONS}), ids=lambda each: each.name)
def test_every_folder_says_at_its_door_who_lives_there(folder: Path) -> None:
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert said is not None and len(said) > 80


@pytest.mark.parametrize("room", ["core", "flow", "inspection", "replay", "cli"])
def test_every_file_is_named_at_its_door(room: str) -> None:
    said = ast.get_docstring(ast.parse((ADDONS / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    named = re.findall(r"\b[\w*]+\.py\b", said)
    files = [file.name for file in (ADDONS / room).glob("*.py") if file.name != "__init__.py"]
    assert [file for file in files if not any(fnmatch(file, each) for each in named)] == []


DISTRIBUTIONS = {"genai_prices": "genai-prices", "OpenSSL": "pyopenssl", "yaml": "pyyaml"}
"""Where a package is called otherwise than what it is imported by."""


@pytest.mark.parametrize(("folder", "groups"), [("addons", ()), ("tests", ("dev",))])
def test_whatever_is_imported_is_declared(folder: str, groups: tuple[str, ...]) -> None:
    written = tomllib.loads((ADDONS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    named = list(written["project"]["dependencies"])
    for name in groups:
        named += written["dependency-groups"][name]
    declared = {re.match(r"[\w-]+", each)[0].lower() for each in named}  # type: ignore[index]
    found = set()
    for file in (ADDONS.parent / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names} - {"addons", "tests"}
    third = found - sys.stdlib_module_names
    assert {DISTRIBUTIONS.get(name, name).lower() for name in third} - declared == set()
