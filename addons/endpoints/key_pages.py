"""Key pages: what apps ask about a key, answered by relay for the keys that it has handed out.

Apps know one-api's and new-api's addresses for that (https://github.com/songquanpeng/one-api, controller/billing.go):
all of them tell the same amounts here, those of `/pro/balance`, whatever span of time is asked for.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from mitmproxy import connection, http

from addons import errors
from addons.core.money import Balance
from addons.core.paths import STATUS_PAGE, TOKEN_PAGE
from addons.core.rates import dollars
from addons.core.relay_keys import RelayKey
from addons.exchange import Exchange, Kind, ongoing
from addons.flow.answers import answer, json_response, refuse
from addons.flow.credentials import keys_in
from addons.flow.leaving import Waiting
from addons.meter import reports
from addons.meter.gate import Gate
from addons.meter.reports import UNPRICED, Days
from addons.store import StoreError

UNIT = 500_000
"""Quota units of a dollar, as one-api and new-api count them."""
_FOREVER = "2099-12-31"
_SHOWN_DAYS = 31


class KeyPages:
    """Answers the billing pages for relay keys. Other keys' questions pass."""

    serves = (Kind.PASS, Kind.OWN)

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._asking = Waiting()

    def requestheaders(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Answer at once: none of these has a body."""
        exchange = ongoing(flow, Kind.PASS, Kind.OWN)
        page = _page(exchange) if exchange is not None else None
        if exchange is None or page is None:
            return None
        if flow.request.method in ("GET", "HEAD"):
            if page is _status and self.gate.keyring.any:
                answer(flow, json_response(_json(_site())))
                return None
            try:
                key = self._key(flow)
            except errors.RelayError as error:
                refuse(flow, exchange, error)
                return None
            if key is not None:
                return self._answer(flow, exchange, key, page)
        if exchange.kind == Kind.OWN:
            refuse(flow, exchange, self._refusal(flow.request.method))
        return None

    def _key(self, flow: http.HTTPFlow) -> RelayKey | None:
        """The relay key in a head, if there is one. Raises RelayError, also for one that does not work."""
        keyring = self.gate.keyring
        for text in keys_in(flow.request.headers.fields):
            if (found := keyring.find(text)) is not None:
                return keyring.check(found, text, self.gate.clock())
        return None

    def _refusal(self, method: str) -> errors.RelayError:
        if not self.gate.keyring.any:
            return errors.NotFound("没有这个路径。", "Unknown path.", code="unknown_path")
        if method not in ("GET", "HEAD"):
            return errors.MethodNotAllowed(method, "GET")
        return errors.Unauthorized(
            "请在 Authorization 请求头中提供此中转服务发放的密钥。",
            "Send a key that this relay has handed out, as Authorization: Bearer rk-...",
        )

    async def _answer(self, flow: http.HTTPFlow, exchange: Exchange, key: RelayKey, page: "_Page") -> None:
        now = self.gate.clock()
        try:
            told = await reports.of_relay_key(self.gate, key, now)
            days = Days()
            if page is _usage:
                daily = reports.daily(self.gate, key, now, _SHOWN_DAYS)
                days = await self._asking.do(flow.client_conn, daily, exchange)
            said = page(key, told.balance, days)
            if UNPRICED in told.more and page is not _subscription:
                said = {**said, UNPRICED: told.more[UNPRICED]}
            answer(flow, json_response(_json(said)))
        except errors.RelayError as error:
            refuse(flow, exchange, error)
        except StoreError:
            refuse(flow, exchange, reports.unreadable())

    def client_disconnected(self, client: connection.Client) -> None:
        """Nobody waits for the answer any more."""
        self._asking.left(client)


type _Page = Callable[[RelayKey, Balance, Days], Mapping[str, object]]


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=_number).encode()


def _number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(type(value).__name__)


def _expiry(key: RelayKey) -> int:
    """When it no longer works, in seconds since the epoch; 0 for never."""
    if key.expires is None:
        return 0
    return int(datetime(key.expires.year, key.expires.month, key.expires.day, 23, 59, 59, tzinfo=UTC).timestamp())


def _subscription(key: RelayKey, balance: Balance, _days: Days) -> Mapping[str, object]:
    never = int(datetime.fromisoformat(f"{_FOREVER}T00:00:00+00:00").timestamp())
    return {
        "object": "billing_subscription",
        "has_payment_method": True,
        "soft_limit_usd": balance.total,
        "hard_limit_usd": balance.total,
        "system_hard_limit_usd": balance.total,
        "access_until": _expiry(key) or never,
    }


def _usage(_key: RelayKey, balance: Balance, days: Days) -> Mapping[str, object]:
    """In cents. `daily_costs` has the shape that OpenAI's page had until 2023."""
    costs = [
        {
            "timestamp": datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp(),
            "line_items": [{"name": model, "cost": dollars(amount) * 100} for model, amount in sorted(models.items())],
        }
        for day, models in sorted(days.amounts.items())
    ]
    told = {"object": "list", "daily_costs": costs, "total_usage": None if balance.used is None else balance.used * 100}
    return told if days.whole else {**told, "incomplete": True}


def _grants(_key: RelayKey, balance: Balance, _days: Days) -> Mapping[str, object]:
    return {
        "object": "credit_summary",
        "total_granted": balance.total,
        "total_used": balance.used,
        "total_available": balance.balance,
    }


def _token(key: RelayKey, balance: Balance, _days: Days) -> Mapping[str, object]:
    units = {
        "total_granted": balance.total,
        "total_used": balance.used,
        "total_available": balance.balance,
    }
    data: dict[str, object] = {"object": "token_usage", "name": key.name}
    data |= {name: None if amount is None else int(amount * UNIT) for name, amount in units.items()}
    data |= {"unlimited_quota": key.budget is None, "model_limits": {name: True for name in key.models}}
    data |= {"model_limits_enabled": bool(key.models), "expires_at": _expiry(key)}
    return {"code": True, "message": "ok", "data": data}


def _status(_key: RelayKey, _balance: Balance, _days: Days) -> Mapping[str, object]:
    return _site()


def _site() -> Mapping[str, object]:
    """What is told of this site, to anybody."""
    return {"success": True, "message": "", "data": {"quota_per_unit": UNIT}}


_BILLING: Mapping[str, _Page] = {"subscription": _subscription, "usage": _usage, "credit_grants": _grants}
_FOLDERS = ("/v1/dashboard/billing/", "/dashboard/billing/")
_OWN: Mapping[str, _Page] = {
    TOKEN_PAGE: _token,
    f"{TOKEN_PAGE}/": _token,  # as new-api calls it
    STATUS_PAGE: _status,
    f"{STATUS_PAGE}/": _status,
}


def _page(exchange: Exchange) -> _Page | None:
    path = exchange.path.rstrip("/")
    if exchange.kind == Kind.OWN:
        return _OWN.get(path)
    folder = next((each for each in _FOLDERS if path.startswith(each)), None)
    return None if folder is None else _BILLING.get(path.removeprefix(folder))
