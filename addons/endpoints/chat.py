"""Chat: a message to `/chat` goes up as a whole conversation, and its answer comes back as an envelope.

1. `request` reads the message, waits until the session is free, and rewrites the flow into a chat completion.
2. `responseheaders` sees whether the answer is a stream that can be retold piece by piece.
3. `response` keeps the turn and answers with an envelope, or ends the stream with one.
4. `error` leaves the session as it was.

Whichever of the last two comes, the session is free again: each flow has exactly one of them.

When a stream has ended is told by its events (`core.stream_end`), not by its connection: `[DONE]` or an error ends the
answer at once, and what breaks behind a finish reason breaks nothing.

The rule for answers that were cut off: one that upstream ended for its length (finish_reason `length`) is what there
is, and is kept as a turn. One whose connection broke is not an answer: its turn is dropped, and the break reaches the
client.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

from mitmproxy import connection, http

from addons import errors
from addons.config.settings import Settings, Upstream
from addons.core import chat, envelope, sessions, upstream_error
from addons.core.completion import Completion
from addons.core.failures import ANSWER_TIMEOUT, Failure, classify
from addons.core.key_mask import without_key
from addons.core.relay_keys import RelayKey, owner_of
from addons.core.retelling import Retelling, last_event
from addons.core.sessions import Session, Turn
from addons.core.top_level import Members, members
from addons.core.upstream_error import UpstreamError
from addons.endpoints.chat_answer import Ear, answer_text, completion_of, error_of, is_success, unreadable_event
from addons.engine.transports import cut_upstream
from addons.exchange import REAL_KEY, Exchange, Kind, Part, cap_answer, heard, of, ongoing
from addons.flow.advice import advise
from addons.flow.answers import add_common_headers, error_response, json_response, refuse
from addons.flow.leaving import Waiting
from addons.flow.request_body import read_body
from addons.flow.subrequest import ask
from addons.flow.turns import in_turns
from addons.flow.upstream import declared_length, set_upstream
from addons.flow.upstream_errors import own_key_refused, refusal
from addons.meter.gate import Going
from addons.meter.metering import Meter
from addons.meter.under_way import METERING
from addons.store import Lease, Store, StoreError
from addons.store.queueing import lease_for, no_store
from addons.upstreams.aiming import Request
from addons.upstreams.attempts import ATTEMPTS

logger = logging.getLogger(__name__)

_SSE = "text/event-stream"
_LINGER = 3.0
"""Seconds that a stream may go on behind its finish reason: its usage and `[DONE]` are still to come, or never will."""
_MOST_RETRIES = 6
"""How often a conversation that is too long is shortened; halves of 63 turns come to the message alone."""


@dataclass
class Pending:
    """What a message needs at its end."""

    owner: str
    message: chat.Incoming
    session: Session
    model: str
    system: str | None
    params: Mapping[str, object]
    sent: Sequence[Turn]
    """The earlier turns that went up with it."""
    lease: Lease
    """On its session."""
    key: str
    """That upstream sees: the caller's own, or relay's where the caller has one of relay's."""
    relay_key: RelayKey | None
    body: bytes
    """The completion request that goes up first."""
    deadline: float
    """When the answer has to be there, on the loop's clock."""
    model_at: Callable[[Upstream], str]
    """What an upstream is asked for."""
    request: Request | None = field(default=None)
    """What a relay key's message is made of, for whichever upstream it goes to."""
    timer: asyncio.TimerHandle | None = field(default=None)
    retelling: Retelling | None = None

    @property
    def hidden(self) -> str:
        """The key that the caller must not see: relay's own."""
        return self.key if self.relay_key is not None else ""

    def asked(self, completion: Completion) -> sessions.Request:
        """What was asked, and what upstream counted, for the tokens of earlier turns."""
        prefix = json.dumps([self.model, self.system, dict(self.params)], sort_keys=True, default=str)
        counted = completion.usage.prompt_tokens if completion.usage else None
        return sessions.Request(hashlib.sha256(prefix.encode()).hexdigest()[:16], len(self.sent), counted or None)

    def settle(self) -> None:
        """Free the session."""
        if self.timer is not None:
            self.timer.cancel()
        self.lease.release()


_PENDING = Part[Pending]("chat")


class Chat:
    """Answers `chat.paths`."""

    serves = (Kind.CHAT,)

    def __init__(self, store: Store, meter: Meter) -> None:
        self.store = store
        self.meter = meter
        self._waiting = Waiting()

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Bound what is to be read."""
        exchange = ongoing(flow, Kind.CHAT)
        if exchange is None or exchange.session_path is not None:
            return
        limit = exchange.settings.chat.max_body
        if flow.request.method != "POST":
            refuse(flow, exchange, errors.MethodNotAllowed(flow.request.method, "POST"))
        elif (declared_length(flow.request) or 0) > limit:
            refuse(flow, exchange, _body_too_large(limit))
        exchange.body.cap = limit
        cap_answer(flow, exchange.settings.chat.max_answer)

    async def request(self, flow: http.HTTPFlow) -> None:
        """Turn the message into a completion request, once its session is free."""
        exchange = ongoing(flow, Kind.CHAT)
        if exchange is None or exchange.session_path is not None:
            return
        try:
            message = await _read(flow.request, exchange.settings)
            relay_key = self.meter.authenticate(message.api_key)
            key, owner = self.store.key(owner_of(relay_key, message.api_key), message.session_id)
            turn = lease_for(flow, self.store, key, exchange.settings.chat.max_waiting)
            lease = await self._waiting.do(flow.client_conn, turn, exchange)
            try:
                session = await self._session(key, message, exchange.settings)
                pending = await self._expand(flow, exchange, message, session, owner, lease, relay_key)
            except BaseException:
                lease.release()
                raise
        except errors.RelayError as error:
            refuse(flow, exchange, error)
            return
        _PENDING.keep(exchange, pending)
        flow.metadata["relay.session"] = key
        flow.metadata["relay.chat"] = {"session": key[:8], "content": message.content, "turns": len(pending.sent)}
        _rewrite(flow, exchange, pending)
        limit = exchange.settings.chat.timeout
        pending.timer = asyncio.get_running_loop().call_later(limit, _give_up, flow, exchange)

    async def _expand(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        message: chat.Incoming,
        session: Session,
        owner: str,
        lease: Lease,
        relay_key: RelayKey | None,
    ) -> Pending:
        """The completion request of a message, admitted."""
        if relay_key is not None:
            if not relay_key.allows_path(exchange.path):
                raise errors.Forbidden("此密钥不能使用这个路径。", "This key may not use this path.")
            exchange.upstream = self.meter.gate.upstream_for(relay_key, exchange)
        settings = exchange.settings.chat
        options = dict(message.options)
        wanted = options.pop("model", None)

        def called(upstream: Upstream) -> str:
            return str(wanted or upstream.model or settings.model)

        def model_at(upstream: Upstream) -> str:
            return upstream.models.get(called(upstream), called(upstream))

        first = exchange.upstream
        model = called(first)
        system = options.pop("system", None)
        system = system if isinstance(system, str) else settings.system
        sent = sessions.window(
            session,
            system=system,
            content=message.content,
            max_turns=settings.context.max_turns,
            max_tokens=settings.context.max_tokens,
        )
        params = {**settings.params, **options}
        messages = sessions.messages(sent, system=system, content=message.content)
        body = chat.completion_request(model, params, messages, stream=message.stream)
        request = Request(_COMPLETIONS)
        going, chosen = self._going(flow, exchange, relay_key, lease.key, model_at, request)
        admission, body = await self.meter.begin_chat(flow, exchange, relay_key, message.api_key, model, body, going)
        model = model_at(first)  # for further tries, and for what is told of it
        if admission is not None:
            params |= admission.added
        key = message.api_key
        if chosen:
            exchange.upstream, key = chosen[-1]
            request.shown = (key,)
        deadline = asyncio.get_running_loop().time() + settings.timeout
        pending = Pending(
            owner, message, session, model, system, params, sent, lease, key, relay_key, body, deadline, model_at
        )
        pending.request = request
        if chosen and admission is not None:
            request.body_for = partial(_body_at, admission.sent_to, body, pending)
            request.aimed = partial(_aimed, exchange, pending)
            pending.body = await _body_at(admission.sent_to, body, pending, exchange.upstream)
            request.aimed(exchange.upstream, key)
        return pending

    def _going(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        relay_key: RelayKey | None,
        session: str,
        model_at: Callable[[Upstream], str],
        request: Request,
    ) -> tuple[Going | None, list[tuple[Upstream, str]]]:
        """Where a relay key's message may go, and where its upstream and key stand once they are chosen."""
        chosen: list[tuple[Upstream, str]] = []
        if relay_key is None:
            return None, chosen

        async def choose(upstreams: Sequence[Upstream], _members: Members | None, model: str) -> None:
            where = await self.meter.choose(
                flow, exchange, upstreams, f"session {session}", model, relay_key.id, request
            )
            chosen.append(where)

        return Going(self.meter.gate.candidates(exchange.upstream), model_at=model_at, choose=choose), chosen

    async def _session(self, key: str, message: chat.Incoming, settings: Settings) -> Session:
        if message.reset:
            return Session()
        try:
            return await self.store.load(key, settings.chat.session_ttl)
        except StoreError as error:
            raise no_store(error) from None

    def client_disconnected(self, client: connection.Client) -> None:
        """Whoever leaves gives up its place, and second tries. What else is under way upstream ends in `error`."""
        self.store.waiter_left(client.id)
        self._waiting.left(client)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Retell a stream piece by piece; everything else is read whole first."""
        exchange = heard(flow)
        pending = _pending(exchange)
        response = flow.response
        if exchange is None or pending is None or response is None:
            return
        limit = exchange.settings.chat.max_answer
        content_type = response.headers.get("content-type", "").lower()
        encoding = response.headers.get("content-encoding", "identity").lower()
        retold = pending.message.stream and not flow.is_replay and is_success(response)
        if not retold or encoding != "identity" or not content_type.startswith(_SSE):
            exchange.answer.ear = Ear(exchange, encoding, limit, lambda: _wait_no_longer(flow, exchange, pending))
            return
        pending.retelling = Retelling(limit, pending.hidden)
        exchange.committed = True
        _stream_headers(flow, response)
        add_common_headers(response, exchange)
        response.stream = _teller(flow, exchange, pending, pending.retelling)

    async def response(self, flow: http.HTTPFlow) -> None:
        """Keep the turn, answer with an envelope, free the session."""
        exchange = of(flow)
        pending = _pending(exchange)
        if exchange is None or pending is None:
            return
        _PENDING.take(exchange)
        try:
            if pending.retelling is not None:
                await self._end_stream(flow, exchange, pending, pending.retelling)
            elif not exchange.refused:
                await self._fold(flow, exchange, pending)
        finally:
            pending.settle()

    async def _end_stream(
        self, flow: http.HTTPFlow, exchange: Exchange, pending: Pending, retelling: Retelling
    ) -> None:
        completion = retelling.completion
        if retelling.overflowed or not (retelling.whole or retelling.unreadable or completion.error is not None):
            flow.kill()  # a break for the client: no false end
            return
        try:
            if retelling.unreadable:
                raise unreadable_event()
            if not completion.text and (told := error_of(completion)) is not None:
                completion = await self._shortened(flow.client_conn, exchange, pending, told)
            said = await self._keep(flow, exchange, pending, completion)
        except errors.RelayError as error:
            advise(exchange.upstream.name, error)
            said = error.envelope()
        exchange.answer.tail = last_event(said)

    async def _fold(self, flow: http.HTTPFlow, exchange: Exchange, pending: Pending) -> None:
        limit = exchange.settings.chat.max_answer
        try:
            await _hear(exchange, flow.response)
            answered = await in_turns(completion_of(flow.response, limit, ended=exchange.answer.whole))
            completion = await self._shortened(flow.client_conn, exchange, pending, answered)
            said = await self._keep(flow, exchange, pending, completion)
            answer = json_response(said)
            if pending.message.stream:
                answer = http.Response.make(200, last_event(said), {"Content-Type": f"{_SSE}; charset=utf-8"})
        except errors.RelayError as error:
            advise(exchange.upstream.name, error)
            answer = error_response(Kind.CHAT, error)
        add_common_headers(answer, exchange)
        flow.response = answer

    async def _shortened(
        self, client: connection.Client, exchange: Exchange, pending: Pending, answered: Completion | UpstreamError
    ) -> Completion:
        """Ask again with half of the earlier turns, and half of these, as long as upstream finds that too long: the
        caller hears nothing of it. Raises RelayError for what it refuses then, or for another reason."""
        for left in reversed(range(_MOST_RETRIES)):
            if not (isinstance(answered, UpstreamError) and answered.shorter_may_pass and pending.sent):
                break
            pending.sent = pending.sent[(len(pending.sent) + 1) // 2 :] if left else ()
            # mitmproxy does not call `error` before this hook has returned: a client that leaves has to end it.
            answered = await self._waiting.do(client, _ask_again(exchange, pending), exchange)
        if isinstance(answered, UpstreamError):
            raise _refusal(answered, pending)
        return answered

    async def _keep(self, flow: http.HTTPFlow, exchange: Exchange, pending: Pending, completion: Completion) -> bytes:
        """Store the turn; the envelope that tells its text."""
        if (told := error_of(completion)) is not None:
            raise _refusal(told, pending)
        text = without_key(answer_text(completion, pending.key, pending.model), pending.hidden)
        if completion.usage is not None:
            flow.metadata["relay.usage"] = asdict(completion.usage)
        counted = completion.usage.completion_tokens if completion.usage else None
        content = pending.message.content
        turn = Turn(content, text, sessions.answer_tokens(content, counted))
        keep = exchange.settings.chat.context.max_turns
        session = pending.session.with_turn(turn, pending.asked(completion), keep)
        try:
            await self.store.save(pending.lease, pending.owner, session)
        except StoreError as error:
            raise no_store(error) from None
        return envelope.dumps(200, envelope.SUCCESS, text)

    def error(self, flow: http.HTTPFlow) -> None:
        """Free the session; the turn is dropped. The answer is the business of Failures."""
        exchange = of(flow)
        pending = _pending(exchange)
        if exchange is None or pending is None:
            return
        _PENDING.take(exchange)
        pending.settle()
        failure = exchange.failure
        if flow.response is None or is_success(flow.response) or failure.fault is not None or failure.by_client:
            return
        if flow.error is not None and classify(flow.error.msg) is not Failure.CLIENT_LEFT:
            # Its body broke, and its status has said it already.
            refused = upstream_error.read(flow.response.status_code, b"")
            failure.fault = _refusal(refused, pending)


def _body_too_large(limit: int) -> errors.TooLarge:
    return errors.TooLarge(f"请求体超过 {limit} 字节，请缩短内容。", f"The body is over {limit} bytes: shorten it.")


def _pending(exchange: Exchange | None) -> Pending | None:
    return _PENDING.of(exchange) if exchange is not None else None


async def _hear(exchange: Exchange, response: http.Response | None) -> None:
    """Have what an answer used counted."""
    metering = METERING.of(exchange)
    if metering is not None and response is not None:
        await in_turns(metering.hearing(response.raw_content or b""))


def _refusal(error: UpstreamError, pending: Pending) -> errors.RelayError:
    if pending.relay_key is not None and error.kind is upstream_error.ErrorKind.KEY:
        return own_key_refused()
    return refusal(error, key=pending.key, model=pending.model)


def _teller(
    flow: http.HTTPFlow, exchange: Exchange, pending: Pending, retelling: Retelling
) -> Callable[[bytes], bytes | list[bytes]]:
    """What turns the chunks of upstream's stream into those of the client's, and notes when it has ended."""
    metering = METERING.of(exchange)

    def tell(chunk: bytes) -> bytes | list[bytes]:
        if exchange.answer.tap is not None:
            exchange.answer.tap(chunk)
        if metering is not None:
            metering.hear(chunk)
        told = retelling.feed(chunk) if chunk else retelling.close()
        if retelling.overflowed:
            cut_upstream(flow, "relay: the answer is over chat.max_answer")
        else:
            exchange.answer.over = retelling.over
            if (retelling.whole or retelling.over) and not exchange.answer.whole:
                exchange.answer.whole = True
                _wait_no_longer(flow, exchange, pending)
        return told or []

    return tell


def _wait_no_longer(flow: http.HTTPFlow, exchange: Exchange, pending: Pending) -> None:
    """The answer is whole: its last words have a moment to come."""
    if pending.timer is not None:
        pending.timer.cancel()
    loop = asyncio.get_running_loop()
    pending.timer = loop.call_at(min(pending.deadline, loop.time() + _LINGER), _give_up, flow, exchange)


def _give_up(flow: http.HTTPFlow, exchange: Exchange) -> None:
    if not exchange.answer.whole:
        limit = exchange.settings.chat.timeout
        exchange.failure.fault = errors.UpstreamTimeout(
            f"上游未在 {limit:g} 秒内完成响应，请稍后再试。",
            f"The upstream took more than {limit:g} s to answer; try again later.",
        )
    cut_upstream(flow, ANSWER_TIMEOUT)


async def _read(request: http.Request, settings: Settings) -> chat.Incoming:
    bounds = chat.Bounds(settings.chat.max_api_key, settings.chat.max_session_id, settings.chat.max_content)
    body = await read_body(request, settings.chat.max_body)
    bearer = chat.read_bearer(request.headers.get("authorization", ""))
    try:
        return await in_turns(chat.reading(body, bearer, bounds, settings.chat.allow))
    except chat.Invalid as error:
        raise errors.BadRequest(error.zh, str(error)) from None


_COMPLETIONS = "/v1/chat/completions"


def _rewrite(flow: http.HTTPFlow, exchange: Exchange, pending: Pending) -> None:
    request = flow.request
    request.headers.clear()
    set_upstream(flow, exchange.upstream, exchange.upstream.path(_COMPLETIONS))
    request.headers["Authorization"] = f"Bearer {pending.key}"
    request.headers["Content-Type"] = "application/json"
    request.headers["Accept"] = _SSE if pending.message.stream else "application/json"
    request.headers["Accept-Encoding"] = "identity"
    request.content = pending.body
    request.trailers = None


async def _body_at(
    sent_to: Callable[[Upstream], Awaitable[bytes | None]] | None, body: bytes, pending: Pending, upstream: Upstream
) -> bytes:
    """A completion request as it goes to an upstream, with the model that is asked for there."""
    sent = await sent_to(upstream) if sent_to is not None else None
    read = members((sent if sent is not None else body).decode())
    return read.put({"model": pending.model_at(upstream)}).encode()


def _aimed(exchange: Exchange, pending: Pending, upstream: Upstream, key: str) -> None:
    """A message is about to go to an upstream, maybe to another one than before."""
    pending.key, pending.model = key, pending.model_at(upstream)
    REAL_KEY.keep(exchange, key.encode("utf-8", "surrogateescape"))
    metering = METERING.of(exchange)
    if metering is not None:
        metering.upstream, metering.model = upstream.name, pending.model


async def _ask_again(exchange: Exchange, pending: Pending) -> Completion | UpstreamError:
    """Ask once more, with the turns that are now to be sent, and read the answer as the first one is."""
    messages = sessions.messages(pending.sent, system=pending.system, content=pending.message.content)
    limit = exchange.settings.chat.max_answer
    hearing = Exchange(exchange.settings, exchange.upstream, Kind.CHAT, exchange.path)
    _PENDING.keep(hearing, pending)
    metering, before = METERING.of(exchange), ATTEMPTS.of(exchange)
    # Its own way through the candidates, which begins where the last one has ended.
    attempts = before.once_more(hearing) if before is not None else None
    body = chat.completion_request(pending.model, pending.params, messages)
    if attempts is not None and pending.request is not None:
        attempts.request = Request(
            _COMPLETIONS,
            shown=(pending.key,),
            body_for=partial(_body_at, None, body, pending),
            aimed=partial(_aimed, exchange, pending),
        )
    try:
        with metering.trying() if metering is not None else contextlib.nullcontext():
            response = await ask(
                exchange.upstream,
                exchange.upstream.path(_COMPLETIONS),
                {"Authorization": f"Bearer {pending.key}"},
                timeout=pending.deadline - asyncio.get_running_loop().time(),
                body=body,
                max_answer=limit,
                hearing=hearing,
            )
    finally:
        if attempts is not None:
            attempts.over()
    exchange.upstream = hearing.upstream
    if metering is not None:
        metering.begin_answer(response)
        await _hear(exchange, response)
    return await in_turns(completion_of(response, limit, ended=hearing.answer.whole))


def _stream_headers(flow: http.HTTPFlow, response: http.Response) -> None:
    response.status_code, response.reason = 200, "OK"  # which it is, whatever success upstream has called it
    response.headers.clear()
    response.headers["Content-Type"] = f"{_SSE}; charset=utf-8"
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["Cache-Control"] = "no-cache"
    if flow.request.http_version == "HTTP/1.1":
        response.headers["Transfer-Encoding"] = "chunked"
