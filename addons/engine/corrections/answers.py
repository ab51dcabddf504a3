"""What clients are answered where mitmproxy would answer by itself, hang, or hold too much."""

import logging
from typing import Any

from mitmproxy import flow as mflow
from mitmproxy import http
from mitmproxy.addons.disable_h2c import DisableH2C
from mitmproxy.proxy import commands
from mitmproxy.proxy.layers.http import DropStream, HttpStream, SendHttp, _http1, _http2
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook, HttpResponseHeadersHook, HttpResponseHook

from addons import errors
from addons.engine.corrections import attempts, partings
from addons.engine.pool import repeats
from addons.engine.wrapping import Commands, wrap, wrap_inner
from addons.exchange import Exchange, Kind, answer_cap, heard, of

logger = logging.getLogger(__name__)

BODY_TOO_LARGE = "relay: body over its limit"


def install() -> None:
    """Make the changes of this room."""
    wrap(HttpStream, "handle_protocol_error", _answer_errors)
    wrap_inner(HttpStream, "check_killed", _answer_kills)
    wrap_inner(HttpStream, "check_invalid", _answer_invalid)
    wrap(HttpStream, "start_request_stream", _answer_early)
    wrap(DisableH2C, "request", _spare_answered)
    wrap_inner(HttpStream, "check_body_size", _bound_bodies)
    wrap(HttpStream, "send_response", _send_what_was_meant)
    wrap_inner(HttpStream, "state_stream_response_body", _hear)
    wrap_inner(HttpStream, "state_consume_response_body", _hear)
    wrap_inner(_http1.Http1Server, "read_body", _answer_bad_framing)
    wrap(_http1, "make_error_response", _json_error_response)
    wrap(_http2, "format_error", _json_error_body)


# Errors


def _answer_kills(stock: Any, stream: HttpStream, emit_error_hook: bool) -> Any:
    """mitmproxy 12.2.3 takes a client that leaves during a hook for a kill, and cuts the connection over a kill without
    an answer; so an exchange whose last event was told counts as broken, and the answer that the `error` hook left is
    lost. This is asked all the time, and nearly always there is nothing to say. Remove when check_killed sends a
    flow.response that the hook has set, and a flow can be marked as complete before its connection ends.
    """
    if stream.flow.error is None:
        for event in stream._paused_event_queue:
            if isinstance(event, RequestProtocolError):
                break
        else:
            return stock(stream, emit_error_hook)
        exchange = of(stream.flow)
        if not emit_error_hook and exchange is not None:
            # It has left while `response` ran: with all it wanted, or without.
            has_all = _has_ended(stream, exchange) or _is_sent(stream, exchange)
            return _not_killed() if has_all else _killed_late(stock, stream, exchange)
    return _answer_errors(stock, stream, emit_error_hook)


def _answer_invalid(stock: Any, stream: HttpStream, request: bool) -> Commands:
    """mitmproxy 12.2.3 runs the `error` hook for a head that it refuses, and sends an HTML page of its own all the
    same; so the client of an API gets no JSON. Remove when check_invalid sends a flow.response that the hook has set.
    """
    return (yield from _with_substitute(stock(stream, request), stream))


def _answer_errors(stock: Any, stream: HttpStream, *args: Any) -> Commands:
    """mitmproxy 12.2.3 answers an exchange that fails with an HTML page that holds the error, the upstream's address in
    it, and calls a client broken that left behind the last event of a stream; so strangers read the address, and
    finished exchanges look failed. Here the answer that the `error` hook left is sent. Remove when
    handle_protocol_error sends a flow.response that the hook has set, and a flow can be marked as complete before its
    connection ends.
    """
    if args and repeats.may_ask_again(stream, args[0]):
        yield from repeats.ask_again(stream)
        return None
    if args and attempts.may_ask_again(stream, args[0]) and (yield from attempts.ask_again(stream, args[0])):
        return None
    if args and isinstance(args[0], RequestProtocolError):
        attempts.left(stream)
    exchange = of(stream.flow)
    parting = exchange is not None and isinstance(args[0], RequestProtocolError | ResponseProtocolError)
    if parting and (yield from _see_off(stream, exchange, args[0])):
        return None
    hearing = heard(stream.flow)
    if (
        hearing is not None
        and hearing.answer.whole
        and isinstance(args[0], ResponseProtocolError)
        and _is_coming(stream)
    ):
        yield from _end(stream)
        return None
    if exchange is not None and any(
        isinstance(each, RequestProtocolError) for each in (*args, *stream._paused_event_queue)
    ):
        exchange.failure.by_client = True
    return (yield from _with_substitute(stock(stream, *args), stream))


def _with_substitute(generator: Commands, stream: HttpStream) -> Commands:
    reply = None
    while True:
        try:
            command = generator.send(reply)
        except StopIteration as end:
            return end.value
        reply = None
        exchange = of(stream.flow)
        substitute = exchange.failure.substitute if exchange is not None else None
        if exchange is None or substitute is None or exchange.committed or not _is_error_page(command, stream):
            reply = yield command
        else:
            exchange.committed = True
            yield from _send_whole(stream, substitute)


# Partings


def _see_off(stream: HttpStream, exchange: Any, event: RequestProtocolError | ResponseProtocolError) -> Commands:
    """Take the end of a stream behind its last event for what it is; whether that is what `event` tells of."""
    if isinstance(event, ResponseProtocolError):
        if not exchange.stream.seen_off:
            return False
        yield from _end_as_answered(stream)
        return True
    if exchange.stream.seen_off or stream.server_state != stream.state_stream_response_body:
        return exchange.stream.seen_off
    if stream.client_state != stream.state_done or not _has_ended(stream, exchange):
        return False
    exchange.stream.seen_off = True
    stream.client_state = stream.state_errored
    if stream.flow.server_conn.alpn == b"h2" or not partings.begin(stream.flow):
        yield SendHttp(event, stream.context.server)  # which others may go on using
        yield from _end_as_answered(stream)
    return True


def _has_ended(stream: HttpStream, exchange: Exchange) -> bool:
    """Whether the last event was told. A tap that fails has seen none."""
    try:
        return exchange.stream.ended is not None and exchange.stream.ended() and stream.flow.error is None
    except Exception:
        logger.exception("the end of a stream could not be judged")
        return False


def _is_sent(stream: HttpStream, exchange: Exchange) -> bool:
    """Whether all of an answer that is streamed has gone out, and only its record is still being cleaned."""
    response = stream.flow.response
    if response is None or not response.stream or exchange.answer.tail or stream.flow.error:
        return False
    return response.timestamp_end is not None


def _end_as_answered(stream: HttpStream) -> Commands:
    """Run `response` in place of `error`."""
    if stream.server_state == stream.state_stream_response_body:
        yield from stream.send_response(already_streamed=True)


def _killed_late(stock: Any, stream: HttpStream, exchange: Exchange) -> Commands:
    killed = yield from _answer_errors(stock, stream, False)
    if killed and exchange.record.late is not None:
        exchange.record.late(stream.flow)
    return killed


def _not_killed() -> Commands:
    yield from ()
    return False


def _is_error_page(command: Any, stream: HttpStream) -> bool:
    return (
        isinstance(command, SendHttp)
        and isinstance(command.event, ResponseProtocolError)
        and command.connection is stream.context.client
    )


def _send_whole(stream: HttpStream, response: http.Response) -> Commands:
    client = stream.context.client
    content = response.raw_content or b""
    stream.flow.response = response
    if stream.flow.request.method.upper() == "HEAD":
        content = b""
    yield SendHttp(ResponseHeaders(stream.stream_id, response, end_stream=not content), client)
    if content:
        yield SendHttp(ResponseData(stream.stream_id, content), client)
    yield SendHttp(ResponseEndOfMessage(stream.stream_id), client)


def error_for(status: int) -> errors.RelayError:
    """relay's words for what mitmproxy refuses before there is a flow."""
    if status == 413:
        return errors.TooLarge("请求体过大。", "The request body is over the limit of this relay.")
    if status == 504:
        return errors.UpstreamTimeout("上游响应超时，请稍后再试。", "Upstream was too slow; try again later.")
    if status >= 500:
        return errors.UpstreamFailed("上游请求失败，请稍后再试。", "The upstream failed; try again later.")
    return errors.BadRequest(
        "不是有效的 HTTP 请求，请检查请求行和请求头。",
        "This is not a valid HTTP request: check its request line and headers.",
    )


def _json_error_body(_stock: Any, status: int, message: str = "") -> bytes:
    """mitmproxy 12.2.3 makes an HTML page for HTTP/2 of what it refuses before there is a flow, its own words in it; so
    the client of an API gets no JSON. Remove when the text of error pages is an option or a hook.
    """
    return error_for(status).openai_body()


def _json_error_response(_stock: Any, status: int, message: str = "") -> bytes:
    """mitmproxy 12.2.3 makes an HTML page for HTTP/1, too, with its name and version in `Server`; so the client gets no
    JSON, and learns what it talks to. Remove when the text of error pages is an option or a hook.
    """
    return errors.closing_answer(error_for(status))


def _answer_bad_framing(stock: Any, server: Any, event: Any) -> Commands:
    """mitmproxy 12.2.3 closes the connection of a client whose chunk it can't read, without a word; so the client sees
    a reset and can't tell why. Here it is told before, where no answer has begun. Remove when Http1Server.read_body
    sends a 400 before it closes.
    """
    for command in stock(server, event):
        closing = isinstance(command, commands.CloseConnection) and command.connection is server.conn
        if closing and not server.response and server.conn.connected:
            yield commands.SendData(server.conn, _json_error_response(None, 400))
            server.state = server.done
        yield command


# Early answers


def _answer_early(stock: Any, stream: HttpStream) -> Commands:
    """mitmproxy 12.2.3 raises NotImplementedError where `requestheaders` sets an answer and request.stream; so the
    client waits without end, or has to send a body first that nobody wants. Remove when start_request_stream sends an
    answer that is set and drops the body.
    """
    if stream.flow.response is None:
        yield from stock(stream)
        return
    yield HttpResponseHeadersHook(stream.flow)
    if (yield from stream.check_killed(True)):
        return
    # As far as this stream goes the request is over: the rest of the body finds no stream and is dropped as it comes.
    stream.client_state = stream.state_done
    yield from stream.send_response()
    stream.client_state = stream.state_errored  # which takes what is still queued without a word


def _spare_answered(stock: Any, addon: DisableH2C, flow: http.HTTPFlow) -> None:
    """mitmproxy 12.2.3 kills a flow that is HTTP/2's preface on a connection of HTTP/1, and closes; so the client gets
    no 400 even where an addon has set one. Remove when DisableH2C leaves flows alone that have a response.
    """
    if flow.response is None:
        stock(addon, flow)


# Bodies


def _bound_bodies(stock: Any, stream: HttpStream, request: bool) -> Any:
    """mitmproxy 12.2.3 has one body_size_limit for requests and answers of all kinds, and its refusal is an HTML page;
    so a route can't have a bound of its own, nor the bodies of all clients together one. Here each exchange's own bound
    holds with each piece that comes. Remove when check_body_size reads its limit from the flow and calls a hook per
    piece.
    """
    exchange = of(stream.flow)
    held = stream.request_body_buf if request else stream.response_body_buf
    cap = (exchange.body.cap if exchange is not None else None) if request else answer_cap(stream.flow)
    if request and exchange is not None and exchange.body.passes:
        return pass_on(stream, exchange) if len(held) > (exchange.body.cap or 0) else stock(stream, request)
    holding = exchange.body.holding if request and exchange is not None else None
    if holding is not None and (error := holding(len(held))) is not None:
        held.clear()
        return _refuse_more(stream, error)
    if cap is None or len(held) <= cap:
        return stock(stream, request)
    held.clear()
    return _refuse(stream, cap, request)


def pass_on(stream: HttpStream, exchange: Exchange) -> Commands:
    """Send up as it comes what was held so far; it can't be sent again, then."""
    held = bytes(stream.request_body_buf)
    stream.request_body_buf.clear()
    exchange.body.cap, exchange.body.passes = None, False
    stream.flow.request.stream = exchange.body.passing or True
    yield from stream.start_request_stream()
    if held and stream.client_state == stream.state_stream_request_body:
        yield from stream.client_state(RequestData(stream.stream_id, held))
    return False


def _refuse(stream: HttpStream, cap: int, request: bool) -> Commands:
    if request:
        error = errors.TooLarge(f"请求体超过 {cap} 字节。", f"The request body is over {cap} bytes.")
        yield from refuse_body(stream, error, BODY_TOO_LARGE)
    else:
        yield from _refuse_answer(stream, cap)
    return True


def _refuse_more(stream: HttpStream, error: errors.RelayError) -> Commands:
    yield from refuse_body(stream, error, BODY_TOO_LARGE)
    return True


def refuse_body(stream: HttpStream, error: errors.RelayError, why: str) -> Commands:
    """Answer with `error` while a body that relay reads whole is still coming; the connection ends with it."""
    exchange = of(stream.flow)
    stream.flow.error = mflow.Error(why)
    if exchange is not None:
        exchange.failure.fault = error
        exchange.client_closes = True  # the rest of the body is still coming, and nobody wants it
    yield HttpErrorHook(stream.flow)
    if exchange is not None and exchange.failure.substitute is not None:
        yield from _send_whole(stream, exchange.failure.substitute)
    stream.client_state = stream.state_errored
    stream.flow.live = False


def _refuse_answer(stream: HttpStream, cap: int) -> Commands:
    exchange = of(stream.flow)
    if exchange is not None:
        exchange.failure.fault = errors.UpstreamFailed(
            f"上游响应过大：超过 {cap} 字节。", f"The upstream's answer is too large: over {cap} bytes."
        )
    yield commands.CloseConnection(stream.context.server)
    yield from stream.handle_protocol_error(
        ResponseProtocolError(stream.stream_id, BODY_TOO_LARGE, ErrorCode.GENERIC_SERVER_ERROR)
    )
    stream.server_state = stream.state_errored


# Ends
#
# An event stream says when it has ended; its connection may stay open for long behind that, or break. Who reads the
# answer notes it (`exchange.answer`: `over`, `whole`), and here it becomes the end of the message: the hooks of a whole
# answer run, the client gets a proper end in whatever HTTP it speaks, and what upstream still says reaches nobody.


def _hear(stock: Any, stream: HttpStream, event: Any) -> Any:
    """mitmproxy 12.2.3 calls no hook for a piece of an answer that it holds, and ends a message with its framing alone;
    so an event stream that is over behind its last event stays open for as long as upstream likes. Remove when
    HttpStream calls a hook per piece of a body and that hook may end the message.
    """
    exchange = heard(stream.flow)
    if exchange is None or exchange.kind is not Kind.CHAT or not isinstance(event, ResponseData):
        return stock(stream, event)
    return _hear_data(stock, stream, event, exchange)


def _hear_data(stock: Any, stream: HttpStream, event: Any, exchange: Exchange) -> Commands:
    if exchange.answer.ear is not None:
        exchange.answer.ear(event.data)
    yield from stock(stream, event)
    if exchange.answer.over and _is_coming(stream):
        yield from _end(stream)


def _is_coming(stream: HttpStream) -> bool:
    return stream.server_state in (stream.state_stream_response_body, stream.state_consume_response_body)


def _end(stream: HttpStream) -> Commands:
    yield from stream.server_state(ResponseEndOfMessage(stream.stream_id))
    # Both take what is still queued without a word: the rest of the body, its end or its break.
    stream.client_state = stream.server_state = stream.state_errored


def _let_go_of_upstream(stream: HttpStream) -> Commands:
    """Close the connection of an answer that is over, unless its end has come by itself meanwhile: what is left of it
    must not become part of the next answer. An HTTP/2 stream is reset."""
    if not any(isinstance(each, ResponseEndOfMessage | ResponseProtocolError) for each in stream._paused_event_queue):
        over = RequestProtocolError(stream.stream_id, "relay: the answer is over", ErrorCode.CANCEL)
        yield SendHttp(over, stream.context.server)


# Records and tails


def _send_what_was_meant(stock: Any, stream: HttpStream, *args: Any, **kwargs: Any) -> Commands:
    """mitmproxy 12.2.3 sends what flow.response holds behind the `response` hook, and nothing after a streamed body; so
    a record can't be cleaned of keys without changing the answer, nor a stream say last words. Remove when what is sent
    and what is recorded are two objects, and the hook of a streamed answer may add to it.
    """
    generator = stock(stream, *args, **kwargs)
    reply = record = None
    while True:
        try:
            command = generator.send(reply)
        except StopIteration:
            break
        reply = yield command
        exchange = of(stream.flow)
        if not isinstance(command, HttpResponseHook) or exchange is None:
            continue
        if exchange.stream.seen_off:
            stream.flow.live = False
            partings.end(stream.flow)
            yield DropStream(stream.stream_id)
            continue
        if exchange.answer.over:
            yield from _let_go_of_upstream(stream)
        if exchange.answer.tail and stream.flow.error is None:
            yield SendHttp(ResponseData(stream.stream_id, exchange.answer.tail), stream.context.client)
        if exchange.record.wire is not None:
            # From here to the end of this generator nobody else runs: it yields no hook any more.
            record, stream.flow.response = stream.flow.response, exchange.record.wire
    if record is not None:
        stream.flow.response = record
