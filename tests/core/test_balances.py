"""What upstreams answer when they are asked for a balance, as their references and users show it."""

from decimal import Decimal
from typing import Any

import pytest

from addons.core.balances import KINDS, BalanceContext, kinds_for
from addons.core.money import UNLIMITED, to_json

NOW = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
ABOUT = BalanceContext(NOW, 90)
CN = BalanceContext(NOW, 90, "api.moonshot.cn")

GRANTS = {"object": "credit_summary", "total_granted": 20.0, "total_used": 1.5, "total_available": 17.0}
TOKEN = {"code": True, "data": {"total_granted": 10_000_000, "total_used": 500_000, "total_available": 9_500_000}}
SITE = {"success": True, "data": {"quota_per_unit": 500_000}}
KEY = {"data": {"limit": 10, "limit_remaining": 7.5, "usage": 40.123, "is_free_tier": False}}


def infos(*entries: tuple[str, str]) -> dict[str, Any]:
    return {
        "is_available": False,
        "balance_infos": [
            {"currency": currency, "total_balance": total, "granted_balance": "0", "topped_up_balance": total}
            for currency, total in entries
        ],
    }


MOONSHOT: dict[str, Any] = {"code": 0, "status": True}


def costs(*amounts: Any, more: str | None = None) -> dict[str, Any]:
    data = [{"object": "bucket", "results": [{"amount": {"value": each, "currency": "usd"}}]} for each in amounts]
    return {"object": "page", "data": data, "has_more": more is not None, "next_page": more}


ROWS: list[Any] = [
    ("billing", [{"hard_limit_usd": 18}, {"total_usage": 8.0}], ABOUT, "18.00", "17.92", "0.08", "USD"),
    ("credit_grants", [GRANTS], ABOUT, "18.50", "17.00", "1.50", "USD"),
    ("newapi", [TOKEN, SITE], ABOUT, "20.00", "19.00", "1.00", "USD"),
    ("openrouter", [{"data": {"total_credits": 110, "total_usage": 42.5}}], ABOUT, "110.00", "67.50", "42.50", "USD"),
    ("openrouter-key", [KEY], ABOUT, "10.00", "7.50", "2.50", "USD"),
    ("deepseek", [infos(("CNY", "110.00"))], ABOUT, None, "110.00", None, "CNY"),
    ("deepseek", [infos(("CNY", "0.00"), ("USD", "3.21"))], ABOUT, None, "3.21", None, "USD"),
    ("deepseek", [infos(("CNY", "-1.5"), ("USD", "0"))], ABOUT, None, "0.00", None, "USD"),
    ("deepseek", [infos(("USD", "15"))], BalanceContext(NOW, 90, "", Decimal(20)), "20.00", "15.00", "5.00", "USD"),
    ("deepseek", [infos(("CNY", "15"))], BalanceContext(NOW, 90, "", Decimal(20)), None, "15.00", None, "CNY"),
    (
        "siliconflow",
        [{"code": 20000, "data": {"balance": "0.88", "totalBalance": "88.88"}}],
        CN,
        None,
        "88.88",
        None,
        "CNY",
    ),
    ("siliconflow", [{"code": 20000, "data": {"totalBalance": "-0.1"}}], ABOUT, None, "-0.10", None, "USD"),
    (
        "moonshot",
        [MOONSHOT | {"data": {"available_balance": 49.58894, "voucher_balance": 46.58893, "cash_balance": 3.00001}}],
        CN,
        None,
        "49.59",
        None,
        "CNY",
    ),
    (
        "moonshot",
        [MOONSHOT | {"data": {"available_balance": 40, "voucher_balance": 46.5, "cash_balance": -6.5}}],
        ABOUT,
        None,
        "46.50",
        None,
        "USD",
    ),
    ("costs", [costs(0.1, "0.2", 0.06)], ABOUT, None, None, "0.36", "USD"),
    ("costs", [costs(1), costs(2.5)], BalanceContext(NOW, 90, "", Decimal("20.00")), "20.00", "16.50", "3.50", "USD"),
]


@pytest.mark.parametrize(("kind", "answers", "about", "total", "left", "used", "currency"), ROWS)
def test_what_is_answered_is_understood(
    kind: str, answers: list[object], about: BalanceContext, total: str, left: str, used: str, currency: str
) -> None:
    told = KINDS[kind].read(answers, about)
    assert told.currency == currency and not told.unlimited
    expected = (
        f"{name}: {value or 'null'}" for name, value in (('"total"', total), ('"balance"', left), ('"used"', used))
    )
    assert to_json(told) == f"{{{', '.join(expected)}}}"


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("billing", [{"hard_limit_usd": 100_000_000}, {"total_usage": 5}]),
        ("newapi", [TOKEN | {"data": TOKEN["data"] | {"unlimited_quota": True}}, SITE]),  # type: ignore[operator]
        ("openrouter-key", [{"data": {"limit": None, "limit_remaining": None, "usage": 3}}]),
    ],
)
def test_a_key_without_a_limit_is_one(kind: str, answers: list[object]) -> None:
    told = KINDS[kind].read(answers, ABOUT)
    assert told.unlimited and told.total == UNLIMITED


BROKEN: list[Any] = [
    ("credit_grants", [{}], "total_used"),
    ("credit_grants", [[]], "not a JSON object"),
    ("newapi", [TOKEN, {"data": {}}], "quota_per_unit"),
    ("newapi", [TOKEN, {"data": {"quota_per_unit": 0}}], "not known"),
    ("newapi", [{"code": True, "data": None}, SITE], "token.data"),
    ("newapi", [TOKEN | {"code": 1}, SITE], "token.code says that it failed"),
    ("newapi", [{"success": False, "message": "token is gone", "data": TOKEN["data"]}, SITE], "token is gone"),
    ("siliconflow", [{"code": 50000, "message": "busy", "data": {"totalBalance": "0"}}], "failed .busy"),
    ("moonshot", [{"code": 1, "status": True, "data": {"available_balance": 0}}], "balance.code says that it failed"),
    ("moonshot", [{"code": 0, "status": False, "data": {"available_balance": 0}}], "balance.status says"),
    ("moonshot", [{"code": False, "status": True, "data": {"available_balance": 0}}], "balance.code says"),
    ("costs", [{}], "costs.data is not a list"),
    ("costs", [{"data": [{}]}], "results is not a list"),
    ("openrouter", [{"data": {"total_credits": "many"}}], "not a number"),
    ("openrouter-key", [{"data": {"usage": 1}}], "limit"),
    ("deepseek", [{"balance_infos": []}], "empty"),
    ("deepseek", [{"balance_infos": "x"}], "empty"),
    ("deepseek", [infos(("CNY", "1e3"))], "not a number"),
    ("deepseek", [infos(("CNY", ""))], "not a number"),
    ("siliconflow", [{"code": 20000, "data": {}}], "totalBalance"),
    ("moonshot", [MOONSHOT | {"data": {"available_balance": True}}], "not a number"),
    ("moonshot", [MOONSHOT | {"data": {"available_balance": 1, "cash_balance": -1}}], "voucher_balance"),
    ("costs", [{"data": [{"results": [{"amount": {"value": None}}]}]}], "value"),
    ("costs", [{"data": [7]}], "not a JSON object"),
]


@pytest.mark.parametrize(("kind", "answers", "words"), BROKEN)
def test_what_is_missing_is_no_zero(kind: str, answers: list[object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        KINDS[kind].read(answers, ABOUT)


@pytest.mark.parametrize(
    ("named", "host", "key", "kinds"),
    [
        ("auto", "api.openai.com", "sk-proj-x", "billing"),
        ("auto", "api.openai.com", "sk-admin-x", "costs"),
        ("auto", "openrouter.ai", "", "openrouter-key openrouter"),
        ("auto", "api.deepseek.com", "", "deepseek"),
        ("auto", "notdeepseek.com", "", "billing newapi credit_grants"),
        ("auto", "api.siliconflow.cn", "", "siliconflow"),
        ("auto", "api.moonshot.ai", "", "moonshot"),
        ("auto", "127.0.0.1", "sk-admin-x", "billing newapi credit_grants"),
        ("moonshot", "api.openai.com", "", "moonshot"),
    ],
)
def test_which_ways_are_tried(named: str, host: str, key: str, kinds: str) -> None:
    assert " ".join(kind.name for kind in kinds_for(named, host, key)) == kinds


@pytest.mark.parametrize(
    ("kind", "questions"),
    [
        ("billing", ["/v1/dashboard/billing/subscription", "?start_date=2023-08-16&end_date=2023-11-15"]),
        ("newapi", ["/api/usage/token/", "/api/status"]),
        ("costs", ["/v1/organization/costs?start_time=1692144000&bucket_width=1d&limit=180"]),
        ("deepseek", ["/user/balance"]),
    ],
)
def test_what_is_asked(kind: str, questions: list[str]) -> None:
    asked = KINDS[kind].questions(ABOUT)
    assert len(asked) == len(questions)
    assert all(one.endswith(other) for one, other in zip(asked, questions, strict=True))


def test_costs_have_pages() -> None:
    more = KINDS["costs"].more
    assert more("/c?a=1", costs(1)) is None
    assert more("/c?a=1", costs(1, more="page_AAA-1=")) == "/c?a=1&page=page_AAA-1="
    assert more("/c?a=1&page=x", costs(1, more="y")) == "/c?a=1&page=y"
    with pytest.raises(ValueError, match="next_page"):
        more("/c?a=1", costs(1, more="x HTTP/1.1\r\n"))
