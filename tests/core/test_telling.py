"""What people read of threads and causes."""

from dataclasses import replace
from decimal import Decimal

import pytest

from addons.core.metered import Metered
from addons.core.threads import telling
from addons.core.threads.causes import Cause, Reason
from addons.core.threads.noted import cause_of
from addons.core.threads.telling import Told

GONE = "tokens that the cache had held were not served"
FIRST = Cause(Reason.FIRST_TURN, tokens=0)
CALL = Told("1", "10:00:00", "4f1c2a9e", None, "gpt-4o", Metered(input=2048, output=5), Decimal("0.0052"), False, FIRST)
CHANGED = Cause(
    Reason.PREFIX_CHANGED,
    part="system",
    path="messages[0].content",
    before="It is 12:00:01.",
    after="It is 12:00:09.",
    tokens=2048,
    cost=Decimal("0.00512"),
    previous="1",
)
LATER = Told("2", "10:00:09", "4f1c2a9e", "ab12cd34", "gpt-4o", Metered(input=2100), None, False, CHANGED)


def test_why() -> None:
    assert telling.why(LATER, CALL) == [
        "10:00:09  gpt-4o  thread 4f1c2a9e of ab12cd34",
        "prefix changed: the system prompt is another one; keep it as it is, and put what changes behind the last "
        "message; it looks like a time or an id: put it behind the last message",
        "  at      messages[0].content",
        "  before  It is 12:00:01.",
        "  after   It is 12:00:09.",
        "  2,048 tokens that the cache had held were not served: $0.0051 at list price",
        "  against the call of 10:00:00",
        "  2,100 tokens in, 0 of them cached, 0 out",
    ]


def test_a_turn_needs_no_more_than_its_name() -> None:
    turn = Cause(Reason.NEW_TURN, path="messages[3]", after="{...}", tokens=0)
    assert telling.told(turn) == ["new turn: there is more behind the last message, and nothing else has changed"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tokens": None}, "how much the upstream's cache could have served is not known"),
        ({"tokens": 5, "cost": None}, f"5 {GONE}: at a price that is not known"),
        (
            {"tokens": 5, "cost": "1e29"},
            f"5 {GONE}: at a price that is not known",
        ),
        (
            {"tokens": 5, "cost": "0.00000125"},
            f"5 {GONE}: $0.00000125 at list price",
        ),
    ],
)
def test_what_is_not_known_is_said(more: dict[str, object], words: str) -> None:
    cause = cause_of({"reason": "retry", **more})
    assert cause is not None and telling.told(cause)[-1] == f"  {words}"


def test_where_the_money_went() -> None:
    assert telling.totals([CALL, LATER]) == [
        "thread 4f1c2a9e: 2 calls, $0.0052 and 1 call at a price that is not known",
        "by cause",
        "  first turn           1 call, $0.0052",
        "  prefix changed       1 call, at a price that is not known; 2,048 tokens not from the cache, $0.0051",
    ]


def test_the_latest_thread_stands_first() -> None:
    other = Told("3", "10:00:05", "aaaaaaaa", "4f1c2a9e", "gpt-4o-mini", None, None, False, Cause(Reason.RETRY))
    assert telling.overview([CALL, other, LATER]) == [
        "4f1c2a9e  2 calls  gpt-4o  4,148 tokens in, 0 cached, $0.0052 and 1 call at a price that is not known, "
        "1 × prefix changed  last 10:00:09",
        "aaaaaaaa of 4f1c2a9e  1 call  gpt-4o-mini  tokens were not told, at a price that is not known, 1 × retry  "
        "last 10:00:05",
    ]


def test_tools_that_take_most_room_stand_first() -> None:
    sizes = {f"tool {number}": 100 + number for number in range(14)}
    lines = telling.tools(sizes)
    assert lines[0].startswith("tools by bytes: 14 tools, 1.5 kB in each call")
    assert lines[1].split() == ["tool", "13", "113", "bytes"] and lines[-1] == "  and 2 others"
    assert telling.tools({}) == []


def test_sums_say_what_of_them_is_an_estimate_and_what_is_not_known() -> None:
    estimated = replace(CALL, cost=Decimal("0.5"), estimated=True)
    unknown = replace(LATER, cause=replace(CHANGED, tokens=None, cost=None))
    unpriced = replace(LATER, cause=replace(CHANGED, cost=None))
    assert telling.totals([CALL, estimated, LATER, unknown, unpriced]) == [
        "thread 4f1c2a9e: 5 calls, ~$0.5052 and 3 calls at a price that is not known",
        "by cause",
        "  prefix changed      3 calls, at a price that is not known; 4,096 + ? tokens not from the cache, $0.0051 + ?",
        "  first turn          2 calls, ~$0.5052",
    ]
    assert telling.totals([unknown])[-1].endswith("; how much the cache could have served is not known")
    assert telling.totals([unpriced])[-1].endswith("; 2,048 tokens not from the cache, at a price that is not known")
    assert telling.why(estimated, None)[-1] == "  2,048 tokens in, 0 of them cached, 5 out, ~$0.5000"
