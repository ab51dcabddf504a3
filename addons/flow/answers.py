"""relay's own answers: how an error, or a body of relay's, becomes the response of a flow."""

from mitmproxy import http

from addons import engine
from addons.core import headers
from addons.errors import MethodNotAllowed, RelayError
from addons.exchange import Exchange, Kind, Part, of
from addons.flow.advice import advise

_CORS = ((b"Access-Control-Allow-Origin", b"*"), (b"Access-Control-Expose-Headers", b"*"))

JSON = "application/json; charset=utf-8"

REFUSAL = Part[RelayError]("refusal")
"""Why relay has answered by itself."""


def json_response(body: bytes, status: int = 200) -> http.Response:
    """A JSON answer of relay's own. The charset is spelt out, since old clients default to ISO-8859-1."""
    return http.Response.make(status, body, {"Content-Type": JSON})


def error_response(kind: Kind, error: RelayError) -> http.Response:
    """`error` in the shape that callers of `kind` read: OpenAI's, or an envelope under HTTP 200 (405 stays 405)."""
    wrong_method = isinstance(error, MethodNotAllowed)
    if kind == Kind.CHAT:
        response = json_response(error.envelope(), 405 if wrong_method else 200)
    elif kind == Kind.BALANCE:
        response = json_response(error.balance_envelope(), 405 if wrong_method else 200)
    else:
        response = json_response(error.openai_body(), error.status)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = error.allow
    for name, value in error.headers.items():
        response.headers[name] = value
    return response


def answer(flow: http.HTTPFlow, response: http.Response) -> None:
    """Answer `flow` by relay itself; nothing goes upstream.

    Called in `requestheaders` while a body is still coming, the answer goes out at once and the rest of the body is
    read and dropped (engine, "early answers"): nothing of it is held.
    """
    exchange = of(flow)
    if exchange is not None:
        exchange.refused = True
    if flow.request.headers.pop("expect", None) is not None:
        # The client holds its body back until it hears 100: after a final answer nobody can tell whether the bytes that
        # follow are this body or the next request.
        response.headers["Connection"] = "close"
    if flow.request.method == "HEAD":
        response.raw_content = b""  # its length stays in the head
    flow.response = response
    flow.request.stream = engine.installed()


def refuse(flow: http.HTTPFlow, exchange: Exchange, error: RelayError) -> None:
    """Answer `flow` with `error` in the shape its caller reads."""
    REFUSAL.keep(exchange, error)
    advise(exchange.upstream.name, error)
    answer(flow, error_response(exchange.kind, error))


def add_common_headers(response: http.Response, exchange: Exchange) -> None:
    """Add what every answer carries: an id to quote, what browsers need, and the close that the client asked for."""
    added: headers.Fields = ((b"x-relay-request-id", exchange.id.encode()),)
    if exchange.origin:
        added += _CORS
    response.headers.fields += added
    if exchange.client_closes:
        response.headers["Connection"] = "close"
