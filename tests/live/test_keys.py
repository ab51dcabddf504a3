"""Relay keys, as whoever holds one meets them: the SDK, curl, balance pages of apps, `/chat`, websockets, commands."""

import base64
import gzip
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from mitmproxy import io as mio
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from addons.cli.__main__ import main
from addons.cli.fake_openai.answer import Behaviour
from addons.cli.fake_openai.server import Upstream
from addons.store.ledger import NAME as LEDGER
from tests.live.test_wire_websocket import Refused, Socket
from tests.support import live
from tests.support.live import ROOT, Live, environment, eventually
from tests.support.raw import Client

REAL = "sk-real-MARKx-0123456789abcdef"
ALICE = "rk-alice-MARKx-0123456789abcdef"
BOB = "rk-bob-MARKx-0123456789abcdefgh"
SMALL = "rk-small-MARKx-0123456789abcdef"
SLOW = "rk-slow-MARKx-0123456789abcdefg"
OLD = "rk-old-MARKx-0123456789abcdefghi"
EVERYTHING = "rk-every-MARKx-0123456789abcdef"
APPS = "rk-apps-MARKx-0123456789abcdefg"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"

LISTED = [
    {"name": "alice", "key": ALICE, "budget": {"amount": 5, "per": "month"}},
    {"name": "bob", "key": BOB, "models": ["gpt-4o*"], "paths": ["/v1/chat/completions", "/v1/models"]},
    {"name": "small", "key": SMALL, "budget": {"amount": 0.001}},
    {"name": "slow", "key": SLOW, "rate": {"requests": 2}},
    {"name": "old", "key": OLD, "expires": "2020-01-31"},
    {"name": "every", "key": EVERYTHING},
    {"name": "apps", "key": APPS, "budget": {"amount": 5, "per": "month"}},
]


def settings(upstream: Upstream) -> dict[str, Any]:
    return {
        "upstreams": [{"name": "test", "url": upstream.url, "keys": [REAL]}],
        "keys": {"list": LISTED},
        "store": {"path": "store"},
        "limits": {"json": "200k"},
    }


def started(folder: Path, upstream: Upstream, arguments: tuple[str, ...] = (), **more: Any) -> Any:
    written = settings(upstream) | more
    return live.relay(folder, written.pop("upstreams"), arguments, **written)


@pytest.fixture(scope="module")
def relay(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with started(tmp_path_factory.mktemp("relay"), upstream) as running:
        yield running


def rest(relay: Live) -> None:
    """Wait until no key is set aside any more that an upstream has refused."""

    def is_used() -> bool:
        return all(each["keys"]["aside"] == 0 for each in relay.ask("GET", "/readyz").json()["upstreams"])

    assert eventually(is_used, 20)


@pytest.fixture(autouse=True)
def rested(request: pytest.FixtureRequest) -> None:
    if "relay" in request.fixturenames:
        rest(request.getfixturevalue("relay"))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def client(relay: Live, key: str, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"{relay.url}/v1", max_retries=retries, timeout=10)


def rows(relay: Live, name: str | None = None) -> list[Mapping[str, Any]]:
    sql = sqlite3.connect(f"{(relay.folder / 'store' / LEDGER).as_uri()}?mode=ro", uri=True, timeout=5)
    sql.row_factory = sqlite3.Row
    try:
        found = [dict(row) for row in sql.execute("SELECT * FROM Settlements ORDER BY at")]
    finally:
        sql.close()
    return [row for row in found if name is None or row["name"] == name]


def settled(relay: Live, request: str) -> Mapping[str, Any]:
    assert eventually(lambda: any(row["request"] == request for row in rows(relay))), request
    return next(row for row in rows(relay) if row["request"] == request)


def run(relay: Live, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "addons.cli", *arguments],
        cwd=relay.folder,
        env=environment(RELAY_CONFIG=str(relay.folder / "relay.yaml")),
        capture_output=True,
        text=True,
        timeout=30,
    )


# The official API


def test_upstream_sees_relay_s_own_key_and_the_rest_as_it_was(relay: Live, upstream: Upstream) -> None:
    body = b'{ "model":"gpt-4o-mini", "messages":[{"role":"user","content":"\xe4\xbd\xa0"}] , "max_tokens":20 }'
    answer = relay.ask("POST", CHAT, body, bearer(ALICE))
    assert answer.status == 200
    seen = upstream.seen[-1]
    assert seen.header("authorization") == f"Bearer {REAL}" and seen.body == body
    row = settled(relay, answer.headers["x-relay-request-id"])
    usage = answer.json()["usage"]
    assert json.loads(row["usage"])["input"] == usage["prompt_tokens"]
    assert row["amount"] == usage["prompt_tokens"] * 150 + usage["completion_tokens"] * 600


@pytest.mark.parametrize("name", ["x-api-key", "api-key"])
def test_the_key_may_stand_in_other_headers(relay: Live, upstream: Upstream, name: str) -> None:
    assert relay.ask("GET", "/v1/models", headers={name: BOB, **bearer(REAL)}).status == 200
    assert upstream.seen[-1].header(name) == REAL


def test_the_sdk_streams_and_sees_no_chunk_that_it_did_not_ask_for(relay: Live, upstream: Upstream) -> None:
    with client(relay, ALICE) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=HELLO, stream=True, max_tokens=50
        )
        chunks = list(raw.parse())
    assert all(chunk.choices for chunk in chunks) and chunks[-1].choices[0].finish_reason == "stop"
    assert json.loads(upstream.seen[-1].body)["stream_options"] == {"include_usage": True}
    assert upstream.seen[-1].header("accept-encoding") == "identity"
    with client(relay, ALICE) as sdk:
        options: Any = {"include_usage": True}
        asked = sdk.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=HELLO, stream=True, max_tokens=50, stream_options=options
        )
        chunks = list(asked.parse())
    assert chunks[-1].usage is not None and not chunks[-1].choices
    both = [settled(relay, each.headers["x-relay-request-id"])["amount"] for each in (raw, asked)]
    assert both[0] == both[1] > 0, "both cost the same"


def test_a_stream_of_known_length_is_edited_too(relay: Live, upstream: Upstream) -> None:
    events = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
    whole = events + usage + b"data: [DONE]\n\n"
    upstream.script(CHAT, Behaviour(headers=[("Content-Type", "text/event-stream")], body=whole))
    answer = relay.ask(
        "POST", CHAT, {"model": "gpt-4o", "messages": HELLO, "stream": True, "max_tokens": 9}, bearer(ALICE)
    )
    assert answer.body == events + b"data: [DONE]\n\n"
    assert settled(relay, answer.headers["x-relay-request-id"])["amount"] == 3 * 2500 + 4 * 10_000


def test_errors_are_those_of_the_sdk(relay: Live, upstream: Upstream) -> None:
    asked = len(upstream.seen)
    with client(relay, SMALL, retries=2) as sdk, pytest.raises(openai.RateLimitError) as over:
        sdk.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=5000)
    assert over.value.code == "insufficient_quota" and over.value.response.headers["x-should-retry"] == "false"
    with client(relay, BOB) as sdk, pytest.raises(openai.PermissionDeniedError, match="o3"):
        sdk.chat.completions.create(model="o3", messages=HELLO)
    with client(relay, BOB) as sdk, pytest.raises(openai.PermissionDeniedError):
        sdk.embeddings.create(model="gpt-4o", input="x")
    with client(relay, OLD) as sdk, pytest.raises(openai.AuthenticationError, match="2020-01-31"):
        sdk.models.list()
    with client(relay, "sk-somebody-else-0123456789") as sdk, pytest.raises(openai.AuthenticationError):
        sdk.models.list()
    assert len(upstream.seen) == asked, "none of them went up, and none twice"


def test_too_many_a_minute(relay: Live) -> None:
    with client(relay, SLOW) as sdk:
        sdk.models.list()
        sdk.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            sdk.models.list()
    assert caught.value.code == "rate_limit_exceeded" and 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_models_are_those_that_the_key_may_use(relay: Live) -> None:
    every = [each["id"] for each in relay.ask("GET", "/v1/models", headers=bearer(EVERYTHING)).json()["data"]]
    mine = [each["id"] for each in relay.ask("GET", "/v1/models", headers=bearer(BOB)).json()["data"]]
    assert mine == [name for name in every if name.startswith("gpt-4o")] and 0 < len(mine) < len(every)
    assert relay.ask("GET", f"/v1/models/{mine[0]}", headers=bearer(BOB)).status == 200
    assert relay.ask("GET", "/v1/models/o3", headers=bearer(BOB)).status == 403


def test_an_upstream_that_refuses_relay_s_key_is_relay_s_failure(relay: Live, upstream: Upstream) -> None:
    for path, body in ((CHAT, {"model": "gpt-4o", "messages": HELLO, "max_tokens": 5}), ("/v1/moderations", {})):
        refusal = {"error": {"message": f"Incorrect API key provided: {REAL}", "code": "invalid_api_key"}}
        upstream.script(path, Behaviour(status=401, body=json.dumps(refusal).encode()))
        answer = relay.ask("POST", path, body, bearer(ALICE))
        assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_key_refused")
        assert REAL not in answer.body.decode()
        rest(relay)


def test_paths_whose_cost_nobody_knows_are_closed_to_a_budget(relay: Live) -> None:
    for path in (
        "/v1/batches",
        "/v1/fine_tuning/jobs",
        "/v1/realtime/sessions",
        "/v1/chat/completions/x",
        "/v1/videos",
    ):
        assert relay.ask("POST", path, {"model": "gpt-4o"}, bearer(ALICE)).status == 403, path
        assert relay.ask("POST", path, {"model": "gpt-4o"}, bearer(EVERYTHING)).status != 403, path
    assert relay.ask("POST", "/v1/moderations", {"input": "x"}, bearer(ALICE)).status == 200
    for path in ("/v1/files", "/v1/responses/resp_1", "/v1/chat/completions"):
        assert relay.ask("GET", path, headers=bearer(ALICE)).status == 403, path


def test_a_budget_can_t_be_gone_round(relay: Live, upstream: Upstream) -> None:
    """Ways of asking for more than was read."""
    asked = len(upstream.seen)
    dear = json.dumps({"model": "gpt-4o", "messages": HELLO, "max_tokens": 100_000}).encode()
    for path in (CHAT, "//v1/chat/completions", "/chat/completions", "/v1/chat%2Fcompletions", "/v1/Chat/Completions"):
        assert relay.ask("POST", path, dear, bearer(SMALL)).status in (403, 404, 429), path
    assert relay.ask("PUT", CHAT, dear, bearer(SMALL)).status in (403, 429)
    twice = dear[:-1] + b', "max_tokens": 1}'
    assert relay.ask("POST", CHAT, twice, bearer(SMALL)).json()["error"]["code"] == "duplicate_field"
    assert relay.ask("POST", CHAT, dear.decode().encode("utf-16"), bearer(SMALL)).status == 400
    packed = {**bearer(SMALL), "Content-Encoding": "gzip"}
    assert relay.ask("POST", CHAT, gzip.compress(dear), packed).status == 429
    assert relay.ask("POST", CHAT, dear, {**bearer(SMALL), "Content-Type": "text/plain"}).status == 429
    assert len(upstream.seen) == asked


def test_fields_that_may_be_read_in_another_way_are_refused(relay: Live, upstream: Upstream) -> None:
    asked = len(upstream.seen)
    plain = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 5}
    for more, code in (
        ({"Max_Tokens": 100_000}, "ambiguous_field"),
        ({"models": ["o1-pro"]}, "routing_not_allowed"),
        ({"fallbacks": [{"model": "o1-pro"}]}, "routing_not_allowed"),
    ):
        answer = relay.ask("POST", CHAT, plain | more, bearer(ALICE))
        assert (answer.status, answer.json()["error"]["code"]) == (400, code), more
    assert len(upstream.seen) == asked


def test_relay_s_own_key_comes_back_in_no_answer(relay: Live, upstream: Upstream) -> None:
    said = json.dumps({"error": {"message": f"{REAL} has no access to gpt-4o", "code": "model_not_found"}}).encode()
    plain = [("Content-Type", "application/json"), ("X-Echo", f"Bearer {REAL}")]
    packed = [*plain, ("Content-Encoding", "gzip")]
    body = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 5}
    for headers, sent in ((plain, said), (packed, gzip.compress(said))):
        for path, key in ((CHAT, ALICE), ("/v1/moderations", ALICE), ("/v1/files", EVERYTHING)):
            upstream.script(path, Behaviour(status=403, headers=headers, body=sent))
            answer = relay.ask("POST", path, body, bearer(key))
            hidden = said.replace(REAL.encode(), b"*" * len(REAL))
            assert (answer.status, answer.body) == (403, hidden), path
            assert REAL not in str(answer.headers)
    events = [
        b'data: {"choices":[]}\n\n',
        f"data: {REAL[:9]}".encode(),
        f"{REAL[9:]}\n\n".encode(),
        b"data: [DONE]\n\n",
    ]
    stream = [("Content-Type", "text/event-stream")]
    upstream.script(CHAT, Behaviour(headers=stream, chunks=[(event, 0.02) for event in events]))
    answer = relay.ask("POST", CHAT, body | {"stream": True}, bearer(ALICE))
    assert answer.body == b"".join(events).replace(REAL.encode(), b"*" * len(REAL))


def test_a_relay_key_goes_up_in_no_header(relay: Live, upstream: Upstream) -> None:
    """Wherever it stands, without its scheme too, and another key of relay's beside it."""
    headers = {"Authorization": EVERYTHING, "x-api-key": BOB, "X-Debug": f"key={EVERYTHING}", "X-Other": "stays"}
    assert relay.ask("POST", "/v1/moderations", {"input": "x"}, headers).status == 200
    seen = upstream.seen[-1]
    assert seen.header("authorization") == f"Bearer {REAL}" and seen.header("x-api-key") == REAL
    assert seen.header("x-debug") is None and seen.header("x-other") == "stays"
    assert "rk-" not in str(seen.headers)


def test_compressed_requests_and_answers_are_read(relay: Live, upstream: Upstream) -> None:
    body = gzip.compress(json.dumps({"model": "gpt-4o", "messages": HELLO, "max_tokens": 9}).encode())
    said = json.dumps({"model": "gpt-4o", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1}})
    coded = {"gzip": gzip.compress(said.encode()), "deflate": zlib.compress(said.encode())}
    for encoding, answer in coded.items():
        headers = [("Content-Type", "application/json"), ("Content-Encoding", encoding)]
        upstream.script(CHAT, Behaviour(headers=headers, body=answer))
        got = relay.ask("POST", CHAT, body, {**bearer(ALICE), "Content-Encoding": "gzip"})
        assert got.body == answer and upstream.seen[-1].body == body, "both pass as they are"
        assert settled(relay, got.headers["x-relay-request-id"])["amount"] == 7 * 2500 + 10_000


def test_a_body_that_is_too_large_to_be_read(relay: Live) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x" * 300_000}]}
    assert relay.ask("POST", CHAT, body, bearer(ALICE)).status == 413
    bomb = gzip.compress(json.dumps(body).encode())
    assert relay.ask("POST", CHAT, bomb, {**bearer(ALICE), "Content-Encoding": "gzip"}).status == 413


def test_files_are_counted_by_their_forms(relay: Live) -> None:
    with client(relay, ALICE) as sdk:
        sdk.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.mp3", b"ID3" + b"x" * 3000))
        sdk.audio.speech.create(model="tts-1", voice="alloy", input="Hello there")
    assert eventually(lambda: rows(relay, "alice")[-1]["path"] == "/v1/audio/speech")
    heard, spoken = rows(relay, "alice")[-2:]
    assert heard["path"] == "/v1/audio/transcriptions" and heard["model"] == "gpt-4o-transcribe"
    assert (spoken["amount"], spoken["estimated"]) == (11 * 15_000, 0), "so much a character"


# Balances


def test_apps_find_the_same_amounts_everywhere(relay: Live, upstream: Upstream) -> None:
    said = {"model": "gpt-4o", "choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 12_345}}
    headers = [("Content-Type", "application/json")]
    upstream.script(CHAT, Behaviour(headers=headers, body=json.dumps(said).encode()))
    asked = relay.ask("POST", CHAT, {"model": "gpt-4o", "messages": HELLO, "max_tokens": 16_000}, bearer(APPS))
    spent = round(settled(relay, asked.headers["x-relay-request-id"])["amount"] / 10**9, 2)
    assert spent == 0.12
    balance = relay.ask("GET", f"/pro/balance?apiKey={APPS}").json()
    assert balance["data"] == {"total": 5.0, "balance": round(5 - spent, 2), "used": spent}
    assert balance["detail"]["source"] == "relay" and balance["detail"]["per"] == "month"
    for folder in ("/v1/dashboard/billing", "/dashboard/billing", "/v1/v1/dashboard/billing", "//v1/dashboard/billing"):
        page = {
            name: relay.ask(
                "GET", f"{folder}/{name}?start_date=2026-11-01&end_date=2026-12-01", headers=bearer(APPS)
            ).json()
            for name in ("subscription", "usage", "credit_grants")
        }
        assert page["subscription"]["hard_limit_usd"] == 5 and page["subscription"]["access_until"] > 2_000_000_000
        assert page["usage"]["total_usage"] == spent * 100
        assert (page["credit_grants"]["total_used"], page["credit_grants"]["total_available"]) == (spent, 5 - spent)
    token = relay.ask("GET", "/api/usage/token", headers=bearer(APPS)).json()
    assert relay.ask("GET", "/api/usage/token/", headers=bearer(APPS)).json() == token
    unit = relay.ask("GET", "/api/status").json()["data"]["quota_per_unit"]
    assert token["code"] is True and token["data"]["total_used"] == spent * unit
    every = relay.ask("GET", f"/pro/balance?apiKey={EVERYTHING}").json()
    assert every["detail"]["unlimited"] is True and every["data"]["total"] == 100_000_000


def test_the_costs_of_each_day_are_by_model(relay: Live) -> None:
    for model in ("gpt-4o", "gpt-4o-mini"):
        asked = relay.ask("POST", CHAT, {"model": model, "messages": HELLO, "max_tokens": 20}, bearer(ALICE))
        settled(relay, asked.headers["x-relay-request-id"])
    usage = relay.ask("GET", "/v1/dashboard/billing/usage", headers=bearer(ALICE)).json()
    [today] = usage["daily_costs"]
    by_model: dict[str, int] = {}
    for row in rows(relay, "alice"):
        if row["amount"]:
            by_model[row["model"]] = by_model.get(row["model"], 0) + row["amount"]
    assert {each["name"]: each["cost"] for each in today["line_items"]} == {
        name: pytest.approx(amount / 10**7) for name, amount in by_model.items()
    }


def test_balances_of_keys_that_do_not_work(relay: Live) -> None:
    for key in (OLD, "sk-somebody-0123456789"):
        answer = relay.ask("GET", f"/pro/balance?apiKey={key}").json()
        assert answer["code"] == 401 and "data" not in answer
        assert relay.ask("GET", "/v1/dashboard/billing/usage", headers=bearer(key)).status == 401
    assert relay.ask("GET", "/api/usage/token", headers=bearer("sk-x")).status == 401
    assert relay.ask("POST", "/api/usage/token", headers=bearer(ALICE)).status == 405


# Conversations


def test_a_conversation_with_a_relay_key(relay: Live, upstream: Upstream) -> None:
    assert relay.chat("我叫小明", key=EVERYTHING, session="talk")["code"] == 200
    assert upstream.seen[-1].header("authorization") == f"Bearer {REAL}"
    answer = relay.chat("我叫什么名字?", key=EVERYTHING, session="talk")
    assert answer["code"] == 200 and "小明" in answer["data"]
    kept = relay.ask("GET", "/chat/talk", headers=bearer(EVERYTHING)).json()
    assert len(kept["data"]) == 4
    assert eventually(lambda: [row["path"] for row in rows(relay, "every")[-2:]] == ["/chat", "/chat"])
    assert rows(relay, "every")[-1]["amount"] > 0
    assert relay.ask("GET", "/chat/talk", headers=bearer(ALICE)).json()["data"] == []


def test_relay_s_own_key_is_told_in_no_conversation(relay: Live, upstream: Upstream) -> None:
    hidden = f"you are {'*' * len(REAL)}"
    message = {"role": "assistant", "content": f"you are {REAL}"}
    answer = {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    headers = [("Content-Type", "application/json")]
    upstream.script(CHAT, Behaviour(headers=headers, body=json.dumps(answer).encode()))
    assert relay.chat("who am I?", key=EVERYTHING, session="echo")["data"] == hidden
    events = [{"choices": [{"index": 0, "delta": {"content": message["content"]}}]}]
    chunks = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    cut = chunks[0].index(REAL.encode()) + 9
    pieces = [(chunks[0][:cut], 0.05), (chunks[0][cut:], 0.0), (b"data: [DONE]\n\n", 0.0)]
    upstream.script(CHAT, Behaviour(headers=[("Content-Type", "text/event-stream")], chunks=pieces))
    body = {"apiKey": EVERYTHING, "sessionId": "echo", "content": "and now?", "stream": True}
    told = relay.ask("POST", "/chat", body).body.decode()
    assert REAL not in told and json.loads(told.split("data: ")[-1])["data"] == hidden
    kept = relay.ask("GET", "/chat/echo", headers=bearer(EVERYTHING)).json()["data"]
    assert [turn["content"] for turn in kept if turn["role"] == "assistant"] == [hidden, hidden]


def test_a_model_s_name_is_not_kept_at_any_length(relay: Live, upstream: Upstream) -> None:
    asked = len(upstream.seen)
    for model in ("m" * 201, "m" * 100_000):
        answer = relay.ask("POST", CHAT, {"model": model, "messages": HELLO, "max_tokens": 5}, bearer(EVERYTHING))
        assert (answer.status, answer.json()["error"]["param"]) == (400, "model")
    assert len(upstream.seen) == asked


def test_refusals_in_a_conversation_are_envelopes(relay: Live, upstream: Upstream) -> None:
    assert relay.chat("hi", key=SMALL, max_tokens=5000)["code"] == 429
    assert relay.chat("hi", key=BOB)["code"] == 403
    assert relay.chat("hi", key=OLD)["code"] == 401
    assert relay.chat("hi", key="sk-somebody-0123456789")["code"] == 401
    refusal = {"error": {"message": f"Incorrect API key provided: {REAL}", "code": "invalid_api_key"}}
    upstream.script(CHAT, Behaviour(status=401, body=json.dumps(refusal).encode()))
    answer = relay.chat("hi", key=EVERYTHING, session="refused")
    assert answer["code"] == 502 and REAL not in answer["message"]


# Websockets


def test_a_websocket_of_a_browser_carries_relay_s_own_key(relay: Live, upstream: Upstream) -> None:
    offered = ["realtime", f"openai-insecure-api-key.{EVERYTHING}"]
    with Socket(relay, headers=[], subprotocols=offered) as socket:
        assert REAL in (upstream.seen[-1].header("sec-websocket-protocol") or "")
        done = {
            "type": "response.done",
            "response": {"id": "resp_1", "usage": {"input_tokens": 10, "output_tokens": 5}},
        }
        for _ in range(2):  # the same turn twice
            socket.send(TextMessage(json.dumps(done)))
            assert isinstance(socket.receive(), TextMessage)
        socket.send(CloseConnection(1000))
    assert eventually(lambda: any(row["path"] == "/v1/realtime" for row in rows(relay, "every")))
    [turn] = [row for row in rows(relay, "every") if row["path"] == "/v1/realtime"]
    assert (turn["model"], turn["amount"]) == ("gpt-realtime", 10 * 4000 + 5 * 16_000)


def test_a_budget_opens_no_websocket(relay: Live) -> None:
    with pytest.raises(Refused) as caught:
        Socket(relay, headers=[(b"Authorization", f"Bearer {ALICE}".encode())])
    assert caught.value.status == 403


# Work that is told of later


def test_a_batch_is_counted_once_it_is_over(relay: Live, upstream: Upstream) -> None:
    batch = {"id": "batch_1", "object": "batch", "model": "gpt-4o-mini", "status": "in_progress"}
    usage = {"input_tokens": 1000, "output_tokens": 100}
    for said in (
        batch,
        {**batch, "status": "completed", "usage": usage},
        {**batch, "status": "completed", "usage": usage},
    ):
        headers = [("Content-Type", "application/json")]
        upstream.script("/v1/batches/batch_1", Behaviour(headers=headers, body=json.dumps(said).encode()))
        assert relay.ask("GET", "/v1/batches/batch_1", headers=bearer(EVERYTHING)).json() == said
    assert eventually(lambda: any(row["path"] == "/v1/batches" for row in rows(relay)))
    [row] = [row for row in rows(relay) if row["path"] == "/v1/batches"]
    assert row["amount"] == 1000 * 75 + 100 * 300


def test_a_batch_that_comes_compressed_is_counted(relay: Live, upstream: Upstream) -> None:
    usage = {"input_tokens": 1000, "output_tokens": 100}
    said = {"id": "batch_z", "object": "batch", "model": "gpt-4o-mini", "status": "completed", "usage": usage}
    headers = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")]
    upstream.script("/v1/batches/batch_z", Behaviour(headers=headers, body=gzip.compress(json.dumps(said).encode())))
    before = len(rows(relay, "every"))
    answer = relay.ask("GET", "/v1/batches/batch_z", headers=bearer(EVERYTHING) | {"Accept-Encoding": "gzip"})
    assert json.loads(gzip.decompress(answer.body)) == said
    assert eventually(lambda: [row["amount"] for row in rows(relay, "every")[before:]] == [105_000])


def test_a_websocket_names_one_model(upstream: Upstream, tmp_path: Path) -> None:
    listed = [{"name": "one", "key": ALICE, "models": ["gpt-realtime-mini"]}]
    with started(tmp_path, upstream, keys={"list": listed}) as relay:
        headers = [(b"Authorization", f"Bearer {ALICE}".encode())]
        with Socket(relay, target="/v1/realtime?model=gpt-realtime-mini", headers=headers):
            pass
        for query in ("model=gpt-realtime-mini&model=gpt-realtime", "model=gpt-realtime-mini&Model=gpt-realtime", ""):
            with pytest.raises(Refused) as caught:
                Socket(relay, target=f"/v1/realtime?{query}", headers=headers)
            assert caught.value.status == 403
        steered = bearer(ALICE) | {"x-portkey-config": "{}"}
        body = {"model": "gpt-realtime-mini", "messages": HELLO}
        assert relay.ask("POST", CHAT, body, steered).status == 403


def test_a_batch_that_is_asked_about_first_of_all_is_priced(upstream: Upstream, tmp_path: Path) -> None:
    listed = [{"name": "night", "key": ALICE, "budget": {"amount": 5}, "paths": ["/v1/batches/*", CHAT]}]
    usage = {"input_tokens": 1_000_000, "output_tokens": 1_000_000}
    said = {"id": "batch_9", "object": "batch", "model": "gpt-4o-mini", "status": "completed", "usage": usage}
    headers = [("Content-Type", "application/json")]
    with started(tmp_path, upstream, keys={"list": listed}) as relay:
        upstream.script("/v1/batches/batch_9", Behaviour(headers=headers, body=json.dumps(said).encode()))
        assert relay.ask("GET", "/v1/batches/batch_9", headers=bearer(ALICE)).json() == said
        assert eventually(lambda: [row["amount"] for row in rows(relay)] == [375_000_000])
        told = relay.ask("GET", f"/pro/balance?apiKey={ALICE}").json()
        assert told["data"]["used"] == 0.38


# What upstream does not do to the end


def test_an_upgrade_that_nobody_asked_for_leaves_nothing_held(relay: Live, upstream: Upstream) -> None:
    body = {"model": "gpt-4o-mini", "messages": HELLO, "max_tokens": 5}
    assert relay.ask("POST", CHAT, body, bearer(ALICE)).status == 200
    assert eventually(lambda: bool(rows(relay, "alice")))
    upgraded = Behaviour(garbage=b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n")
    upstream.script(CHAT, upgraded)
    before = len(rows(relay, "alice"))
    assert relay.ask("POST", CHAT, body, bearer(ALICE)).status == 101
    assert eventually(lambda: len(rows(relay, "alice")) == before + 1)
    assert "held" not in relay.ask("GET", f"/pro/balance?apiKey={ALICE}").json()["detail"]


def test_who_leaves_while_relay_asks_again_is_settled_by_what_may_have_been_said(
    relay: Live, upstream: Upstream
) -> None:
    assert relay.chat("one", key=ALICE, session="again")["code"] == 200
    assert eventually(lambda: rows(relay, "alice")[-1]["path"] == "/chat")
    asked, before = len(upstream.seen), len(rows(relay, "alice"))
    too_long = json.dumps({"error": {"message": "too long", "code": "context_length_exceeded"}}).encode()
    upstream.script(CHAT, Behaviour(status=400, body=too_long), Behaviour(never=True))
    message = json.dumps({"apiKey": ALICE, "sessionId": "again", "content": "two"}).encode()
    with socket.create_connection(("127.0.0.1", relay.port)) as connection:
        connection.sendall(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(message) + message)
        assert eventually(lambda: len(upstream.seen) == asked + 2)
        time.sleep(0.2)
    assert eventually(lambda: len(rows(relay, "alice")) == before + 1)
    row = rows(relay, "alice")[-1]
    assert (row["reason"], row["estimated"]) == ("client left", 1)
    assert row["amount"] > 0 and json.loads(row["usage"])["output"] >= 100


@pytest.mark.parametrize("key", [EVERYTHING, "sk-own-0123456789abcdef"], ids=["a relay key", "a caller's own"])
def test_what_can_t_be_written_as_utf_8_stops_no_ledger(upstream: Upstream, tmp_path: Path, key: str) -> None:
    with started(tmp_path, upstream, keys={"list": LISTED, "open": True}) as relay:
        relay.ask("POST", CHAT, b'{"model": "x\\ud800", "messages": []}', bearer(key))
        relay.ask("POST", "/chat", {"apiKey": key, "sessionId": "s", "content": "x", "model": "m\ud800"})
        head = b"POST /v1/\xff/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n"
        with socket.create_connection(("127.0.0.1", relay.port)) as connection:
            connection.sendall(head + f"Authorization: Bearer {key}\r\n\r\n{{}}".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 ")
        said = {"model": "x\ud800", "usage": {"prompt_tokens": 1, "completion_tokens": 9 * 10**15}, "choices": []}
        headers = [("Content-Type", "application/json")]
        upstream.script(CHAT, Behaviour(headers=headers, body=json.dumps(said).encode()))
        body = {"model": "gpt-4o-mini", "messages": HELLO, "max_tokens": 5}
        assert relay.ask("POST", CHAT, body, bearer(key)).status == 200
        assert relay.ask("POST", CHAT, body, bearer(ALICE)).status == 200, "it goes on"
        assert eventually(lambda: bool(rows(relay, "alice")))
        assert eventually(lambda: len(rows(relay)) >= 3)


# The commands


def test_keys_are_handed_out_while_relay_runs(upstream: Upstream, tmp_path: Path) -> None:
    with started(tmp_path, upstream, keys={}) as relay:
        assert relay.ask("GET", "/v1/models", headers=bearer("sk-test-0123456789")).status == 200, "everybody is served"
        made = run(relay, "keys", "new", "carol", "--budget", "1", "--per", "day", "--models", "gpt-4o*")
        assert made.returncode == 0 and "callers with keys of their own are refused" in made.stdout
        key = made.stdout.split()[0]
        assert key.startswith("rk-") and len(key) == 43
        assert relay.ask("GET", "/v1/models", headers=bearer(key)).status == 200
        assert relay.ask("GET", "/v1/models", headers=bearer("sk-test-0123456789")).status == 401
        assert relay.chat("我叫小明", key=key, session="1", model="gpt-4o-mini")["code"] == 200
        again = run(relay, "keys", "new", "carol")
        assert again.returncode == 1 and "there is a key carol already" in again.stderr

        fresh = run(relay, "keys", "rotate", "carol").stdout.split()[0]
        assert eventually(lambda: relay.ask("GET", "/v1/models", headers=bearer(key)).status == 401, 3)
        answer = relay.chat("我叫什么名字?", key=fresh, session="1", model="gpt-4o-mini")
        assert "小明" in answer["data"], "its conversations stay"
        assert relay.ask("GET", f"/pro/balance?apiKey={fresh}").json()["data"]["total"] == 1

        shown = run(relay, "keys", "list").stdout
        assert [line.split()[0] for line in shown.splitlines()] == ["name", "carol"]
        assert "$1 a day" in shown and key not in shown and fresh not in shown
        assert run(relay, "keys", "revoke", "carol").stdout == "carol is revoked\n"
        assert eventually(lambda: relay.ask("GET", "/v1/models", headers=bearer(fresh)).status == 401, 3)
        assert "revoked" in run(relay, "keys", "list").stdout

        kept = b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir() if path.is_file())
        assert key.encode() not in kept and fresh.encode() not in kept


def test_the_command_says_what_is_wrong(
    relay: Live, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RELAY_CONFIG", str(relay.folder / "relay.yaml"))
    wrong = {
        ("new",): "keys new takes a NAME",
        ("new", "a b"): "is no name",
        ("new", "alice"): "relay.yaml has a key alice",
        ("new", "dan", "--budget", "much"): "--budget is much",
        ("new", "dan", "--expires", "soon"): "--expires is soon",
        ("new", "dan", "--upstream", "nowhere"): "no upstream nowhere",
        ("new", "dan", "--parallel", "0"): "--parallel is 0",
        ("revoke", "alice"): "stands in relay.yaml",
        ("rotate", "nobody"): "there is no key nobody",
        ("list", "alice"): "keys list takes no name",
        ("rotate", "carol", "--budget", "50"): "keys rotate takes no --budget",
        ("new", "x", "--per", "day"): "add --budget",
        ("sell", "alice"): "invalid choice",
    }
    for arguments, said in wrong.items():
        assert main(["keys", *arguments]) == 1
        shown = capsys.readouterr().err
        assert said in shown and "Traceback" not in shown, (arguments, shown)


def test_reports(relay: Live) -> None:
    for model in ("gpt-4o", "gpt-4o-mini"):
        asked = relay.ask("POST", CHAT, {"model": model, "messages": HELLO, "max_tokens": 20}, bearer(ALICE))
        settled(relay, asked.headers["x-relay-request-id"])
    text = run(relay, "usage").stdout
    assert text.startswith("since ") and "alice" in text and "MARK" not in text
    by_model = json.loads(run(relay, "usage", "--by", "model", "--json").stdout)
    assert {row["model"] for row in by_model["rows"]} >= {"gpt-4o", "gpt-4o-mini"}
    total = sum(int(row["amount"] or 0) for row in rows(relay))
    reported = sum(float(row["cost_usd"]) for row in by_model["rows"])
    assert reported == pytest.approx(total / 10**9)
    by_day = run(relay, "usage", "--by", "day", "--since", "1d", "--csv").stdout.splitlines()
    assert by_day[0].startswith("day,requests,failures,input_tokens") and len(by_day) == 2
    assert run(relay, "usage", "--since", "2099-01-01").stdout == "nothing was used since 2099-01-01\n"
    assert "--since is x" in run(relay, "usage", "--since", "x").stderr


# Callers with keys of their own


def test_what_a_caller_s_own_key_uses_is_counted_and_not_touched(upstream: Upstream, tmp_path: Path) -> None:
    with started(
        tmp_path, upstream, keys={}, upstreams=[{"name": "test", "url": upstream.url, "balance": "ledger"}]
    ) as relay:
        body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"x"}],"stream":true}'
        own = bearer("sk-test-own-0123456789")
        relay.ask("POST", CHAT, body, own)
        assert upstream.seen[-1].body == body
        answer = relay.ask("POST", CHAT, {"model": "gpt-4o-mini", "messages": HELLO}, own)
        relay.ask("POST", CHAT, {"model": "nobody-knows", "messages": HELLO}, own)
        assert relay.chat("hi", key="sk-test-own-0123456789")["code"] == 200
        assert eventually(lambda: len(rows(relay)) == 4)
        assert all(row["amount"] is None and row["name"] is None for row in rows(relay))
        assert "sk-test" not in str([dict(row) for row in rows(relay)])
        assert json.loads(settled(relay, answer.headers["x-relay-request-id"])["usage"])["input"] > 0

        balance = relay.ask("GET", "/pro/balance?apiKey=sk-test-own-0123456789").json()
        assert balance["detail"]["source"] == "ledger" and balance["detail"]["estimated"] is True
        assert (balance["detail"]["requests"], balance["detail"]["unpriced_requests"]) == (4, 2)
        assert balance["data"]["total"] is None and balance["data"]["used"] is not None
        nobody = relay.ask("GET", "/pro/balance?apiKey=sk-test-new-0123456789").json()
        assert nobody["detail"]["requests"] == 0 and nobody["data"]["used"] is None, "nothing is known"
        text = run(relay, "usage", "--by", "key").stdout
        assert "own key " in text and "2 request(s) have no price" in text


# Secrets


def test_no_key_is_left_behind(upstream: Upstream, tmp_path: Path) -> None:
    with started(tmp_path, upstream, ("-w", str(tmp_path / "out.flow"), "--flow-detail", "4")) as relay:
        echo = Behaviour(
            headers=[("Content-Type", "application/json")], body=json.dumps({"said": [REAL, ALICE]}).encode()
        )
        upstream.script("/v1/moderations", echo)
        relay.ask("POST", "/v1/moderations", {"input": "x"}, bearer(ALICE))
        relay.ask(
            "POST", CHAT, {"model": "gpt-4o-mini", "messages": HELLO, "stream": True, "max_tokens": 5}, bearer(ALICE)
        )
        relay.ask("POST", CHAT, {"model": "gpt-4o-mini", "messages": HELLO, "max_tokens": 10**7}, bearer(SMALL))
        relay.chat("hi", key=EVERYTHING)
        relay.ask("GET", f"/pro/balance?apiKey={ALICE}")
        relay.ask("GET", "/v1/models", headers={"x-api-key": BOB})
    said = relay.log_file.read_bytes() + (tmp_path / "out.flow").read_bytes()
    with (tmp_path / "out.flow").open("rb") as file:
        flows = list(mio.FlowReader(file).stream())
    assert len(flows) == 6
    for key in (REAL, ALICE, SMALL, EVERYTHING, BOB):
        assert key.encode() not in said and base64.b64encode(key.encode()).rstrip(b"=") not in said
    assert b"MARKx" not in said
    kept = b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir())
    assert b"MARKx" not in kept


# What goes on while relay is loaded anew


@pytest.mark.parametrize("after", [0.1, 2.5], ids=["while it is admitted", "while it is answered"])
def test_a_request_under_way_is_settled_by_the_code_that_comes_after(
    upstream: Upstream, tmp_path: Path, after: float
) -> None:
    house = tmp_path / "house"
    shutil.copytree(ROOT / "addons", house / "addons", ignore=shutil.ignore_patterns("__pycache__"))
    port = live.free_port()
    config = tmp_path / "relay.yaml"
    config.write_text(yaml.safe_dump({"listen": {"port": port}, **settings(upstream)}))
    environ = environment(RELAY_CONFIG=str(config), PYTHONPATH=str(house))
    command = [sys.executable, "-m", "addons.cli", "start"]
    with live.started(command, tmp_path, port, environ) as relay:
        pieces = [(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', 0.4)] * 12
        last = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\ndata: [DONE]\n\n'
        headers = [("Content-Type", "text/event-stream")]
        upstream.script(CHAT, Behaviour(headers=headers, chunks=[*pieces, (last, 0)]))
        touching = threading.Timer(after, lambda: os.utime(house / "addons" / "relay.py"))
        touching.start()
        body = {"model": "gpt-4o", "messages": HELLO, "stream": True, "max_tokens": 9}
        answer = relay.ask("POST", CHAT, body, bearer(ALICE))
        touching.join()
        assert answer.status == 200 and b'"usage"' not in answer.body
        row = settled(relay, answer.headers["x-relay-request-id"])
        assert (row["reason"], row["amount"]) == ("finished", 3 * 2500 + 4 * 10_000)
        assert "held" not in relay.ask("GET", f"/pro/balance?apiKey={ALICE}").json()["detail"]
    assert "Traceback" not in relay.log


# What upstream says of relay's own key, in other places than a body

HIDDEN = "*" * len(REAL)
JSON = [("Content-Type", "application/json")]
SSE = [("Content-Type", "text/event-stream")]


@pytest.mark.parametrize("status", [200, 403, 500])
def test_relay_s_own_key_stands_in_no_head(relay: Live, upstream: Upstream, status: int) -> None:
    names = [(f"X-{REAL}", "1"), (f"x-{REAL.lower()}-2", "2"), ("Location", f"/?key={REAL}")]
    upstream.script(CHAT, Behaviour(status=status, reason=f"no {REAL}", headers=[*JSON, *names], body=b"{}"))
    body = json.dumps({"model": "gpt-4o", "messages": HELLO, "max_tokens": 5}).encode()
    with Client(relay.port, 10) as asked:
        head, _ = asked.ask("POST", CHAT, [("Authorization", f"Bearer {ALICE}")], body)
    assert (head.status, head.reason) == (status, f"no {HIDDEN}")
    assert head.get(f"x-{HIDDEN}") == "1" and head.get(f"x-{HIDDEN}-2") == "2"
    assert head.get("location") == f"/?key={HIDDEN}" and REAL.lower() not in str(head.fields).lower()


def test_relay_s_own_key_stands_in_no_list_of_models(relay: Live, upstream: Upstream) -> None:
    listed = [{"id": "gpt-4o", "owned_by": REAL, "root": "\ud800"}, {"id": f"gpt-4o-{REAL}"}]
    said = json.dumps({"data": listed}).replace("sk-", "\\u0073k-").encode()
    for encoding, sent in (([], said), ([("Content-Encoding", "gzip")], gzip.compress(said))):
        upstream.script("/v1/models", Behaviour(headers=[*JSON, *encoding], body=sent))
        answer = relay.ask("GET", "/v1/models", headers=bearer(BOB))
        shown = [{"id": "gpt-4o", "owned_by": HIDDEN, "root": "\ud800"}, {"id": f"gpt-4o-{HIDDEN}"}]
        assert (answer.status, answer.json()["data"]) == (200, shown)


def test_relay_s_own_key_is_told_in_no_delta(relay: Live, upstream: Upstream) -> None:
    def delta(written: str) -> bytes:
        return b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % written.encode()

    escaped = "".join(f"\\u{ord(each):04x}" for each in REAL)
    for session, deltas in enumerate(([REAL[:14], REAL[14:]], [escaped], list(REAL), [f"it is {REAL[:-1]}"])):
        chunks = [(delta(each), 0.0) for each in deltas] + [(b"data: [DONE]\n\n", 0.0)]
        upstream.script(CHAT, Behaviour(headers=SSE, chunks=chunks))
        body = {"apiKey": EVERYTHING, "sessionId": f"deltas-{session}", "content": "who?", "stream": True}
        *told, last = [json.loads(each) for each in relay.ask("POST", "/chat", body).body.decode().split("data: ")[1:]]
        said = "".join(each["delta"] for each in told)
        assert REAL[:9] not in said and said.endswith("*" * (len(REAL) - 9)), deltas
        assert last["code"] == 200 and REAL[:9] not in last["data"] and last["data"].endswith("*" * (len(REAL) - 1))


@pytest.mark.parametrize("ends", ["with its length", "with its connection"])
def test_relay_s_own_key_is_not_told_by_cutting_it_off(relay: Live, upstream: Upstream, ends: str) -> None:
    chunks = [(b"data: it is sk-r", 0.05), (REAL[4:-1].encode(), 0.0)]
    framing: Any = "close" if ends == "with its connection" else "chunked"
    upstream.script(CHAT, Behaviour(headers=SSE, chunks=chunks, framing=framing))
    body = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 5, "stream": True}
    answer = relay.ask("POST", CHAT, body, bearer(EVERYTHING))
    assert answer.body == b"data: it is sk-r" + b"*" * (len(REAL) - 5)
    sent = gzip.compress(b'{"error":{"message":"it is ' + REAL[:-1].encode())
    upstream.script(CHAT, Behaviour(status=400, headers=[*JSON, ("Content-Encoding", "gzip")], body=sent))
    answer = relay.ask("POST", CHAT, body, bearer(EVERYTHING))
    assert answer.body == b'{"error":{"message":"it is ' + b"*" * (len(REAL) - 1)


def test_an_encoding_that_is_none_hides_no_key(relay: Live, upstream: Upstream) -> None:
    for encoding in ("utf-8", "identity, identity", "gzip"):
        upstream.script(CHAT, Behaviour(headers=[*JSON, ("Content-Encoding", encoding)], body=f'"{REAL}"'.encode()))
        body = {"model": "gpt-4o", "messages": HELLO, "max_tokens": 5}
        assert relay.ask("POST", CHAT, body, bearer(EVERYTHING)).body == f'"{HIDDEN}"'.encode()


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "packed"])
def test_a_websocket_tells_no_key_of_relay_s(relay: Live, deflate: bool) -> None:
    with Socket(relay, headers=[(b"Authorization", f"Bearer {EVERYTHING}".encode())], deflate=deflate) as socket:
        for said, heard in ((f"你 {REAL}!", f"你 {HIDDEN}!"), ("sk-real-", "sk-real-")):
            socket.send(TextMessage(said))  # the look-alike says it again
            assert socket.message() == heard
        socket.send(BytesMessage(f"\0{REAL}".encode()))
        assert socket.message() == f"\0{HIDDEN}".encode()
        socket.send(TextMessage(f"/close 4001 no {REAL}"))
        closed = socket.receive()
    assert isinstance(closed, CloseConnection) and (closed.code, closed.reason) == (4001, f"no {HIDDEN}")


def test_relay_s_own_key_stands_in_no_ledger(upstream: Upstream, tmp_path: Path) -> None:
    with started(tmp_path, upstream) as relay:
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        said = {"choices": [], "usage": usage, "model": REAL, "service_tier": REAL}
        upstream.script("/v1/embeddings", Behaviour(headers=JSON, body=json.dumps(said).encode()))
        relay.ask("POST", "/v1/embeddings", {"input": "x", "model": "text-embedding-3-small"}, bearer(EVERYTHING))
        message = {"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}
        upstream.script(CHAT, Behaviour(headers=JSON, body=json.dumps(said | {"choices": [message]}).encode()))
        assert relay.chat("hi", key=EVERYTHING)["code"] == 200
        batch = {"id": f"batch_{REAL}", "object": "batch", "model": REAL, "status": "completed", "usage": usage}
        for name, of_it in (("b1", batch), ("b2", batch | {"id": "x" * 60 + REAL})):
            upstream.script(f"/v1/batches/{name}", Behaviour(headers=JSON, body=json.dumps(of_it).encode()))
            relay.ask("GET", f"/v1/batches/{name}", headers=bearer(EVERYTHING))
        assert eventually(lambda: len(rows(relay)) == 4), rows(relay)
        kept = [" ".join(map(str, row.values())) for row in rows(relay)]
        assert all(HIDDEN[:20] in row and REAL[:9] not in row for row in kept), kept
        assert "sk-real" not in run(relay, "usage", "--by", "model").stdout
    written = b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir() if path.is_file())
    assert REAL.encode() not in written


# Gemini's own dialect


def test_what_gemini_has_cost_a_key_with_a_budget_is_counted_where_its_paths_let_it_there(
    upstream: Upstream, tmp_path: Path
) -> None:
    listed = [
        {"name": "open", "key": ALICE, "budget": {"amount": 5}, "paths": ["/v1beta/models/*"]},
        {"name": "shut", "key": BOB, "budget": {"amount": 5}},
    ]
    more: dict[str, Any] = {
        "keys": {"list": listed},
        "routes": [{"path": "/gemini", "upstream": "test"}],
        "prices": GEMINI_PRICE,
    }
    path = "/v1beta/models/gemini-2.5-pro:generateContent"
    counts = {"promptTokenCount": 1000, "candidatesTokenCount": 10, "thoughtsTokenCount": 5, "totalTokenCount": 1015}
    said = {"candidates": [{"content": {"parts": [{"text": "Hi."}]}}], "usageMetadata": counts}
    answer = Behaviour(status=200, body=json.dumps(said).encode(), headers=[("content-type", "application/json")])
    with started(tmp_path, upstream, **more) as relay:
        upstream.script(path, answer)
        ask = {"contents": [{"parts": [{"text": "Hello"}]}]}
        assert relay.ask("POST", f"/gemini{path}", ask, {"x-goog-api-key": BOB}).status == 403
        assert relay.ask("POST", f"/gemini{path}", ask, {"x-goog-api-key": ALICE}).body == answer.body
        assert upstream.seen[-1].header("x-goog-api-key") == REAL
        assert eventually(lambda: rows(relay, "open"))
        [row] = rows(relay, "open")
        assert (row["model"], row["amount"]) == ("gemini-2.5-pro", 1000 * 1000 + 15 * 10_000)
        refused = Behaviour(status=400, body=b'{"error": {"code": 400}}', headers=answer.headers)
        untold = Behaviour(status=200, body=b'{"candidates": []}', headers=answer.headers)
        for later in (refused, untold):
            upstream.script(path, later)
            relay.ask("POST", f"/gemini{path}", ask, {"x-goog-api-key": ALICE})
        assert eventually(lambda: len(rows(relay, "open")) == 3)
        assert [(each["reason"], each["amount"]) for each in rows(relay, "open")[1:]] == [
            ("refused", 0),
            ("finished", None),
        ]


GEMINI_PRICE = {"gemini-2.5-pro": {"input": 1, "output": 10}}
