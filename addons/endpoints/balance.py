"""Balance: what is left on a key, asked of its upstream and told as the original service told it.

`billing` is what one-api, new-api and most resellers answer: what was granted in dollars, what was used in cents.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import parse_qs

from mitmproxy import connection, http

from addons import errors
from addons.config.settings import Settings, Upstream
from addons.core import chat, envelope, money, upstream_error
from addons.core.bounded_json import TooComplex
from addons.core.slices import Sliced
from addons.core.upstream_error import Kind as Meaning
from addons.exchange import Exchange, Kind, ongoing
from addons.flow.answers import answer, json_response, refuse
from addons.flow.decoding import TooLong, content_of, decoding
from addons.flow.subrequest import MAX_ANSWER, ask
from addons.flow.turns import in_turns
from addons.flow.upstream_errors import NOT_RECORDED, SHOWN, quoted, refusal

_UNSUPPORTED = (404, 405, 501)
_OF_KEYS = (Meaning.KEY, Meaning.QUOTA, Meaning.RATE, Meaning.FORBIDDEN)
"""Refusals that say more than that there is nothing at an address."""
_TOLD = {"hard_limit_usd", "total_usage"}


class Balance:
    """Answers `balance.paths`."""

    serves = (Kind.BALANCE,)

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._asking: dict[str, set[asyncio.Task[money.Balance]]] = {}

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """A question has no body: none is read."""
        exchange = ongoing(flow, Kind.BALANCE)
        if exchange is None:
            return
        exchange.body_cap = 0
        if flow.request.method not in ("GET", "HEAD"):
            refuse(flow, exchange, errors.MethodNotAllowed(flow.request.method, "GET"))

    async def request(self, flow: http.HTTPFlow) -> None:
        """Ask, and answer."""
        exchange = ongoing(flow, Kind.BALANCE)
        if exchange is None:
            return
        try:
            key = _key(flow.request, exchange.settings)
            balance = await self._ask(flow.client_conn, exchange, key)
        except errors.RelayError as error:
            refuse(flow, exchange, error)
            return
        detail = {"unlimited": True} if balance.unlimited else None
        answer(flow, json_response(envelope.balance_ok(balance, detail)))

    async def _ask(self, client: connection.Client, exchange: Exchange, key: str) -> money.Balance:
        if exchange.upstream.balance is None:
            raise errors.BalanceUnknown("此上游不提供余额查询。", "This upstream tells no balance.")
        asking = asyncio.ensure_future(billing(exchange.upstream, key, exchange.settings, self.clock()))
        self._asking.setdefault(client.id, set()).add(asking)
        try:
            return await asking
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if asking.cancelled() and not (task is not None and task.cancelling()):
                raise errors.Unavailable("客户端已断开。", "The client has left.") from None
            asking.cancel()
            raise
        finally:
            tasks = self._asking[client.id]
            tasks.discard(asking)
            if not tasks:
                del self._asking[client.id]

    def client_disconnected(self, client: connection.Client) -> None:
        """Nobody waits for the answer any more."""
        for task in list(self._asking.get(client.id, ())):
            task.cancel()


async def billing(upstream: Upstream, key: str, settings: Settings, now: float) -> money.Balance:
    """The balance of `key` by the billing interface: two questions at once. `now` is seconds since the epoch.

    Raises RelayError; never a zero in place of an error.
    """
    start, end = money.window(datetime.fromtimestamp(now, UTC).date(), settings.balance.window_days)
    folder = upstream.path("/v1/dashboard/billing")
    paths = (f"{folder}/subscription", f"{folder}/usage?start_date={start}&end_date={end}")
    asked = [asyncio.ensure_future(_billing_part(upstream, path, key, settings.balance.timeout)) for path in paths]
    try:
        subscription, usage = await asyncio.gather(*asked)
    finally:
        for task in asked:
            task.cancel()
    try:
        return money.from_billing(subscription, usage)
    except ValueError as error:
        raise errors.UpstreamFailed(
            "无法读取上游的余额信息。", f"The upstream's balance can't be read: {str(error)[:200]}"
        ) from None


async def _billing_part(upstream: Upstream, path: str, key: str, timeout: float) -> object:
    response = await ask(upstream, path, {"Authorization": f"Bearer {key}"}, timeout=timeout)
    if not 200 <= response.status_code < 300:
        error = upstream_error.read(response.status_code, content_of(response, upstream_error.MAX_BODY))
        if response.status_code in _UNSUPPORTED and error.kind not in _OF_KEYS and error.code != NOT_RECORDED:
            raise errors.BalanceUnknown(
                f"此上游不提供余额查询（HTTP {response.status_code}）；如果 upstreams[].url 填写有误，也会如此。",
                f"This upstream tells no balance (HTTP {response.status_code}); with a wrong upstreams[].url it is the "
                f"same.{quoted(error.reason, key, SHOWN)}",
            )
        raise refusal(error, key=key)
    value = await in_turns(_value_of(response, key))
    balance = isinstance(value, dict) and value.keys() & _TOLD
    if (told := upstream_error.told(value, strict=bool(balance))) is not None:
        raise refusal(upstream_error.read_value(200, {"error": dict(told)}), key=key)
    return value


def _value_of(response: http.Response, key: str) -> Sliced[object]:
    """The JSON of a success."""
    encoding, body = response.headers.get("content-encoding", ""), b""
    try:
        body = yield from decoding(response.raw_content or b"", encoding, MAX_ANSWER)
        return (yield from money.parsing(body))
    except (TooLong, TooComplex):
        raise errors.UpstreamFailed("上游响应过大。", "The upstream's answer is too large for a balance.") from None
    except ValueError:
        if (said := upstream_error.read(200, body)).reason:
            raise refusal(said, key=key) from None  # a sentence in place of an answer
        raise errors.UpstreamFailed(
            "无法读取上游响应：不是 JSON，此上游可能不提供余额查询。",
            "The upstream's answer could not be read: it is not JSON, and may tell no balance.",
        ) from None


def _key(request: http.Request, settings: Settings) -> str:
    _, _, query = request.path.partition("?")
    try:
        asked = parse_qs(query, keep_blank_values=True, max_num_fields=100, errors="replace").get("apiKey", [])
    except ValueError:
        raise errors.BadRequest(
            "查询参数过多，只需要 apiKey。", "Too many query parameters: only apiKey is read."
        ) from None
    given = asked[0] if asked else chat.read_bearer(request.headers.get("authorization", ""))
    if not given or not given.strip():
        raise errors.BadRequest(
            "缺少 apiKey：请使用 ?apiKey=sk-... 或 Authorization 请求头。",
            "apiKey is missing: send ?apiKey=sk-... or an Authorization header.",
        )
    if len(given) > settings.chat.max_api_key:
        raise errors.BadRequest(
            f"apiKey 过长，最多 {settings.chat.max_api_key} 个字符。",
            f"apiKey is too long: at most {settings.chat.max_api_key} characters are taken.",
        )
    try:
        return chat.read_key(given)
    except chat.Invalid as error:
        raise errors.BadRequest(error.zh, str(error)) from None
