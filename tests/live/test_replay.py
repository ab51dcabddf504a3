"""Record and replay: a session with real clients, and the same again from the file, without an upstream.

1. The whole way: `record`, then `replay`, each a real relay.
2. What a file may hold: read, left out, refused (addons/replay/flow_file.py).
"""

import http.client
import io
import json
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
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.test import tflow, tutils

from addons.addresses import Refusal
from addons.cli import __main__ as cli
from addons.cli.fake_openai.server import Behaviour, Upstream
from addons.config.settings import Settings
from addons.flow.capture import Copy
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


# -- files from elsewhere


def settings(**sections: Any) -> Settings:
    upstreams = [{"name": "one", "url": "https://one.test/proxy"}, {"name": "two", "url": "http://two.test:81"}]
    return Settings.model_validate({"upstreams": upstreams, **sections})


def made(
    path: str = "/v1/models",
    answer: bytes = b"{}",
    headers: Mapping[str, str] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> mhttp.HTTPFlow:
    """A flow as a file holds it."""
    flow = tflow.tflow(
        req=tutils.treq(method=b"GET", path=path.encode(), host="one.test", port=443, scheme=b"https", content=b""),
        resp=tutils.tresp(content=answer, headers=mhttp.Headers()),
    )
    assert flow.response is not None
    for name, value in (headers or {}).items():
        flow.response.headers[name] = value
    flow.metadata.update(meta or {})
    return flow


def saved(path: Path, *flows: mhttp.HTTPFlow) -> Path:
    with path.open("wb") as file:
        writer = FlowWriter(file)
        for flow in flows:
            writer.add(flow)
    return path


def test_a_file_that_mitmweb_has_saved_is_read(tmp_path: Path) -> None:
    events = b"data: 1\n\ndata: 2\r\n\r\ndata: [DONE]\n\n"
    stream = made(answer=events, headers={"content-type": "text/event-stream"})
    assert stream.response is not None
    stream.response.timestamp_start, stream.response.timestamp_end = 10.0, 12.0
    stream.request.timestamp_start = stream.request.timestamp_end = 9.0
    [record] = flow_file.read(saved(tmp_path / "x", stream), settings()).records
    assert (record.upstream, record.asked.path, record.wait) == ("one", "/v1/models", 1.0)
    assert [(at, len(piece)) for at, piece in record.pieces()] == [(0.0, 9), (1.0, 11), (2.0, 14)]


def test_the_upstreams_prefix_is_taken_off_and_strangers_belong_to_nobody(tmp_path: Path) -> None:
    stranger = made("/v1/models")
    stranger.request.host = "elsewhere.test"
    tree = flow_file.read(saved(tmp_path / "x", made("/proxy/user/balance?x=1"), stranger), settings())
    assert [(each.upstream, each.asked.path) for each in tree.records] == [
        ("one", "/user/balance"),
        (None, "/v1/models"),
    ]


HEARD = {"status": 200, "headers": [[b"content-type", b"application/json"]], "body": b"{}", "chunks": []}


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/proxy/v1/chat/completions", {}),
        ("/chat", {"relay.upstream_path": "/proxy/v1/chat/completions"}),
        ("/proxy/v1/chat/completions", {"relay.upstream_path": 7}),
    ],
    ids=["an older relay's", "today's", "nonsense"],
)
def test_a_message_is_known_by_what_went_upstream(path: str, more: Mapping[str, Any], tmp_path: Path) -> None:
    flow = made(path, meta={"relay.chat": {}, "relay.heard": HEARD, **more})
    [record] = flow_file.read(saved(tmp_path / "x", flow), settings()).records
    assert (record.upstream, record.asked.path, record.body) == ("one", "/v1/chat/completions", b"{}")


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


@pytest.mark.parametrize(
    ("flow", "reason"),
    [
        (made(meta={"relay.own": True}), flow_file.OWN),
        (made(meta={"relay.answer_bytes": 9}), "not whole"),
        (made(meta={"relay.chat": {}}), "without what the upstream said"),
        (tflow.twebsocketflow(), "websocket"),
        (tflow.ttcpflow(), "not HTTP"),
        (tflow.tflow(), "without an answer"),
        (tflow.tflow(err=tflow.terr("Client disconnected.")), "broken off by the app"),
    ],
    ids=["relay's own", "cut", "an envelope", "websocket", "tcp", "no answer", "client left"],
)
def test_what_cannot_be_replayed_is_left_out_with_the_reason(flow: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=reason):
        flow_file.read(saved(tmp_path / "x", flow), settings())
    held = flow_file.read(saved(tmp_path / "x", flow, made()), settings())
    assert len(held.records) == 1
    assert reason in flow_file.reasons(held)[0]


@pytest.mark.parametrize("chunks", [None, 7, "ab", [1], [[1]], [["a", 1]], [[0, 5]], [[0, 2**70], [1, 1]]], ids=repr)
def test_times_that_are_none_cost_the_rhythm_alone(chunks: Any, tmp_path: Path) -> None:
    flow = made(answer=b"data: 1\n\ndata: 2\n\n", headers={"content-type": "text/event-stream"})
    flow.metadata["relay.chunks"] = chunks
    [record] = flow_file.read(saved(tmp_path / "x", flow), settings()).records
    assert b"".join(piece for _, piece in record.pieces()) == b"data: 1\n\ndata: 2\n\n"


def test_no_file_makes_an_answer_wait_for_ever(tmp_path: Path) -> None:
    flow = made(answer=b"12", meta={"relay.chunks": [[float("nan"), 1], [1e300, 1]]})
    assert flow.response is not None
    flow.response.timestamp_start = 1e300
    [record] = flow_file.read(saved(tmp_path / "x", flow), settings()).records
    assert record.wait <= flow_file.LONGEST_WAIT
    assert [at for at, _ in record.pieces()] == [0.0, flow_file.LONGEST_WAIT]


def test_headers_that_would_split_an_answer_are_dropped(tmp_path: Path) -> None:
    flow = made()
    assert flow.response is not None
    flow.response.headers.fields = ((b"a", b"1\r\nb: 2"), (b"b c", b"1"), (b"x-ok", b"1"), (b"Content-Length", b"99"))
    [record] = flow_file.read(saved(tmp_path / "x", flow), settings()).records
    assert record.headers == ((b"x-ok", b"1"),)


@pytest.mark.parametrize(
    ("answer", "broken"),
    [
        (b"data: 1\n\ndata: [DONE]\n\n", False),
        (b'event: response.completed\ndata: {"a": 1}\n\n', False),
        (b"data: 1\n\n", True),
        (b'data: "data: [DONE]"\n\n', True),
    ],
    ids=["at its end", "at the end of a response", "in its middle", "in its middle, that speaks of the end"],
)
def test_an_app_may_leave_with_the_last_event(answer: bytes, broken: bool, tmp_path: Path) -> None:
    flow = made(answer=answer, headers={"content-type": "text/event-stream"})
    flow.error = tflow.terr("Client disconnected.")
    [record] = flow_file.read(saved(tmp_path / "x", flow), settings()).records
    assert record.broken == broken
    assert b"".join(piece for _, piece in record.pieces()) == answer


def test_a_file_that_breaks_off_is_read_so_far(tmp_path: Path) -> None:
    path = saved(tmp_path / "x", made(), made())
    path.write_bytes(path.read_bytes()[:-20])
    held = flow_file.read(path, settings())
    assert len(held.records) == 1
    assert "broken" in flow_file.reasons(held)[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "it is empty"),
        (b"nonsense", "no flow file and no HAR"),
        (b'{"log": 1}', "no flow file and no HAR"),
        (b"{", "no flow file and no HAR"),
        (b'{"log": {"entries": []}}', "it is empty"),
        (b"3:abc,", "no flow file and no HAR"),
        (b"5:1:1#}", "no flow file and no HAR"),
        (b"999999999999:x", "no flow file and no HAR"),
        (b"cos\nsystem\n(S'id'\ntR.", "no flow file and no HAR"),
    ],
    ids=["missing", "empty", "nonsense", "json", "half", "har without entries", "text", "types", "huge", "pickle"],
)
@pytest.mark.parametrize("more", [[], ["--list"]], ids=["replay", "list"])
def test_bad_files_are_refused(
    content: bytes | None, words: str, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.flow"
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["replay", str(path), *more]) == 1
    said = capsys.readouterr().err
    assert words in said and said.startswith("relay: ") and "Traceback" not in said


def test_the_list_of_a_strangers_file_holds_no_escape_sequences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "x", made("/v1/\x1b[31mred" + "x" * 500))
    assert cli.main(["replay", str(path), "--list"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "…" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["record"], "arguments are required: FILE"),
        (["record", "-p", "1"], "arguments are required: FILE"),
        (["replay", "--fast"], "arguments are required: FILE"),
        (["record", "{there}"], "--append"),
        (["record", "{folder}/none/x"], "can't be written"),
        (["record", "{folder}"], "is a folder"),
        (["record", "{new}", "-w", "x"], "-w can't be given"),
        (["replay", "{there}", "--set", "relay_config=x"], "use RELAY_CONFIG"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_refusals_say_what_to_do(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = saved(tmp_path / "there", made())
    names = {"there": there, "folder": tmp_path, "new": tmp_path / "new"}
    assert cli.main([each.format(**names) for each in arguments]) == 1
    assert words in capsys.readouterr().err


def test_nothing_is_recorded_with_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "relay.yaml").write_text("inspect: {redact: false}")
    monkeypatch.setenv("RELAY_CONFIG", str(tmp_path / "relay.yaml"))
    assert cli.main(["record", str(tmp_path / "x")]) == 1
    assert "inspect.redact" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


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


def test_a_copy_with_times_tells_when_each_chunk_came() -> None:
    copy = Copy(3, timed=True)
    for chunk in (b"ab", b"", b"cde"):
        copy(chunk)
    assert [each.split()[1] for each in copy.times.split(", ")] == ["2", "3"]
    assert copy.cut and copy.body() == b"abc"
    assert not Copy(3).times
