"""A connection is served as mitmproxy serves it: the same bytes, closings and events, whatever the layers ask for."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy import exceptions, options
from mitmproxy.connection import ConnectionState, Server
from mitmproxy.master import Master
from mitmproxy.proxy import commands, events, mode_specs, server
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler
from mitmproxy.test import tflow

from addons.engine.speed import dispatch, serving
from tests.support.side_by_side import engine, listening, play, same

Step = tuple[Any, ...]


@dataclass
class ProbeHook(commands.StartHook):
    """A hook that ends as the plan says: at once, when a gate opens, or with an exception."""

    data: Any


@dataclass
class PassingHook(commands.StartHook):
    """One that nobody waits for."""

    data: Any
    blocking = False


class Writer:
    """Notes what is done to it, in the order of all writers."""

    def __init__(self, name: str, record: list[Any]) -> None:
        self.name, self.record = name, record
        self.closing = self.ended = False

    def write(self, data: bytes) -> None:
        if self.ended:
            raise RuntimeError("Cannot call write() after write_eof()")
        self.record.append((self.name, "write", bytes(data)))

    def write_eof(self) -> None:
        self.ended = True
        self.record.append((self.name, "eof"))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True
        self.record.append((self.name, "close"))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("10.0.0.1", 1), "sockname": ("10.0.0.2", 2)}.get(name, default)


class Reading:
    """In the place of the task that reads a connection."""

    def __init__(self, name: str, record: list[Any]) -> None:
        self.name, self.record = name, record

    def cancel(self, why: str) -> None:
        self.record.append((self.name, "cancelled", why))


class Addon:
    """What the hooks do."""

    def __init__(self, stage: "Stage") -> None:
        self.stage = stage

    async def _do(self, how: str) -> None:
        if how.startswith("later"):
            gate = asyncio.Event()
            self.stage.gates.append(gate)
            await gate.wait()
        if "raises" in how:
            raise ValueError(how)
        if "option" in how:
            raise exceptions.OptionsError(how)
        if "says" in how:
            event = events.DataReceived(self.stage.handler.client, b"said in a hook")
            self.stage.tasks.append(asyncio.create_task(self.stage.handler.server_event(event)))  # as injected messages

    async def probe(self, how: str) -> None:
        await self._do(how)

    passing = probe

    def server_connect(self, data: Any) -> None:
        if data.server.sni == "killed":
            data.server.error = "killed"


class Handler(ProxyConnectionHandler):
    """One whose timers are gates."""

    stage: "Stage"

    async def wakeup(self, request: commands.RequestWakeup) -> None:
        gate = asyncio.Event()
        self.stage.gates.append(gate)
        await gate.wait()
        await super().wakeup(request)


class Layer:
    """Yields the commands of the plan: one list for each event."""

    def __init__(self, stage: "Stage", plan: list[list[Step]]) -> None:
        self.stage, self.plan = stage, list(plan)

    def handle_event(self, event: events.Event) -> Iterator[Any]:
        reply = getattr(event, "reply", None)
        detail = getattr(event, "data", None) or getattr(getattr(event, "command", None), "data", None)
        self.stage.delivered.append((type(event).__name__, detail, reply))
        for step in self.plan.pop(0) if self.plan else ():
            yield self.stage.command(step)


class Stage:
    """A connection handler between fake transports and a fake layer."""

    def __init__(self, master: Master, plan: list[list[Step]]) -> None:
        self.done: list[Any] = []
        self.delivered: list[Any] = []
        self.gates: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[None]] = []
        master.addons.add(Addon(self))
        writer: Any = Writer("client", self.done)
        mode = mode_specs.ProxyMode.parse("reverse:http://example.com")
        self.handler = Handler(master, writer, writer, master.options, mode)  # type: ignore[no-untyped-call]
        self.handler.stage = self
        self.handler.layer = Layer(self, plan)  # type: ignore[assignment]
        self.peers: dict[str, Any] = {"client": self.handler.client, "gone": Server(address=("gone", 1))}
        for name, protocol in (("one", "tcp"), ("two", "tcp"), ("udp", "udp"), ("closing", "tcp")):
            self.peers[name] = Server(address=(name, 1), transport_protocol=protocol)  # type: ignore[arg-type]
            self.peers[name].state = ConnectionState.OPEN
            self._connect(name)
        self._connect("client")
        self.writer("closing").closing = True

    def _connect(self, name: str) -> None:
        writer: Any = Writer(name, self.done)
        handler: Any = Reading(name, self.done)
        self.handler.transports[self.peers[name]] = server.ConnectionIO(handler, writer, writer)

    def writer(self, name: str) -> Any:
        return self.handler.transports[self.peers[name]].writer

    def command(self, step: Step) -> Any:
        kind, *rest = step
        if kind == "raise":
            raise ZeroDivisionError("in the layer")
        if kind == "open":
            return commands.OpenConnection(Server(address=rest[0], sni="killed"))
        if kind == "wakeup":
            return commands.RequestWakeup(0)
        if kind == "log":
            return commands.Log(*rest)
        if kind == "hook":
            return (ProbeHook if rest[1] else PassingHook)(rest[0])
        if kind == "unknown":
            return commands.Command()
        peer = self.peers[rest[0]]
        if kind == "send":
            return commands.SendData(peer, rest[1])
        if kind == "unknown for a connection":
            return commands.ConnectionCommand(peer)
        return commands.CloseConnection(peer) if kind == "close" else commands.CloseTcpConnection(peer, kind == "half")

    async def idle(self) -> None:
        for _ in range(60):
            await asyncio.sleep(0)

    async def run(self) -> None:
        """Some events from outside; then whatever waits is let go, one after the other."""
        for event in (
            events.Start(),
            events.DataReceived(self.handler.client, b"1"),
            events.DataReceived(self.handler.client, b"2"),
        ):
            await self.handler.server_event(event)
            await self.idle()
        while self.gates:
            self.gates.pop(0).set()
            await self.idle()

    def outcome(self) -> Any:
        """By connection: what was written (as one, where it is a stream) and what else was done; the state then."""
        by_name: dict[str, list[Any]] = {}
        for name, *deed in self.done:
            by_name.setdefault(name, []).append(deed)
        for name, deeds in by_name.items():
            if name != "udp":
                by_name[name] = [
                    [kind, b"".join(deed[1] for deed in group)] if kind == "write" else list(group)
                    for kind, group in groupby(deeds, lambda deed: deed[0])
                ]
        states = {name: peer.state for name, peer in self.peers.items()}
        watch = self.handler.timeout_watchdog
        return by_name, states, watch.blocker, watch.can_timeout.is_set(), len(self.handler.wakeup_timer)


def _scenario(plan: list[list[Step]]) -> Any:
    async def scenario(master: Master, record: list[Any]) -> None:
        stage = Stage(master, plan)
        await stage.run()
        record += [stage.delivered, stage.outcome(), stage.handler._server_event_lock.locked()]

    return scenario


def _equal(plan: list[list[Step]]) -> tuple[Any, list[str]]:
    """What happens under a plan, stock's and the changed methods agreeing; and the log."""
    stock, fast = play(_scenario(plan), fast=False), play(_scenario(plan), fast=True)
    assert fast[0] == stock[0]
    assert [each[:3] for each in fast[1]] == [each[:3] for each in stock[1]]
    return stock[0], [text for _, _, text, _ in stock[1]]


_PEER = st.sampled_from(["client", "client", "one", "one", "two", "udp", "gone", "closing"])
_DATA = st.sampled_from([b"a", b"bc", b"def", b""])
# An event that comes from a hook that has waited comes from outside: it may be late by a turn.
_HOW = st.sampled_from(["now", "now", "later", "raises", "later raises", "option", "later option", "says"])
_STEP: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("send"), _PEER, _DATA),
    st.tuples(st.just("send"), _PEER, _DATA),
    st.tuples(st.just("hook"), _HOW, st.booleans()),
    st.tuples(st.just("hook"), st.just("now"), st.just(True)),
    st.tuples(st.sampled_from(["close", "whole", "half", "unknown for a connection"]), _PEER),
    st.tuples(st.just("log"), st.just("a line"), st.sampled_from([logging.DEBUG, logging.INFO, logging.ERROR])),
    st.tuples(st.just("open"), st.sampled_from([None, ("killed", 1)])),
    st.sampled_from([("wakeup",), ("raise",), ("unknown",)]),
)


@settings(max_examples=250, deadline=None)
@given(st.lists(st.lists(_STEP, max_size=7), max_size=7))
def test_any_commands_in_any_order(plan: list[list[Step]]) -> None:
    _equal(plan)


SEND, HOOK = ("send", "client", b"a"), ("hook", "now", True)
PLANS: dict[str, list[list[Step]]] = {
    "to several peers": [[SEND, ("send", "one", b"1"), SEND, ("send", "one", b"2"), ("send", "client", b"b")]],
    "datagrams stay what they are": [[("send", "udp", b"1"), ("send", "udp", b"2")]],
    "closed after what was said": [[SEND, SEND, ("close", "client")]],
    "half-closed after what was said": [[SEND, ("half", "client"), ("send", "one", b"1")]],
    "said after a close": [[SEND, ("close", "client"), SEND], [SEND]],
    "said after a half-close": [[("half", "client"), SEND, ("send", "one", b"never said")], [SEND]],
    "a layer that raises": [[SEND, HOOK, ("raise",), SEND], [SEND], [SEND]],
    "a hook that raises": [[SEND, ("hook", "raises", True), SEND], [SEND]],
    "what a hook brings about comes in order": [[("open", None), HOOK, ("open", None), HOOK, ("hook", "says", True)]],
    "hooks after hooks": [[HOOK, HOOK], [SEND, HOOK], [HOOK, SEND], [SEND]],
    "a hook that waits": [[SEND, ("hook", "later", True), SEND], [SEND], [SEND, HOOK], [SEND]],
    "nobody there": [[("send", "gone", b"x"), ("close", "gone"), ("half", "closing"), ("send", "closing", b"x")]],
    "an unknown command": [[SEND, ("unknown",), SEND], [SEND]],
    "a line of the log": [[SEND, ("log", "text", logging.INFO)]],
    "what cannot be written": [[("send", "client", "text"), SEND], [SEND]],
}


@pytest.mark.parametrize("name", [name for name in PLANS if name != "what cannot be written"])
def test_one_thing(name: str) -> None:
    _equal(PLANS[name])


def test_a_crash_costs_neither_what_was_said_nor_the_end_of_a_hook() -> None:
    (delivered, outcome, _), said = _equal(PLANS["a layer that raises"])
    assert [name for name, *_ in delivered] == ["Start", "HookCompleted", "DataReceived", "DataReceived"]
    assert outcome[0]["client"] == [["write", b"aaa"]]
    assert said == ["mitmproxy has crashed!"]


def test_what_is_no_data_costs_a_crash_alone() -> None:
    """It is noticed when it is written, as late as the end of the turn."""
    for fast in (False, True):
        record, said = play(_scenario(PLANS["what cannot be written"]), fast)
        assert len(record[0]) == 3
        assert [text for _, _, text, _ in said] == ["mitmproxy has crashed!"]


def test_a_turn_speaks_once_to_each_peer() -> None:
    plan: list[list[Step]] = [[SEND, ("send", "one", b"1"), HOOK, SEND], [SEND, ("send", "one", b"2")]]

    async def scenario(master: Master, record: list[Any]) -> None:
        stage = Stage(master, plan)
        await stage.run()
        record += stage.done

    assert play(scenario, fast=True)[0] == [("client", "write", b"aaa"), ("one", "write", b"12")]


def test_nothing_waits_for_a_hook_that_waits() -> None:
    """What was said before a hook that waits is written while it does."""

    async def scenario(master: Master, record: list[Any]) -> None:
        stage = Stage(master, [[SEND, ("hook", "later", True)]])
        await stage.handler.server_event(events.Start())
        record.append(list(stage.done))
        assert len([task for task in asyncio.all_tasks() if task.get_name().startswith("handle_hook(probe)")]) == 1
        stage.gates[0].set()
        await stage.idle()

    record, _ = same(scenario)
    assert record == [[("client", "write", b"a")]]


def test_events_from_outside_come_one_at_a_time() -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        stage = Stage(master, [[SEND, ("hook", "says", True), SEND]] * 4)
        data = [events.DataReceived(stage.handler.client, bytes([65 + number])) for number in range(4)]
        await asyncio.gather(*map(stage.handler.server_event, data))
        await stage.idle()
        record += [sorted(map(str, stage.delivered)), stage.outcome()]

    same(scenario)


def test_switched_off_in_the_middle_of_a_turn() -> None:
    """A new relay.yaml may come from within a hook."""

    async def scenario(master: Master, record: list[Any]) -> None:
        stage = Stage(master, [[SEND, HOOK, SEND], [SEND, HOOK], [SEND]])
        switch = [True]

        def probe(how: str) -> None:
            if switch:
                switch.pop()
                inner.enter()

        class Inner:
            def enter(self) -> None:
                self.engine = engine(fast=False)
                self.engine.__enter__()

        inner = Inner()
        master.addons.get("addon").probe = probe
        dispatch.forget(master.addons)
        await stage.handler.server_event(events.Start())
        await stage.idle()
        inner.engine.__exit__(None, None, None)
        await stage.run()
        record += [len(stage.delivered), stage.outcome()]

    same(scenario)


# -- turns that are long


@pytest.fixture
def long_turns_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do outside of these tests."""
    monkeypatch.setattr(serving, "_LONG", 0.02)


def busy(seconds: float) -> None:
    """Keep the loop from its other work."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_whoever_is_ended_while_it_waits_for_its_turn_still_closes_and_says_so() -> None:
    """Another turn of the same connection pauses meanwhile."""

    async def scenario(master: Master, record: list[Any]) -> None:
        stage = Stage(master, [])
        handler, peer = stage.handler, stage.peers["one"]
        reader = asyncio.StreamReader()
        handler.transports[peer].reader = reader

        async def nothing() -> None:
            """There is."""

        handler.drain_writers = nothing  # type: ignore[method-assign]
        await handler._server_event_lock.acquire()
        task = asyncio.create_task(handler.handle_connection(peer))
        reader.feed_data(b"more")
        await stage.idle()
        task.cancel("given up")
        await stage.idle()
        assert not task.done()
        handler._server_event_lock.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        record += [[name for name, *_ in stage.delivered], stage.done, peer in handler.transports]

    assert play(scenario, fast=True)[0] == [
        ["DataReceived", "ConnectionClosed"],
        [("one", "close")],
        False,
    ]


class Busy(Layer):
    """Takes its time for every command."""

    def handle_event(self, event: events.Event) -> Iterator[Any]:
        for command in super().handle_event(event):
            busy(0.011)
            yield command


async def _beside(work: Awaitable[Any]) -> int:
    """How many turns others have had until `work` was done."""
    done = asyncio.ensure_future(work)
    turns = 0
    while not done.done():
        turns += 1
        await asyncio.sleep(0)
    await done
    return turns


def _busy_stage(master: Master, plan: list[list[Step]]) -> Stage:
    stage = Stage(master, plan)
    stage.handler.layer = Busy(stage, plan)  # type: ignore[assignment]
    return stage


@pytest.mark.usefixtures("long_turns_pause")
def test_a_long_turn_lets_others_have_theirs_and_nothing_changes_places() -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        sends = [("send", "client", bytes([65 + number])) for number in range(12)]
        stage = _busy_stage(master, [sends, [("send", "client", b"!")]])
        client = stage.handler.client
        first = stage.handler.server_event(events.DataReceived(client, b"1"))
        second = stage.handler.server_event(events.DataReceived(client, b"2"))
        record.append(await _beside(asyncio.gather(first, second)))
        record += [[detail for _, detail, _ in stage.delivered], stage.outcome()[0]["client"]]

    turns, delivered, written = play(scenario, fast=True)[0]
    assert turns >= 6
    assert delivered == [b"1", b"2"]
    assert written == [["write", b"ABCDEFGHIJKL!"]]


@pytest.mark.usefixtures("long_turns_pause")
def test_short_turns_of_one_connection_in_one_round_are_a_long_one() -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        stage = _busy_stage(master, [[SEND]] * 12)
        data = [events.DataReceived(stage.handler.client, bytes([65 + number])) for number in range(12)]
        record.append(await _beside(asyncio.gather(*map(stage.handler.server_event, data))))
        record.append([detail for _, detail, _ in stage.delivered])

    turns, delivered = play(scenario, fast=True)[0]
    assert turns >= 6
    assert b"".join(delivered) == b"ABCDEFGHIJKL"


@pytest.mark.usefixtures("long_turns_pause")
def test_who_is_cancelled_in_a_long_turn_ends_it_first() -> None:
    """Half of a turn would leave the layers in the middle of a message."""

    async def scenario(master: Master, record: list[Any]) -> None:
        stage = _busy_stage(master, [[SEND] * 9, [("send", "client", b"!")]])

        async def read() -> None:
            await stage.handler.server_event(events.DataReceived(stage.handler.client, b"1"))
            record.append("the turn is over")
            await asyncio.sleep(10)

        task = asyncio.create_task(read())
        await asyncio.sleep(0)
        task.cancel("the client has left")
        with pytest.raises(asyncio.CancelledError, match="the client has left"):
            await task
        await stage.handler.server_event(events.DataReceived(stage.handler.client, b"2"))
        record.append(stage.outcome()[0]["client"])

    assert play(scenario, fast=True)[0] == ["the turn is over", [["write", b"aaaaaaaaa!"]]]


# -- what is logged


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
@pytest.mark.parametrize("listens", [logging.NOTSET, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
@pytest.mark.parametrize("name", ["", "mitmproxy", "mitmproxy.proxy.server"])
def test_who_listens_hears_it(level: int, listens: int, name: str) -> None:
    logger = logging.getLogger(name)

    async def scenario(master: Master, record: list[Any]) -> None:
        handler = logging.Handler(listens)
        handler.emit = lambda each: record.append((each.levelno, each.getMessage(), each.client))  # type: ignore
        logger.addHandler(handler)
        try:
            Stage(master, []).handler.log("text", level)
        finally:
            logger.removeHandler(handler)

    heard, _ = same(scenario)
    assert len(heard) == (level >= listens)


def test_filters_see_what_they_saw() -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        def note(each: logging.LogRecord) -> bool:
            record.append(each.getMessage())
            return False

        server.logger.addFilter(note)
        try:
            Stage(master, []).handler.log("text")
        finally:
            server.logger.removeFilter(note)

    assert same(scenario)[0] == ["text"]


def test_a_record_that_nobody_wants_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    factory = logging.getLogRecordFactory()

    def counting(*args: Any, **kwargs: Any) -> Any:
        made.append(args[4])
        return factory(*args, **kwargs)

    async def main() -> None:
        master = Master(options.Options())
        try:
            handler = Stage(master, []).handler
            logging.setLogRecordFactory(counting)
            handler.log("for nobody", logging.DEBUG)
            handler.log("for somebody", logging.WARNING)
        finally:
            logging.setLogRecordFactory(factory)
            master._legacy_log_events.uninstall()

    with engine(fast=True), listening(logging.INFO):
        root = logging.getLogger()
        others = [each for each in root.handlers if each.level < logging.INFO]
        for each in others:
            root.removeHandler(each)
        try:
            asyncio.run(main())
        finally:
            for each in others:
                root.addHandler(each)
    assert [text for text in made if text.startswith("for ")] == ["for somebody"]


# -- hooks


@pytest.mark.parametrize("resumes", [True, False])
def test_a_flow_that_is_held_waits(resumes: bool) -> None:
    async def scenario(master: Master, record: list[Any]) -> None:
        stage = Stage(master, [])
        flow = tflow.tflow()

        class Holds:
            def probe(self, data: Any) -> None:
                data.intercept()
                if resumes:
                    data.resume()

        master.addons.clear()
        master.addons.add(Holds())
        task = asyncio.create_task(stage.handler.handle_hook(ProbeHook(flow)))
        await stage.idle()
        record.append((task.done(), stage.handler.timeout_watchdog.blocker))
        flow.resume()
        await task
        record.append((stage.handler.timeout_watchdog.blocker, stage.handler.timeout_watchdog.can_timeout.is_set()))

    record, _ = same(scenario)
    assert record == [(True, 0) if resumes else (False, 1), (0, True)]
