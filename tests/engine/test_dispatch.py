"""Events reach addons as mitmproxy brings them: in its order, with its exceptions, whatever addons do meanwhile."""

import asyncio
import copy
import logging
import os
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mitmproxy import exceptions, hooks, options
from mitmproxy.addonmanager import AddonManager
from mitmproxy.addons import default_addons, maplocal, mapremote, script
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.log import AddLogHook, LogEntry
from mitmproxy.master import Master
from mitmproxy.proxy.layers.http._hooks import HttpRequestHeadersHook, HttpRequestHook, HttpResponseHook
from mitmproxy.proxy.server_hooks import ClientConnectedHook
from mitmproxy.test import tflow

from addons.engine.speed import dispatch
from addons.engine.wrapping import is_wrapped
from tests.support.side_by_side import engine, play, same

EVENTS = (HttpRequestHeadersHook, HttpRequestHook, HttpResponseHook)


class Spec(NamedTuple):
    """An addon: what its hooks do, what they do to the tree of addons meanwhile, its children."""

    hooks: dict[str, str]
    deed: str = ""
    when: int = 0
    children: tuple[Any, ...] | None = None


@dataclass
class World:
    """Where addons note what happens to them, and find the others."""

    master: Master
    record: list[Any]
    names: Iterator[int] = field(default_factory=lambda: iter(range(10_000)))


class Node:
    """An addon made after a Spec."""

    addons: list[Any]

    def __init__(self, world: World, spec: Spec) -> None:
        self.world, self.spec = world, spec
        self.name = f"n{next(world.names)}"
        self.calls = 0
        if spec.children is not None:
            self.addons = [Node(world, child) for child in spec.children]
        for hook, kind in spec.hooks.items():
            setattr(self, hook, MAKERS[kind](self, hook))

    def __repr__(self) -> str:
        return self.name

    def done(self) -> None:
        self.world.record.append((self.name, "done"))

    def note(self, hook: str, *args: Any) -> None:
        """Notes a call, and does the deed when its time has come."""
        self.world.record.append((self.name, hook, [type(arg).__name__ for arg in args]))
        self.calls += 1
        if self.spec.deed and self.calls > self.spec.when:
            self.calls = -1000
            try:
                DEEDS[self.spec.deed](self)
            except exceptions.AddonManagerError as error:
                self.world.record.append((self.name, str(error)))


def _sync(node: Node, hook: str) -> Any:
    return lambda *args: node.note(hook, *args)


def _returns(node: Node, hook: str) -> Any:
    def function(*args: Any) -> int:
        node.note(hook, *args)
        return 7

    return function


def _waits(node: Node, hook: str) -> Any:
    async def function(*args: Any) -> None:
        node.note(hook, *args)
        await asyncio.sleep(0)
        node.world.record.append((node.name, hook, "goes on"))

    return function


def _awaits_first(node: Node, hook: str) -> Any:
    async def function(*args: Any) -> None:
        await asyncio.sleep(0)
        node.note(hook, *args)

    return function


def _raises(error: Exception, wait: bool = False) -> Callable[[Node, str], Any]:
    def make(node: Node, hook: str) -> Any:
        def function(*args: Any) -> None:
            node.note(hook, *args)
            raise error.with_traceback(None)

        async def later(*args: Any) -> None:
            await asyncio.sleep(0)
            function(*args)

        return later if wait else function

    return make


MAKERS: dict[str, Callable[[Node, str], Any]] = {
    "sync": _sync,
    "returns": _returns,
    "waits": _waits,
    "awaits first": _awaits_first,
    "raises": _raises(ValueError("no\n'b'")),
    "raises later": _raises(KeyError("later"), wait=True),
    "halts": _raises(exceptions.AddonHalt()),
    "halts later": _raises(exceptions.AddonHalt(), wait=True),
    "bad option": _raises(exceptions.OptionsError("option")),
    "not callable": lambda node, hook: 5,
    "falsy": lambda node, hook: 0,
    "module": lambda node, hook: types.ModuleType("log"),
}


def _fresh(node: Node) -> Node:
    return Node(node.world, Spec(dict.fromkeys(("requestheaders", "request", "response", "update"), "sync")))


def _add(node: Node) -> None:
    node.world.master.addons.add(_fresh(node))


def _remove(place: int) -> Callable[[Node], None]:
    def remove(node: Node) -> None:
        chain = node.world.master.addons.chain
        if chain:
            node.world.master.addons.remove(chain[place % len(chain)])

    return remove


def _adopt(node: Node) -> None:
    child = node.world.master.addons.register(_fresh(node))
    node.addons = [*getattr(node, "addons", ()), child]


def _adopt_quietly(node: Node) -> None:
    if hasattr(node, "addons"):
        node.addons.append(_fresh(node))


def _disown(node: Node) -> None:
    if getattr(node, "addons", None):
        node.world.master.addons.remove(node.addons.pop())


def _disown_quietly(node: Node) -> None:
    if getattr(node, "addons", None):
        node.addons.pop(0)


def _turn_round(node: Node) -> None:
    if hasattr(node, "addons"):
        node.addons = node.addons[::-1]


def _announce(node: Node) -> None:
    node.world.master.addons.trigger(hooks.UpdateHook([tflow.tflow()]))


DEEDS: dict[str, Callable[[Node], None]] = {
    "add": _add,
    "remove first": _remove(0),
    "remove last": _remove(-1),
    "remove second": _remove(1),
    "adopt": _adopt,
    "adopt quietly": _adopt_quietly,
    "disown": _disown,
    "disown quietly": _disown_quietly,
    "turn round": _turn_round,
    "clear": lambda node: node.world.master.addons.clear(),
    "announce": _announce,
}


def _plant(master: Master, record: list[Any], specs: Any) -> World:
    world = World(master, record)
    master.addons.add(*(Node(world, spec) for spec in specs))
    return world


async def _bring(master: Master, record: list[Any], event: hooks.Hook) -> None:
    try:
        await master.addons.handle_lifecycle(event)
    except exceptions.OptionsError as error:
        record.append(f"OptionsError {error}")
    record.append(("after", event.name))


def _plain(name: str, kind: str = "sync", **more: Any) -> Spec:
    return Spec(dict.fromkeys(name.split(), kind), **more)


# -- any addons


_HOOKS = st.dictionaries(
    st.sampled_from(["requestheaders", "request", "response", "update", "client_connected", "running"]),
    st.sampled_from(list(MAKERS)) | st.sampled_from(["sync", "waits"]),
)
_SPEC: st.SearchStrategy[Spec] = st.recursive(
    st.builds(Spec, _HOOKS, st.just("") | st.sampled_from(list(DEEDS)), st.integers(0, 3), st.none() | st.just(())),
    lambda inner: st.builds(
        Spec,
        _HOOKS,
        st.just("") | st.sampled_from(list(DEEDS)),
        st.integers(0, 3),
        st.lists(inner, max_size=3).map(tuple),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_SPEC, min_size=1, max_size=4), st.booleans())
@example([Spec({"requestheaders": "halts"}, "adopt quietly", 1, ())], False)
def test_any_tree_of_addons(specs: list[Spec], at_once: bool) -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        _plant(master, record, specs)
        flow = tflow.tflow(resp=True)
        events = [*(event(flow) for event in EVENTS), ClientConnectedHook(flow.client_conn)]
        if at_once:
            await asyncio.gather(*(_bring(master, record, event) for event in events))
        for event in events * 2:
            await _bring(master, record, event)
        for each in (hooks.UpdateHook([flow]), hooks.RunningHook(), *events):
            try:
                master.addons.trigger(each)
            except exceptions.OptionsError:
                record.append("OptionsError")
        record.append([str(each.name) for each in master.addons.chain])

    with _quiet_coroutines():
        same(scenario)


@contextmanager
def _quiet_coroutines() -> Iterator[None]:
    """Hooks that wait are started by `trigger`, too, which never awaits them: stock's doing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


# -- one thing at a time

_REQUEST = "request update"
SINGLE: dict[str, list[Spec]] = {
    "order": [_plain(_REQUEST), _plain(_REQUEST, children=(_plain(_REQUEST), _plain(_REQUEST))), _plain(_REQUEST)],
    "an exception ends the turn of the family": [
        _plain(_REQUEST, children=(_plain(_REQUEST, "raises"), _plain(_REQUEST))),
        _plain(_REQUEST),
    ],
    "so does a later one": [
        _plain(_REQUEST, children=(_plain(_REQUEST, "raises later"), _plain(_REQUEST))),
        _plain(_REQUEST),
    ],
    "AddonHalt ends the event, the update follows": [_plain("request", "halts"), _plain(_REQUEST)],
    "OptionsError ends all": [_plain("request", "bad option"), _plain(_REQUEST)],
    "not callable": [_plain("request", "not callable", children=(_plain(_REQUEST),)), _plain(_REQUEST)],
    "modules are passed over": [_plain("request", "module", children=(_plain(_REQUEST),)), _plain(_REQUEST)],
    "added from within": [_plain(_REQUEST, deed="add"), _plain(_REQUEST)],
    "added while it waits": [_plain(_REQUEST, "waits", deed="add"), _plain(_REQUEST)],
    "added by the last": [_plain(_REQUEST, deed="add")],
    "added, then raised": [_plain(_REQUEST, "raises", deed="add"), _plain(_REQUEST)],
    "removed from within": [_plain(_REQUEST, deed="remove last"), _plain(_REQUEST), _plain(_REQUEST)],
    "removes itself": [_plain(_REQUEST), _plain(_REQUEST, deed="remove second"), _plain(_REQUEST)],
    "all removed": [_plain(_REQUEST, deed="clear"), _plain(_REQUEST)],
    "a first child": [_plain(_REQUEST, deed="adopt"), _plain(_REQUEST)],
    "a further child": [_plain(_REQUEST, deed="adopt", children=(_plain(_REQUEST),)), _plain(_REQUEST)],
    "a child in passing": [_plain(_REQUEST, deed="adopt quietly", children=(_plain(_REQUEST),)), _plain(_REQUEST)],
    "a child gone": [_plain(_REQUEST, deed="disown", children=(_plain(_REQUEST), _plain(_REQUEST)))],
    "a child gone in passing": [_plain(_REQUEST, deed="disown quietly", children=(_plain(_REQUEST), _plain(_REQUEST)))],
    "children turned round": [_plain(_REQUEST, deed="turn round", children=(_plain(_REQUEST), _plain(_REQUEST)))],
    "a grandchild changes the family": [
        _plain("", children=(_plain("", children=(_plain(_REQUEST, deed="adopt", children=()),)), _plain(_REQUEST))),
        _plain(_REQUEST),
    ],
    "an event within an event": [_plain(_REQUEST, deed="announce"), _plain("update")],
}


@pytest.mark.parametrize("specs", SINGLE.values(), ids=SINGLE.keys())
def test_one_thing(specs: list[Spec]) -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        _plant(master, record, specs)
        for _ in range(3):
            await _bring(master, record, HttpRequestHook(tflow.tflow()))

    record, _ = same(scenario)
    assert any("request" in entry for entry in record)


def test_an_exception_is_logged_from_the_hook_on() -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        _plant(master, record, [_plain("request", "raises"), _plain("request", "raises later"), _plain("request")])
        await _bring(master, record, HttpRequestHook(tflow.tflow()))

    record, said = same(scenario)
    errors = [each for each in said if each[1] == logging.ERROR]
    assert [frames for *_, frames in errors] == [("function",), ("later", "function")]
    assert errors[0][:3] == ("mitmproxy.addonmanager", logging.ERROR, "Addon error: no\n'b'")
    assert len([entry for entry in record if entry[1] == "request"]) == 4


def test_who_listens_to_update_hears_of_each_flow_and_of_nothing_else() -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        _plant(master, record, [_plain("update request client_connected")])
        flow = tflow.tflow()
        for event in (HttpRequestHook(flow), ClientConnectedHook(flow.client_conn), HttpResponseHook(flow)):
            await _bring(master, record, event)

    record, _ = same(scenario)
    assert [entry[1] for entry in record] == [
        "request", "update", "request", "client_connected", "client_connected", "update", "response",
    ]  # fmt: skip


class Computed:
    """An addon whose hook and children are computed, and may fail to be."""

    name = "computed"

    def __init__(self, record: list[Any]) -> None:
        self.record = record
        self.asked = 0

    @property
    def request(self) -> Any:
        self.asked += 1
        self.record.append("asked")
        if self.asked % 3 == 1:
            raise ValueError("not now")
        return (lambda flow: self.record.append("called")) if self.asked % 3 else None


class Children(Computed):
    """The same of its children."""

    name = "children"
    request = None

    @property
    def addons(self) -> Any:
        self.asked += 1
        if self.asked % 7 == 5:
            raise ValueError("no children now")
        return iter([self.child])

    @property
    def child(self) -> Any:
        return types.SimpleNamespace(name=f"child{self.asked}", request=lambda flow: self.record.append("child"))


class Dynamic:
    """An addon that has whatever it is asked for, sometimes."""

    def __init__(self, record: list[Any]) -> None:
        self.record = record

    def __getattr__(self, name: str) -> Any:
        if name != "request" or self.record.count("dynamic") % 2:
            self.record.append("dynamic")
            raise AttributeError(name)
        return lambda flow: self.record.append("dynamic")


@pytest.mark.parametrize("kind", [Computed, Dynamic])
def test_what_cannot_be_known_beforehand(kind: Any) -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        addons = master.addons
        addons.add(_Named("first", record), _Named("last", record))
        addons.chain.insert(1, kind(record))
        start = len(record)
        for _ in range(6):
            await addons.trigger_event(HttpRequestHook(tflow.tflow()))
        # The table itself asks once when it is built; what is called is compared, and what is logged.
        record[start:] = [entry for entry in record[start:] if entry != "asked"]

    stock, fast = play(scenario, fast=False), play(scenario, fast=True)
    assert fast[0].count("first") == stock[0].count("first") == 6
    assert fast[0].count("last") == stock[0].count("last") == 6
    assert ("called" in fast[0]) == ("called" in stock[0])
    assert len([each for each in fast[1] if "Addon error" in each[2]]) in (len(stock[1]), len(stock[1]) - 1)


def test_children_that_are_computed() -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        master.addons.add(_Named("first", record))
        children = Children(record)
        master.addons.chain.append(children)
        children.asked = 0
        for _ in range(9):
            await master.addons.trigger_event(HttpRequestHook(tflow.tflow()))

    assert play(scenario, fast=True)[0].count("child") == play(scenario, fast=False)[0].count("child") > 5


class _Named:
    def __init__(self, name: str, record: list[Any]) -> None:
        self.name, self.record = name, record

    def request(self, flow: Any) -> None:
        self.record.append(self.name)


def test_hooks_that_are_set_while_options_change_or_mitmproxy_starts() -> None:
    class Late(_Named):
        request: Any = None

        def configure(self, updated: set[str]) -> None:
            self.response = lambda flow: self.record.append((self.name, "response"))

        def running(self) -> None:
            self.request = lambda flow: self.record.append((self.name, "request"))

    async def scenario(master: Master, record: list[Any]) -> None:
        master.addons.add(Late("late", record))
        flow = tflow.tflow(resp=True)

        async def both() -> None:
            for event in EVENTS:
                await _bring(master, record, event(flow))

        await both()
        await master.addons.trigger_event(hooks.RunningHook())
        await both()
        master.options.update(listen_port=1)
        await both()

    record, _ = same(scenario)
    assert record.count(("late", "request")) == 2
    assert record.count(("late", "response")) == 1


def test_switched_on_again_it_sees_what_came_meanwhile() -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        world = _plant(master, record, [_plain("request")])
        await _bring(master, record, HttpRequestHook(tflow.tflow()))
        fast = is_wrapped(AddonManager.trigger_event)
        dispatch.uninstall()
        master.addons.add(Node(world, _plain("request")))
        await _bring(master, record, HttpRequestHook(tflow.tflow()))
        if fast:
            dispatch.install()
        await _bring(master, record, HttpRequestHook(tflow.tflow()))

    record, _ = same(scenario)
    assert len([entry for entry in record if entry[1] == "request"]) == 1 + 2 + 2 + 3


# -- mitmproxy's own


def test_the_arguments_of_a_hook() -> None:
    flow = tflow.tflow()
    for event in (HttpRequestHook(flow), hooks.UpdateHook([flow]), hooks.RunningHook(), hooks.ConfigureHook({"a"})):
        with engine(fast=False):
            stock = event.args()
        with engine(fast=True):
            assert event.args() == stock
            assert event.args() is not event.args()


def test_the_addons_of_mitmproxy_do_the_same() -> None:
    """Each of them is asked for each hook in the same order."""

    async def scenario(master: Master, record: list[Any]) -> None:
        master.addons.add(*default_addons())
        for event in EVENTS:
            order = [type(addon).__name__ for addon in _hooked(master.addons, event.name)]
            record.append(order)
            for addon in _hooked(master.addons, event.name):
                name = type(addon).__name__
                setattr(addon, event.name, lambda *args, name=name: record.append((name, len(args))))
        dispatch.forget(master.addons)  # they have not been registered anew
        for event in EVENTS:
            await _bring(master, record, event(tflow.tflow(resp=True)))

    def _hooked(manager: AddonManager, name: str) -> list[Any]:
        return [addon for addon in manager.chain if hasattr(addon, name)]

    # Those that are switched off are left out by the changed dispatch alone.
    def busy(record: list[Any]) -> list[Any]:
        return [entry for entry in record if not isinstance(entry, tuple) or entry[0] not in dispatch._WORK]

    stock, fast = play(scenario, fast=False)[0], play(scenario, fast=True)[0]
    assert busy(fast) == busy(stock)
    assert len(stock) > 20


@pytest.mark.parametrize("addon", [maplocal.MapLocal, mapremote.MapRemote])
def test_an_idle_addon_is_left_out_until_it_has_work(addon: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("local")
    option = {"map_local": [f"|example.com|{tmp_path}/file"], "map_remote": ["|example.com|other.com"]}
    name = "map_local" if addon is maplocal.MapLocal else "map_remote"

    async def scenario(master: Master, record: list[Any]) -> None:
        master.addons.add(addon())
        for value in ([], option[name], []):
            master.options.update(**{name: value})
            flow = tflow.tflow()
            flow.live, flow.request.host = True, "example.com"
            await _bring(master, record, HttpRequestHook(flow))
            record.append((flow.request.host, flow.response.content if flow.response else None))

    record, _ = same(scenario)
    assert record[1] != record[3]


# What gives an addon work that has none as a rule; "{tmp}" is a folder.
WORK: dict[str, dict[str, Any]] = {
    "AntiCache": {"anticache": True},
    "AntiComp": {"anticomp": True},
    "BlockList": {"block_list": ["/~u x/404"]},
    "MapLocal": {"map_local": ["|x|{tmp}"]},
    "MapRemote": {"map_remote": ["|x|y"]},
    "ModifyBody": {"modify_body": ["/x/y"]},
    "ModifyHeaders": {"modify_headers": ["/x/y"]},
    "Onboarding": {"onboarding": True},
    "ProxyAuth": {"proxyauth": "user:password"},
    "Save": {"save_stream_file": "{tmp}/flows"},
    "SaveHar": {"hardump": "{tmp}/har"},
    "StickyAuth": {"stickyauth": ".*"},
    "StickyCookie": {"stickycookie": ".*"},
    "UpstreamAuth": {"upstream_auth": "user:password"},
}
ENTRIES = [(name, hook) for name, (hooks_of_it, _) in dispatch._WORK.items() for hook in hooks_of_it.split()]


def _built_in(name: str) -> Any:
    [addon] = [each for each in default_addons() if type(each).__name__ == name]
    return addon


def _switch(master: Master, name: str, tmp: Path, on: bool) -> None:
    for option, value in WORK[name].items():
        if not on:
            value = False if value is True else [] if isinstance(value, list) else "" if option == "hardump" else None
        elif isinstance(value, str):
            value = value.format(tmp=tmp)
        elif isinstance(value, list):
            value = [each.format(tmp=tmp) for each in value]
        master.options.update(**{option: value})


def test_each_addon_that_may_be_idle_is_tried() -> None:
    assert WORK.keys() == dispatch._WORK.keys()


@pytest.mark.parametrize(("name", "hook"), ENTRIES)
def test_an_addon_has_a_turn_when_it_has_work(name: str, hook: str, tmp_path: Path) -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        addon = _built_in(name)
        master.addons.add(Proxyserver(), addon)
        for on in (False, True, False, True, False):
            _switch(master, name, tmp_path, on)
            turns = dispatch._table(master.addons).find(hook)
            record.append(addon in [call.addon for turn in turns for call in turn.calls])

    assert play(scenario, fast=True)[0] == [False, True, False, True, False]


@pytest.mark.parametrize("name", WORK)
def test_its_other_hooks_are_called_all_the_same(name: str, tmp_path: Path) -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        addon = _built_in(name)
        master.addons.add(Proxyserver(), addon)
        _switch(master, name, tmp_path, on=False)
        table = dispatch._table(master.addons)
        for hook in hooks.all_hooks:
            if callable(getattr(addon, hook, None)) and (name, hook) not in ENTRIES:
                record.append(hook)
                assert addon in [call.addon for turn in table.find(hook) for call in turn.calls]

    assert play(scenario, fast=True)[0] or name in ("BlockList",)


@pytest.mark.parametrize(("name", "hook"), ENTRIES)
def test_without_work_it_does_nothing(name: str, hook: str, tmp_path: Path) -> None:
    """So nothing is missing where it is left out."""

    async def scenario(master: Master, record: list[Any]) -> None:
        addon = _built_in(name)
        master.addons.add(Proxyserver(), addon)
        for on in (False, True, False):
            _switch(master, name, tmp_path, on)
        own = {key: value.copy() if hasattr(value, "copy") else value for key, value in vars(addon).items()}
        flows = [tflow.tflow(), tflow.tflow(resp=True), tflow.tflow(err=True), tflow.tflow(resp=True, err=True)]
        for flow in [*flows, *(each.copy() for each in flows), tflow.twebsocketflow()]:
            if hook in ("response", "responseheaders") and flow.response is None:
                continue
            flow.live = flow not in flows
            flow.request.host = "mitm.it"
            flow.request.headers.update(
                {"authorization": "x", "if-modified-since": "x", "accept-encoding": "gzip", "x": "y"}
            )
            before, live = copy.deepcopy(flow.get_state()), flow.live
            rest = getattr(addon, hook)(flow)
            if rest is not None:
                await rest
            assert flow.get_state() == before
            assert flow.live == live
            record.append(vars(addon) == own)

    record, said = play(scenario, fast=False)
    assert record
    assert all(record)
    assert not [text for _, level, text, _ in said if level >= logging.INFO]


SCRIPT = """
from mitmproxy import ctx
class Inner:
    name = "inner{path}"
    def request(self, flow): ctx.master.record.append("{path} inner {version}")
addons = [Inner()]
name = "{path}"
async def request(flow):
    ctx.master.record.append("{path} {version}")
    await ctx.master.gate("{path}")
    ctx.master.record.append("{path} {version} goes on")
def response(flow):
    raise ValueError("{version}")
def done(): ctx.master.record.append("{path} done {version}")
def running(): ctx.master.record.append("{path} running {version}")
"""


def _write(path: Path, version: int) -> None:
    path.write_text(SCRIPT.format(path=path.stem, version=version))
    os.utime(path, (version, version))


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError


def test_a_script_that_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "ReloadInterval", 0.005)
    first, second = tmp_path / "first.py", tmp_path / "second.py"

    async def scenario(master: Any, record: list[Any]) -> None:
        _write(first, 1)
        _write(second, 1)
        gates: dict[str, asyncio.Event] = {}

        async def gate(name: str) -> None:
            if name in gates:
                await gates[name].wait()

        master.record, master.gate = record, gate
        loader = script.ScriptLoader()
        master.addons.add(loader, _Named("last", record))
        master.options.update(scripts=[str(first), str(second)])
        await master.addons.trigger_event(hooks.RunningHook())

        def loaded(place: int) -> Any:
            return loader.addons[place].ns

        async def reload(path: Path, place: int, version: int) -> None:
            old = loaded(place)
            _write(path, version)
            await _until(lambda: loaded(place) is not None and loaded(place) is not old)

        await _until(lambda: all(each.ns for each in loader.addons))
        await _bring(master, record, HttpRequestHook(tflow.tflow()))
        await reload(second, 1, 2)
        await _bring(master, record, HttpRequestHook(tflow.tflow()))
        await _bring(master, record, HttpResponseHook(tflow.tflow()))
        # An event on its way while the script that it waits in, and the one behind, are loaded anew.
        gates["first"] = asyncio.Event()
        task = asyncio.create_task(_bring(master, record, HttpRequestHook(tflow.tflow())))
        await reload(second, 1, 3)
        await reload(first, 0, 3)
        gates.pop("first").set()
        await task
        # The order alone changes, then one goes.
        master.options.update(scripts=[str(second), str(first)])
        await _bring(master, record, HttpRequestHook(tflow.tflow()))
        master.options.update(scripts=[str(first)])
        await _bring(master, record, HttpRequestHook(tflow.tflow()))
        master.options.update(scripts=[])
        await _bring(master, record, HttpRequestHook(tflow.tflow()))

    record, said = same(scenario)
    assert "second 3" in record
    assert "second done 2" in record
    assert record[-2] == "last"
    assert any("Addon error: 1" in text for _, _, text, _ in said)


class Hears:
    """An addon that reads the log, as addons did before mitmproxy 9."""

    def __init__(self, record: list[Any]) -> None:
        self.record = record

    def add_log(self, entry: LogEntry) -> None:
        self.record.append((entry.level, entry.msg.split("] ")[-1]))


def test_listeners_to_the_log_come_and_go() -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        async def say(text: str) -> None:
            logging.getLogger("mitmproxy").warning(text)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        await say("nobody")
        hears = Hears(record)
        master.addons.add(hears)
        await say("one")
        master.addons.trigger(AddLogHook(LogEntry("direct", "info")))
        master.addons.remove(hears)
        await say("nobody again")

    record, _ = same(scenario)
    assert [text for level, text in record if level == "warn" and "add_log" not in text] == ["one"]
    assert ("info", "direct") in record


def test_a_hook_that_waits_cannot_be_triggered() -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        _plant(master, record, [_plain("update", "waits"), _plain("update", "raises"), _plain("update")])
        master.addons.trigger(hooks.UpdateHook([]))
        master.addons.trigger(event=hooks.UpdateHook([]))

    _, said = same(scenario)
    assert any("cannot be called from sync context" in text for _, _, text, _ in said)


def test_an_addon_is_removed_by_name_of_the_argument() -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        world = _plant(master, record, [_plain("request")])
        node = Node(world, _plain("request"))
        master.addons.register(addon=node)
        master.addons.remove(addon=node)
        await _bring(master, record, HttpRequestHook(tflow.tflow()))

    same(scenario)


def test_options_have_their_own_errors() -> None:
    class Strict:
        def configure(self, updated: set[str]) -> None:
            if "listen_port" in updated:
                raise exceptions.OptionsError("no such port")

    async def scenario(master: Master, record: list[Any]) -> None:
        master.addons.add(Strict())
        with pytest.raises(exceptions.OptionsError):
            master.options.update(listen_port=3)
        record.append(master.options.listen_port)

    record, _ = same(scenario)
    assert record == [options.Options().listen_port]
