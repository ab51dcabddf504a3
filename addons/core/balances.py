"""How upstreams are asked what is left on a key, and what their answers mean. Each kind is a row of `KINDS`.

    billing          one-api, new-api and most resellers: granted in dollars, used in cents. OpenAI closed it in 2023.
    credit_grants    the same house: what was granted, used, and is left
    newapi           new-api: the quota of one token, in units whose rate the site tells
    openrouter-key   OpenRouter, of one key; `openrouter`: of the account, with a management key
    deepseek, siliconflow, moonshot    what is left, in the account's currency
    costs            OpenAI, with an admin key: what was spent
    ledger           nobody is asked: what relay itself has seen of the key (addons/meter/reports.py)

What an upstream does not tell is None, unless relay.yaml says what was paid in (`upstreams[].granted`). Addresses and
fields: the upstreams' API references.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice

from addons.core.money import UNLIMITED, Balance, amount, from_billing, window


@dataclass(frozen=True)
class BalanceContext:
    """What an answer is read with."""

    now: float
    """Seconds since the epoch."""
    window_days: int
    host: str = ""
    granted: Decimal | None = None
    """Dollars that were paid in, where relay.yaml says so."""


@dataclass(frozen=True)
class BalanceQuery:
    """One way to ask. All questions are asked at once; `more` gives the next page of an answer, if there is one."""

    name: str
    questions: Callable[[BalanceContext], Sequence[str]]
    read: Callable[[Sequence[object], BalanceContext], Balance]
    more: Callable[[str, object], str | None] = lambda _question, _answer: None


MAX_PAGES = 20
"""Pages of one answer that are asked for."""

_BY_HOST = (
    ("openrouter.ai", ("openrouter-key", "openrouter")),
    ("deepseek.com", ("deepseek",)),
    ("siliconflow.cn", ("siliconflow",)),
    ("siliconflow.com", ("siliconflow",)),
    ("moonshot.cn", ("moonshot",)),
    ("moonshot.ai", ("moonshot",)),
    ("openai.com", ("billing",)),
)
_ELSEWHERE = ("billing", "newapi", "credit_grants")
_MOST_ENTRIES = 1000


LEDGER = "ledger"


def is_closed(host: str, status: int, reason: str) -> bool:
    """Whether this is how OpenAI says since 2023 that its billing pages are for its own site: a `session key` is one of
    a browser. It says nothing against the key that was shown."""
    return status in (401, 403) and host.endswith("openai.com") and "session key" in reason.lower()


def kinds_for(named: str, host: str, key: str = "") -> tuple[BalanceQuery, ...]:
    """The kinds to try, in this order: one that is named, or for `auto` those that fit the host, and the key."""
    if named == LEDGER:
        return ()
    if named != "auto":
        return (KINDS[named],)
    if key.startswith("sk-admin-") and host.endswith("openai.com"):
        return (KINDS["costs"],)
    for domain, names in _BY_HOST:
        if host == domain or host.endswith(f".{domain}"):
            return tuple(KINDS[name] for name in names)
    return tuple(KINDS[name] for name in _ELSEWHERE)


# What is asked


def _billing(about: BalanceContext) -> tuple[str, ...]:
    start, end = window(datetime.fromtimestamp(about.now, UTC).date(), about.window_days)
    folder = "/v1/dashboard/billing"
    return f"{folder}/subscription", f"{folder}/usage?start_date={start}&end_date={end}"


def _costs(about: BalanceContext) -> tuple[str, ...]:
    today = datetime.fromtimestamp(about.now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = int((today - timedelta(days=about.window_days)).timestamp())
    return (f"/v1/organization/costs?start_time={start}&bucket_width=1d&limit=180",)


def _one(path: str) -> Callable[[BalanceContext], tuple[str, ...]]:
    return lambda _about: (path,)


def _next_page(question: str, answer: object) -> str | None:
    if isinstance(answer, dict) and answer.get("has_more") is True and isinstance(page := answer.get("next_page"), str):
        if page and len(page) <= 200 and page.replace("_", "").replace("-", "").replace("=", "").isalnum():
            return f"{question.partition('&page=')[0]}&page={page}"
        raise ValueError("costs.next_page is none")
    return None


# What is answered


def _object(where: str, value: object, field: str = "") -> Mapping[str, object]:
    found = value.get(field) if field and isinstance(value, dict) else value
    if not isinstance(found, dict):
        raise ValueError(f"{where}{'.' if field else ''}{field} is not a JSON object")
    return found


def _read_billing(answers: Sequence[object], _about: BalanceContext) -> Balance:
    return from_billing(answers[0], answers[1])


def _read_grants(answers: Sequence[object], _about: BalanceContext) -> Balance:
    grants = _object("credit_grants", answers[0])
    used = amount("credit_grants", grants, "total_used")
    left = amount("credit_grants", grants, "total_available", negative=True)
    return Balance(left + used, used)  # grants that have expired are still in `total_granted`


def _read_openrouter(answers: Sequence[object], _about: BalanceContext) -> Balance:
    credit = _object("credits", answers[0], "data")
    return Balance(amount("credits.data", credit, "total_credits"), amount("credits.data", credit, "total_usage"))


def _read_openrouter_key(answers: Sequence[object], _about: BalanceContext) -> Balance:
    key = _object("key", answers[0], "data")
    if "limit" in key and key["limit"] is None:
        return Balance(UNLIMITED, amount("key.data", key, "usage"))
    limit = amount("key.data", key, "limit")
    return Balance(limit, limit - amount("key.data", key, "limit_remaining", negative=True))


def _successful(where: str, answer: object, **wanted: object) -> None:
    """Raise ValueError for an answer that says of itself that it is none: what else stands in it is not a balance."""
    said = _object(where, answer)
    for name, value in wanted.items():
        if said.get(name) != value or isinstance(said.get(name), bool) != isinstance(value, bool):
            reason = said.get("message") or said.get("error") or said.get(name)
            raise ValueError(f"{where}.{name} says that it failed ({str(reason)[:80]})")


def _list(where: str, value: object, field: str) -> Sequence[object]:
    found = _object(where, value).get(field)
    if not isinstance(found, list):
        raise ValueError(f"{where}.{field} is not a list")
    return found


def _read_newapi(answers: Sequence[object], _about: BalanceContext) -> Balance:
    _successful("token", answers[0], code=True)
    token, site = _object("token", answers[0], "data"), _object("status", answers[1], "data")
    unit = amount("status.data", site, "quota_per_unit")
    if unit <= 0:
        raise ValueError("status.data.quota_per_unit is 0: what a unit is worth is not known")
    used = amount("token.data", token, "total_used") / unit
    if token.get("unlimited_quota") is True:
        return Balance(UNLIMITED, used)
    return Balance(used + amount("token.data", token, "total_available", negative=True) / unit, used)


def _read_deepseek(answers: Sequence[object], about: BalanceContext) -> Balance:
    entries = _object("balance", answers[0]).get("balance_infos")
    found: list[tuple[Decimal, str]] = []
    for entry in entries[:10] if isinstance(entries, list) else []:
        info = _object("balance.balance_infos[]", entry)
        currency = str(info.get("currency") or "")[:8]
        found.append((amount("balance.balance_infos[]", info, "total_balance", negative=True, text=True), currency))
    if not found:
        raise ValueError("balance.balance_infos is empty")
    # One account has one currency; of several that with money in it, dollars first.
    left, currency = max(found, key=lambda each: (each[0] > 0, each[1] == "USD"))
    return _left(left, currency, about)


def _read_siliconflow(answers: Sequence[object], about: BalanceContext) -> Balance:
    _successful("user", answers[0], code=20000)
    info = _object("user", answers[0], "data")
    return _left(amount("user.data", info, "totalBalance", negative=True, text=True), _by_domain(about), about)


def _read_moonshot(answers: Sequence[object], about: BalanceContext) -> Balance:
    _successful("balance", answers[0], code=0, status=True)
    info = _object("balance", answers[0], "data")
    left = amount("balance.data", info, "available_balance", negative=True)
    if "cash_balance" in info and amount("balance.data", info, "cash_balance", negative=True) < 0:
        left = amount("balance.data", info, "voucher_balance")  # a debt can't be paid with vouchers
    return _left(left, _by_domain(about), about)


def _read_costs(answers: Sequence[object], about: BalanceContext) -> Balance:
    used = Decimal(0)
    for page in answers:
        for bucket in islice(_list("costs", page, "data"), _MOST_ENTRIES):
            for result in islice(_list("costs.data[]", bucket, "results"), _MOST_ENTRIES):
                cost = _object("costs.data[].results[]", result, "amount")
                used += amount("costs.data[].results[].amount", cost, "value", negative=True, text=True)
    return Balance(about.granted, used)


def _left(left: Decimal, currency: str, about: BalanceContext) -> Balance:
    """What was paid in is in dollars: of another currency nothing is known but what is left."""
    if about.granted is not None and currency == "USD":
        return Balance(about.granted, about.granted - left)
    return Balance(None, None, left, currency)


def _by_domain(about: BalanceContext) -> str:
    """The sites in China count in yuan, the others in dollars."""
    return "CNY" if about.host.endswith(".cn") else "USD"


KINDS: Mapping[str, BalanceQuery] = {
    kind.name: kind
    for kind in (
        BalanceQuery("billing", _billing, _read_billing),
        BalanceQuery("credit_grants", _one("/v1/dashboard/billing/credit_grants"), _read_grants),
        BalanceQuery("newapi", lambda _about: ("/api/usage/token/", "/api/status"), _read_newapi),
        BalanceQuery("openrouter-key", _one("/v1/key"), _read_openrouter_key),
        BalanceQuery("openrouter", _one("/v1/credits"), _read_openrouter),
        BalanceQuery("deepseek", _one("/user/balance"), _read_deepseek),
        BalanceQuery("siliconflow", _one("/v1/user/info"), _read_siliconflow),
        BalanceQuery("moonshot", _one("/v1/users/me/balance"), _read_moonshot),
        BalanceQuery("costs", _costs, _read_costs, _next_page),
    )
}
