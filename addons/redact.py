"""Redact: once a flow has been sent, its record holds no key.

What mitmweb shows, what `-w` saves and what the dumper prints is the record, so keys are replaced in it: by their first
characters and a short keyed hash, so that two flows of one key can still be told to belong together.
"""

import json
from urllib.parse import quote, unquote

from mitmproxy import http

from addons.config import Settings
from addons.core.secrets import fingerprint, mask
from addons.exchange import Kind, of

_KEY_HEADERS = ("authorization", "api-key", "x-api-key", "openai-organization-key", "proxy-authorization")
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
            for message in (flow.request, flow.response):
                if message is not None and (message is flow.request or _sent(flow)):
                    message.raw_content = None
            flow.request.headers.clear()
            flow.request.path = flow.request.path.partition("?")[0]
            raise

    def _clean(self, flow: http.HTTPFlow) -> None:
        request = flow.request
        keys = {key: fingerprint(key, self.secret) for key in _keys(request)}
        keys |= {quote(key, safe=""): shown for key, shown in keys.items()}
        self._clean_message(request, keys)
        request.path = mask(request.path, keys)
        if flow.response is not None and _sent(flow):
            self._clean_message(flow.response, keys)
        if flow.error is not None:
            flow.error.msg = mask(flow.error.msg, keys)

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
        body = message.raw_content
        if not body:
            return
        decoded = message.get_content(strict=False) or b""
        text = decoded.decode("utf-8", "surrogateescape")
        masked = mask(text, keys)
        if masked != text:
            # The record of an edited body is kept decoded: lengths and encodings were the wire's business.
            message.headers.pop("content-encoding", None)
            message.raw_content = masked.encode("utf-8", "surrogateescape")


def _sent(flow: http.HTTPFlow) -> bool:
    """Whether an answer's body has left, so that changing the record changes nothing on the wire."""
    exchange = of(flow)
    return exchange is None or (exchange.committed and exchange.kind is Kind.PASS)


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
    body = request.get_content(strict=False) or b""
    if b"apiKey" not in body or len(body) > 1 << 20:
        return set()
    try:
        value = json.loads(body, strict=False)
    except (ValueError, RecursionError):
        return set()
    key = value.get("apiKey") if isinstance(value, dict) else None
    return {key.strip(), key} if isinstance(key, str) else set()
