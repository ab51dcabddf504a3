"""Each change of mitmproxy says what mitmproxy does by itself, why that hurts, and when the change can go."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from addons.config.settings import ClientAddressSettings, Settings
from addons.engine import corrections, speed
from addons.engine.corrections import bodies, connections, listening, output, partings, reading, views, web
from addons.engine.pool import lending, repeats
from addons.engine.speed import dispatch
from addons.mitmproxy_version import WRITTEN_FOR

REASON = re.compile(rf"mitmproxy {re.escape(WRITTEN_FOR)} .*\bso\b.*Remove when \S+ .*\.")
ROOMS = [
    importlib.import_module(f"{folder.__name__}.{each.name}")
    for folder in (corrections, speed)
    for each in pkgutil.iter_modules(folder.__path__)
] + [lending, repeats]  # of pool/, the two that mitmproxy comes by
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "framing": (65536, print),
    "silence": (print,),
    "listening": ((),),
    "lending": (Settings(),),
    "preambles": (ClientAddressSettings(),),
}
"""What `install` takes, where it takes something."""
REACHING_IN: tuple[Callable[..., Any], ...] = (
    bodies.held,
    bodies.give_up,
    reading.Patient,
    reading.WholeReading,
    connections.allow_upstreams,
    listening.take_over,
    listening.OneLine,
    output.install,
    output.ErrorsOnly,
    partings.begin,
    lending.end,
    repeats.ask_again,
    views.wrap_all,
    views.remove,
    web.Digest,
    web.add_pages,
    web.transform_pages,
)
"""What changes mitmproxy, or looks into it, without one of the functions in wrapping.py."""


def made(room: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    """What a room would put in the place of what, by name. Nothing of mitmproxy is changed."""
    if not hasattr(room, "install") or room in (output, web):  # they wrap no method
        return
    noted: list[tuple[Any, str, Any]] = []
    for how in ("wrap", "wrap_inner", "replace"):
        if hasattr(room, how):
            monkeypatch.setattr(room, how, lambda *change: noted.append(change))
    if hasattr(room, "replace_all"):
        monkeypatch.setattr(room, "replace_all", noted.extend)
    room.install(*ARGUMENTS.get(room.__name__.rpartition(".")[2], ()))
    for owner, name, change in noted:
        yield f"{owner.__name__}.{name}", change


def said_of(change: Any) -> str:
    """The docstring of a function or class, or of an object's class, with the comment directly above it."""
    if isinstance(change, partial):
        change = change.func
    if not inspect.isfunction(change) and not inspect.isclass(change):
        change = type(change)
    return " ".join(f"{inspect.getcomments(change) or ''} {inspect.getdoc(change)}".replace("#", " ").split())


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__.removeprefix("addons.engine."))
def test_each_change_says_when_it_can_go(room: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_stamp", dispatch._stamp)  # which `install` renews
    for name, change in made(room, monkeypatch):
        assert REASON.search(said_of(change)), f"{room.__name__}: what takes the place of {name}"


@pytest.mark.parametrize("change", REACHING_IN, ids=lambda change: f"{change.__module__}.{change.__qualname__}")
def test_what_reaches_into_mitmproxy_says_when_it_can_go(change: Callable[..., Any]) -> None:
    assert REASON.search(said_of(change))


def test_no_room_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_stamp", dispatch._stamp)
    reaching_in = {each.__module__ for each in REACHING_IN}
    assert [
        room.__name__ for room in ROOMS if room.__name__ not in reaching_in and not list(made(room, monkeypatch))
    ] == []


def test_the_list_names_each_room() -> None:
    listed = re.findall(
        r"^(\w+/\w+\.py)$", inspect.getdoc(importlib.import_module("addons.engine")) or "", re.MULTILINE
    )
    there = {f"{room.__name__.removeprefix('addons.engine.').replace('.', '/')}.py" for room in ROOMS}
    assert set(listed) == there - {"corrections/partings.py"}  # which belongs to answers.py


def test_the_list_counts_without_a_gap() -> None:
    numbers = re.findall(r"^ +(\d+)\. ", inspect.getdoc(importlib.import_module("addons.engine")) or "", re.MULTILINE)
    assert [int(each) for each in numbers] == list(range(1, len(numbers) + 1))
