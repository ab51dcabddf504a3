"""Redact: once a flow has been sent, its record holds no key.

What mitmweb shows, what `-w` saves and what the dumper prints is the record, so keys are replaced in it: by their first
characters and a short keyed hash, so that two flows of one key can still be told to belong together.

1. `requestheaders` and `request` note the keys that a request brings: before anybody rewrites it (`Noting`), too.
2. `responseheaders` cleans the request: it has been sent.
3. `response` and `error` clean all the rest. What is still to be sent stays whole beside the record (`exchange.wire`).
4. `websocket_message` cleans message by message; the engine sends what came.
"""

import json
import logging
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from functools import lru_cache
from urllib.parse import unquote, unquote_plus

from mitmproxy import http

from addons.config import Settings
from addons.core.secrets import fingerprint, holds_key, keys_in, mask, mask_stream, unescaped
from addons.decoding import content_of
from addons.exchange import keep_message, keep_original, keys_of, of
from addons.logs import known_keys

logger = logging.getLogger(__name__)

MAX_BODY = 8 << 20
"""Bytes of a record's body once decoded; what is over it is cut from the record of an edited body."""

_SECRET_HEADER = re.compile(r"key|token|secret|auth|passw|cookie|credential")
_NOT_SECRET = {"sec-websocket-key", "idempotency-key"}
_SECRET_PARAMETER = re.compile(r".*(?:key|token|secret|auth|authorization|password|credential|sig|signature)", re.I)
_ANSWERED = ("set-cookie",)
_SCHEMES = ("bearer", "basic", "token")
_SUBPROTOCOL = "openai-insecure-api-key."
_SEARCHED = 8
"""Characters of a value that is looked for elsewhere: a shorter one may be a word. Keys proper: 4."""
_READ = 1 << 20
_STREAM = re.compile(rb"\s*(?:data|event|id|retry|):")


class Noting:
    """Notes a request's keys as it comes in: before headers that go no further are dropped, or an addon fails."""

    def __init__(self, redact: "Redact") -> None:
        self.redact = redact

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Note the keys of the head."""
        self.redact.begin(flow)


class Redact:
    """Takes the keys out of a flow in its last hooks."""

    def __init__(self, settings: Settings, secret: bytes) -> None:
        self.enabled = settings.inspect.redact
        self.secret = secret
        if not self.enabled:
            logger.warning("inspect.redact is false: what mitmweb shows and -w saves holds keys as they were sent.")

    def begin(self, flow: http.HTTPFlow) -> None:
        """Note the keys of the head."""
        if self.enabled and flow.live:
            self._note(flow)

    def request(self, flow: http.HTTPFlow) -> None:
        """Note what /chat has read from the body."""
        if self.enabled and flow.live and flow.request.raw_content:
            self._note(flow)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Clean the request: an answer has come, and nobody sends a request's head twice."""
        exchange = of(flow)
        if self.enabled and exchange is not None and exchange.watched and not exchange.refused:
            self._clean_request(flow, self._known(flow))

    def response(self, flow: http.HTTPFlow) -> None:
        """The request has long been sent; a streamed answer, too."""
        self._redact(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """As after an answer."""
        self._redact(flow)

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        """Clean the newest message; what came is kept beside it until it has been sent."""
        if not self.enabled or flow.websocket is None:
            return
        message = flow.websocket.messages[-1]
        keys = self._known(flow)
        if not holds_key(message.content, keys):
            return
        record = _masked(message.content, keys)
        if record != message.content:
            if of(flow) is not None:
                keep_message(message, message.content)
            message.content = record

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        """The reason of a close is text of the other side's."""
        if self.enabled and flow.websocket is not None and flow.websocket.close_reason:
            flow.websocket.close_reason = mask(flow.websocket.close_reason, self._known(flow))

    def _known(self, flow: http.HTTPFlow) -> dict[str, str]:
        """The keys that have been noted, or those that stand in a flow that is nobody's."""
        return keys_of(flow) if of(flow) is not None else self._note(flow)

    def _note(self, flow: http.HTTPFlow) -> dict[str, str]:
        """The keys of a flow and what is shown for them: those known before, and those that stand in it now."""
        keys = keys_of(flow)
        for key in _keys(flow.request):
            if key not in keys and not _FINGERPRINT.fullmatch(key):
                keys[key] = fingerprint(key, self.secret)
        known_keys[flow.id] = keys
        return keys

    def _redact(self, flow: http.HTTPFlow) -> None:
        if not self.enabled or flow.request is None:
            return
        exchange = of(flow)
        try:
            if exchange is None or exchange.watched:
                self._clean(flow)
            else:
                self._clean_line(flow)
        except Exception:
            # Nothing of a record that can't be cleaned may stay.
            flow.request.raw_content = None
            flow.request.headers.clear()
            flow.request.path = flow.request.path.partition("?")[0]
            flow.metadata.clear()
            raise

    def _clean_line(self, flow: http.HTTPFlow) -> None:
        """Clean what mitmdump prints of a flow before it lets it go: nobody will see more of it."""
        keys = keys_of(flow)
        flow.request.path = mask(flow.request.path, keys)
        response = flow.response
        if response is not None and mask(response.reason, keys) != response.reason:
            self._clean_response(flow, response, keys)
        if flow.error is not None:
            flow.error.msg = mask(flow.error.msg, keys)

    def _clean(self, flow: http.HTTPFlow) -> None:
        keys = self._note(flow)
        flow._backup = None  # what it was before a replay or an edit holds the key, too
        flow.comment = mask(flow.comment, keys)
        self._clean_request(flow, keys)
        for name in flow.metadata:
            if name.startswith("relay.") and name != "relay.chunks":
                flow.metadata[name] = _masked_value(flow.metadata[name], keys)
        if flow.response is not None:
            self._clean_response(flow, flow.response, keys)
        if flow.error is not None:
            flow.error.msg = mask(flow.error.msg, keys)

    def _clean_request(self, flow: http.HTTPFlow, keys: Mapping[str, str]) -> None:
        request = flow.request
        self._clean_message(request, keys)
        path, mark, query = request.path.partition("?")
        parts = [
            f"{name}={self._shown(unquote(value), keys)}" if secret else part
            for part, name, value, secret in _parts(query)
        ]
        request.path = mask(path + mark + "&".join(parts), keys)

    def _clean_response(self, flow: http.HTTPFlow, response: http.Response, keys: Mapping[str, str]) -> None:
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

    def _clean_message(self, message: http.Message, keys: Mapping[str, str]) -> None:
        request = isinstance(message, http.Request)
        fields = []
        for raw_name, raw_value in message.headers.fields:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            if _names_secret(name) if request else name in _ANSWERED:
                value = self._shown(value, keys)
            fields.append((raw_name, mask(value, keys).encode("latin-1", "replace")))
        if tuple(fields) != message.headers.fields:
            message.headers.fields = tuple(fields)
        if isinstance(message, http.Response):
            message.reason = mask(message.reason, keys)
        _clean_body(message, keys)

    def _shown(self, value: str, keys: Mapping[str, str]) -> str:
        scheme, blank, rest = value.strip().partition(" ")
        if not blank or scheme.lower() not in _SCHEMES:
            scheme, blank, rest = "", "", value.strip()
        rest = rest.strip()
        if not rest or _FINGERPRINT.fullmatch(rest):
            return value
        return f"{scheme}{blank}{keys.get(rest) or fingerprint(rest, self.secret)}"


_FINGERPRINT = re.compile(r".{0,3}\*{3}[0-9a-f]{8}", re.DOTALL)


def _clean_body(message: http.Message, keys: Mapping[str, str]) -> None:
    if not message.raw_content:
        return
    encoding = message.headers.get("content-encoding", "")
    body = content_of(message, MAX_BODY) if encoding else message.raw_content
    masked = _masked_body(body, keys)
    if masked != body:
        # The record of an edited body is kept decoded: lengths and encodings were the wire's business.
        message.headers.pop("content-encoding", None)
        message.raw_content = masked


def _masked_body(body: bytes, keys: Mapping[str, str]) -> bytes:
    if holds_key(body, keys):
        body = _masked(body, keys)
    if _STREAM.match(body):
        text = body.decode("utf-8", "surrogateescape")
        body = mask_stream(text, keys).encode("utf-8", "surrogateescape")
    return body


def _masked(body: bytes, keys: Mapping[str, str]) -> bytes:
    return mask(body.decode("utf-8", "surrogateescape"), keys).encode("utf-8", "surrogateescape")


def _masked_value(value: object, keys: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return mask(value, keys)
    if isinstance(value, bytes):
        return _masked_body(value, keys)
    if isinstance(value, list):
        return [_masked_value(part, keys) for part in value]
    if isinstance(value, dict):
        return {name: part if name == "chunks" else _masked_value(part, keys) for name, part in value.items()}
    return value


@lru_cache(maxsize=1024)
def _names_secret(name: str) -> bool:
    """Whether a header of this name, in lower case, holds a secret."""
    return _SECRET_HEADER.search(name) is not None and name not in _NOT_SECRET


@lru_cache(maxsize=1024)
def _secret_name(raw: bytes) -> str:
    """The name in lower case of a request header that may hold a key, or nothing."""
    name = raw.decode("latin-1").lower()
    return name if _names_secret(name) or name == "sec-websocket-protocol" else ""


def _parts(query: str) -> Iterator[tuple[str, str, str, bool]]:
    """The parts of a query: as written, name, value, and whether it is a secret's."""
    for part in query.split("&"):
        name, _, value = part.partition("=")
        secret = value != "" and _SECRET_PARAMETER.fullmatch(unquote(name)) is not None
        yield part, name, value, secret


def _keys(request: http.Request) -> set[str]:
    """The keys of a request, wherever they are sent, as written and as meant."""
    keys = _header_keys(request) | _body_keys(request)
    found = {spelt for key in keys if len(key) >= 4 for spelt in (key, unescaped(key))}
    query = request.path.partition("?")[2]
    for _, _, value, secret in _parts(query) if query else ():
        if secret:
            found |= {key for key in _spellings(value) if len(key) >= 4}
    return found


def _header_keys(request: http.Request) -> set[str]:
    keys: set[str] = set()
    for raw_name, raw_value in request.headers.fields:
        if not (name := _secret_name(raw_name)):
            continue
        value = raw_value.decode("latin-1").strip()
        if name == "sec-websocket-protocol":
            offered = (protocol.strip().partition(_SUBPROTOCOL) for protocol in value.split(","))
            keys |= {key for _, mark, key in offered if mark}
        elif "cookie" in name:
            pairs = (pair.partition("=") for pair in value.split(";"))
            keys |= {word.strip() for name, _, word in pairs if len(word.strip()) >= _SEARCHED}
        else:
            scheme, _, credentials = value.partition(" ")
            key = (credentials if scheme.lower() in _SCHEMES else value).strip()
            if len(key) >= _SEARCHED or name in ("authorization", "api-key", "x-api-key"):
                keys.add(key)
            if scheme.lower() == "basic":
                keys |= _basic(key)
    return keys


def _basic(credentials: str) -> set[str]:
    try:
        user, _, password = b64decode(credentials, validate=True).decode("latin-1").partition(":")
    except ValueError:
        return set()
    return {word for word in (user, password) if len(word) >= _SEARCHED}


def _spellings(value: str) -> set[str]:
    meant = {unquote(value), unquote_plus(value)}
    if unescaped(value) not in meant:
        meant.add(value)  # an escape that `mask` does not see through
    return {word for spelt in meant for word in (spelt, spelt.strip())}


def _body_keys(request: http.Request) -> set[str]:
    if not request.raw_content:
        return set()
    body = content_of(request, _READ)
    lowered = body.lower()
    if not any(sign in lowered for sign in (b"key", b"token", b"secret", b"\\u00")):
        return set()
    keys = keys_in(body.decode("utf-8", "replace"))
    if b"apikey" in lowered or b"\\u00" in body:
        try:
            value = json.loads(body, strict=False)
        except (ValueError, RecursionError):
            return keys
        key = value.get("apiKey") if isinstance(value, dict) else None
        if isinstance(key, str):
            keys |= {key.strip(), key}
    return keys
