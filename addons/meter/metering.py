"""Meter: every generation that passes is counted, and where its key was handed out by relay, admitted and settled.

1. `requestheaders` knows whose key it is, and puts relay's own in its place.
2. `request` has the body of a relay key's request, holds what it may cost, and changes what has to be (gate.py): the
   model that is priced and reported is the one that goes up.
3. `responseheaders` leaves a listener for whoever streams the answer; a request of relay's own that upstream refuses
   for its key is relay's failure, and not the caller's.
4. `response` and `error` settle: each exchange has exactly one of them, and its settlement is written once.

Of callers with keys of their own nothing is changed or held: what they use is counted when it is over.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote

from mitmproxy import http

from addons import errors
from addons.config.settings import Upstream
from addons.core.candidates import Candidate
from addons.core.conversations import identifying, is_stored, previous_response, response_id
from addons.core.generations import Generation, counted_of, generation_of, is_harmless
from addons.core.json_member import catching
from addons.core.key_mask import without_key
from addons.core.metered import Metered, metered
from addons.core.rates import dollars
from addons.core.relay_keys import RelayKey
from addons.core.slices import at_once
from addons.core.top_level import Members
from addons.engine.corrections.attempts import MOST_HELD
from addons.exchange import REAL_KEY, Exchange, Kind, Part, cap_answer, of, ongoing
from addons.flow.answers import refuse
from addons.flow.capture import LISTENER, UNWATCHED_BODY, Listener
from addons.flow.credentials import keys_in, shows_others
from addons.flow.held_bodies import HeldBodies, release
from addons.flow.model_calls import TOKENS
from addons.flow.model_mapping import check_address, mapped_for, note_mapped
from addons.flow.request_body import replace_body
from addons.flow.turns import in_turns
from addons.meter.gate import Admission, Gate, Going
from addons.meter.hiding import (
    HELD_ANSWER,
    MODELS,
    Edit,
    hide_in_head,
    is_plain_stream,
    masking,
    masking_without_usage,
    replace_answer,
    replacing,
    unkeyed,
    unkeyed_values,
)
from addons.meter.later import Later
from addons.meter.settling import Settler, broken
from addons.meter.under_way import CALLER, LATER, METERING, REPLACING, UNCOUNTED, Metering, Unpacked
from addons.store.ledger_file import BROKE, ENDED, FINISHED, REFUSED
from addons.store.settlements import Settlement
from addons.upstreams.aiming import Request, aim
from addons.upstreams.attempts import ATTEMPTS, KEY_HEADER, Attempts, attempts_for

logger = logging.getLogger(__name__)

_LONGEST_MESSAGE = 1 << 20
_STEERING = b"x-portkey-"
"""How headers begin by which a gateway may choose another model: https://portkey.ai/docs/api-reference/headers"""
_LONG_MESSAGE = 1 << 16
"""Bytes of a message from a websocket that is searched at once."""
_IN_A_TURN = ("id", "model", "usage")
_TURN = (("event_id",), *((name,) for name in _IN_A_TURN), *(("response", name) for name in _IN_A_TURN))


_KIND = Part[Generation]("generation")
"""What a relay key's request asks for, from its head to its body."""
_UPSTREAMS = Part[Sequence[Upstream]]("meter.upstreams")
"""Where it may go, in this order."""


class Meter:
    """Admits, counts and settles."""

    serves = (Kind.PASS, Kind.CHAT)

    def __init__(
        self,
        gate: Gate,
        under_way: dict[str, http.HTTPFlow] | None = None,
        note: Callable[[http.HTTPFlow], object] = lambda _flow: None,
        held: HeldBodies | None = None,
        settled: Callable[[http.HTTPFlow, Exchange, Settlement, Generation | None], object] = lambda *_: None,
    ) -> None:
        """`note` is called once relay's own key stands in a head: it must not be shown. `settled` hears of what has
        gone to the ledger, but for work that upstream did for itself, which is told as often as somebody asks."""
        self.gate = gate
        self.settler = Settler(gate)
        self.note = note
        self.settled = settled
        self.under_way = under_way if under_way is not None else {}
        """The flows of relay keys that are held for, whichever settings they began under."""
        self.held = held if held is not None else HeldBodies()

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
                counted = kind or counted_of(flow.request.method, exchange.path)
                if counted is not None and text is not None:
                    self.begin(exchange, counted, self.gate.keyring.caller(text))
                return None
            self._check_path(key, kind, flow, exchange)
            self._lead(flow, exchange, key, kind, ours)
        except errors.RelayError as error:
            refuse(flow, exchange, error)
            return None
        CALLER.keep(exchange, key)
        flow.metadata["relay.key"] = key.name
        if kind is None:
            self.held.keep(flow, exchange, MOST_HELD)
            return self._admit_uncounted(flow, exchange, key)
        _KIND.keep(exchange, kind)
        self.held.hold(flow, exchange)
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
        steered = bound and any(name.lower().startswith(_STEERING) for name, _ in flow.request.headers.fields)
        if steered:
            raise _model_refused()
        if not key.allows_path(path) or (bound and unknown and not key.names_path(path)):
            shown = path[:80]
            raise errors.Forbidden(
                f"此密钥不能使用 {shown}。", f"This key may not use {shown}.", code="path_not_allowed"
            )

    def _lead(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        key: RelayKey,
        kind: Generation | None,
        shown: Collection[str],
    ) -> None:
        """Send it where the key leads, with relay's own in its place."""
        upstream = self.gate.upstream_for(key, exchange)
        query = flow.request.path.partition("?")
        aimed = partial(self._aimed, flow, exchange)
        request = Request(exchange.path, query[1] + query[2], shown, aimed=aimed)
        attempts = attempts_for(self.gate.pool, flow, exchange)
        # Files and the like belong to the account that has them; a model, or a socket to one, is the same elsewhere.
        elsewhere = "upgrade" in flow.request.headers or is_harmless(flow.request.method, exchange.path)
        upstreams = self.gate.candidates(upstream, elsewhere=elsewhere or kind is not None)
        if len(upstreams) > 1:
            upstreams = _that_may_see(flow, request, upstreams)
        _UPSTREAMS.keep(exchange, upstreams)
        attempts.may_go_to(upstreams, key.id, "", key.id, request)
        aim(flow, exchange, request, *attempts.first())

    def _aimed(self, flow: http.HTTPFlow, exchange: Exchange, upstream: Upstream, _key: str) -> None:
        """It is about to go to an upstream, maybe to another one than before."""
        self.note(flow)
        metering = METERING.of(exchange)
        if metering is not None:
            metering.upstream = upstream.name
            if metering.admission is not None:
                metering.model = metering.admission.model_at(upstream)

    async def choose(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        upstreams: Sequence[Upstream],
        conversation: str,
        model: str,
        caller: str,
        request: Request,
        first: Candidate | None = None,
    ) -> tuple[Upstream, str]:
        """The upstream and the key that a conversation's request goes up with; `first` as for `Attempts.may_go_to`.
        Raises RelayError."""
        attempts = attempts_for(self.gate.pool, flow, exchange)
        attempts.may_go_to(upstreams, conversation, model, caller, request, first)
        return await attempts.acquire()

    async def _admit_uncounted(self, flow: http.HTTPFlow, exchange: Exchange, key: RelayKey) -> None:
        try:
            if flow.request.method in ("GET", "HEAD"):
                await self._check_model_path(key, exchange)
            attempts = attempts_for(self.gate.pool, flow, exchange)
            where = await attempts.acquire()
            if attempts.request is not None:
                aim(flow, exchange, attempts.request, *where)
            UNCOUNTED.keep(exchange, await self.gate.admit(exchange, key, None))
            if (counted := counted_of(flow.request.method, exchange.path)) is not None:
                await self.gate.prices.ready()
                self.begin(exchange, counted, key.id)  # its `paths` names it: nothing is held, all is counted
        except errors.RelayError as error:
            _give_back(exchange)
            refuse(flow, exchange, error)

    async def _check_model_path(self, key: RelayKey, exchange: Exchange) -> None:
        """`/v1/models/{model}` tells of a model that the key may use."""
        path = exchange.path.rstrip("/")
        name = path.removeprefix(f"{MODELS}/")
        await self.gate.prices.ready()
        if name != path and not self.gate.may_use(exchange, key, unquote(name)):
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
        key = CALLER.of(exchange) if exchange is not None else None
        if exchange is None or key is None or UNCOUNTED.of(exchange) is not None:
            return None
        kind = _KIND.take(exchange)
        return None if kind is None else self._admit(flow, exchange, key, kind)

    async def _admit(self, flow: http.HTTPFlow, exchange: Exchange, key: RelayKey, kind: Generation) -> None:
        request = flow.request
        attempts = attempts_for(self.gate.pool, flow, exchange)
        upstreams = _UPSTREAMS.of(exchange) or (exchange.upstream,)
        going = Going(
            upstreams,
            repeats_of(upstreams, flow, exchange),
            choose=partial(self._choose, flow, exchange, key, attempts),
        )
        try:
            body = await self.held.read(flow, exchange)
            content_type = request.headers.get("content-type", "")
            admission = await self.gate.admit(exchange, key, kind, body, content_type, going)
            sent = await admission.sent_to(exchange.upstream)
        except errors.RelayError as error:
            attempts.give_back()
            refuse(flow, exchange, error)
            return
        self._admitted(flow, exchange, kind, admission)
        if sent is not None:
            replace_body(request, sent)
        if attempts.request is not None:
            attempts.request.body_for = admission.sent_to
        if admission.strips_usage:
            request.headers["Accept-Encoding"] = "identity"  # relay has to read the stream, and edit it

    async def _choose(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        key: RelayKey,
        attempts: Attempts,
        upstreams: Sequence[Upstream],
        members: Members | None,
        model: str,
    ) -> None:
        conversation, first = exchange.id, None
        if members is not None:
            said = await in_turns(identifying(members))
            conversation = said if said is not None else conversation
            if is_stored(members):
                # What is stored belongs to the account of the key that it was sent with, as files do.
                previous = previous_response(members)
                first = self.gate.pool.answered.get(previous) if previous is not None else None
                conversation = conversation if previous is not None else key.id
                where = exchange.upstream.name if first is None else first.upstream
                upstreams = [each for each in upstreams if each.name == where] or upstreams
        if (request := attempts.request) is not None:
            chosen = await self.choose(flow, exchange, upstreams, conversation, model, key.id, request, first)
            aim(flow, exchange, request, *chosen)

    def _admitted(self, flow: http.HTTPFlow, exchange: Exchange, kind: Generation, admission: Admission) -> Metering:
        self.under_way[admission.request] = flow
        flow.metadata["relay.key"] = admission.key.name
        note_mapped(flow, admission.asked_model)
        metering = self.begin(exchange, kind, admission.key.id)
        metering.at, metering.admission = admission.at, admission
        metering.model, metering.size = admission.model, admission.size
        return metering

    async def begin_chat(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        key: RelayKey | None,
        text: str,
        model: str,
        body: bytes,
        going: Going | None = None,
    ) -> tuple[Admission | None, bytes]:
        """Admit and count a message to `/chat`, and its body as it goes up; no admission for a caller's own key. Raises
        RelayError."""
        if key is None:
            mapped = await mapped_for(exchange.upstream, body)
            metering = self.begin(exchange, Generation.CHAT, self.gate.keyring.caller(text))
            metering.model, metering.size = mapped.sent or model, len(mapped.body)
            note_mapped(flow, mapped.asked)
            return None, mapped.body
        try:
            admission = await self.gate.admit(exchange, key, Generation.CHAT, body, going=going)
        except errors.RelayError:
            _give_back(exchange)
            raise
        self._admitted(flow, exchange, Generation.CHAT, admission)
        return admission, admission.body if admission.body is not None else body

    # The answer

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Listen, and say what must not be passed on as it comes."""
        exchange, response = of(flow), flow.response
        if exchange is None or response is None or exchange.refused:
            return
        if exchange.kind == Kind.PASS:
            self._forget_body(flow, exchange)
            hide_in_head(response, REAL_KEY.of(exchange))
            if CALLER.of(exchange) is not None and (why := replacing(flow, exchange)) is not None:
                REPLACING.keep(exchange, why)
                exchange.answer.read_whole = True
                cap_answer(flow, HELD_ANSWER)
        metering = METERING.of(exchange)
        edit = masking(exchange)
        if metering is None:
            if exchange.kind == Kind.PASS and not exchange.answer.read_whole:
                self._hear_uncounted(flow, response, exchange, edit)
            return
        metering.begin_answer(response)
        if exchange.kind != Kind.PASS:
            return
        if metering.admission is not None and metering.admission.strips_usage and is_plain_stream(response):
            edit = masking_without_usage(exchange)
            if response.headers.pop("content-length", None) is not None and flow.request.http_version == "HTTP/1.1":
                response.headers["Transfer-Encoding"] = "chunked"
        LISTENER.keep(exchange, Listener(metering.hear, edit))

    def _hear_uncounted(
        self, flow: http.HTTPFlow, response: http.Response, exchange: Exchange, edit: Edit | None
    ) -> None:
        if _tells_later(flow, exchange):
            later, unpacked = LATER.keep(exchange, Later()), Unpacked(response)
            LISTENER.keep(exchange, Listener(lambda chunk: unpacked.feed(chunk, later.hear), edit))
        elif edit is not None:
            LISTENER.keep(exchange, Listener(lambda _chunk: None, edit))

    def _forget_body(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Of a body that relay has read and sent, the record keeps as much as of others."""
        if exchange.body.holding is not None:
            release(exchange)
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
        why = REPLACING.take(exchange)
        if why is not None and flow.response is not None and flow.response.raw_content is not None:
            return self._end_replaced(flow, exchange, why)
        if flow.websocket is not None:
            return None  # it goes on, and ends in `websocket_end`
        self._count_later(flow, exchange)
        self._over(flow, exchange, FINISHED)
        return None

    async def _end_replaced(self, flow: http.HTTPFlow, exchange: Exchange, why: str) -> None:
        await replace_answer(flow, exchange, why, lambda key, model: self.gate.may_use(exchange, key, model))
        self._over(flow, exchange, FINISHED)

    def _count_later(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Count work that upstream did for itself: each batch and response once, however often it is asked about."""
        later = LATER.take(exchange)
        found = later.told() if later is not None and flow.response is not None else None
        if found is None or flow.response is None or flow.response.status_code != 200:
            return
        name, model, usage, asked = found
        caller, _ = self._caller_of(flow, exchange)
        # A batch belongs to the list of batches: its path is told without its id.
        path = "/".join(exchange.path.split("/")[:3])
        self._count(flow, exchange, _name_of_later(caller, name), path, usage, model, asked, again=True)

    def _count(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        request: str,
        path: str,
        usage: Metered,
        model: str,
        asked: Mapping[str, str],
        *,
        again: bool = False,
    ) -> None:
        """Settle work that was not held for, `again` where it may be settled already. What callers' own keys have used
        is priced when somebody asks."""
        caller, key = self._caller_of(flow, exchange)
        upstream, amount = exchange.upstream.name, None
        if key is not None and self.gate.prices.loaded:
            amount = self.settler.cost(usage, upstream, model, asked)
        name = key.name if key is not None else None
        now, real = self.gate.clock(), REAL_KEY.of(exchange)
        request, model, asked = unkeyed(request, real), unkeyed(model, real), unkeyed_values(asked, real)
        about = (request, now, caller, name, upstream, model, asked, path, FINISHED, usage, amount)
        settlement = Settlement(*about, tokens=usage.input + usage.output)
        self.gate.ledger.settle(settlement)
        self._note(flow, exchange, settlement)
        if not again:
            self.settled(flow, exchange, settlement, None)

    def _caller_of(self, flow: http.HTTPFlow, exchange: Exchange) -> tuple[str, RelayKey | None]:
        """What a caller's use is counted under, and its relay key if it has one."""
        key = CALLER.of(exchange)
        shown = next(iter(keys_in(flow.request.headers.fields)), "")
        return (key.id, key) if key is not None else (self.gate.keyring.caller(shown), None)

    def error(self, flow: http.HTTPFlow) -> None:
        """It broke off."""
        exchange = of(flow)
        if exchange is not None:
            self._over(flow, exchange, broken(flow, exchange))

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        """A socket is closed."""
        exchange = of(flow)
        if exchange is not None:
            self._over(flow, exchange, FINISHED)

    def websocket_message(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Count what upstream tells of a turn that has ended."""
        exchange = of(flow)
        if exchange is None or flow.websocket is None:
            return None
        message = flow.websocket.messages[-1]
        if message.from_client:
            return None
        real = REAL_KEY.of(exchange)
        if real and real in message.content:
            message.content = without_key(message.content, real)
        content = message.content
        if b'"usage"' not in content or len(content) > _LONGEST_MESSAGE:
            return None
        if len(content) > _LONG_MESSAGE:
            return self._read_turn(flow, exchange, content)
        self._count_turn(flow, exchange, at_once(catching(content, _TURN)))
        return None

    async def _read_turn(self, flow: http.HTTPFlow, exchange: Exchange, content: bytes) -> None:
        self._count_turn(flow, exchange, await in_turns(catching(content, _TURN)))

    def _count_turn(self, flow: http.HTTPFlow, exchange: Exchange, said: Mapping[str, Any]) -> None:
        """Never raises: the message is for the client, whatever becomes of the count."""
        try:
            inner = said.get("response")
            inner = inner if isinstance(inner, Mapping) else said
            usage = metered(inner.get("usage"))
            if usage is not None:
                model, number = inner.get("model"), inner.get("id") or said.get("event_id")
                name = model if isinstance(model, str) and model else _asked_model(flow)
                self._count(flow, exchange, f"{exchange.id}.{str(number)[:80]}", exchange.path, usage, name, {})
        except Exception:
            logger.exception("a message of a websocket is not metered")

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
        release(exchange)
        uncounted = UNCOUNTED.take(exchange)
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
        if metering.kind is Generation.RESPONSE and self._in_background(flow, exchange, metering):
            return
        key = CALLER.of(exchange) if uncounted is not None else None
        settlement = self.settler.settlement(exchange, metering, reason, key)
        self._note_attempts(exchange, metering, settlement)
        self.gate.ledger.settle(settlement)
        self._note(flow, exchange, settlement)
        self.settled(flow, exchange, settlement, metering.kind)

    def _note_attempts(self, exchange: Exchange, metering: Metering, settlement: Settlement) -> None:
        """Each attempt that broke, and was repeated, has a row: what has come of it upstream is not known."""
        attempts = ATTEMPTS.of(exchange)
        if attempts is None or metering.admission is None:
            return
        for number, upstream in enumerate(attempts.uncertain, 1):
            request = f"{settlement.request}.{number}"
            broke = settlement._replace(request=request, upstream=upstream, reason=BROKE, usage=None, amount=0)
            self.gate.ledger.settle(broke._replace(held=False, at_hold=False, estimated=False, tokens=0))
        attempts.uncertain.clear()
        if (answer := response_id(metering.beginning.decode("utf-8", "replace"))) and attempts.last is not None:
            self.gate.pool.remember(answer, attempts.last)

    def _in_background(self, flow: http.HTTPFlow, exchange: Exchange, metering: Metering) -> bool:
        """Whether a response goes on without its client. It is counted under its own id, so once: here, where all of
        it was streamed, or whenever somebody asks about it."""
        told, admission = metering.told(), metering.admission
        if admission is not None and admission.hold is not None:
            return False  # a budget stands on it, and it did not ask for that
        asked = admission is not None and admission.background
        if not (asked or told.background) or metering.status is None or not 200 <= metering.status < 300:
            return False
        if admission is not None:
            self.gate.release(admission)
        if told.background and told.usage is not None:
            about = (metering.path.rstrip("/"), told.usage, metering.model or told.model or "", told.asked)
            self._count(flow, exchange, _name_of_later(metering.caller, told.background), *about)
        return True

    def _note(self, flow: http.HTTPFlow, exchange: Exchange, settlement: Settlement) -> None:
        """Leave what it has cost for whoever looks at the flow."""
        if not exchange.record.watched or settlement.usage is None:
            return
        flow.metadata[TOKENS] = settlement.usage.parts()
        note = partial(self._note_cost, flow, settlement, settlement.usage)
        if exchange.record.later:
            exchange.record.notes.append(note)
        else:
            note()

    def _note_cost(self, flow: http.HTTPFlow, settlement: Settlement, usage: Metered) -> None:
        amount = settlement.amount
        if amount is None and self.gate.prices.loaded:
            amount = self.settler.cost(usage, settlement.upstream, settlement.model, settlement.asked)
        if amount is not None:
            about = "~" if settlement.estimated else ""
            flow.metadata["relay.cost"] = f"{about}{dollars(amount):f}"


def _give_back(exchange: Exchange) -> None:
    if (attempts := ATTEMPTS.of(exchange)) is not None:
        attempts.give_back()


def _that_may_see(flow: http.HTTPFlow, request: Request, upstreams: Sequence[Upstream]) -> list[Upstream]:
    """Of an upstream and its fallbacks those that a request may go to as its head is: a key of its caller's own that
    stands there, too, reaches the one that was asked alone, and a name of a model that another one would map none."""
    first, *others = upstreams
    if shows_others(flow.request.headers.fields, request.query, request.shown):
        return [first]
    return [first, *(each for each in others if _takes_address(each, request))]


def _takes_address(upstream: Upstream, request: Request) -> bool:
    try:
        check_address(upstream, request.path, request.query.removeprefix("?"))
    except errors.RelayError:
        return False
    return True


def repeats_of(upstreams: Sequence[Upstream], flow: http.HTTPFlow, exchange: Exchange) -> int:
    """How often a generation may be repeated though it may have been worked on."""
    if KEY_HEADER not in flow.request.headers:
        return 0
    allowed = max((each.retries for each in upstreams if each.idempotent), default=0)
    return min(allowed, exchange.settings.limits.attempts - 1)


def _model_refused() -> errors.RelayError:
    return errors.Forbidden("此密钥不能使用这个模型。", "This key may not use that model.", code="model_not_allowed")


def _tells_later(flow: http.HTTPFlow, exchange: Exchange) -> bool:
    """Whether it asks what has become of work that upstream does for itself."""
    path, method = exchange.path, flow.request.method
    if not path.startswith(("/v1/batches/", "/v1/responses/")):
        return False
    return (method == "GET" and path.count("/") == 3) or (method == "POST" and path.endswith("/cancel"))


def _name_of_later(caller: str, name: str) -> str:
    """What such work is settled under. Ids are upstream's, and another caller's may be the same."""
    return f"{caller[:24]} {name}"


def _asked_model(flow: http.HTTPFlow) -> str:
    """The model that a websocket's address names, or Azure's deployment; "" where it names several, for upstreams
    take another one of them each."""
    said = parse_qsl(flow.request.path.partition("?")[2], keep_blank_values=True)
    named = [value for name, value in said if name.strip().casefold().removesuffix("[]") in ("model", "deployment")]
    return named[0][:200] if len(named) == 1 else ""
