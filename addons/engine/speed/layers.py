"""Layers: the way of an event through mitmproxy's HTTP layers, without what only hands on.

In mitmproxy an event goes down, and each command it leads to comes up, through a generator for every layer: some ten of
them stand open for one piece of a body. Most of these hand on and nothing else. Here `feed` does what
`Layer.handle_event` and `HttpLayer.event_to_child` do together, as plain calls: it runs a layer's own generator, hands
what is meant for another HTTP layer to that one before it goes on, and all else to whoever carries commands out. The
order in which layers run and commands are carried out is the same: both are depth first, and nothing is collected.

1. `straight` finds the HttpLayer of a connection if all layers above it only hand on, as they do in reverse mode where
   the client speaks no TLS. Where it finds none, mitmproxy's own layers do all of it.
2. `enter` takes an event to the layer it is meant for. What it does not know goes through `HttpLayer` itself, whose
   calls of `event_to_child` come back to `feed`.
3. Layers that have a `handle_event` of their own, such as TLS with an upstream, are run by that.
4. `enter` yields where the turn of a connection may pause: between the commands of HTTP/2, whose frames come by the
   thousand, and of a websocket, whose messages do.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from types import GeneratorType
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
from mitmproxy.proxy.layers.http._base import HttpCommand, HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Connection, Http1Server

from addons.engine.wrapping import replace, restore, wrap

Steps = Generator[commands.Command, Any, Any]
Do = Callable[[commands.Command], None]
"""Carries out a command that leaves the layers."""

_DO = "relay_do"
_STRAIGHT = "relay_straight"
_NOTHING: tuple[commands.Command, ...] = ()


def install() -> None:
    """Make the changes of this room."""
    wrap(HttpLayer, "event_to_child", _event_to_child)
    for owner, function in _HANDLERS.items():
        replace(owner, "_handle_event", function)


def uninstall() -> None:
    """Take them back."""
    restore(HttpLayer, "event_to_child")
    for owner in _HANDLERS:
        restore(owner, "_handle_event")


def enter(handler: Any, event: events.Event, do: Do) -> Iterator[None]:
    """Take an event into the layers of a connection, and carry out what they say; yields where a turn may pause."""
    top = getattr(handler, _STRAIGHT, None)
    if top is None:
        top = straight(handler.layer)
        if top is None:
            yield from _do_each(handler.layer.handle_event(event), do)
            return
        setattr(handler, _STRAIGHT, top)
    child = None
    if isinstance(event, events.DataReceived):
        child = top.connections.get(event.connection)
    elif isinstance(event, events.CommandCompleted):
        child = top.command_sources.get(event.command)
    if child is not None and _carries_messages(child):
        yield from _do_each(top.handle_event(event), do)
        return
    if isinstance(event, events.CommandCompleted):
        del top.command_sources[event.command]
    setattr(top, _DO, do)
    try:
        if child is None:
            yield from _do_each(top.handle_event(event), do)
        elif type(peer := _below(child)) in _KNOWN:
            feed(top, peer, event, do)
        else:
            for command in peer.handle_event(event):
                _hand_on(top, peer, command, do)
                yield
    finally:
        delattr(top, _DO)


def _do_each(said: Iterable[commands.Command], do: Do) -> Iterator[None]:
    for command in said:
        do(command)
        yield


def _below(child: Any) -> Any:
    """The layer that does the work of `child`."""
    if type(child) is HttpClient and child._paused is None and (below := vars(child).get("_handle_event")) is not None:
        return below.__self__  # connected: it only hands on
    return child


def _carries_messages(child: Any) -> bool:
    """Whether it is past HTTP, on either side: a websocket."""
    child = _below(child)
    if type(child) is HttpStream:
        return child.child_layer is not None
    return isinstance(child, Http1Connection) and child.state == child.passthrough


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
    child = _below(child)
    kind = type(child)
    if kind not in _KNOWN or child.debug is not None:
        for command in child.handle_event(event):
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
    if kind is HttpStream and child.stream_id not in http.streams and child._paused is None:
        _let_go(child)


def _let_go(stream: HttpStream) -> None:
    """Untie what is over: its parts hold one another, and would wait for the garbage collector."""
    vars(stream).update(client_state=HttpStream.state_done, server_state=HttpStream.state_done)  # not bound to it
    if stream in stream.context.layers:
        stream.context.layers.remove(stream)


def _http1_event(peer: Http1Connection, event: events.Event) -> Steps:
    """mitmproxy 12.2.3 has a generator here around the one that does the work; so each piece of a body passes one more.
    As stock, without it. Remove when Http1Connection._handle_event returns the generator of `send` or `state`.
    """
    if isinstance(event, HttpEvent):
        return _steps(peer.send(event))
    if isinstance(event, events.DataReceived) and peer.state != peer.passthrough:
        peer.buf += event.data
    return _steps(peer.state(event))


def _stream_event(stream: HttpStream, event: events.Event) -> Steps:
    """mitmproxy 12.2.3 has a generator here around the one that does the work, as in `_http1_event`, so the same is
    spared for a stream. Remove when HttpStream._handle_event returns the generator of its state.
    """
    if isinstance(event, events.Start):
        stream.client_state = stream.state_wait_for_request_headers
        return _steps(_NOTHING)
    if isinstance(event, RequestProtocolError | ResponseProtocolError):
        return _steps(stream.handle_protocol_error(event))
    return _steps((stream.client_state if isinstance(event, _OF_REQUESTS) else stream.server_state)(event))


def _steps(said: Any) -> Steps:
    return said if isinstance(said, GeneratorType) else _each(said)


def _each(said: Iterable[commands.Command]) -> Steps:
    yield from said


def _run(http: HttpLayer, child: Any, steps: Steps, reply: Any, do: Do) -> None:
    """Run a layer's generator to its end, or to where it waits for an answer."""
    send = steps.send
    while True:
        try:
            command: Any = send(reply)
        except StopIteration:
            return
        reply = None
        kind = type(command)
        if kind is ReceiveHttp:
            _receive(http, command.event, do)
        elif kind is SendHttp:
            feed(http, http.connections[command.connection], command.event, do)
        elif kind is commands.SendData or kind is commands.Log:
            do(command)
        elif command.blocking is True:
            command.blocking = child
            child._paused = Paused(command, steps)
            _hand_on(http, child, command, do)
            return
        else:
            _hand_on(http, child, command, do)


def _receive(http: HttpLayer, event: HttpEvent, do: Do) -> None:
    if isinstance(event, RequestHeaders):
        for made in http.make_stream(event.stream_id):
            do(made)
    # Events may come for a stream that is over already.
    if (stream := http.streams.get(event.stream_id)) is not None:
        feed(http, stream, event, do)


def _hand_on(http: HttpLayer, child: Any, command: Any, do: Do) -> None:
    """Take a command where it belongs."""
    if command.blocking or isinstance(command, commands.RequestWakeup):
        http.command_sources[command] = child  # whom its end is to be told
    if not isinstance(command, HttpCommand):
        if isinstance(command, commands.OpenConnection):
            http.connections[command.connection] = child
        do(command)
    elif isinstance(command, ReceiveHttp):
        _receive(http, command.event, do)
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
    """mitmproxy 12.2.3 hands each command up through a generator for every layer on the way, some ten of them; so that
    takes a good part of the time for a piece of a body. Here `feed` takes it straight on while `enter` is at work; else
    as stock. Remove when HttpLayer.event_to_child dispatches without nested generators.
    """
    do = vars(http).get(_DO)
    if do is None:
        said: Iterable[commands.Command] = stock(http, child, event)
        return said
    feed(http, child, event, do)
    return _NOTHING


_KNOWN = frozenset((HttpStream, Http1Server, Http1Client))
_OF_REQUESTS = (RequestHeaders, RequestData, RequestTrailers, RequestEndOfMessage)
_HANDLERS: dict[Any, Callable[..., Any]] = {Http1Connection: _http1_event, HttpStream: _stream_event}
