"""Chat: a message to `/chat` goes up as a whole conversation, and its answer comes back as an envelope.

1. `request` reads the message, waits until the session is free, and rewrites the flow into a chat completion.
2. `response` folds the completion into an envelope and keeps the turn.
3. `error` tells a failure in an envelope.

Whichever of the last two comes, the session is free again: each flow has exactly one of them. A turn is kept when its
answer is whole; an answer that upstream ended for its length is whole in this sense, a broken one is not. Whatever else
happens, the session stays as it was.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from mitmproxy import connection, http

from addons import errors
from addons.answers import dress, error_response, json_response, refuse
from addons.config import Settings
from addons.core import chat, envelope
from addons.core.completion import Completion
from addons.core.failures import ANSWER_TIMEOUT
from addons.core.sessions import Session, Turn, window
from addons.decoding import TooLong, content_of, decode
from addons.exchange import Exchange, Kind, of, ongoing
from addons.refusals import refusal
from addons.store import SessionStore, StoreError
from addons.turnstile import Full, Turnstile
from addons.wire import cut_upstream, declared_length, point

logger = logging.getLogger(__name__)

MAX_DECODED = 64 << 20
"""Bytes of an upstream's answer once decoded; one that compresses so well is an attack."""


@dataclass
class Pending:
    """What a message needs at its end."""

    key: str
    owner: str
    session: Session
    content: str
    model: str
    leave: Callable[[], None]
    """Frees the session; does nothing the second time."""
    timer: asyncio.TimerHandle | None = None


class Chat:
    """Answers `chat.paths`."""

    def __init__(self, settings: Settings, store: SessionStore) -> None:
        self.settings = settings
        self.store = store
        self.turnstile = Turnstile()
        self._waiting: dict[str, set[asyncio.Task[None]]] = {}

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Bound what is to be read."""
        exchange = ongoing(flow, Kind.CHAT)
        if exchange is None:
            return
        limit = exchange.settings.chat.max_body
        if flow.request.method != "POST":
            refuse(flow, exchange, errors.MethodNotAllowed(flow.request.method, "POST"))
        elif (declared_length(flow.request) or 0) > limit:
            refuse(flow, exchange, errors.TooLarge(f"请求体超过 {limit} 字节。", f"The body is over {limit} bytes."))
        exchange.body_cap = limit
        exchange.answer_cap = exchange.settings.chat.max_answer

    async def request(self, flow: http.HTTPFlow) -> None:
        """Turn the message into a completion request, once its session is free."""
        exchange = ongoing(flow, Kind.CHAT)
        if exchange is None:
            return
        try:
            message = _read(flow.request, exchange.settings)
            await self._expand(flow, exchange, message)
        except errors.RelayError as error:
            refuse(flow, exchange, error)

    async def _expand(self, flow: http.HTTPFlow, exchange: Exchange, message: chat.Incoming) -> None:
        settings = exchange.settings.chat
        key, owner = self.store.key(message.api_key, message.session_id)
        leave = await self._enter(flow.client_conn, key, settings.max_waiting)
        try:
            session = await self.store.load(key, settings.session_ttl)
        except StoreError as error:
            leave()
            raise _no_store(error) from None
        except BaseException:
            leave()
            raise
        model = exchange.upstream.model or settings.model
        pending = exchange.notes["chat"] = Pending(key, owner, session, message.content, model, leave)
        messages = window(
            session,
            system=settings.system,
            content=message.content,
            max_turns=settings.context.max_turns,
            max_tokens=settings.context.max_tokens,
        )
        _rewrite(flow, exchange, message.api_key, chat.completion_request(model, settings.params, messages))
        pending.timer = asyncio.get_running_loop().call_later(settings.timeout, _give_up, flow, exchange)

    async def _enter(self, client: connection.Client, key: str, max_waiting: int) -> Callable[[], None]:
        waiting = asyncio.ensure_future(self.turnstile.enter(key, max_waiting))
        self._waiting.setdefault(client.id, set()).add(waiting)
        try:
            await waiting
        except Full:
            raise errors.Busy(
                "该会话有太多消息正在等待,请稍后再试。",
                "Too many messages of this session are waiting: send the next one when the last is answered.",
            ) from None
        except asyncio.CancelledError:
            if waiting.cancelled():
                raise errors.Unavailable("客户端已断开。", "The client has left.") from None
            raise
        finally:
            tasks = self._waiting[client.id]
            tasks.discard(waiting)
            if not tasks:
                del self._waiting[client.id]
        turnstile, left = self.turnstile, False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                turnstile.leave(key)

        return leave

    def client_disconnected(self, client: connection.Client) -> None:
        """Whoever leaves while waiting gives up its place. What is under way upstream ends in `error`."""
        for task in list(self._waiting.get(client.id, ())):
            task.cancel()

    async def response(self, flow: http.HTTPFlow) -> None:
        """Keep the turn, answer with an envelope, free the session."""
        exchange = of(flow)
        pending = exchange.notes.pop("chat", None) if exchange is not None else None
        if exchange is None or pending is None:
            return
        try:
            if not exchange.refused:
                await self._fold(flow, exchange, pending)
        finally:
            _settle(pending)

    async def _fold(self, flow: http.HTTPFlow, exchange: Exchange, pending: Pending) -> None:
        try:
            text = _text_of(flow, pending.model)
            turn = Turn(pending.content, text)
            session = pending.session.with_turn(turn, exchange.settings.chat.context.max_turns)
            await self.store.save(pending.key, pending.owner, session)
            answer = json_response(envelope.dumps(200, envelope.SUCCESS, text))
        except errors.RelayError as error:
            answer = error_response(Kind.CHAT, error)
        except StoreError as error:
            answer = error_response(Kind.CHAT, _no_store(error))
        dress(answer, exchange)
        flow.response = answer

    def error(self, flow: http.HTTPFlow) -> None:
        """Free the session; the turn is dropped. The answer is the business of Faults."""
        exchange = of(flow)
        pending = exchange.notes.pop("chat", None) if exchange is not None else None
        if pending is not None:
            _settle(pending)


def _settle(pending: Pending) -> None:
    if pending.timer is not None:
        pending.timer.cancel()
    pending.leave()


def _give_up(flow: http.HTTPFlow, exchange: Exchange) -> None:
    limit = exchange.settings.chat.timeout
    exchange.fault = errors.UpstreamTimeout(
        f"上游在 {limit:g} 秒内没有答完,请稍后再试。",
        f"The upstream took more than {limit:g} s to answer; try again later.",
    )
    cut_upstream(flow, ANSWER_TIMEOUT)


def _read(request: http.Request, settings: Settings) -> chat.Incoming:
    bounds = chat.Bounds(settings.chat.max_api_key, settings.chat.max_session_id, settings.chat.max_content)
    limit = settings.chat.max_body
    try:
        body = decode(request.raw_content or b"", request.headers.get("content-encoding", ""), limit)
    except TooLong:
        raise errors.TooLarge(
            f"请求体解压后超过 {limit} 字节。", f"The body is over {limit} bytes when decoded."
        ) from None
    except ValueError:
        raise errors.BadRequest("请求体无法解压。", "The body can't be decompressed: check Content-Encoding.") from None
    try:
        return chat.read(body, chat.read_bearer(request.headers.get("authorization", "")), bounds)
    except chat.Invalid as error:
        raise errors.BadRequest(error.zh, str(error)) from None


def _rewrite(flow: http.HTTPFlow, exchange: Exchange, api_key: str, body: bytes) -> None:
    request = flow.request
    request.method = "POST"
    request.headers.clear()
    point(flow, exchange.upstream, f"{exchange.upstream.prefix}/v1/chat/completions")
    request.headers["Authorization"] = f"Bearer {api_key}"
    request.headers["Content-Type"] = "application/json"
    request.headers["Accept"] = "application/json"
    request.headers["Accept-Encoding"] = "identity"
    request.content = body
    request.trailers = None


def _text_of(flow: http.HTTPFlow, model: str) -> str:
    """The model's words. Raises the RelayError that tells why there are none."""
    if flow.response is None:
        raise errors.UpstreamFailed("上游没有回答。", "The upstream did not answer.")
    body = content_of(flow.response, MAX_DECODED)
    if flow.response.status_code != 200:
        raise refusal(flow.response.status_code, body, model=model)
    try:
        completion = Completion.from_json(json.loads(body), max_text=len(body))
    except (ValueError, RecursionError):
        raise errors.UpstreamFailed(
            "上游的回答不是 JSON:请检查 relay.yaml 中的 upstreams[].url。",
            "The upstream's answer is not JSON: check upstreams[].url in relay.yaml.",
        ) from None
    if completion.error is not None:
        raise refusal(200, body, model=model)
    if completion.text:
        return completion.text
    if completion.refusal:
        raise errors.Forbidden(
            f"模型拒绝回答:{completion.refusal}", f"The model refused to answer: {completion.refusal}", code="refused"
        )
    if completion.tool_calls:
        raise errors.UpstreamFailed(
            "模型要求调用工具,而不是给出文字:请从 chat.params 中去掉 tools。",
            "The model called a tool instead of answering in words: take tools out of chat.params.",
        )
    raise errors.UpstreamFailed("模型没有给出任何文字。", "The model answered without any text.")


def _no_store(error: StoreError) -> errors.Unavailable:
    logger.error(f"sessions can't be kept: {error}")
    return errors.Unavailable(
        "中转服务暂时无法保存会话。", "This relay can't keep sessions just now; its log says why."
    )
