"""The only room that changes mitmproxy's own behaviour.

Each change wraps one method of mitmproxy's, says what it is good for, and is made only for the version it was written
for: with another one mitmproxy stays as it is, and one log line says what is then missing. Wrapping twice is harmless,
since a reload of the addons starts from the method that was wrapped first.

1. Errors. What mitmproxy answers as an HTML page with the upstream's address in it becomes relay's JSON.
2. Early answers. An answer set in `requestheaders` together with `request.stream` goes out at once, while the body is
   dropped as it comes. As it stands mitmproxy raises there, and the client hangs.
3. Bodies. A body that relay holds is bounded while it is read, not when it has been.
4. Connects. A keep-alive client may ask again after a failed connect. As it stands mitmproxy repeats the first failure
   for as long as the client's connection lives.
5. Records and tails. What `flow.response` says once the `response` hook is over may differ from what is sent, so that a
record
   can be clean of keys and the answer whole. A streamed answer may say its last words after that hook.
6. Heads. A request head that grows without end is cut off, and whoever trickles one can be timed.
"""

import functools
import logging
from collections.abc import Callable, Generator
from typing import Any

import mitmproxy.version
from mitmproxy import flow as mflow
from mitmproxy import http
from mitmproxy.connection import Client, Server
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import HttpLayer, HttpStream, SendHttp, _http1, _http2
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook, HttpResponseHeadersHook, HttpResponseHook

from addons import errors
from addons.exchange import answer_cap, of

WRITTEN_FOR = "12.2.3"
BODY_TOO_LARGE = "relay: body over its limit"

logger = logging.getLogger(__name__)
Commands = Generator[Any, Any, Any]


def install(header_size: int, on_head: Callable[[Client], None]) -> bool:
    """Make the changes; False, with a log line, where mitmproxy is another version.

    `header_size` bounds a request head in bytes. `on_head` is called with a client whose request head is begun and not
    complete.
    """
    if mitmproxy.version.VERSION != WRITTEN_FOR:
        logger.warning(
            f"relay's changes to mitmproxy are written for {WRITTEN_FOR}, this is {mitmproxy.version.VERSION}: "
            "errors will be mitmproxy's HTML pages, and limits.header_size and limits.headers don't hold."
        )
        return False
    _wrap(HttpStream, "handle_protocol_error", _answer_errors)
    _wrap(HttpStream, "check_killed", _answer_errors)
    _wrap(HttpStream, "start_request_stream", _answer_early)
    _wrap(HttpStream, "check_body_size", _bound_bodies)
    _wrap(HttpStream, "send_response", _send_what_was_meant)
    _wrap(HttpLayer, "get_connection", _forget_failed_connects)
    _wrap(_http1.Http1Server, "read_headers", functools.partial(_bound_heads, header_size, on_head))
    _wrap(_http1, "make_error_response", _json_error_response)
    _wrap(_http2, "format_error", _json_error_body)
    return True


def installed() -> bool:
    """Whether early answers work, so that nobody asks for one where mitmproxy would hang on it."""
    return hasattr(HttpStream.start_request_stream, "relay_wraps")


def _wrap(owner: Any, name: str, change: Callable[..., Any]) -> None:
    stock = getattr(owner, name)
    stock = getattr(stock, "relay_wraps", stock)

    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(stock, *args, **kwargs)

    changed.relay_wraps = stock  # type: ignore[attr-defined]
    setattr(owner, name, changed)


# 1. Errors


def _answer_errors(stock: Any, stream: HttpStream, *args: Any) -> Commands:
    """Send the answer that the `error` hook left, where stock would send its own page."""
    generator = stock(stream, *args)
    reply = None
    while True:
        try:
            command = generator.send(reply)
        except StopIteration as end:
            return end.value
        reply = None
        exchange = of(stream.flow) if _is_error_page(command, stream) else None
        if exchange is None or exchange.substitute is None or exchange.committed:
            reply = yield command
        else:
            exchange.committed = True
            yield from _send_whole(stream, exchange.substitute)


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
        return errors.UpstreamTimeout("上游响应超时,请稍后再试。", "Upstream was too slow; try again later.")
    if status >= 500:
        return errors.UpstreamFailed("上游连接失败,请稍后再试。", "Upstream could not be reached; try again later.")
    return errors.BadRequest(
        "请求格式有误,不是有效的 HTTP 请求。", "This is not a valid HTTP request: check its request line and headers."
    )


def _json_error_body(_stock: Any, status: int, message: str = "") -> bytes:
    return error_for(status).openai_body()


def _json_error_response(_stock: Any, status: int, message: str = "") -> bytes:
    error = error_for(status)
    body = error.openai_body()
    headers = {"Content-Type": "application/json; charset=utf-8", "Connection": "close"}
    return bytes(http1.assemble_response(http.Response.make(error.status, body, headers)))


# 2. Early answers


def _answer_early(stock: Any, stream: HttpStream) -> Commands:
    if stream.flow.response is None:
        yield from stock(stream)
        return
    yield HttpResponseHeadersHook(stream.flow)
    if (yield from stream.check_killed(True)):
        return
    # As far as this stream goes the request is over: the rest of the body finds no stream and is dropped as it comes.
    stream.client_state = stream.state_done
    yield from stream.send_response()


# 3. Bodies


def _bound_bodies(stock: Any, stream: HttpStream, request: bool) -> Commands:
    exchange = of(stream.flow)
    held = stream.request_body_buf if request else stream.response_body_buf
    cap = (exchange.body_cap if exchange is not None else None) if request else answer_cap(stream.flow)
    if cap is None or len(held) <= cap:
        return (yield from stock(stream, request))
    held.clear()
    if request:
        yield from _refuse_body(stream, cap)
    else:
        yield from _refuse_answer(stream, cap)
    return True


def _refuse_body(stream: HttpStream, cap: int) -> Commands:
    exchange = of(stream.flow)
    stream.flow.error = mflow.Error(BODY_TOO_LARGE)
    if exchange is not None:
        exchange.fault = errors.TooLarge(f"请求体超过 {cap} 字节。", f"The request body is over {cap} bytes.")
        exchange.client_closes = True  # the rest of the body is still coming, and nobody wants it
    yield HttpErrorHook(stream.flow)
    if exchange is not None and exchange.substitute is not None:
        yield from _send_whole(stream, exchange.substitute)
    stream.client_state = stream.state_errored
    stream.flow.live = False


def _refuse_answer(stream: HttpStream, cap: int) -> Commands:
    exchange = of(stream.flow)
    if exchange is not None:
        exchange.fault = errors.UpstreamFailed("上游的回答过长。", f"The upstream's answer is over {cap} bytes.")
    yield commands.CloseConnection(stream.context.server)
    yield from stream.handle_protocol_error(
        ResponseProtocolError(stream.stream_id, BODY_TOO_LARGE, ErrorCode.GENERIC_SERVER_ERROR)
    )
    stream.server_state = stream.state_errored


# 4. Connects


def _forget_failed_connects(stock: Any, layer: HttpLayer, event: Any, **kwargs: Any) -> Commands:
    for known in layer.connections:
        if isinstance(known, Server) and known.error and known not in layer.waiting_for_establishment:
            known.error = None
    yield from stock(layer, event, **kwargs)


# 5. Records and tails


def _send_what_was_meant(stock: Any, stream: HttpStream, *args: Any, **kwargs: Any) -> Commands:
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
        if exchange.tail and stream.flow.error is None:
            yield SendHttp(ResponseData(stream.stream_id, exchange.tail), stream.context.client)
        if exchange.wire is not None:
            # From here to the end of this generator nobody else runs: it yields no hook any more.
            record, stream.flow.response = stream.flow.response, exchange.wire
    if record is not None:
        stream.flow.response = record


# 6. Heads


def _bound_heads(size: int, on_head: Callable[[Client], None], stock: Any, server: Any, event: Any) -> Commands:
    yield from stock(server, event)
    if not isinstance(event, events.DataReceived):
        return
    waiting = server.state == server.read_headers
    if waiting and len(server.buf) > size:
        error = errors.BadRequest(
            f"请求头超过 {size} 字节。", f"The request's headers are over {size} bytes.", code="headers_too_large"
        )
        headers = {"Content-Type": "application/json; charset=utf-8", "Connection": "close"}
        yield commands.SendData(
            server.conn, http1.assemble_response(http.Response.make(error.status, error.openai_body(), headers))
        )
        yield commands.CloseConnection(server.conn)
        server.state = server.done
    elif waiting and server.buf:
        on_head(server.conn)
