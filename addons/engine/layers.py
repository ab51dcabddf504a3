"""Layers: the way of an event through mitmproxy's HTTP layers, without what only hands on.

As it stands an event goes down, and each command it leads to comes up, through a generator for every layer: some ten of
them stand open for one piece of a body. Most of these hand on and nothing else. Here `feed` does what `Layer.handle_event`
and `HttpLayer.event_to_child` do together, as plain calls: it runs a layer's own generator, hands what is meant for
another HTTP layer to that one before it goes on, and all else to whoever carries commands out. The order in which layers
run and commands are carried out is the same, since both are depth first and nothing is collected.

1. `straight` finds the HttpLayer of a connection if all layers above it only hand on, as they do in reverse mode where
   the client speaks no TLS. Where it finds none, all is as it stands.
2. `enter` takes an event to the layer it is meant for. What it does not know goes through `HttpLayer` itself, whose
   calls of `event_to_child` come back to `feed`.
3. Layers that have a `handle_event` of their own, such as TLS with an upstream, are run as they stand.
"""

from collections.abc import Callable, Generator, Iterable
from typing import Any

from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layer import Layer, NextLayer, Paused
from mitmproxy.proxy.layers.http import (
    DropStream,
    GetHttpConnection,
    HttpClient,
    HttpLayer,
    HttpStream,
    RegisterHttpConnection,
    SendHttp,
)
from mitmproxy.proxy.layers.http._base import HttpCommand, ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestHeaders
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Server

from addons.engine.wrapping import restore, wrap

Do = Callable[[commands.Command], None]
"""Carries out a command that leaves the layers."""

_DO = "relay_do"
_STRAIGHT = "relay_straight"
_NOTHING: tuple[commands.Command, ...] = ()


def install() -> None:
    """Make the changes of this room."""
    wrap(HttpLayer, "event_to_child", _event_to_child)


def uninstall() -> None:
    """Take them back."""
    restore(HttpLayer, "event_to_child")


def enter(handler: Any, event: events.Event, do: Do) -> None:
    """Take an event into the layers of a connection, and carry out what they say."""
    top = getattr(handler, _STRAIGHT, None)
    if top is None:
        top = straight(handler.layer)
        if top is None:
            for command in handler.layer.handle_event(event):
                do(command)
            return
        setattr(handler, _STRAIGHT, top)
    setattr(top, _DO, do)
    try:
        if isinstance(event, events.DataReceived) and (peer := top.connections.get(event.connection)) is not None:
            feed(top, peer, event, do)
        elif isinstance(event, events.CommandCompleted):
            feed(top, top.command_sources.pop(event.command), event, do)
        else:
            for command in top.handle_event(event):
                do(command)
    finally:
        delattr(top, _DO)


def straight(top: Any) -> HttpLayer | None:
    """The HttpLayer below `top`, if everything above it only hands on from now on."""
    while not isinstance(top, HttpLayer):
        if not isinstance(top, Layer) or top._paused or top._paused_event_queue or top.debug is not None:
            return None
        handed_to = top._handle if isinstance(top, NextLayer) else vars(top).get("_handle_event")
        top = getattr(handed_to, "__self__", None)
        if getattr(handed_to, "__name__", None) != "handle_event":
            return None
    return top if type(top) is HttpLayer and top.debug is None and not top._paused else None


def feed(http: HttpLayer, child: Any, event: events.Event, do: Do) -> None:
    """Let one layer below `http` handle an event."""
    kind = type(child)
    if kind is HttpClient and child._paused is None and isinstance(below := getattr(child, "child_layer", None), Layer):
        if getattr(child._handle_event, "__self__", None) is below:
            child, kind = below, type(below)  # connected: it only hands on
    if kind not in _KNOWN or child.debug is not None:
        for command in child.handle_event(event):
            if command.blocking or isinstance(command, commands.RequestWakeup):
                http.command_sources[command] = child
            _hand_on(http, child, command, do)
        return
    paused = child._paused
    if paused is None:
        _run(http, child, child._handle_event(event), None, do)
    elif isinstance(event, events.CommandCompleted) and event.command is paused.command:
        child._paused = None
        _run(http, child, paused.generator, event.reply, do)
        queue = child._paused_event_queue
        while queue and child._paused is None:
            _run(http, child, child._handle_event(queue.popleft()), None, do)
    else:
        child._paused_event_queue.append(event)


def _run(http: HttpLayer, child: Any, steps: Iterable[Any], reply: Any, do: Do) -> None:
    """Run a layer's generator to its end, or to where it waits for an answer."""
    if not isinstance(steps, Generator):
        for command in steps:  # of a layer that has nothing to say
            _hand_on(http, child, command, do)
        return
    send = steps.send
    while True:
        try:
            command = send(reply)
        except StopIteration:
            return
        reply = None
        waits = command.blocking is True
        if waits:
            command.blocking = child
            child._paused = Paused(command, steps)
        if command.blocking or isinstance(command, commands.RequestWakeup):
            http.command_sources[command] = child
        _hand_on(http, child, command, do)
        if waits:
            return


def _hand_on(http: HttpLayer, child: Any, command: Any, do: Do) -> None:
    """Take a command where it belongs."""
    if not isinstance(command, HttpCommand):
        if isinstance(command, commands.OpenConnection):
            http.connections[command.connection] = child
        do(command)
    elif isinstance(command, ReceiveHttp):
        event = command.event
        if isinstance(event, RequestHeaders):
            for made in http.make_stream(event.stream_id):
                do(made)
        # Events may come for a stream that is over already.
        if (stream := http.streams.get(event.stream_id)) is not None:
            feed(http, stream, event, do)
    elif isinstance(command, SendHttp):
        feed(http, http.connections[command.connection], command.event, do)
    elif isinstance(command, DropStream):
        http.streams.pop(command.stream_id, None)
    elif isinstance(command, GetHttpConnection):
        for led_to in http.get_connection(command):
            do(led_to)
    elif isinstance(command, RegisterHttpConnection):
        for led_to in http.register_connection(command):
            do(led_to)
    else:
        raise AssertionError(f"Not a command: {command}")


def _event_to_child(stock: Any, http: HttpLayer, child: Any, event: events.Event) -> Iterable[commands.Command]:
    do = vars(http).get(_DO)
    if do is None:
        return stock(http, child, event)
    feed(http, child, event, do)
    return _NOTHING


_KNOWN = frozenset((HttpStream, Http1Server, Http1Client))
