"""Meter: every generation that passes is counted, and where its key was handed out by relay, admitted and settled.

1. `requestheaders` knows whose key it is, and puts relay's own in its place.
2. `request` has the body of a relay key's request, holds what it may cost, and changes what has to be (gate.py).
3. `responseheaders` leaves a listener for whoever streams the answer; a request of relay's own that upstream refuses
   for its key is relay's failure, and not the caller's.
4. `response` and `error` settle: each exchange has exactly one of them, and its settlement is written once.

Of callers with keys of their own nothing is changed or held: what they use is counted when it is over.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from mitmproxy import http

from addons import errors
from addons.core import bounded_json
from addons.core.answer_usage import AnswerUsage, Reported
from addons.core.claims import estimated_tokens
from addons.core.failures import Failure, classify
from addons.core.generations import Generation, generation_of, is_harmless
from addons.core.key_mask import KeyMask, without_key
from addons.core.metered import Metered, metered
from addons.core.rates import dollars
from addons.core.relay_keys import RelayKey
from addons.core.slices import Sliced
from addons.core.usage_chunk import UsageChunk
from addons.exchange import REAL_KEY, Exchange, Kind, Part, cap_answer, of, ongoing
from addons.flow.answers import add_common_headers, error_response, refuse
from addons.flow.capture import LISTENER, UNWATCHED_BODY, Listener
from addons.flow.decoding import TooLong, Undecodable, decoding, listener
from addons.flow.request_body import read_body
from addons.flow.turns import in_turns
from addons.flow.upstream import set_upstream
from addons.flow.upstream_errors import own_key_refused
from addons.meter.credentials import keys_in, replaced
from addons.meter.gate import Admission, Gate
from addons.meter.later import Later
from addons.store.ledger import Settlement
from addons.store.ledger_file import BROKE, ENDED, FINISHED, GAVE_UP, LEFT, REFUSED

logger = logging.getLogger(__name__)

_HELD_ANSWER = 8 << 20
"""Bytes of an answer that is read before it is passed on."""
_UNCOUNTED_BODY = 1 << 20
"""Bytes of a request body that don't count towards `limits.held`."""
_HEARD_AT_ONCE = 1 << 14
_HEARD_TOGETHER = 1 << 12
_PIECE = 4096
"""Encoded bytes that are decoded at a time: what comes out of them is bounded, too."""
_MOST_DECODED = 1 << 19
"""Bytes that may come out of one chunk: they are heard at once."""
_SPOKEN = 2
"""Tokens of audio for a character, where upstream has told nothing: about 150 words a minute."""
_FASTEST = 1000
"""Tokens a second that a model says at most, while nothing of it is seen."""
_MODELS = "/v1/models"
_LONGEST_MESSAGE = 1 << 20

type Edit = Callable[[bytes], bytes]
"""As `Listener.edit`."""


@dataclass(eq=False)
class Metering:
    """What is known of a generation that is under way."""

    kind: Generation
    at: float
    """Seconds since the epoch."""
    request: str
    caller: str
    upstream: str
    path: str
    model: str = ""
    """As it was asked for, where that was read."""
    admission: Admission | None = None
    size: int = 0
    """Bytes of the request."""
    status: int | None = None
    """Of upstream's answer."""
    first_at: float | None = None
    """When its first bytes came, on the monotonic clock."""
    begun: float = field(default_factory=time.monotonic)
    answer: AnswerUsage = field(default_factory=AnswerUsage)
    cut_short: str | None = None
    """Why the last of several tries has no answer, as settlements say it."""
    _decode: Callable[[bytes], bytes] | None = None
    _deaf: bool = False
    _unheard: list[bytes] = field(default_factory=list)
    """Chunks that are looked through together: one by one, their number would cost more than their bytes."""
    _unheard_size: int = 0

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """Upstream is asked once more: of this try nothing is known, until it has answered."""
        self.status, self.begun, self.first_at = None, time.monotonic(), None
        self.answer, self._unheard, self._unheard_size = AnswerUsage(), [], 0
        try:
            yield
        except asyncio.CancelledError:
            self.cut_short = LEFT
            raise
        except errors.RelayError as error:
            self.cut_short = GAVE_UP if isinstance(error, errors.UpstreamTimeout) else BROKE
            raise

    def begin_answer(self, response: http.Response) -> None:
        """Hear an answer from its beginning."""
        self.status = response.status_code
        has_budget = self.admission is not None and self.admission.price is not None
        self.answer = AnswerUsage(images=self.kind == Generation.IMAGE, words=has_budget)
        self.first_at = None
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        plain = encoding in ("", "identity")
        self._decode = None if plain else listener(encoding)
        self._deaf = not plain and self._decode is None
        self._unheard, self._unheard_size = [], 0

    def hear(self, chunk: bytes) -> None:
        """Take a chunk as it came. Never raises: what can't be heard leaves the usage unknown."""
        if self.first_at is None:
            self.first_at = time.monotonic()
        self._unheard.append(chunk)
        self._unheard_size += len(chunk)
        if self._unheard_size >= _HEARD_TOGETHER or not chunk:
            self._listen()

    def told(self) -> Reported:
        """What the answer has told so far."""
        self._listen()
        return self.answer.told()

    def _listen(self) -> None:
        chunk = b"".join(self._unheard)
        self._unheard, self._unheard_size = [], 0
        if self._deaf:
            return
        try:
            if self._decode is None:
                self.answer.feed(chunk)
                return
            decoded = 0
            for start in range(0, len(chunk), _PIECE):
                piece = self._decode(chunk[start : start + _PIECE])
                decoded += len(piece)
                if decoded > _MOST_DECODED:
                    raise TooLong
                self.answer.feed(piece)
        except ValueError:
            self._deaf = True
        except Exception:
            self._deaf = True
            logger.exception("an answer is not metered")

    def hearing(self, body: bytes) -> Sliced[None]:
        """Take a whole answer, in slices."""
        for start in range(0, len(body), _HEARD_AT_ONCE):
            self.hear(body[start : start + _HEARD_AT_ONCE])
            yield


METERING = Part[Metering]("metering")
_LATER = Part[Later]("later")
_CALLER = Part[RelayKey]("relay_key")
_UNCOUNTED = Part[Admission]("uncounted")
"""An admission of a request that is no generation."""
_REAL = REAL_KEY
_REPLACING = Part[str]("replacing")
"""Why an answer is read before it is passed on: `key`, `models`, or `refusal` for one that is encoded."""


class Meter:
    """Admits, counts and settles."""

    serves = (Kind.PASS, Kind.CHAT)

    def __init__(
        self,
        gate: Gate,
        under_way: dict[str, http.HTTPFlow] | None = None,
        note: Callable[[http.HTTPFlow], object] = lambda _flow: None,
    ) -> None:
        """`note` is called once relay's own key stands in a head: it must not be shown."""
        self.gate = gate
        self.note = note
        self.under_way = under_way if under_way is not None else {}
        """The flows of relay keys that are held for, whichever settings they began under."""
        self.held = 0
        """Bytes of large request bodies that are held now."""

    # Who asks

    def authenticate(self, text: str | None) -> RelayKey | None:
        """As `Keyring.authenticate`, now."""
        return self.gate.keyring.authenticate(text, self.gate.clock())

    def requestheaders(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Find out whose key it is."""
        exchange = ongoing(flow, Kind.PASS)
        if exchange is None:
            return None
        kind = generation_of(flow.request.method, exchange.path)
        try:
            shown = list(keys_in(flow.request.headers.fields))
            ours = {each: found for each in shown if (found := self.gate.keyring.find(each)) is not None}
            text = next(iter(ours or shown), None)
            key = self.gate.keyring.check(ours.get(text or ""), text, self.gate.clock())
            if key is None or text is None:
                if kind is not None and text is not None:
                    self.begin(exchange, kind, self.gate.keyring.caller(text))
                return None
            self._check_path(key, kind, flow, exchange)
            self._lead(flow, exchange, key, ours)
        except errors.RelayError as error:
            refuse(flow, exchange, error)
            return None
        _CALLER.keep(exchange, key)
        flow.metadata["relay.key"] = key.name
        if kind is None:
            return self._admit_uncounted(flow, exchange, key)
        exchange.body.cap = exchange.settings.limits.json
        exchange.body.holding = _Holding(self, exchange.settings.limits.held)
        return None

    def _check_path(self, key: RelayKey, kind: Generation | None, flow: http.HTTPFlow, exchange: Exchange) -> None:
        path = exchange.path
        socket = "upgrade" in flow.request.headers
        if socket and key.models and not key.allows_model(_asked_model(flow)):
            raise _model_refused()
        # What is worked on there, and what it costs, is not known.
        realtime = socket and path == "/v1/realtime" and key.budget is None
        unknown = kind is None and not realtime and (socket or not is_harmless(flow.request.method, path))
        bound = key.budget is not None or bool(key.models)
        if not key.allows_path(path) or (bound and unknown and not key.names_path(path)):
            shown = path[:80]
            raise errors.Forbidden(
                f"此密钥不能使用 {shown}。", f"This key may not use {shown}.", code="path_not_allowed"
            )

    def _lead(self, flow: http.HTTPFlow, exchange: Exchange, key: RelayKey, shown: Collection[str]) -> None:
        """Send it where the key leads, with relay's own in its place."""
        upstream = self.gate.upstream_for(key, exchange)
        real = self.gate.real_key(upstream)
        if upstream is not exchange.upstream:
            exchange.upstream = upstream
            flow.server_conn.via = None  # the other one's proxy
            query = flow.request.path.partition("?")
            set_upstream(flow, upstream, upstream.path(exchange.path) + query[1] + query[2])
        flow.request.headers.fields = replaced(flow.request.headers.fields, shown, real)
        _REAL.keep(exchange, real.encode("utf-8", "surrogateescape"))
        self.note(flow)

    async def _admit_uncounted(self, flow: http.HTTPFlow, exchange: Exchange, key: RelayKey) -> None:
        try:
            if flow.request.method in ("GET", "HEAD"):
                self._check_model_path(key, exchange)
            _UNCOUNTED.keep(exchange, await self.gate.admit(exchange, key, None))
        except errors.RelayError as error:
            refuse(flow, exchange, error)

    def _check_model_path(self, key: RelayKey, exchange: Exchange) -> None:
        """`/v1/models/{model}` tells of a model that the key may use."""
        path = exchange.path
        name = path.removeprefix(f"{_MODELS}/")
        if name != path and not key.allows_model(unquote(name)):
            raise _model_refused()

    def begin(self, exchange: Exchange, kind: Generation, caller: str) -> Metering:
        """Count a generation from now on."""
        path = exchange.path
        return METERING.keep(
            exchange, Metering(kind, self.gate.clock(), exchange.id, caller, exchange.upstream.name, path)
        )

    def request(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Admit a relay key's request, once its body is there."""
        exchange = ongoing(flow, Kind.PASS)
        key = _CALLER.of(exchange) if exchange is not None else None
        if exchange is None or key is None or _UNCOUNTED.of(exchange) is not None:
            return None
        kind = generation_of(flow.request.method, exchange.path)
        return None if kind is None else self._admit(flow, exchange, key, kind)

    async def _admit(self, flow: http.HTTPFlow, exchange: Exchange, key: RelayKey, kind: Generation) -> None:
        request = flow.request
        try:
            body = await read_body(request, exchange.settings.limits.json)
            admission = await self.gate.admit(exchange, key, kind, body, request.headers.get("content-type", ""))
        except errors.RelayError as error:
            refuse(flow, exchange, error)
            return
        self._admitted(flow, exchange, kind, admission)
        if admission.body is not None:
            request.headers.pop("content-encoding", None)
            request.content = admission.body
        if admission.strips_usage:
            request.headers["Accept-Encoding"] = "identity"  # relay has to read the stream, and edit it

    def _admitted(self, flow: http.HTTPFlow, exchange: Exchange, kind: Generation, admission: Admission) -> Metering:
        self.under_way[admission.request] = flow
        flow.metadata["relay.key"] = admission.key.name
        metering = self.begin(exchange, kind, admission.key.id)
        metering.at, metering.admission = admission.at, admission
        metering.model, metering.size = admission.model, admission.size
        return metering

    async def begin_chat(
        self, flow: http.HTTPFlow, exchange: Exchange, key: RelayKey | None, text: str, model: str, body: bytes
    ) -> Admission | None:
        """Admit and count a message to `/chat`; None for a caller's own key. Raises RelayError."""
        if key is None:
            metering = self.begin(exchange, Generation.CHAT, self.gate.keyring.caller(text))
            metering.model, metering.size = model, len(body)
            return None
        admission = await self.gate.admit(exchange, key, Generation.CHAT, body)
        self._admitted(flow, exchange, Generation.CHAT, admission)
        return admission

    # The answer

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Listen, and say what must not be passed on as it comes."""
        exchange, response = of(flow), flow.response
        if exchange is None or response is None or exchange.refused:
            return
        if exchange.kind == Kind.PASS:
            self._forget_body(flow, exchange)
            _hide_in_head(response, _REAL.of(exchange))
            if _CALLER.of(exchange) is not None and (why := _replacing(flow, exchange)) is not None:
                _REPLACING.keep(exchange, why)
                exchange.answer.read_whole = True
                cap_answer(flow, _HELD_ANSWER)
        metering = METERING.of(exchange)
        edit = _masking(exchange)
        if metering is None:
            if exchange.kind == Kind.PASS and not exchange.answer.read_whole:
                self._hear_uncounted(flow, exchange, edit)
            return
        metering.begin_answer(response)
        if exchange.kind != Kind.PASS:
            return
        if metering.admission is not None and metering.admission.strips_usage and _is_plain_stream(response):
            edit = _both(edit, UsageChunk().feed)
            if response.headers.pop("content-length", None) is not None and flow.request.http_version == "HTTP/1.1":
                response.headers["Transfer-Encoding"] = "chunked"
        LISTENER.keep(exchange, Listener(metering.hear, edit))

    def _hear_uncounted(self, flow: http.HTTPFlow, exchange: Exchange, edit: Edit | None) -> None:
        if _tells_later(flow, exchange):
            later = _LATER.keep(exchange, Later())
            LISTENER.keep(exchange, Listener(later.hear, edit))
        elif edit is not None:
            LISTENER.keep(exchange, Listener(lambda _chunk: None, edit))

    def _forget_body(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Of a body that relay has read and sent, the record keeps as much as of others."""
        if exchange.body.holding is not None:
            _release(exchange)
            body = flow.request.raw_content or b""
            most = exchange.settings.inspect.max_body if exchange.record.watched else UNWATCHED_BODY
            if len(body) > most and not exchange.record.saved:
                flow.request.data.content = body[:most]
                flow.metadata["relay.upload_bytes"] = len(body)

    def response(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """It is over."""
        exchange = of(flow)
        if exchange is None:
            return None
        why = _REPLACING.take(exchange)
        if why is not None and flow.response is not None and flow.response.raw_content is not None:
            return self._end_replaced(flow, exchange, why)
        if flow.websocket is not None:
            return None  # it goes on, and ends in `websocket_end`
        self._count_later(flow, exchange)
        self._over(flow, exchange, FINISHED)
        return None

    async def _end_replaced(self, flow: http.HTTPFlow, exchange: Exchange, why: str) -> None:
        await self._replace(flow, exchange, why)
        self._over(flow, exchange, FINISHED)

    def _count_later(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Count work that upstream did for itself: each batch and response once, however often it is asked about."""
        later = _LATER.take(exchange)
        found = later.told() if later is not None and flow.response is not None else None
        if found is None or flow.response is None or flow.response.status_code != 200:
            return
        name, model, usage, asked = found
        caller, _ = self._caller_of(flow, exchange)
        # A batch belongs to the list of batches: its path is told without its id.
        self._count(flow, exchange, f"{caller[:24]} {name}", exchange.path.rpartition("/")[0], usage, model, asked)

    def _count(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        request: str,
        path: str,
        usage: Metered,
        model: str,
        asked: Mapping[str, str],
    ) -> None:
        """Settle work that was not held for. What callers' own keys have used is priced when somebody asks."""
        caller, key = self._caller_of(flow, exchange)
        upstream, amount = exchange.upstream.name, None
        if key is not None and self.gate.prices.loaded:
            amount = self._cost(usage, upstream, model, asked)
        name = key.name if key is not None else None
        now, real = self.gate.clock(), _REAL.of(exchange)
        request, model, asked = _unkeyed(request, real), _unkeyed(model, real), _unkeyed_values(asked, real)
        self.gate.ledger.settle(
            Settlement(request, now, caller, name, upstream, model, asked, path, FINISHED, usage, amount)
        )

    def _caller_of(self, flow: http.HTTPFlow, exchange: Exchange) -> tuple[str, RelayKey | None]:
        """What a caller's use is counted under, and its relay key if it has one."""
        key = _CALLER.of(exchange)
        shown = next(iter(keys_in(flow.request.headers.fields)), "")
        return (key.id, key) if key is not None else (self.gate.keyring.caller(shown), None)

    def error(self, flow: http.HTTPFlow) -> None:
        """It broke off."""
        exchange = of(flow)
        if exchange is not None:
            self._over(flow, exchange, _broken(flow, exchange))

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        """A socket is closed."""
        exchange = of(flow)
        if exchange is not None:
            self._over(flow, exchange, FINISHED)

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        """Count what upstream tells of a turn that has ended."""
        exchange = of(flow)
        if exchange is None or flow.websocket is None:
            return
        message = flow.websocket.messages[-1]
        real = _REAL.of(exchange)
        if real and not message.from_client and real in message.content:
            message.content = without_key(message.content, real)
        if message.from_client or b'"usage"' not in message.content or len(message.content) > _LONGEST_MESSAGE:
            return
        try:
            self._count_turn(flow, exchange, message.content)
        except Exception:
            logger.exception("a message of a websocket is not metered")

    def _count_turn(self, flow: http.HTTPFlow, exchange: Exchange, content: bytes) -> None:
        try:
            said = bounded_json.loads(content.decode("utf-8"))
        except ValueError:
            return
        if not isinstance(said, dict):
            return
        inner = said.get("response") if isinstance(said.get("response"), dict) else said
        usage = metered(inner.get("usage")) if isinstance(inner, dict) else None
        number = said.get("event_id")
        if usage is None or not isinstance(inner, dict):
            return
        model = inner.get("model") or _asked_model(flow)
        name = model if isinstance(model, str) else ""
        self._count(
            flow, exchange, f"{exchange.id}.{str(inner.get('id') or number)[:80]}", exchange.path, usage, name, {}
        )

    # Settlement

    def end(self) -> None:
        """relay ends: settle what is under way by what has come of it."""
        for flow in list(self.under_way.values()):
            exchange = of(flow)
            try:
                if exchange is not None:
                    self._over(flow, exchange, ENDED)
            except Exception:  # the others, and the store, have still to be closed
                logger.exception("a request under way is not settled")

    def _over(self, flow: http.HTTPFlow, exchange: Exchange, reason: str) -> None:
        _release(exchange)
        uncounted = _UNCOUNTED.take(exchange)
        if uncounted is not None:
            self.gate.release(uncounted)
        metering = METERING.take(exchange)
        if metering is None:
            return
        self.under_way.pop(metering.request, None)
        reason = metering.cut_short or reason
        if reason == FINISHED and not (metering.status is not None and 200 <= metering.status < 300):
            reason = REFUSED
        # Nothing went up, so nothing was worked on.
        if metering.status is None and flow.server_conn.timestamp_start is None:
            reason = REFUSED
        if metering.admission is not None and metering.admission.background and reason == FINISHED:
            self.gate.release(metering.admission)  # it is counted when it is asked about
            return
        settlement = self._settlement(flow, exchange, metering, reason)
        self.gate.ledger.settle(settlement)
        self._note(flow, exchange, settlement)

    def _settlement(self, flow: http.HTTPFlow, exchange: Exchange, metering: Metering, reason: str) -> Settlement:
        told = metering.told()
        if reason == FINISHED and told.failed and told.usage is None:
            reason = BROKE
        usage, estimated = told.usage, False
        admission = metering.admission
        if metering.kind == Generation.SPEECH and admission is not None and usage is None:
            if reason in (FINISHED, LEFT, ENDED, GAVE_UP):
                usage, estimated = self._spoken(metering, admission)
        elif reason in (LEFT, ENDED, GAVE_UP) and (metering.cut_short or not _whole(exchange, told)):
            usage, estimated = _begun(told, metering), True
            usage = _at_most(usage, told, metering)
        elif usage is None and reason == FINISHED and admission is not None:
            usage, estimated = _at_most(_guessed(told, metering), told, metering), True
        real = _REAL.of(exchange)
        told = replace(told, model=_unkeyed(told.model or "", real) or None, asked=_unkeyed_values(told.asked, real))
        settlement = Settlement(
            metering.request,
            metering.at,
            metering.caller,
            None,
            metering.upstream,
            metering.model or told.model or "",
            told.asked,
            metering.path,
            reason,
            usage,
            None,
            estimated=estimated,
            tokens=usage.input + usage.output if usage is not None else 0,
        )
        if admission is None:
            # A caller's own key: what is only guessed is not known.
            return replace(settlement, usage=told.usage, estimated=False)
        return self._billed(settlement, admission, told)

    def _billed(self, settlement: Settlement, admission: Admission, told: Reported) -> Settlement:
        settlement = replace(settlement, name=admission.key.name, held=True)
        if settlement.usage is None:
            return replace(settlement, amount=0)
        if settlement.estimated and admission.price is not None and admission.hold is not None:
            # What is not known is not less than it may be: a budget stands on it.
            amount: int | None = min(admission.hold, admission.price(settlement.usage.output))
        else:
            amount = self._served(settlement.usage, settlement.upstream, settlement.model, admission, told)
        if amount is None:
            return replace(settlement, at_hold=admission.hold is not None, estimated=True)
        if admission.hold is not None and amount > admission.hold:
            logger.warning(
                f"a request of {admission.key.name} has cost more than was held for it: ${dollars(amount):f} and "
                f"not ${dollars(admission.hold):f}"
            )
        return replace(settlement, amount=amount)

    def _served(self, usage: Metered, upstream: str, model: str, admission: Admission, told: Reported) -> int | None:
        """What an answer has cost: as the dearer one where upstream names another model, or does not tell its tier."""
        models = [model] if told.model is None or _is_of(told.model, model) else [model, told.model]
        tiers: list[Mapping[str, str]] = [told.asked]
        if "service_tier" not in told.asked and "service_tier" in admission.asked:
            tiers.append({**told.asked, "service_tier": admission.asked["service_tier"]})
        costs = [self._cost(usage, upstream, name, tier) for name in models for tier in tiers]
        known = [cost for cost in costs if cost is not None]
        # A name that nobody knows may be an alias of the one that was asked for.
        return max(known) if known and costs[0] is not None else next(iter(known), None)

    def _cost(self, usage: Metered, upstream: str, model: str, asked: Mapping[str, str]) -> int | None:
        return self.gate.prices.cost(usage, upstream, model, asked, self.gate.clock())

    def _spoken(self, metering: Metering, admission: Admission) -> tuple[Metered, bool]:
        """Audio has no usage in it. What is billed by the character is known all the same."""
        read = Metered(characters=admission.characters)
        if self._cost(read, metering.upstream, metering.model, {}) is not None:
            return read, False
        return Metered(estimated_tokens(metering.size), _SPOKEN * admission.characters), True

    def _note(self, flow: http.HTTPFlow, exchange: Exchange, settlement: Settlement) -> None:
        """Leave what it has cost for whoever looks at the flow."""
        if not exchange.record.watched or settlement.usage is None:
            return
        amount = settlement.amount
        if amount is None and self.gate.prices.loaded:
            amount = self._cost(settlement.usage, settlement.upstream, settlement.model, settlement.asked)
        if amount is not None:
            about = "~" if settlement.estimated else ""
            flow.metadata["relay.cost"] = f"{about}{dollars(amount):f}"

    # Answers that are read before they are passed on

    async def _replace(self, flow: http.HTTPFlow, exchange: Exchange, why: str) -> None:
        response = flow.response
        if response is None:
            return
        if why == "refusal":
            if await _hide_in_body(response, _REAL.of(exchange) or b""):
                return
            error: errors.RelayError = errors.UpstreamFailed(
                f"上游返回了 HTTP {response.status_code}，内容无法读取。",
                f"The upstream answered HTTP {response.status_code}; what it says can't be read.",
            )
        elif why == "models":
            if (filtered := await self._models(exchange, response)) is not None:
                response.headers.pop("content-encoding", None)
                response.content = filtered
                return
            error = errors.UpstreamFailed("无法读取上游的模型列表。", "The upstream's list of models can't be read.")
        else:
            logger.error(f"upstream {exchange.upstream.name} refuses relay's own key (HTTP {response.status_code})")
            error = own_key_refused()
        flow.response = error_response(exchange.kind, error)
        add_common_headers(flow.response, exchange)

    async def _models(self, exchange: Exchange, response: http.Response) -> bytes | None:
        """The list with what the key may use; None where it can't be read."""
        key = _CALLER.of(exchange)
        try:
            listed = await in_turns(bounded_json.loading((await _decoded(response)).decode("utf-8")))
        except (TooLong, Undecodable, ValueError):
            return None
        if key is None or not isinstance(listed, dict) or not isinstance(listed.get("data"), list):
            return None
        allowed = [each for each in listed["data"] if isinstance(each, dict) and key.allows_model(str(each.get("id")))]
        told = json.dumps({**listed, "data": allowed}, ensure_ascii=False).encode("utf-8", "backslashreplace")
        return without_key(told, _REAL.of(exchange) or b"")


class _Holding:
    """Counts a large request body towards what all of them may hold."""

    def __init__(self, meter: Meter, most: int) -> None:
        self._meter = meter
        self._most = most
        self._counted = 0

    def __call__(self, size: int) -> errors.RelayError | None:
        """So much of it is held now; an error where that is too much, together with the others."""
        if size <= _UNCOUNTED_BODY:
            return None
        self._meter.held += size - self._counted
        self._counted = size
        if self._meter.held <= self._most:
            return None
        self.release()
        return errors.Unavailable(
            "正在处理的大请求过多，请稍后再试。", "Too many large requests are under way: try again later."
        )

    def release(self) -> None:
        """It is held no longer."""
        self._meter.held -= self._counted
        self._counted = 0


def _release(exchange: Exchange) -> None:
    # By its method: it may be of the code before a reload.
    if (release := getattr(exchange.body.holding, "release", None)) is not None:
        release()


def _model_refused() -> errors.RelayError:
    return errors.Forbidden("此密钥不能使用这个模型。", "This key may not use that model.", code="model_not_allowed")


def _replacing(flow: http.HTTPFlow, exchange: Exchange) -> str | None:
    key, response = _CALLER.of(exchange), flow.response
    if response is None or key is None:
        return None
    if response.status_code == 401:
        return "key"
    path = exchange.path
    if path == _MODELS and flow.request.method == "GET" and key.models and 200 <= response.status_code < 300:
        return "models"
    if response.status_code >= 400 and not _is_identity(response):
        return "refusal"
    return None


def _hide_in_head(response: http.Response, real: bytes | None) -> None:
    if not real:
        return
    if real in response.data.reason:
        response.data.reason = without_key(response.data.reason, real)
    fields, low = response.headers.fields, real.lower()
    if any(real in value or (len(name) >= len(low) and low in name.lower()) for name, value in fields):
        hidden = [(_without_key_in_name(name, low), without_key(value, real)) for name, value in fields]
        response.headers.fields = tuple(hidden)


def _without_key_in_name(name: bytes, low: bytes) -> bytes:
    """In whatever case it stands: HTTP/2 has no other names than in lower case."""
    return without_key(name.lower(), low) if low in name.lower() else name


def _unkeyed(text: str, real: bytes | None) -> str:
    """What upstream has told, as the ledger keeps it: its reports are shown to the caller, too."""
    return without_key(text, real.decode("utf-8", "surrogateescape")) if real else text


def _unkeyed_values(told: Mapping[str, str], real: bytes | None) -> Mapping[str, str]:
    return {name: _unkeyed(text, real) for name, text in told.items()} if real else told


async def _decoded(response: http.Response) -> bytes:
    """Raises TooLong, Undecodable."""
    encoding = response.headers.get("content-encoding", "")
    return await in_turns(decoding(response.raw_content or b"", encoding, _HELD_ANSWER))


async def _hide_in_body(response: http.Response, real: bytes) -> bool:
    """Whether a body could be read: where the key stands in it, it goes on without, and decoded."""
    try:
        body = await _decoded(response)
    except (TooLong, Undecodable):
        return False
    shown = without_key(body, real)
    if shown != body:
        response.headers.pop("content-encoding", None)
        response.content = shown
    return True


def _masking(exchange: Exchange) -> Edit | None:
    """What hides relay's own key in an answer as it comes; None where none went up. In one that is compressed it finds
    nothing, but many an encoding that is told is none (`utf-8`, `identity, identity`)."""
    real = _REAL.of(exchange)
    return KeyMask(real).feed if real else None


def _both(first: Edit | None, second: Edit) -> Edit:
    if first is None:
        return second

    def edit(chunk: bytes) -> bytes:
        passed = first(chunk)
        if chunk:
            return second(passed) if passed else b""
        return (second(passed) if passed else b"") + second(b"")

    return edit


def _is_identity(response: http.Response) -> bool:
    return response.headers.get("content-encoding", "identity").strip().lower() in ("", "identity")


def _is_plain_stream(response: http.Response) -> bool:
    kind = response.headers.get("content-type", "").lower()
    return _is_identity(response) and kind.startswith("text/event-stream") and response.status_code < 300


def _broken(flow: http.HTTPFlow, exchange: Exchange) -> str:
    if exchange.failure.fault is not None:
        return GAVE_UP
    if flow.error is None:
        return BROKE
    left = exchange.failure.by_client or classify(flow.error.msg) is Failure.CLIENT_LEFT
    return LEFT if left else BROKE


def _begun(told: Reported, metering: Metering) -> Metered:
    """What was used of an answer that its client did not wait for: what has come of it, and all of the input."""
    heard = told.usage or Metered(input=estimated_tokens(metering.size))
    return replace(heard, output=max(heard.output, told.pieces))


def _at_most(usage: Metered, told: Reported, metering: Metering) -> Metered:
    """Where a budget stands on it: as much as upstream can have said by now, for what it says last is not seen."""
    admission = metering.admission
    if admission is None or admission.price is None:
        return usage
    now = time.monotonic()
    silent = (metering.first_at if told.pieces and metering.first_at is not None else now) - metering.begun
    said = told.text if told.pieces else 0
    if not told.pieces and told.size and metering.status is not None:
        said, silent = told.size, 0.0  # all of it has come, and holds all that was said
    return replace(usage, output=min(admission.output, max(usage.output, said + int(_FASTEST * silent))))


def _is_of(told: str, asked: str) -> bool:
    """Whether the model that answered is the one that was asked for, or one of its dated versions."""
    return told == asked or (told.startswith(f"{asked}-") and told[len(asked) + 1 :].replace("-", "").isdigit())


def _guessed(told: Reported, metering: Metering) -> Metered:
    """What was used where upstream has told nothing."""
    return Metered(estimated_tokens(metering.size), told.pieces or estimated_tokens(told.size))


def _whole(exchange: Exchange, told: Reported) -> bool:
    """Whether all of an answer had come when its client left."""
    if exchange.answer.whole or (exchange.stream.ended is not None and exchange.stream.ended()):
        return True
    return told.usage is not None and not told.pieces


def _tells_later(flow: http.HTTPFlow, exchange: Exchange) -> bool:
    """Whether it asks what has become of work that upstream does for itself."""
    path = exchange.path
    return flow.request.method == "GET" and path.startswith(("/v1/batches/", "/v1/responses/")) and path.count("/") == 3


def _asked_model(flow: http.HTTPFlow) -> str:
    model = flow.request.query.get("model", "")
    return str(model)[:200]
