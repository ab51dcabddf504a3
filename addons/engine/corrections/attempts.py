"""A request that fails upstream is asked again, there or elsewhere, as long as nothing of an answer went to its client.

Whether and where is decided by whoever owns `exchange.attempts` (addons/upstreams); here stands how, within one flow:

1. A connection that did not come about: the hook `upstream_failed` runs, which may point the flow to another upstream,
   and a connection is asked for again (`_make_connection`).
2. An answer whose head may be that of a refusal: its body is read first, 64 KiB at most, for as long as is allowed,
   and judged by what has come. Where nobody else is asked it goes to the client, with what is still to come. Events are
   routed by stream and not by connection, so what is left of a refused answer would enter the next one: a connection
   whose answer is not read to its end is closed, and says nothing more (`LeftAlone`).
3. A connection that breaks before an answer has begun.

What goes up again is the request that relay holds; one whose body is still coming, or was streamed, is not repeated
once a connection was there.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from mitmproxy import hooks, http
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import GetHttpConnection, HttpLayer, HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    HttpEvent,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)

from addons.engine.transports import handler_of
from addons.engine.wrapping import Commands, wrap
from addons.exchange import AttemptState, FailedAttempt, heard, kept_handler

MOST_HELD = 1 << 16
"""Bytes of a refusal that are read before it is judged."""
_READING = "relay_reading"

with contextlib.suppress(KeyError):
    del hooks.all_hooks["upstream_failed"]  # of the code before a reload, about which mitmproxy would warn


@dataclass
class UpstreamFailedHook(commands.StartHook):
    """A request has failed upstream: shall it be asked again, and where?"""

    flow: http.HTTPFlow


class LeftAlone(RequestProtocolError):
    """A connection whose answer nobody wants is closed, and whatever it still says reaches nobody."""


def install() -> None:
    """Make the changes of this room."""
    wrap(HttpStream, "make_server_connection", _make_connection)


def _state(stream: HttpStream) -> AttemptState | None:
    exchange = heard(stream.flow)
    return exchange.attempts if exchange is not None else None


def _has_left(stream: HttpStream) -> bool:
    return _farewell(stream) is not None


def _farewell(stream: HttpStream) -> RequestProtocolError | None:
    return next((each for each in stream._paused_event_queue if isinstance(each, RequestProtocolError)), None)


# Connections


def _make_connection(_stock: Any, stream: HttpStream) -> Commands:
    """mitmproxy 12.2.3 fails a flow with the first connection that does not come about; so a moment without an upstream
    is a 502, whatever others there are. As stock, but asked again where that is wanted. Remove when there is a hook for
    a failed connect that may name another server.

    And it asks upstream for a stream of HTTP/2 that its client has reset meanwhile, and closes then; so what nobody
    wants may be billed.
    """
    while True:
        flow, state = stream.flow, _state(stream)
        if state is not None:
            state.begin()
        _note_connecting(flow, connecting=True)
        connection, error = yield GetHttpConnection(
            (flow.request.host, flow.request.port),
            flow.request.scheme == "https",
            flow.server_conn.via,
            flow.server_conn.transport_protocol,
        )
        _note_connecting(flow, connecting=False, failed=bool(error))
        if not error:
            stream.context.server = flow.server_conn = connection
            if (left := _farewell(stream)) is None:
                return True
            stream.client_state = stream.state_done  # as one that talks with upstream: its connection is closed
            yield from stream.handle_protocol_error(left)
            return False
        if state is not None and (yield from _decided(stream, state, FailedAttempt(error, connected=False))):
            continue
        yield from stream.handle_protocol_error(
            ResponseProtocolError(stream.stream_id, error, ErrorCode.CONNECT_FAILED)
        )
        return False


def _note_connecting(flow: http.HTTPFlow, *, connecting: bool, failed: bool = False) -> None:
    """Tell apart whose connect a timer gives up from what is under way besides."""
    exchange = heard(flow)
    if exchange is not None:
        exchange.failure.connecting = connecting
        if not connecting and not failed:
            exchange.failure.connect_timed_out = False


def _decided(stream: HttpStream, state: AttemptState, failed: FailedAttempt) -> Commands:
    """Whether it is to be asked again: the flow is pointed to where, then."""
    state.failed, state.again = failed, False
    state.gone = lambda: _has_left(stream)
    yield UpstreamFailedHook(stream.flow)
    state.failed = state.gone = None
    return state.again and not _has_left(stream) and stream.flow.error is None


def _sending(stream: HttpStream) -> Commands:
    """Send the request that relay holds, as mitmproxy does."""
    request, number, server = stream.flow.request, stream.stream_id, stream.context.server
    content, trailers = request.raw_content, request.trailers
    yield SendHttp(RequestHeaders(number, request, not (content or trailers)), server)
    if content:
        yield SendHttp(RequestData(number, content), server)
    if trailers:
        yield SendHttp(RequestTrailers(number, trailers), server)
    yield SendHttp(RequestEndOfMessage(number), server)


def _again(stream: HttpStream) -> Commands:
    stream.server_state = stream.state_wait_for_response_headers  # type: ignore[method-assign, unused-ignore]
    if (yield from stream.make_server_connection()):
        yield from _sending(stream)


def _is_held(stream: HttpStream) -> bool:
    """Whether all of the request is at hand, and its client is there."""
    request = stream.flow.request
    return stream.client_state == stream.state_done and request.raw_content is not None and not _has_left(stream)


# Refusals


def judge_head(stock: Any, stream: HttpStream, event: HttpEvent) -> Any:
    """mitmproxy 12.2.3 passes on the answer that comes first; so one key that is out of its rate fails a request that
    another key would serve. Here what may be a refusal is read and judged before any hook has seen it. Remove when a
    hook before `responseheaders` may send a request elsewhere.
    """
    state = _state(stream)
    if state is None or not isinstance(event, ResponseHeaders) or not _is_held(stream):
        return stock(stream, event)
    seconds = state.patience(stream.flow, event.response)
    return stock(stream, event) if seconds is None else _Refused(stock, stream, state, event).begin(seconds)


class _Refused:
    """An answer that may be a refusal, while it is read."""

    def __init__(self, stock: Any, stream: HttpStream, state: AttemptState, head: ResponseHeaders) -> None:
        self._stock = stock
        self._stream = stream
        self._state = state
        self._events: list[HttpEvent] = [head]
        self._head = head
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waking: asyncio.Task[None] | None = None
        self._sources: dict[Any, Any] = {}
        self._call: Any = None

    def begin(self, seconds: float) -> Commands:
        """Read it, for so many seconds at most."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)
        setattr(self._stream, _READING, self)
        self._stream.server_state = self.read  # type: ignore[method-assign, assignment, unused-ignore]
        yield from ()

    def _ring(self) -> None:
        """Wake the stream, as mitmproxy's own timers would."""
        stream = self._stream
        handler = kept_handler(stream.flow) or handler_of(stream.flow.client_conn)
        layer = next((each for each in stream.context.layers if isinstance(each, HttpLayer)), None)
        if handler is None or layer is None or stream.client_state != stream.state_done:
            return
        command = commands.RequestWakeup(0)
        self._sources, self._call = layer.command_sources, command
        self._sources[command] = stream
        self._waking = asyncio.get_running_loop().create_task(handler.server_event(events.Wakeup(command)))

    def stop(self) -> None:
        """It is read no more; should the stream be about to be woken, nothing comes of it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._call in self._sources:
            self._sources[self._call] = _ASLEEP
        setattr(self._stream, _READING, None)

    def read(self, event: HttpEvent | events.Wakeup) -> Commands:
        """Take a piece of it, or judge it by what has come."""
        if isinstance(event, events.Wakeup):
            yield from self.end(whole=False)
            return
        self._events.append(event)
        if isinstance(event, ResponseData):
            self._size += len(event.data)
        if isinstance(event, ResponseEndOfMessage):
            yield from self.end(whole=True)
        elif self._size > MOST_HELD:
            yield from self.end(whole=False)

    def broken(self, event: ResponseProtocolError) -> Commands:
        """Its connection has broken, or was cut off."""
        self._events.append(event)
        yield from self.end(whole=True)

    def end(self, *, whole: bool) -> Commands:
        """Judge it by what there is."""
        self.stop()
        stream = self._stream
        body = b"".join(each.data for each in self._events if isinstance(each, ResponseData))
        connection = stream.context.server
        # What comes while it is judged waits in the stream's queue.
        if not (
            yield from _decided(stream, self._state, FailedAttempt(answer=self._head.response, body=body, whole=whole))
        ):
            yield from self._pass_on()
            return
        if not whole:
            yield SendHttp(LeftAlone(stream.stream_id, "relay: refused", ErrorCode.CANCEL), connection)
        _forget_answer(stream)
        yield from _again(stream)

    def _pass_on(self) -> Commands:
        """It is the answer: all of it goes the way that it would have gone."""
        stream = self._stream
        stream.server_state = stream.state_wait_for_response_headers  # type: ignore[method-assign, unused-ignore]
        yield from self._stock(stream, self._events[0])
        for event in self._events[1:]:
            if isinstance(event, ResponseProtocolError):
                yield from stream.handle_protocol_error(event)
            else:
                yield from stream.server_state(event)


class _Asleep:
    """In the place of a stream that is to be woken no more."""

    def handle_event(self, _event: events.Event) -> tuple[commands.Command, ...]:
        """Nothing comes of it."""
        return ()


_ASLEEP = _Asleep()


def left(stream: HttpStream) -> None:
    """Its client has left: a refusal that it would have got is read no more."""
    reading: _Refused | None = getattr(stream, _READING, None)
    if reading is not None:
        reading.stop()


def _forget_answer(stream: HttpStream) -> None:
    """Of what has come of an answer nobody wants, nothing is left to be taken for the next one."""
    gone = (ResponseData, ResponseTrailers, ResponseEndOfMessage, ResponseProtocolError)
    kept = [each for each in stream._paused_event_queue if not isinstance(each, gone)]
    stream._paused_event_queue.clear()
    stream._paused_event_queue.extend(kept)


def leave_alone(client: Any) -> Commands:
    """Close a connection, and hear nothing more of it."""
    client.state = client.done
    yield commands.CloseConnection(client.conn)


# Breaks


def may_ask_again(stream: HttpStream, event: Any) -> bool:
    """Whether a failure came before anything of an answer, so that somebody may decide on it."""
    if not isinstance(event, ResponseProtocolError) or event.code is ErrorCode.CONNECT_FAILED:
        return False
    if stream.flow.response is not None or stream.flow.error is not None or _state(stream) is None:
        return False
    waiting = (stream.state_wait_for_response_headers,)
    return _is_held(stream) and (stream.server_state in waiting or getattr(stream, _READING, None) is not None)


def ask_again(stream: HttpStream, event: ResponseProtocolError) -> Commands:
    """Whether a request that broke off was asked again, or has got what there is of a refusal."""
    reading: _Refused | None = getattr(stream, _READING, None)
    if reading is not None:
        yield from reading.broken(event)
        return True
    state = _state(stream)
    if state is None or not (yield from _decided(stream, state, FailedAttempt(event.message))):
        return False
    yield from _again(stream)
    return True
