"""Redaction: once a flow has been sent, its record holds no key.

What mitmweb shows, what `-w` saves and what the dumper prints is the record, so secrets are replaced in it: by their
first characters and a short keyed hash, so that two flows of one key can still be told to belong together. So are the
ids of accounts, devices and agents' sessions.

1. `requestheaders` and `request` note the secrets that a request brings: before anybody rewrites it (`Noting`), too.
2. `responseheaders` cleans the request: it has been sent.
3. `response` and `error` clean all the rest. What is still to be sent stays whole beside it (`exchange.record.wire`).
4. `websocket_message` cleans message by message; the engine sends what came.

Cleaning goes in slices, since a body may be large. Meanwhile the record has no body: nobody sees one that is not clean.
What can't be cleaned is not kept.
"""

import logging
import re
from base64 import b64decode
from codecs import getincrementaldecoder
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache

from mitmproxy import http, websocket

from addons.config.settings import Settings
from addons.core import account_ids, secret_fields, secret_heads, secret_pieces, secret_text
from addons.core.known_secrets import MOST, KnownSecrets
from addons.core.secret_fields import Field
from addons.core.secret_names import judge_header
from addons.core.secrets import Span, TooManySecrets, is_fingerprint, may_hold_key, replaced
from addons.core.slices import Sliced, at_once
from addons.exchange import Exchange, Kind, keep_message, keep_original, of, secrets_of
from addons.flow.decoding import decoding, decoding_partly
from addons.flow.turns import in_turns
from addons.logs import known_secrets

logger = logging.getLogger(__name__)

MAX_BODY = 64 << 20
"""Bytes of a record's body once decoded; what is over it is not kept."""

NOT_KEPT = b"relay: not kept, since it holds more secrets than can be hidden one by one"

NOT_DECODED = b"relay: not kept, since its content encoding could not be undone"
"""Stands where something could not be decoded: for all of a body, or behind what could be."""

_SHORTEST_KEY = 4
"""Bytes of a key proper that is looked for elsewhere; of other secrets it is `known_secrets.SHORTEST`."""
_KEY_HEADERS = ("authorization", "api-key", "x-api-key", "x-goog-api-key")
_SUBPROTOCOL = "openai-insecure-api-key."
_LEAST = 1 << 20
_GROWTH = 16
_SMALL = 4096
"""Bytes that are cleaned at once."""
_PER_SLICE = 500
_LONG_VALUE = 16
_LONGEST_NAME = 128
"""Bytes of a header's name that is remembered."""
_REMEMBERED, _FEW, _MOST_HEADS = 4096, 16, 64
"""Bytes of a head, with so many secrets, that is remembered as it is shown; and how many are."""
_HEADERS = 50
"""Headers that are cleaned in a slice."""
_SCHEMES = frozenset(b"bearer basic token apikey api-key key digest oauth hmac negotiate aws4-hmac-sha256".split())
"""What may be shown of a secret's value before a blank: anything else there may be the secret itself."""
_MARKS = re.compile(r"[?&;#]|%(?:25)*+(?:3[FfBb]|2[36])")
_PARAMETER = re.compile(rb"[\w-]{1,32}=\"?([^\s\",;]{1,4096}+)")
_LONGEST_HEADER = 1 << 13
_SHORTEST_PARAMETER = 16  # of `Signature=`, `response=` in a header of credentials
_UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_OPENINGS = (b"{", b"[", b'"')
_UTF_16_STEP = 1 << 18
_HARMLESS = frozenset(
    (
        *("content-type", "content-length", "content-encoding", "transfer-encoding", "date", "server"),
        *("connection", "keep-alive", "upgrade"),
    )
)
"""What stays of a head that holds too many secrets; mitmproxy reads there whether the connection goes on."""


type Fields = tuple[tuple[bytes, bytes], ...]
"""Of a head, as they came."""


class Noting:
    """Notes a request's secrets as it comes in: before headers that go no further are dropped, or an addon fails."""

    def __init__(self, redact: "Redaction") -> None:
        self.redact = redact

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Note the secrets of the head."""
        self.redact.begin(flow)


class Redaction:
    """Takes the secrets out of a flow in its last hooks. `secret` keys the hashes that are shown."""

    def __init__(self, settings: Settings, secret: bytes) -> None:
        self.enabled = settings.inspect.redact
        self.secret = secret
        self._heads = _Heads()
        if not self.enabled:
            logger.warning("inspect.redact is false: what mitmweb shows and -w saves holds keys as they were sent.")

    def begin(self, flow: http.HTTPFlow) -> None:
        """Note the secrets of the head."""
        if self.enabled and flow.live:
            self._note_head(flow)

    def request(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Note what the body holds, where relay has read it."""
        body = flow.request.raw_content
        if not self.enabled or not flow.live or not body:
            return None
        exchange = of(flow)
        if exchange is not None and exchange.kind == Kind.PASS and not exchange.record.watched:
            return None  # no record keeps it, as none keeps a body that is streamed
        limit = exchange.settings.chat.max_body if exchange is not None else _LEAST
        return _run(_noting(flow.request, body, limit, self._note_head(flow)), _work(flow.request))

    def responseheaders(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Clean the request's head: an answer has come, and nobody sends it twice."""
        exchange = of(flow)
        if not self.enabled or exchange is None or not exchange.record.watched or exchange.refused:
            return None
        size = sum(len(value) for _, value in flow.request.headers.fields) + len(flow.request.data.path)
        return _run(self._cleaning_head(flow, self._known(flow)), size)

    def response(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """The request has long been sent; a streamed answer, too."""
        exchange = of(flow)
        if exchange is not None and exchange.record.later:
            exchange.record.later = _may_wait(flow, exchange)
            if exchange.record.later and self.enabled:
                self._hide(flow, exchange)
                return None
        return self._ended(flow)

    def error(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """As after an answer."""
        if (exchange := of(flow)) is not None:
            exchange.record.later = False
        return self._ended(flow)

    def _hide(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Begin to clean a record; the rest is left for later."""
        cleaning = self._cleaning_later(flow)
        try:
            next(cleaning)
        except Exception:
            _empty(flow)
            raise
        known_secrets.over(flow.id)
        exchange.record.cleaning = cleaning

    def _cleaning_later(self, flow: http.HTTPFlow) -> Sliced[None]:
        try:
            yield from self._cleaning(flow)
        except Exception:
            _empty(flow)
            raise
        finally:
            known_secrets.over(flow.id)

    def websocket_message(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Clean the newest message; what came is kept beside it until it has been sent."""
        if not self.enabled or flow.websocket is None:
            return None
        message = flow.websocket.messages[-1]
        return _run(self._cleaning_message(flow, message), len(message.content))

    def cleaning_record(self, flow: http.HTTPFlow) -> Sliced[None]:
        """Clean a record that nobody sends any more: one of a file, or a copy. What can't be cleaned is emptied."""
        try:
            yield from self._cleaning(flow)
            if (socket := flow.websocket) is not None:
                known = secrets_of(flow, self.secret)
                socket.close_reason = known.mask(socket.close_reason) if socket.close_reason else socket.close_reason
                yield from _cleaning_socket(socket, known)
        except Exception:
            _empty(flow)
            if flow.websocket is not None:
                flow.websocket.messages.clear()
            logger.warning("an exchange can't be cleaned: it is left empty", exc_info=True)
        finally:
            known_secrets.put(flow.id, KnownSecrets(b""))  # the log looks for those of exchanges that pass

    def _cleaning_message(self, flow: http.HTTPFlow, message: websocket.WebSocketMessage) -> Sliced[None]:
        original, message.content = message.content, NOT_KEPT
        if of(flow) is not None:
            keep_message(message, original)
        known = self._known(flow)
        if not known.overfull:
            message.content = yield from _cleaned(original, "", known)

    def websocket_end(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Clean what no message showed by itself: what was said before it was known, or in pieces."""
        socket = flow.websocket
        if not self.enabled or socket is None:
            return None
        known = self._known(flow)
        if socket.close_reason:  # text of the other side's
            socket.close_reason = known.mask(socket.close_reason)
        known_secrets.over(flow.id)
        return _run(_cleaning_socket(socket, known), sum(len(each.content) for each in socket.messages))

    def _known(self, flow: http.HTTPFlow) -> KnownSecrets:
        """The secrets that have been noted, or those in the head of a flow that is nobody's."""
        return secrets_of(flow, self.secret) if of(flow) is not None else self._note_head(flow)

    def _note_head(self, flow: http.HTTPFlow) -> KnownSecrets:
        known = secrets_of(flow, self.secret)
        _note_headers(flow.request, known)
        _note_query(flow.request.path, known)
        known_secrets.put(flow.id, known, _client(flow))
        return known

    def _ended(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        rest = self._redact(flow)
        if flow.websocket is None:
            known_secrets.over(flow.id)
        return rest

    def _redact(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        if not self.enabled or flow.request is None:
            return None
        exchange = of(flow)
        try:
            if exchange is not None and not exchange.record.watched:
                self._clean_line(flow)
                return None
            size = _work(flow.request) + (_work(flow.response) if flow.response is not None else 0)
            size += sum(_size(value) for name, value in flow.metadata.items() if _is_note(name))
            return _run(self._cleaning(flow), size, lambda: _empty(flow))
        except Exception:
            _empty(flow)
            raise

    def _clean_line(self, flow: http.HTTPFlow) -> None:
        """Clean what mitmdump prints of a flow before it lets it go: nobody will see more of it."""
        known = secrets_of(flow, self.secret)
        flow.request.path = _clean_path(flow.request.path, known)
        response = flow.response
        if response is not None and known.mask(response.reason) != response.reason:
            self._detach(flow, response).reason = known.mask(response.reason)
        if flow.error is not None:
            flow.error.msg = known.mask(flow.error.msg)

    def _cleaning(self, flow: http.HTTPFlow) -> Sliced[None]:
        request = flow.request
        flow._backup = None  # what it was before a replay or an edit holds the key, too
        answer = self._detach(flow, flow.response) if flow.response is not None else None
        # From here on, and until it is clean, nothing is shown.
        asked, request.raw_content = request.raw_content, None
        notes = {name: flow.metadata.pop(name) for name in list(flow.metadata) if _is_note(name)}
        said, head, reason, trailers = None, http.Headers(), "", [request.trailers]
        request.trailers = None
        if answer is not None:
            said, answer.raw_content = answer.raw_content, None
            known = secrets_of(flow, self.secret)
            head.fields, answer.headers.fields = answer.headers.fields, _harmless(answer.headers.fields, known)
            reason, answer.reason = answer.reason, known.mask(answer.reason)
            trailers.append(answer.trailers)
            answer.trailers = None
        yield
        known = self._note_head(flow)
        _note_answer_headers(head, known)
        question = yield from _read(request, asked, known)
        reply = (yield from _read(answer, said, known)) if answer is not None else None
        yield from self._cleaning_head(flow, known)
        request.trailers = yield from _clean_trailers(trailers[0], known)
        flow.comment = known.mask(flow.comment)
        if flow.error is not None:
            flow.error.msg = known.mask(flow.error.msg)
        yield from _put_back(request, question, known)
        if answer is not None:
            answer.headers.fields = yield from _clean_headers(head, known, answer=True)
            answer.trailers = yield from _clean_trailers(trailers[1], known)
            answer.reason = known.mask(_clean_line(reason, known))
            yield from _put_back(answer, reply, known)
        for name, value in notes.items():
            flow.metadata[name] = yield from _cleaned_value(value, known)

    def _cleaning_head(self, flow: http.HTTPFlow, known: KnownSecrets) -> Sliced[None]:
        flow.request.headers.fields = yield from self._heads.clean(flow.request.headers, known)
        yield
        flow.request.path = _clean_path(flow.request.path, known)
        if (exchange := of(flow)) is not None:
            exchange.record.asked_clean = True

    def _detach(self, flow: http.HTTPFlow, response: http.Response) -> http.Response:
        """The answer of the record, apart from what is still to be sent."""
        exchange = of(flow)
        if exchange is not None and exchange.stream.sent:
            return response
        flow.response = response.copy()
        if exchange is not None:
            exchange.record.wire = response
        else:
            keep_original(flow, response)
        return flow.response


def _may_wait(flow: http.HTTPFlow, exchange: Exchange) -> bool:
    """Whether its record may be cleaned when there is time: it is complete, no messages follow, and what is seen of it
    meanwhile is clean."""
    response, record = flow.response, exchange.record
    if not record.watched or response is None or response.status_code == 101:
        return False
    if exchange.settings.inspect.redact and not record.asked_clean:
        return False
    return flow.error is None and flow.websocket is None and not flow.intercepted


def _client(flow: http.HTTPFlow) -> str:
    """Whose flow it is: one client's secrets don't drive out another's in the log."""
    address = flow.client_conn.peername
    return str(address[0]) if address else ""


def _work(message: http.Message) -> int:
    """Bytes that cleaning a message goes through, at least; of compressed ones nobody knows before."""
    size = len(message.raw_content or b"")
    return _SMALL + 1 if size and "content-encoding" in message.headers else size


def _size(value: object) -> int:
    """Bytes and characters of what stands in a flow's metadata."""
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_size, value))
    if isinstance(value, Mapping):
        return sum(_size(part) for name, part in value.items() if name != "chunks")
    return 0


def _run(work: Sliced[None], size: int, on_failure: Callable[[], None] | None = None) -> Awaitable[None] | None:
    """Do it: at once where it is little work, else in turns with whatever else the loop has to do."""
    if size > _SMALL:
        return _in_turns(work, on_failure)
    at_once(work)
    return None


async def _in_turns(work: Sliced[None], on_failure: Callable[[], None] | None) -> None:
    try:
        await in_turns(work)
    except BaseException:
        if on_failure is not None:
            on_failure()
        raise


def _is_note(name: str) -> bool:
    return name.startswith("relay.") and name != "relay.chunks"


def _empty(flow: http.HTTPFlow) -> None:
    """Nothing of a record that can't be cleaned may stay."""
    flow.request.raw_content = None
    flow.request.headers.clear()
    flow.request.trailers = None
    flow.request.path = flow.request.path.partition("?")[0].partition("#")[0]
    flow.metadata.clear()
    flow.comment = ""
    if flow.response is not None:
        flow.response = http.Response.make(flow.response.status_code, b"", {})
        flow.response.raw_content = None


def _cleaning_socket(socket: websocket.WebSocketData, known: KnownSecrets) -> Sliced[None]:
    """The messages of each side as what they nearly always are, lines of JSON."""
    for from_client in (True, False):
        messages = [each for each in socket.messages if each.from_client is from_client and b"\n" not in each.content]
        body = b"\n".join([each.content for each in messages])
        lines = (yield from _hidden(body, [], known)).split(b"\n")
        if len(lines) != len(messages):
            lines = [NOT_KEPT] * len(messages)
        for message, line in zip(messages, lines, strict=True):
            message.content = line
    for message in socket.messages:
        if b"\n" in message.content:  # JSON that is written for people, or no JSON
            message.content = yield from _hidden(message.content, [], known)


# Heads


def _note_headers(message: http.Message, known: KnownSecrets) -> None:
    for raw_name, raw_value in message.headers.fields:
        name, secret = _header(raw_name)
        if name == "sec-websocket-protocol":
            _note_subprotocols(raw_value, known)
        elif secret:
            _note_header(name, raw_value.strip(), known)
        else:
            _note_line(raw_value, known)
        if known.overfull:
            return


def _note_line(value: bytes, known: KnownSecrets) -> None:
    """What a header tells that is no secret as a whole: an address (`Referer`, `X-Original-URL`), or `token="..."`."""
    if b"=" not in value and b"%3" not in value:
        return
    _note_query(value.decode("latin-1"), known)
    for start, end in secret_text.in_line(value):
        if _is_telling(value[start:end]):
            known.add(value[start:end], encoded=True)


def _note_answer_headers(head: http.Headers, known: KnownSecrets) -> None:
    """What an answer's head gives away, too, such as cookies: its body or a later message may repeat it."""
    for raw_name, raw_value in head.fields:
        name, secret = _header(raw_name)
        if "cookie" in name:
            _note_cookies(name, raw_value, known)
        elif name == "location":
            _note_query(raw_value.decode("latin-1"), known)
        elif account_ids.names_header(name):
            _note_account(name, raw_value.strip(), known)
        elif secret and _is_telling(key := _credentials(raw_value)[1]):
            known.add(key, encoded=True)
        elif not secret:
            _note_line(raw_value, known)
        if known.overfull:
            return


def _header(raw: bytes) -> tuple[str, bool]:
    """The name of a header in lower case, and whether it holds a secret or an account's id. No long name is
    remembered."""
    return _known_header(raw) if len(raw) <= _LONGEST_NAME else _judged_header(raw)


def _judged_header(raw: bytes) -> tuple[str, bool]:
    name = raw.decode("latin-1").lower()
    return name, judge_header(name) or account_ids.names_header(name)


_known_header = lru_cache(1024)(_judged_header)


def _note_subprotocols(value: bytes, known: KnownSecrets) -> None:
    for offered in value.split(b","):
        _, mark, key = offered.strip().partition(_SUBPROTOCOL.encode())
        if mark:
            known.add(key, shortest=_SHORTEST_KEY, encoded=True)
        if known.overfull:
            return


def _note_header(name: str, value: bytes, known: KnownSecrets) -> None:
    if "cookie" in name:
        _note_cookies(name, value, known)
        return
    if account_ids.names_header(name):
        _note_account(name, value, known)
        return
    scheme, key = _credentials(value)
    known.add(key, shortest=_SHORTEST_KEY if name in _KEY_HEADERS else 8, encoded=True)
    if not scheme and len(words := value.split(None, 1)) > 1:
        known.add(words[1].strip(), encoded=True)
    if scheme.lower() == b"basic":
        for word in _basic(key):
            known.add(word, encoded=True)
    elif b"=" in value:
        for part in _PARAMETER.finditer(value, 0, _LONGEST_HEADER):
            if len(part[1]) >= _SHORTEST_PARAMETER and _is_telling(part[1]):
                known.add(part[1])


def _note_account(name: str, value: bytes, known: KnownSecrets) -> None:
    """An account's id is looked for elsewhere, but for a session's: an agent may call its cache by the same one."""
    if _is_telling(value) and not account_ids.is_session_header(name):
        known.add(value)


def _note_cookies(name: str, value: bytes, known: KnownSecrets) -> None:
    pairs = secret_heads.cookies(value, sets="set-cookie" in name)
    if pairs is None:
        known.overfull = True
        return
    for start, end, cookie in pairs:
        said = value[start:end]
        if _is_telling(said) or secret_heads.is_session(cookie):
            known.add(said)


def _credentials(value: bytes) -> tuple[bytes, bytes]:
    """The scheme of a value such as that of Authorization, and what follows it. Any scheme, and any blank."""
    words = value.split(None, 1)
    if len(words) < 2 or words[0].lower() not in _SCHEMES:
        return b"", value.strip()
    return words[0], words[1].strip()


def _basic(credentials: bytes) -> tuple[bytes, ...]:
    try:
        user, _, password = b64decode(credentials, validate=True).partition(b":")
    except ValueError:
        return ()
    return user, password


def _note_query(path: str, known: KnownSecrets) -> None:
    if not secret_heads.may_have_parts(path) and ";" not in path:
        return
    try:
        for start, end, depth in secret_heads.secret_parts(path):
            for spelt in set(secret_heads.spellings(path[start:end], depth)):
                known.add(spelt.encode("utf-8", "surrogatepass"), shortest=_SHORTEST_KEY, encoded=True)
            if known.overfull:
                return
    except TooManySecrets:
        known.overfull = True


def _clean_path(path: str, known: KnownSecrets) -> str:
    """A request's path, or any other address, without the secrets of its query."""
    if "=" not in path and "%" not in path:
        return known.mask(path)
    pieces: list[str] = []
    last = 0
    try:
        for number, (start, end, depth) in enumerate(secret_heads.secret_parts(path)):
            if number >= MOST:
                raise TooManySecrets
            value = secret_heads.meant(path[start:end], depth).encode("utf-8", "replace")
            pieces += (path[last:start], _shown(value, known).decode("utf-8", "replace"))
            last = end
    except TooManySecrets:
        return f"{known.mask(_MARKS.split(path, maxsplit=1)[0])}?({NOT_KEPT.decode()})"
    path = "".join((*pieces, path[last:])) if pieces else path
    return known.mask(_clean_line(path, known) if "@" in path else path)


def _harmless(fields: Fields, known: KnownSecrets) -> Fields:
    """What may be seen of a head that is not clean yet."""
    kept = tuple(each for each in fields if len(each[0]) <= _LONGEST_NAME and _known_header(each[0])[0] in _HARMLESS)
    if not known.may_stand_in(b"\n".join(value for _, value in kept)):
        return kept
    return tuple((name, known.mask(value.decode("latin-1")).encode("latin-1", "replace")) for name, value in kept)


def _clean_headers(headers: http.Headers, known: KnownSecrets, *, answer: bool) -> Sliced[Fields]:
    original = headers.fields
    # Most heads hold nothing besides the values of secret headers.
    echoes = known.may_stand_in(b"\n".join(value for name, value in original if not _header(name)[1]))
    fields = []
    for number, (raw_name, raw_value) in enumerate(original):
        if number % _HEADERS == _HEADERS - 1:
            yield
        (name, secret), value = _header(raw_name), raw_value.decode("latin-1")
        if answer and known.overfull and name not in _HARMLESS:
            continue
        if secret:
            value = _shown_in(name, raw_value, known).decode("latin-1")
        elif value.lstrip()[:1] in ("{", "[") and '"' in value:
            value = (yield from _cleaned(raw_value, "", known)).decode("latin-1")
        elif secret_heads.may_have_parts(value):
            value = _clean_path(value, known)
        elif "=" in value or "@" in value:
            value = _clean_line(value, known)
        shown = known.mask(value) if echoes else value
        fields.append((raw_name, shown.encode("latin-1", "replace")))
    return tuple(fields)


class _Heads:
    """Remembers the latest heads of requests and what is shown of them: a client sends the same with each of them."""

    def __init__(self) -> None:
        self._shown: dict[tuple[Fields, tuple[bytes, ...]], Fields] = {}

    def clean(self, headers: http.Headers, known: KnownSecrets) -> Sliced[Fields]:
        """The fields without secrets. What is known is part of the question, since it may stand in any of them."""
        asked = headers.fields, tuple(known)
        shown = self._shown.get(asked)
        if shown is None or known.overfull:
            shown = yield from _clean_headers(headers, known, answer=False)
            size = sum(len(name) + len(value) for name, value in headers.fields)
            if size <= _REMEMBERED and len(known) <= _FEW:
                if len(self._shown) >= _MOST_HEADS:
                    self._shown.clear()
                self._shown[asked] = shown
        return shown


def _clean_line(value: str, known: KnownSecrets) -> str:
    """A header without what its parts tell: `WWW-Authenticate: Bearer token="..."`."""
    encoding, errors = ("latin-1", "strict") if max(value, default="") <= "\xff" else ("utf-8", "surrogateescape")
    raw = value.encode(encoding, errors)
    spans = [(start, end, _shown(raw[start:end], known)) for start, end in secret_text.in_line(raw)]
    return replaced(raw, spans).decode(encoding, errors) if spans else value


def _shown_in(name: str, value: bytes, known: KnownSecrets) -> bytes:
    """What is shown of a secret header: of cookies their names, each with a fingerprint."""
    pairs = secret_heads.cookies(value, sets="set-cookie" in name) if "cookie" in name else None
    if pairs is None:
        return _shown(value, known)
    return replaced(value, [(start, end, _shown_whole(value[start:end], known)) for start, end, _ in pairs])


def _shown_whole(value: bytes, known: KnownSecrets) -> bytes:
    return value if is_fingerprint(value) else known.shown(value)


def _clean_trailers(trailers: http.Headers | None, known: KnownSecrets) -> Sliced[http.Headers | None]:
    """What follows a body is cleaned as what stands before it. relay sends none of it on."""
    if not trailers:
        return trailers
    return http.Headers((yield from _clean_headers(trailers, known, answer=True)))


def _shown(value: bytes, known: KnownSecrets) -> bytes:
    """What is shown of a secret's value: its scheme, if it has one, and a fingerprint."""
    scheme, key = _credentials(value)
    if not key or is_fingerprint(key):
        return value
    return (scheme + b" " if scheme else b"") + known.shown(key)


# Bodies


type _Read = tuple[bytes | None, bytes, list[Field] | None]
"""A body as it came, or None where it can't stay so; decoded; and the secret fields in it, None where there are too
many."""


def _read(message: http.Message, body: bytes | None, known: KnownSecrets) -> Sliced[_Read | None]:
    """Read a body, and note its secrets: they may be echoed elsewhere."""
    if not body:
        return None if body is None else (body, body, [])
    original, plain = yield from _shown_of(message, body)
    fields = yield from _noted(plain, message.headers.get("content-type", ""), known)
    if fields is None and isinstance(message, http.Request):
        known.overfull = True
    return original, plain, fields


def _noting(message: http.Message, body: bytes, limit: int, known: KnownSecrets) -> Sliced[None]:
    plain = yield from _decoded(message, body, limit)
    yield from _noted(plain, message.headers.get("content-type", ""), known)


def _decoded(message: http.Message, body: bytes, limit: int) -> Sliced[bytes]:
    """A body as it is meant, at most `limit` bytes of it; as it came where it can't be decoded."""
    encoding = _encoding(message, body)
    if not encoding:
        return (yield from _in_utf8(body))
    try:
        plain = yield from decoding(body, encoding, limit, cut=True)
    except ValueError:
        return body
    return (yield from _in_utf8(plain))


def _shown_of(message: http.Message, body: bytes) -> Sliced[tuple[bytes | None, bytes]]:
    """A body as it came, if a record may keep it so, and decoded; what can't be decoded is not in it."""
    encoding = _encoding(message, body)
    if not encoding:
        return body, (yield from _in_utf8(body))
    limit = _most(body)
    try:
        plain, whole, left = yield from decoding_partly(body, encoding, limit)
    except ValueError:
        plain, whole, left = b"", False, True
    if whole or (left and "content-encoding" not in message.headers):  # that it is compressed was a guess
        return body, (yield from _in_utf8(plain))
    if left and not plain and _is_text(body):  # `Content-Encoding: utf-8` is a common mistake
        return body, body
    if left:
        plain = b"\n".join((plain, NOT_DECODED)) if plain else NOT_DECODED
    return None, plain


def _encoding(message: http.Message, body: bytes) -> str:
    """How a body is compressed: as it says, or as it looks."""
    said: str = message.headers.get("content-encoding", "").strip()
    return said or ("gzip" if body.startswith(b"\x1f\x8b") else "")


def _in_utf8(text: bytes) -> Sliced[bytes]:
    """A text of UTF-16 in UTF-8, in which secrets are looked for; anything else as it is."""
    encoding = _UTF_16.get(text[:2], "")
    if not encoding and text[:2].strip(b"\0") in _OPENINGS:
        encoding = "utf-16-le" if text[1:2] == b"\0" else "utf-16-be" if text[:1] == b"\0" else ""
    if not encoding:
        return text
    decoder = getincrementaldecoder(encoding)("replace")
    pieces = []
    for start in range(0, len(text), _UTF_16_STEP):
        pieces.append(decoder.decode(text[start : start + _UTF_16_STEP]).encode("utf-8", "replace"))
        yield
    return b"".join(pieces)


def _is_text(body: bytes) -> bool:
    return body[:256].lstrip()[:1] in (b"{", b"[") or secret_fields.is_stream(body)


def _most(body: bytes) -> int:
    """Bytes of a body that are read once it is decoded: one that grows more than real ones do is an attack."""
    return min(MAX_BODY, max(_LEAST, _GROWTH * len(body)))


def _noted(plain: bytes, content_type: str, known: KnownSecrets) -> Sliced[list[Field] | None]:
    try:
        fields = yield from secret_fields.finding(plain, content_type)
    except TooManySecrets:
        return None
    for number, (start, end, echoed) in enumerate(fields):
        value = _credentials(plain[start:end])[1]
        if echoed and not known.overfull and _is_telling(value):
            known.add(value)
        if number % _PER_SLICE == _PER_SLICE - 1:
            yield
    return fields


def _is_telling(value: bytes) -> bool:
    """Whether a field's value is looked for elsewhere: a word (`"password": "required"`) would be hidden everywhere."""
    return len(value) >= _LONG_VALUE or any(0x30 <= each <= 0x39 for each in value)


def _put_back(message: http.Message, read: _Read | None, known: KnownSecrets) -> Sliced[None]:
    """Give a message the body that may be shown."""
    if read is None:
        return
    body, plain, fields = read
    if fields is None or (known.overfull and isinstance(message, http.Response)):
        clean = NOT_KEPT
    else:
        clean = yield from _hidden(plain, fields, known)
    if clean is plain and body is not None and (body is plain or (yield from _is_clean(body, known))):
        message.raw_content = body
        return
    # The record of an edited body is kept decoded: lengths and encodings were the wire's business.
    message.headers.pop("content-encoding", None)
    message.raw_content = clean


def _is_clean(compressed: bytes, known: KnownSecrets) -> Sliced[bool]:
    """Whether nothing is said beside what is compressed: its formats have room for names and comments."""
    if len(compressed) <= _SMALL:  # a quick look; random bytes that look like one are kept decoded
        return not may_hold_key(compressed) and not any(value in compressed for value in known)
    try:
        return (yield from known.masking(compressed)) == compressed
    except TooManySecrets:
        return False


def _cleaned(body: bytes, content_type: str, known: KnownSecrets) -> Sliced[bytes]:
    fields = yield from _noted(body, content_type, known)
    return NOT_KEPT if fields is None else (yield from _hidden(body, fields, known))


def _hidden(body: bytes, fields: list[Field], known: KnownSecrets) -> Sliced[bytes]:
    """`body` without these fields and whatever else is known; the very same object where nothing had to be hidden."""
    spans: list[Span] = []
    for number, (start, end, _) in enumerate(fields):
        spans.append((start, end, _shown(body[start:end], known)))
        if number % _PER_SLICE == _PER_SLICE - 1:
            yield
    try:
        clean = yield from known.masking(replaced(body, spans))
        if secret_pieces.is_in_pieces(body):
            clean = yield from secret_pieces.masking(clean, known)
    except TooManySecrets:
        return NOT_KEPT
    if len(body) > _SMALL:
        clean = known.without_cut(clean)
    return body if clean == body else clean


def _cleaned_value(value: object, known: KnownSecrets) -> Sliced[object]:
    """The same for what stands in a flow's metadata."""
    if isinstance(value, bytes):
        return NOT_KEPT if known.overfull else (yield from _cleaned(value, "", known))
    if isinstance(value, str):
        return known.mask(value)
    if isinstance(value, list):
        parts = []
        for part in value:
            parts.append((yield from _cleaned_value(part, known)))
        return parts
    if isinstance(value, Mapping):
        fields = {}
        for name, part in value.items():
            fields[name] = part if name == "chunks" else (yield from _cleaned_value(part, known))
        return fields
    return value
