"""Changes are made and taken back; another mitmproxy is left alone."""

import types
from collections.abc import Iterator
from typing import Any

import mitmproxy.version
import pytest

from addons import engine
from addons.config.settings import Settings
from addons.engine import wrapping
from addons.mitmproxy_version import WRITTEN_FOR, WrongVersion
from tests.support.side_by_side import CHANGED
from tests.support.side_by_side import engine as in_force


class Parent:
    def own(self) -> str:
        return "own"

    def inherited(self, word: str = "") -> str:
        return "inherited" + word


class Child(Parent):
    def own(self) -> str:
        return "child's"


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    for owner in (Parent, Child):
        for name in ("own", "inherited"):
            wrapping.restore(owner, name)


def test_a_wrapped_method_has_the_stock_one_at_hand() -> None:
    stock = Child.own
    wrapping.wrap(Child, "own", lambda own, self: own(self) + "!")
    assert Child().own() == "child's!"
    assert wrapping.is_wrapped(Child.own)
    assert wrapping.stock_of(Child.own) is stock


def test_wrapping_again_starts_from_the_stock_one() -> None:
    for _ in range(3):
        wrapping.wrap(Child, "own", lambda own, self: own(self) + "!")
    assert Child().own() == "child's!"
    wrapping.replace(Child, "own", lambda self: "another")
    assert wrapping.stock_of(Child.own)(Child()) == "child's"


def test_arguments_pass_by_name() -> None:
    wrapping.wrap(Child, "inherited", lambda stock, self, **kwargs: stock(self, **kwargs))
    assert Child().inherited(word="?") == "inherited?"


@pytest.mark.parametrize("name", ["own", "inherited"])
@pytest.mark.parametrize("how", [wrapping.wrap, wrapping.replace])
def test_restored_it_is_as_if_nothing_had_been(name: str, how: Any) -> None:
    before = dict(vars(Child))
    how(Child, name, lambda *_args: "changed")
    how(Child, name, lambda *_args: "changed again")
    assert getattr(Child(), name)() == "changed again"
    assert getattr(Parent(), name)() == name
    wrapping.restore(Child, name)
    wrapping.restore(Child, name)
    assert dict(vars(Child)) == before


def test_functions_of_a_module() -> None:
    module = types.ModuleType("module")
    stock = module.__dict__["f"] = lambda: 1
    wrapping.wrap(module, "f", lambda f: f() + 1)
    assert module.f() == 2
    wrapping.restore(module, "f")
    assert module.f is stock


# -- the switch, and the version


def _now() -> list[Any]:
    return [vars(owner).get(name) for owner, name in CHANGED]


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """mitmproxy as it comes, where only the speed changes are made."""
    monkeypatch.setattr(engine.answers, "install", lambda: None)
    monkeypatch.setattr(engine.framing, "install", lambda *_args: None)
    monkeypatch.setattr(engine.chatter, "install", lambda: None)
    monkeypatch.setattr(engine.connections, "install", lambda: None)
    monkeypatch.setattr(engine.silence, "install", lambda _is_seen_to: None)
    monkeypatch.setattr(engine.lending, "install", lambda _settings: None)
    with in_force(fast=False):
        yield _now()


def _install(fast: bool) -> None:
    engine.install(65536, lambda _client: None, lambda _client: False, fast=fast, settings=Settings())


def test_the_switch_goes_both_ways(stock: list[Any]) -> None:
    assert not any(map(wrapping.is_wrapped, stock))
    for _ in range(2):
        _install(fast=True)
        assert all(map(wrapping.is_wrapped, _now()))
        _install(fast=True)
        assert [wrapping.stock_of(each) for each, was in zip(_now(), stock, strict=True) if was] == [
            was for was in stock if was
        ]
        _install(fast=False)
        assert _now() == stock


def test_off_from_the_start_nothing_changes(stock: list[Any]) -> None:
    _install(fast=False)
    assert _now() == stock


@pytest.mark.parametrize("version", ["12.2.2", "12.3.0", "13.0.0", "12.2.3.dev"])
def test_another_mitmproxy_is_refused_and_stays_as_it_is(
    version: str, stock: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mitmproxy.version, "VERSION", version)
    with pytest.raises(WrongVersion) as refused:
        _install(fast=True)
    assert _now() == stock
    assert version in str(refused.value) and WRITTEN_FOR in str(refused.value)
