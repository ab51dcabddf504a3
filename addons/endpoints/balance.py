"""Balance: what is left on a key, asked of its upstream (`core.balances`) and told as the original service told it.

An answer is told again for `balance.cache`, and for a day where the upstream can't be asked: then it is said to be old.
"""

import asyncio
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import parse_qs

from mitmproxy import connection, http

from addons import errors
from addons.config.settings import Settings, Upstream
from addons.core import balances, chat, envelope, money, upstream_error
from addons.core.balances import LEDGER
from addons.core.bounded_json import TooComplex
from addons.core.slices import Sliced
from addons.core.upstream_error import ErrorKind
from addons.exchange import Exchange, Kind, ongoing
from addons.flow.answers import answer, json_response, refuse
from addons.flow.decoding import TooLong, content_of, decoding
from addons.flow.leaving import Waiting
from addons.flow.subrequest import MAX_ANSWER, ask
from addons.flow.turns import in_turns
from addons.flow.upstream_errors import NOT_RECORDED, SHOWN, quoted, refusal
from addons.meter import reports
from addons.meter.gate import Gate
from addons.meter.reports import Told
from addons.store import StoreError

_UNSUPPORTED = (404, 405, 501)
_OF_KEYS = (ErrorKind.KEY, ErrorKind.QUOTA, ErrorKind.RATE, ErrorKind.FORBIDDEN)
"""Refusals that say more than that there is nothing at an address."""
_TOLD = {"hard_limit_usd", "total_usage"}

_MOST_KNOWN = 1000
_OLDEST = 24 * 3600.0
"""Seconds for which a balance is told again where its upstream can't be asked."""
_PASSING = (errors.UpstreamFailed, errors.UpstreamTimeout, errors.RateLimited, errors.Unavailable)
"""Failures that say nothing of the key."""


class Balance:
    """Answers `balance.paths`."""

    serves = (Kind.BALANCE,)

    def __init__(self, clock: Callable[[], float], gate: Gate | None = None) -> None:
        self.clock = clock
        self.gate = gate
        self._asking = Waiting()
        self._known: OrderedDict[bytes, Told] = OrderedDict()
        self._secret = secrets.token_bytes(32)  # a key is never kept as it is

    def adopt(self, gate: Gate) -> None:
        """Go on under other settings."""
        self.gate = gate

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """A question has no body: none is read."""
        exchange = ongoing(flow, Kind.BALANCE)
        if exchange is None:
            return
        exchange.body.cap = 0
        if flow.request.method not in ("GET", "HEAD"):
            refuse(flow, exchange, errors.MethodNotAllowed(flow.request.method, "GET"))

    async def request(self, flow: http.HTTPFlow) -> None:
        """Ask, and answer."""
        exchange = ongoing(flow, Kind.BALANCE)
        if exchange is None:
            return
        try:
            key = _key(flow.request, exchange.settings)
            relay_key = self.gate.keyring.authenticate(key, self.clock()) if self.gate is not None else None
            if relay_key is not None and self.gate is not None:
                told, stale = await reports.of_relay_key(self.gate, relay_key, self.clock()), False
            else:
                told, stale = await self._told(flow.client_conn, exchange, key)
        except errors.RelayError as error:
            refuse(flow, exchange, error)
            return
        except StoreError:
            refuse(flow, exchange, reports.unreadable())
            return
        answer(flow, json_response(envelope.balance_ok(told.balance, told.detail(stale=stale))))

    async def _told(self, client: connection.Client, exchange: Exchange, key: str) -> tuple[Told, bool]:
        """What is known, if it is fresh; else what upstream says; or what it said last, and that this is old."""
        upstream, now = exchange.upstream, self.clock()
        name = hmac.digest(
            self._secret,
            "\0".join((upstream.name, upstream.url, str(upstream.balance), str(upstream.granted), key)).encode(),
            "sha256",
        )
        known = self._known.get(name)
        if known is not None and 0 <= now - known.at < exchange.settings.balance.cache:
            return known, False
        try:
            told = await self._asking.do(client, self._find_out(exchange, key), exchange)
        except _PASSING as error:
            says_it = error.code == "insufficient_quota"  # the key has nothing left, whatever it had
            if says_it or known is None or not 0 <= now - known.at < _OLDEST:
                raise
            return known, True
        self._known[name] = told
        self._known.move_to_end(name)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return told, False

    async def _find_out(self, exchange: Exchange, key: str) -> Told:
        """What upstream says; where it tells no balance, what relay has seen of the key itself."""
        upstream, settings = exchange.upstream, exchange.settings
        falls_back = upstream.balance == "auto" and upstream.host.endswith("openai.com")
        if upstream.balance != LEDGER:
            try:
                return await ask_balance(upstream, key, settings, self.clock())
            except errors.BalanceUnknown:
                if not falls_back or self.gate is None:
                    raise
        if self.gate is None:
            raise errors.BalanceUnknown("没有账目。", "There is no ledger.")
        return await reports.of_caller(self.gate, upstream, key, settings, self.clock())

    def done(self) -> None:
        """relay ends: no report keeps it from doing so."""
        reports.RUNS.stop()

    def client_disconnected(self, client: connection.Client) -> None:
        """Nobody waits for the answer any more."""
        self._asking.left(client)


async def ask_balance(upstream: Upstream, key: str, settings: Settings, now: float) -> Told:
    """The balance of `key`, in the way that relay.yaml names, or in the first that the upstream knows. `now` is seconds
    since the epoch.

    Raises RelayError; never a zero in place of an error.
    """
    if upstream.balance is None:
        raise errors.BalanceUnknown("此上游不提供余额查询。", "This upstream tells no balance.")
    about = balances.BalanceContext(now, settings.balance.window_days, upstream.host, upstream.granted)
    first: errors.RelayError | None = None
    for kind in balances.kinds_for(upstream.balance, upstream.host, key):
        try:
            return Told(await _by(kind, upstream, key, about, settings.balance.timeout), kind.name, now)
        except (errors.BalanceUnknown, _Unreadable) as error:  # it may know another way
            first = first or error
    assert first is not None
    raise first


class _Unreadable(errors.UpstreamFailed):
    """An answer that is none: many sites have a page at every address."""


async def _by(
    kind: balances.BalanceQuery, upstream: Upstream, key: str, about: balances.BalanceContext, timeout: float
) -> money.Balance:
    """Ask all questions of a kind at once, and further pages after them."""
    paths = [_at(upstream, question) for question in kind.questions(about)]
    asked = [asyncio.ensure_future(_part(upstream, path, key, timeout)) for path in paths]
    try:
        answers = await asyncio.gather(*asked)
    finally:
        for task in asked:
            task.cancel()
    try:
        path, deadline = paths[-1], asyncio.get_running_loop().time() + timeout  # for all further pages
        for _ in range(balances.MAX_PAGES):
            if (following := kind.more(path, answers[-1])) is None:
                break
            path = following
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            answers.append(await _part(upstream, path, key, left))
        else:
            raise ValueError("there are too many pages")
        return kind.read(answers, about)
    except ValueError as error:
        raise _Unreadable(
            "无法读取上游的余额信息。", f"The upstream's balance can't be read: {str(error)[:200]}"
        ) from None


def _at(upstream: Upstream, question: str) -> str:
    path, mark, query = question.partition("?")
    return f"{upstream.path(path)}{mark}{query}"


async def _part(upstream: Upstream, path: str, key: str, timeout: float) -> object:
    response = await ask(upstream, path, {"Authorization": f"Bearer {key}"}, timeout=timeout)
    if not 200 <= response.status_code < 300:
        error = upstream_error.read(response.status_code, content_of(response, upstream_error.MAX_BODY))
        if balances.is_closed(upstream.host, response.status_code, error.reason):
            raise errors.BalanceUnknown(
                "OpenAI 不再向普通密钥提供余额查询。", "OpenAI tells no balance to ordinary keys any more."
            )
        if response.status_code in _UNSUPPORTED and error.kind not in _OF_KEYS and error.code != NOT_RECORDED:
            raise errors.BalanceUnknown(
                f"此上游不提供余额查询（HTTP {response.status_code}）。",
                f"This upstream tells no balance (HTTP {response.status_code}).{quoted(error.reason, key, SHOWN)}",
                advice="it tells no balance: see upstreams[].balance; with a wrong upstreams[].url it is the same",
            )
        raise refusal(error, key=key)
    value = await in_turns(_value_of(response, key))
    balance = isinstance(value, dict) and value.keys() & _TOLD
    if (told := upstream_error.find_error(value, strict=bool(balance))) is not None:
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
        raise _Unreadable(
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
