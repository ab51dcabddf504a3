"""Redact: once a flow has been sent, its record holds no key.

What mitmweb shows, what `-w` saves and what the dumper prints is the record, so keys are replaced in it: by their first
characters and a short keyed hash, so that two flows of one key can still be told to belong together.
"""

import json
from collections.abc import Iterable
from urllib.parse import quote, unquote

from mitmproxy import http

from addons.config import Settings
from addons.core.secrets import fingerprint, mask
from addons.decoding import content_of
from addons.exchange import keep_original, of

_KEY_HEADERS = ("authorization", "api-key", "x-api-key", "openai-organization-key", "proxy-authorization")
_SIGNS = (b"sk-", b"sess-", b"rk-", b"pk-", b"bearer ")
MAX_BODY = 8 << 20
"""Bytes of a record's body once decoded; what is over it is cut from the record of an edited body."""
_SECRET_HEADERS = ("cookie", "set-cookie")


class Redact:
    """Takes the keys out of a flow in its last hook."""

    def __init__(self, settings: Settings, secret: bytes) -> None:
        self.enabled = settings.inspect.redact
        self.secret = secret

    def response(self, flow: http.HTTPFlow) -> None:
        """The request has long been sent; a streamed answer, too."""
        self._redact(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """As after an answer."""
        self._redact(flow)

    def _redact(self, flow: http.HTTPFlow) -> None:
        if not self.enabled or flow.request is None:
            return
        try:
            self._clean(flow)
        except Exception:
            # Nothing of a record that can't be cleaned may stay.
            flow.request.raw_content = None
            flow.request.headers.clear()
            flow.request.path = flow.request.path.partition("?")[0]
            raise

    def _clean(self, flow: http.HTTPFlow) -> None:
        request = flow.request
        keys = {key: fingerprint(key, self.secret) for key in _keys(request)}
        keys |= {quote(key, safe=""): shown for key, shown in keys.items()}
        self._clean_message(request, keys)
        request.path = mask(request.path, keys)
        chat = flow.metadata.get("relay.chat")
        if isinstance(chat, dict):
            chat["content"] = mask(chat["content"], keys)
        if flow.response is not None:
            self._clean_response(flow, flow.response, keys)
        if flow.error is not None:
            flow.error.msg = mask(flow.error.msg, keys)

    def _clean_response(self, flow: http.HTTPFlow, response: http.Response, keys: dict[str, str]) -> None:
        exchange = of(flow)
        if exchange is not None and exchange.sent:
            self._clean_message(response, keys)
            return
        flow.response = response.copy()
        self._clean_message(flow.response, keys)
        if exchange is not None:
            exchange.wire = response
        else:
            keep_original(flow, response)

    def _clean_message(self, message: http.Message, keys: dict[str, str]) -> None:
        fields = []
        for name, value in message.headers.fields:
            if name.lower().decode("latin-1") in _SECRET_HEADERS:
                value = fingerprint(value.decode("latin-1"), self.secret).encode("latin-1")
            fields.append((name, mask(value.decode("latin-1"), keys).encode("latin-1", "replace")))
        if tuple(fields) != message.headers.fields:
            message.headers.fields = tuple(fields)
        self._clean_body(message, keys)

    @staticmethod
    def _clean_body(message: http.Message, keys: dict[str, str]) -> None:
        if not message.raw_content:
            return
        encoding = message.headers.get("content-encoding", "")
        body = content_of(message, MAX_BODY) if encoding else message.raw_content
        if not suspicious(body, keys):
            return
        # The record of an edited body is kept decoded: lengths and encodings were the wire's business.
        message.headers.pop("content-encoding", None)
        message.raw_content = mask(body.decode("utf-8", "surrogateescape"), keys).encode("utf-8", "surrogateescape")


def suspicious(body: bytes, keys: Iterable[str]) -> bool:
    """Whether a body may hold a key: a quick look that spares most bodies the thorough one."""
    lowered = body.lower()
    return any(sign in lowered for sign in _SIGNS) or any(key.encode("utf-8", "replace") in body for key in keys)


def _keys(request: http.Request) -> set[str]:
    keys = set()
    for name in _KEY_HEADERS:
        for value in request.headers.get_all(name):
            scheme, _, credentials = value.strip().partition(" ")
            keys.add((credentials if scheme.lower() in ("bearer", "basic") else value).strip())
    for part in request.path.partition("?")[2].split("&"):
        name, _, value = part.partition("=")
        if name.lower() in ("apikey", "api_key", "api-key", "key"):
            keys |= {value, unquote(value)}
    for protocol in request.headers.get("sec-websocket-protocol", "").split(","):
        _, mark, key = protocol.strip().partition("openai-insecure-api-key.")
        if mark:
            keys.add(key)
    keys |= _body_keys(request)
    return {key for key in keys if len(key) >= 4}


def _body_keys(request: http.Request) -> set[str]:
    body = content_of(request, 1 << 20)
    if b"apiKey" not in body or len(body) > 1 << 20:
        return set()
    try:
        value = json.loads(body, strict=False)
    except (ValueError, RecursionError):
        return set()
    key = value.get("apiKey") if isinstance(value, dict) else None
    return {key.strip(), key} if isinstance(key, str) else set()
