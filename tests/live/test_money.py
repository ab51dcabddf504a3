"""Money, end to end: a real relay before an upstream that keeps its own invoice.

What is settled agrees with what was billed to a billionth of a dollar, budgets are never passed, and nothing is held at
rest, whatever breaks. Longer: `./run.sh bench --histories 10000`.
"""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from addons.store.ledger import NAME as LEDGER
from tests.support import histories, live
from tests.support.asking import ask
from tests.support.invoice import Invoice
from tests.support.live import Live, eventually

KEY = "rk-proof-0123456789abcdefghijklmnop"
UPSTREAM_KEYS = ["sk-real-0123456789abcdef"]
PRICES = {"my-model": {"input": 1, "output": 2, "cached": 0.25}}


def listed(**more: Any) -> dict[str, Any]:
    return {"list": [{"name": "proof", "key": KEY, **more}]}


def relay(folder: Path, invoice: Invoice, budget: float = 1000, **more: Any) -> Any:
    upstream = [{"name": "test", "url": invoice.url, "keys": UPSTREAM_KEYS}]
    keys = listed(budget={"amount": budget})
    return live.relay(folder, upstream, keys=keys, prices=PRICES, store={"path": "store"}, **more)


def rows(folder: Path, table: str = "Settlements") -> list[Mapping[str, Any]]:
    sql = sqlite3.connect(f"{(folder / 'store' / LEDGER).as_uri()}?mode=ro", uri=True, timeout=5)
    sql.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in sql.execute(f"SELECT * FROM {table}")]
    finally:
        sql.close()


@pytest.fixture(scope="module")
def invoice() -> Iterator[Invoice]:
    with Invoice.running() as running:
        yield running


@pytest.fixture(scope="module")
def proof(invoice: Invoice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with relay(tmp_path_factory.mktemp("proof"), invoice) as running:
        yield running


CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
USED = {"in": 1234, "cached": 1000, "out": 57}
ANSWERS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "JSON": (CHAT, "gpt-4o", {}, {"how": "json"}),
    "JSON of another model": (CHAT, "gpt-4o-mini", {}, {"how": "json"}),
    "JSON of a model that relay.yaml prices": (CHAT, "my-model", {}, {"how": "json"}),
    "JSON of a dearer tier": (CHAT, "gpt-4.1", {}, {"how": "json", "tier": "priority"}),
    "a stream, its usage in the last chunk": (CHAT, "gpt-4o", {"stream": True}, {"how": "last"}),
    "a stream that was asked for its usage": (
        CHAT,
        "gpt-4o",
        {"stream": True, "stream_options": {"include_usage": True}},
        {"how": "last"},
    ),
    "a stream, its usage in the middle": (CHAT, "gpt-4o", {"stream": True}, {"how": "middle"}),
    "a stream of a dearer tier": (CHAT, "gpt-4.1", {"stream": True}, {"how": "last", "tier": "priority"}),
    "a response": (RESPONSES, "gpt-4o", {}, {"how": "completed"}),
    "a response's stream": (RESPONSES, "gpt-4o", {"stream": True}, {"how": "completed"}),
    "a response that is cut short": (RESPONSES, "gpt-4o", {"stream": True}, {"how": "incomplete"}),
    "a message": (MESSAGES, "claude-sonnet-4-5", {}, {"how": "json", "written": 100}),
    "a message's stream": (MESSAGES, "claude-sonnet-4-5", {"stream": True}, {"how": "x", "written": 100}),
    "embeddings": ("/v1/embeddings", "text-embedding-3-small", {}, {"how": "json", "cached": 0, "out": 0}),
    "an answer that breaks off": (CHAT, "gpt-4o", {"stream": True}, {"how": "break"}),
    "an error in the midst of a stream": (CHAT, "gpt-4o", {"stream": True}, {"how": "error"}),
    "a refusal": (CHAT, "gpt-4o", {}, {"how": "refuse"}),
    "no answer at all": (CHAT, "gpt-4o", {}, {"how": "hang up"}),
}


@pytest.mark.parametrize(("path", "model", "body", "plan"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_settled_to_a_billionth(
    proof: Live, invoice: Invoice, path: str, model: str, body: dict[str, Any], plan: dict[str, Any]
) -> None:
    tag = f"{path} {model} {body} {plan}"
    content = json.dumps({"tag": tag, **USED, **plan})
    field = {"input": content} if path in (RESPONSES, "/v1/embeddings") else {"messages": [{"content": content}]}
    bound = {"max_output_tokens": 100} if path == RESPONSES else {} if "embed" in path else {"max_tokens": 100}
    asked = {"model": model, **field, **bound, **body}
    heard = asyncio.run(ask(proof.port, path, KEY, asked))
    found: list[Mapping[str, Any]] = []

    def settled() -> bool:
        found[:] = [row for row in rows(proof.folder) if row["request"] == heard.request] if heard.request else []
        return bool(found)

    assert eventually(settled), heard
    billed = sum(each.nano for each in invoice.billed.get(tag, []))
    assert found[0]["amount"] == billed
    assert (billed > 0) == (plan["how"] not in ("break", "error", "refuse", "hang up"))
    assert not found[0]["estimated"]


def test_after_all_of_them_nothing_is_held(proof: Live) -> None:
    asked = {"model": "gpt-4o", "messages": [{"content": json.dumps({"tag": "last", **USED})}], "max_tokens": 100}
    assert asyncio.run(ask(proof.port, CHAT, KEY, asked)).status == 200

    def at_rest() -> bool:
        return {row["request"] for row in rows(proof.folder, "Holds")} <= {row["request"] for row in rows(proof.folder)}

    assert eventually(at_rest)
    answer = proof.ask("GET", f"/pro/balance?apiKey={KEY}").json()
    spent = sum(row["amount"] for row in rows(proof.folder))
    assert "held" not in answer["detail"] and spent > 0
    assert answer["data"]["used"] == round(spent / 10**9 + 1e-12, 2)


def test_where_upstream_tells_nothing_an_estimate_is_marked(proof: Live, invoice: Invoice) -> None:
    for how, body in (("silent", {}), ("none", {"stream": True})):
        content = json.dumps({"tag": how, "how": how, **USED})
        asked = {"model": "gpt-4o", "messages": [{"content": content}], "max_tokens": 100, **body}
        heard = asyncio.run(ask(proof.port, CHAT, KEY, asked))
        assert eventually(lambda heard=heard: any(row["request"] == heard.request for row in rows(proof.folder)))
        [row] = [row for row in rows(proof.folder) if row["request"] == heard.request]
        [hold] = [row for row in rows(proof.folder, "Holds") if row["request"] == heard.request]
        assert row["estimated"] and 0 < row["amount"] <= hold["amount"]


def test_a_client_that_leaves_pays_for_what_had_come(proof: Live, invoice: Invoice) -> None:
    content = json.dumps({"tag": "left", "how": "last", "in": 20, "out": 90, "pace": 0.02})
    asked = {"model": "gpt-4o", "messages": [{"content": content}], "max_tokens": 100, "stream": True}
    heard = asyncio.run(ask(proof.port, CHAT, KEY, asked, leave_after=1))
    assert eventually(lambda: any(row["request"] == heard.request for row in rows(proof.folder)))
    [row] = [row for row in rows(proof.folder) if row["request"] == heard.request]
    [hold] = [row for row in rows(proof.folder, "Holds") if row["request"] == heard.request]
    assert (row["reason"], row["estimated"]) == ("client left", 1)
    assert 0 < row["amount"] < hold["amount"] // 2, "not in full, and not nothing"
    assert eventually(lambda: invoice.under_way == 0), "and upstream was let go"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_relay_that_is_told_to_end_settles_what_is_under_way(invoice: Invoice, tmp_path: Path, workers: int) -> None:
    content = json.dumps({"tag": f"ended, {workers}", "how": "last", "in": 20, "out": 400, "pace": 0.05})
    body = {"model": "gpt-4o", "messages": [{"content": content}], "max_tokens": 400, "stream": True}
    with relay(tmp_path, invoice, workers=workers) as running:
        asking = threading.Thread(target=lambda: asyncio.run(ask(running.port, CHAT, KEY, body)))
        asking.start()
        assert eventually(lambda: invoice.under_way > 0, 10)
        assert running.stop() == 0
        asking.join()
    [row], [hold] = rows(tmp_path), rows(tmp_path, "Holds")
    assert (row["reason"], row["estimated"]) == ("relay ended", 1)
    assert 0 < row["amount"] < hold["amount"] // 2


@pytest.mark.parametrize("workers", [1, 2])
def test_of_200_at_once_exactly_27_are_admitted(invoice: Invoice, tmp_path: Path, workers: int) -> None:
    content = json.dumps({"tag": f"of 200, {workers}", "how": "json", "wait": 2.5, "in": 5, "out": 5})
    body = {"model": "gpt-4o", "messages": [{"content": content}], "max_tokens": 100, "service_tier": "default"}
    hold = len(json.dumps(body)) * 2500 + 100 * 10_000
    budget = (27 * hold + hold - 1) / 10**9
    with relay(tmp_path, invoice, budget, workers=workers) as running:
        # The list of prices takes a second to load, once in each worker.
        warm = {"model": "gpt-4o", "messages": [], "max_tokens": 10**9}
        for _ in range(3 * workers):
            asyncio.run(ask(running.port, CHAT, KEY, warm))

        async def at_once() -> list[Any]:
            return list(await asyncio.gather(*(ask(running.port, CHAT, KEY, body) for _ in range(200))))

        heard = asyncio.run(at_once())
        statuses = sorted(each.status for each in heard)
        assert statuses == [200] * 27 + [429] * 173
        assert len(invoice.billed[f"of 200, {workers}"]) == 27
        assert eventually(lambda: len(rows(tmp_path)) == 27)
        assert sum(row["amount"] for row in rows(tmp_path)) == sum(
            each.nano for each in invoice.billed[f"of 200, {workers}"]
        )


def test_random_histories_hold(tmp_path: Path) -> None:
    """200 of them, relay killed four times."""
    played = histories.play(tmp_path, 200, 20_261_130, 50)
    assert played.requests > 1000 and played.refusals > 100 and played.kills == 4
