"""Record and replay: a session with real clients, and the same again from the file, without an upstream.

`record`, then `replay`, each a real relay. What a file may hold is held by tests/replay/test_flow_file.py.
"""

import http.client
import io
import json
import random
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from mitmproxy import http as mhttp
from mitmproxy.addons.savehar import SaveHar
from mitmproxy.io import FlowReader

from addons.cli import __main__ as cli
from addons.cli.fake_openai.server import Behaviour, Upstream
from addons.core.faults import Faults
from addons.replay import flow_file
from tests.support.live import Live, environment, eventually, free_port, started

KEY = "sk-test-0123456789abcdef"
STREAM: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "stream": True,
    "messages": [{"role": "user", "content": "Hello there, how are you?"}],
}
PACED = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", "x-demo-delay-ms": "40"}


def run(folder: Path, command: Sequence[str], upstream: str, **settings: Any) -> AbstractContextManager[Live]:
    """`./run.sh` with a command of its own, and a relay.yaml that names this upstream."""
    port = free_port()
    file = folder / "relay.yaml"
    upstreams = [{"name": "test", "url": upstream}]
    file.write_text(json.dumps({"listen": {"port": port}, "upstreams": upstreams, **settings}), encoding="utf-8")
    return started([sys.executable, "-m", "addons.cli", *command], folder, port, environment(RELAY_CONFIG=str(file)))


def nowhere() -> str:
    """An upstream that is not there."""
    return f"http://127.0.0.1:{free_port()}"


def timed(relay: Live, body: Mapping[str, Any]) -> tuple[bytes, list[float]]:
    """A stream's bytes, and when its pieces came, in seconds since the first."""
    connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=20)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), PACED)
        response = connection.getresponse()
        pieces, times = [], []
        while piece := response.read1():
            pieces.append(piece)
            times.append(time.monotonic())
        return b"".join(pieces), [moment - times[0] for moment in times]
    finally:
        connection.close()


def session(relay: Live, key: str) -> dict[str, Any]:
    """What an app does in a minute; the answers, as bytes where they are relay's to keep."""
    client = openai.OpenAI(api_key=key, base_url=f"{relay.url}/v1", max_retries=0, timeout=20)
    question: Any = [{"role": "user", "content": "What is this?"}]
    raw = client.chat.completions.with_raw_response
    with client.chat.completions.with_streaming_response.create(
        model="gpt-4o-mini", messages=question, stream=True, user=key[-3:]
    ) as streamed:
        stream = b"".join(streamed.iter_bytes())
    made = client.files.create(file=("a.bin", io.BytesIO(bytes(range(256)) * 20)), purpose="assistants")
    bearer = {"Authorization": f"Bearer {key}"}
    return {
        "completion": raw.create(model="gpt-4o-mini", messages=question, seed=len(key)).content,
        "stream": stream,
        "embeddings": client.embeddings.create(model="text-embedding-3-small", input="x").data[0].embedding,
        "upload": made.model_dump(),
        "models": relay.ask("GET", "/v1/models", headers=bearer).body,
        "chat": [relay.chat(text, key=key) for text in ("我叫小明", "我叫什么名字?")],
        "chat streamed": relay.ask(
            "POST", "/chat", {"apiKey": key, "sessionId": "2", "content": "你是谁?", "stream": True}
        ).body,
        "refused": relay.ask("POST", "/chat", {"apiKey": key, "sessionId": "2"}).body,
        "balance": timeless(relay.ask("GET", f"/pro/balance?apiKey={key}").body),
    }


@dataclass
class Recorded:
    file: Path
    answers: dict[str, Any]
    stream: bytes
    times: list[float]
    twice: list[bytes]


def timeless(balance: bytes) -> bytes:
    """The answer of `/pro/balance` without the time at which it was true."""
    return re.sub(rb'"as_of": "[^"]+"', b"", balance)


@pytest.fixture(scope="module")
def recorded(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("record")
    file = folder / "ses%Sion.flow"
    with run(folder, ["record", str(file)], upstream.url, inspect={"max_body": 100}) as relay:
        answers = session(relay, KEY)
        stream, times = timed(relay, STREAM)
        ask = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "twice"}]}
        twice = [relay.ask("POST", "/v1/chat/completions", ask, PACED).body for _ in range(2)]
        assert relay.stop() == 0
        assert "not" not in relay.log.partition("try")[2].lower(), relay.log
    assert twice[0] != twice[1]
    return Recorded(file, answers, stream, times, twice)


@pytest.fixture(scope="module")
def replayed(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with run(tmp_path_factory.mktemp("replay"), ["replay", str(recorded.file)], nowhere()) as relay:
        assert eventually(lambda: "any key works" in relay.log, 10)
        yield relay


@pytest.fixture(scope="module")
def fast(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with run(tmp_path_factory.mktemp("fast"), ["replay", "--fast", str(recorded.file)], nowhere()) as relay:
        yield relay


# -- the whole way


def test_no_key_is_in_the_file(recorded: Recorded) -> None:
    raw = recorded.file.read_bytes()
    assert len(raw) > 10_000
    assert KEY.encode() not in raw
    assert b"0123456789abcdef" not in raw


def test_a_session_is_answered_again_byte_for_byte_under_any_key(recorded: Recorded, replayed: Live) -> None:
    assert session(replayed, "sk-another-key-9876") == recorded.answers


def test_an_upstream_with_a_version_of_its_own_is_recorded_and_replayed(upstream: Upstream, tmp_path: Path) -> None:
    paths = ("/v1/models", "/models", "/v1/jobs", "/own/v1/jobs", "/own/jobs")
    file = tmp_path / "versioned.flow"
    folder = "/api/paas/v4"
    settings: dict[str, Any] = {"routes": [{"path": "/own", "upstream": "test"}]}
    said = [Behaviour(status=200, body=f'{{"number": {number}}}'.encode()) for number in range(len(paths))]
    upstream.clear()
    upstream.script("*", *said)
    with run(tmp_path, ["record", str(file)], upstream.url + folder, **settings) as relay:
        answers = [relay.ask("GET", path, headers=PACED).body for path in paths]
        assert relay.stop() == 0
    assert {each.target for each in upstream.seen} == {f"{folder}/models", f"{folder}/jobs"}
    with run(tmp_path, ["replay", "--fast", str(file)], nowhere() + folder, **settings) as relay:
        assert [relay.ask("GET", path, headers=PACED).body for path in paths] == answers


def test_the_rhythm_of_a_stream_is_kept(recorded: Recorded, replayed: Live, fast: Live) -> None:
    stream, times = timed(replayed, STREAM)
    assert stream == recorded.stream
    assert len(times) > len(recorded.times) / 2
    assert 0.7 * recorded.times[-1] < times[-1] < 2 * recorded.times[-1] + 1
    middle, before = times[len(times) // 2], recorded.times[len(recorded.times) // 2]
    assert 0.4 * before < middle < 2.5 * before + 0.5
    stream, times = timed(fast, STREAM)
    assert stream == recorded.stream
    assert times[-1] < 0.5 * recorded.times[-1]


def test_the_same_request_is_answered_in_order_and_then_by_the_last(recorded: Recorded, fast: Live) -> None:
    ask = {"messages": [{"content": "twice", "role": "user"}], "model": "gpt-4o-mini", "user": "someone"}
    answers = [fast.ask("POST", "/v1/chat/completions", ask).body for _ in range(4)]
    assert answers == [*recorded.twice, recorded.twice[1], recorded.twice[1]]


def test_what_was_not_recorded_is_refused_with_what_differs(replayed: Live) -> None:
    ask = {**STREAM, "temperature": 0.5, "messages": [{"role": "user", "content": "Hello there, how is it?"}]}
    answer = replayed.ask("POST", "/v1/chat/completions", ask)
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (404, "not_recorded")
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert (
        'messages[0].content: recorded "Hello there, how are you?", asked "Hello there, how is it?"'
        in (error["message"])
    )
    assert "temperature: not recorded, asked 0.5" in error["message"]
    assert "path: recorded /v1/models, asked /v1/model" in replayed.ask("GET", "/v1/model").json()["error"]["message"]


def test_what_was_not_recorded_is_told_in_an_envelope(replayed: Live) -> None:
    envelope = replayed.chat("我叫大明", session="new")
    assert envelope["code"] == 404
    assert '"我叫小明", asked "我叫大明"' in envelope["message"]
    assert "model" not in envelope["message"].partition("differs")[0]


def test_what_goes_wrong_on_purpose(recorded: Recorded, tmp_path: Path) -> None:
    ask = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "twice"}]}
    command = ["replay", str(recorded.file), "--fast", "--faults", "429=0.5", "--seed", "9"]
    with run(tmp_path, command, nowhere()) as relay:

        def status(fault: str = "") -> int:
            headers = PACED | ({"x-relay-fault": fault} if fault else {})
            return relay.ask("POST", "/v1/chat/completions", ask, headers).status

        expected = Faults({"429": 0.5}, random.Random(9).random)
        assert [status() for _ in range(10)] == [429 if expected.next() else 200 for _ in range(10)]
        assert [status(fault) for fault in ("none", "429", "500")] == [200, 429, 500]
        with pytest.raises(TimeoutError):
            relay.ask("POST", "/v1/chat/completions", ask, PACED | {"x-relay-fault": "silence"}, timeout=2)
        begin = time.monotonic()
        assert status("slow") == 200 and time.monotonic() - begin > 2.5
        with pytest.raises(http.client.IncompleteRead):
            relay.ask("POST", "/v1/chat/completions", STREAM, PACED | {"x-relay-fault": "break"})


def test_clients_that_leave_and_bad_requests_harm_nobody(fast: Live) -> None:
    body = json.dumps(STREAM).encode()
    with fast.connect() as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    assert fast.ask("PUT", "/v1/chat/completions", b"\xff" * 70_000).status == 404
    assert fast.ask("HEAD", "/v1/models").status == 404
    assert fast.ask("GET", "/v1/models").status == 200


def test_the_list_tells_what_is_in_it(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay", str(recorded.file), "--list"]) == 0
    heading, *rows, left_out = capsys.readouterr().out.splitlines()
    assert heading.split() == ["method", "path", "model", "status", "bytes", "chunks", "took"]
    found = [row.split() for row in rows]
    assert [row[2] for row in found].count("/v1/chat/completions") == 8
    assert {"/v1/files", "/v1/embeddings", "/v1/models", "/v1/dashboard/billing/usage"} <= {row[2] for row in found}
    stream = next(row for row in found if row[5] == str(len(recorded.stream)))
    assert stream[1:5] == ["POST", "/v1/chat/completions", "gpt-4o-mini", "200"]
    assert int(stream[6]) > 4
    assert left_out == f"left out: 2 {flow_file.OWN}"


def test_what_is_not_recorded_can_be_asked_for_and_is_recorded_then(
    upstream: Upstream, recorded: Recorded, tmp_path: Path
) -> None:
    file = tmp_path / "growing.flow"
    file.write_bytes(recorded.file.read_bytes())
    known = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "twice"}]}
    new = {**STREAM, "messages": [{"role": "user", "content": "Something new, please"}]}
    before = len(upstream.seen)
    with run(tmp_path, ["replay", str(file), "--or-forward"], upstream.url) as relay:
        assert relay.ask("POST", "/v1/chat/completions", known, PACED).body == recorded.twice[0]
        assert len(upstream.seen) == before
        first, times = timed(relay, new)
        assert upstream.seen[-1].path == "/v1/chat/completions"
        assert times[-1] > 0.1  # as it comes
        assert relay.chat("我叫大明", key=KEY)["data"] == "你好，大明！我记住了。"
        asked = len(upstream.seen)
        assert asked == before + 2
        assert eventually(lambda: file.stat().st_size > recorded.file.stat().st_size + 4000)
        assert timed(relay, new)[0] == first
        assert len(upstream.seen) == asked
        assert relay.stop() == 0
    assert KEY.encode() not in file.read_bytes()
    with run(tmp_path, ["replay", str(file), "--fast"], nowhere()) as relay:
        assert timed(relay, new)[0] == first
        assert relay.chat("我叫大明")["data"] == "你好，大明！我记住了。"


# -- from other files, and at the end


def test_a_har_is_replayed(recorded: Recorded, tmp_path: Path) -> None:
    with recorded.file.open("rb") as file:
        flows = [each for each in FlowReader(file).stream() if isinstance(each, mhttp.HTTPFlow)]
    har = SaveHar().make_har([each for each in flows if "relay.chat" not in each.metadata])
    har["log"]["entries"].insert(0, {"nonsense": True})
    path = tmp_path / "a.har"
    path.write_text(json.dumps(har), encoding="utf-8-sig")
    with run(tmp_path, ["replay", str(path), "--fast"], nowhere()) as relay:
        assert relay.ask("GET", "/v1/models").body == recorded.answers["models"]
        assert timed(relay, STREAM)[0] == recorded.stream
        assert timeless(relay.ask("GET", f"/pro/balance?apiKey={KEY}").body) == recorded.answers["balance"]
        assert eventually(lambda: "1 not readable" in relay.log)
    assert cli.main(["replay", str(path), "--or-forward"]) == 1


def test_what_is_under_way_when_relay_ends_is_not_saved(upstream: Upstream, tmp_path: Path) -> None:
    file = tmp_path / "x.flow"
    with run(tmp_path, ["record", str(file)], upstream.url) as relay, relay.connect() as connection:
        body = json.dumps(STREAM).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nx-demo-delay-ms: 5000\r\n"
        )
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert connection.recv(10)
        relay.stop()
    assert KEY.encode() not in file.read_bytes()
