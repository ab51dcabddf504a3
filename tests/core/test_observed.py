"""What is told of an exchange: every label from a list, and lines that are JSON."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.generations import Generation
from addons.core.log_line import exchange_line, message_line
from addons.core.metered import Metered
from addons.core.observed import (
    CODES,
    KINDS,
    OPERATIONS,
    OWN_ENDPOINTS,
    Observed,
    Outcome,
    Used,
    endpoint,
    kind_of_code,
    kind_of_status,
    status_class,
)
from addons.core.paths import OPENAI
from addons.exchange import Kind

ADDONS = Path(__file__).resolve().parents[2] / "addons"


@pytest.mark.parametrize(
    ("kind", "path", "generation", "expected"),
    [
        ("pass", "/v1/chat/completions", Generation.CHAT, "chat_completions"),
        ("pass", "/v1/chat/completions/chatcmpl-1", None, "chat_completions"),
        ("pass", "/v1/files/file-1/content", None, "files"),
        ("pass", "/v1/dashboard/billing/subscription", None, "billing"),
        ("pass", "/dashboard/billing/usage", None, "billing"),
        ("pass", "/v1/sk-secret/x", None, "other"),
        ("pass", "/v1", None, "other"),
        ("pass", "/api/paas/v4/chat/completions", Generation.CHAT, "chat_completions"),
        ("chat", "/chat/session", None, "relay_chat"),
        ("own", "/nothing", None, "relay"),
    ],
)
def test_an_endpoint_is_a_word(kind: str, path: str, generation: Generation | None, expected: str) -> None:
    assert endpoint(kind, path, generation) == expected


@given(st.text(), st.sampled_from(list(Kind)))
def test_no_path_makes_an_endpoint_of_its_own(path: str, kind: Kind) -> None:
    assert endpoint(kind.value, path, None) in {
        *OPENAI,
        *OWN_ENDPOINTS.values(),
        "chat_completions",
        "billing",
        "other",
    }


def test_every_kind_of_work_has_an_operation() -> None:
    assert OPERATIONS.keys() == set(Generation)
    assert OWN_ENDPOINTS.keys() == set(Kind) - {Kind.PASS}


def test_every_code_of_an_error_has_a_label() -> None:
    """A code that is added has to be added to the list, too: labels have no others."""
    said = "".join(file.read_text(encoding="utf-8") for file in ADDONS.rglob("*.py"))
    codes = set(re.findall(r'^    code(?:: str)? = "(\w+)"|\bcode="(\w+)"', said, re.MULTILINE))
    assert {first or second for first, second in codes} - {"refused"} <= CODES


@given(st.integers(), st.text())
def test_kinds_come_from_a_list(status: int, code: str) -> None:
    assert kind_of_status(status) in KINDS and kind_of_code(code) in KINDS
    assert status_class(status) in {"none", "1xx", "2xx", "3xx", "4xx", "5xx"}


TURNS = st.tuples(st.none() | st.integers(0, 100), st.none() | st.integers(0, 100))


@given(st.lists(TURNS, min_size=1))
def test_of_several_turns_the_sum_is_known_if_all_are(turns: list[tuple[int | None, int | None]]) -> None:
    used = Used()
    for tokens, cost in turns:
        used.add("m", None if tokens is None else Metered(input=tokens), cost, estimated=False)
    told = [count for count, _ in turns if count is not None]
    costs = [cost for _, cost in turns if cost is not None]
    assert used.usage == (Metered(input=sum(told)) if len(told) == len(turns) else None)
    assert used.cost == (sum(costs) if len(costs) == len(turns) else None)


@given(st.text(), st.text(), st.none() | st.integers(0, 10**15))
def test_a_line_is_one_line_of_json(path: str, model: str, cost: int | None) -> None:
    seen = Observed(
        id="req_1",
        ended=1_767_225_600.25,
        seconds=0.5,
        endpoint="files",
        path=path,
        status=None,
        outcome=Outcome.LEFT,
        used=Used(model=model, usage=None, cost=cost),
    )
    line = exchange_line(seen)
    assert len(line.splitlines()) == 1
    told = json.loads(line.encode("utf-8"))
    assert told["time"] == "2026-01-01T00:00:00.250Z" and told["path"] == path
    assert told["tokens"] is None and told["status"] is None
    assert told["cost"] is None if cost is None else int(told["cost"].replace(".", "")) == cost
    assert len(message_line(0, "info", path).splitlines()) == 1
