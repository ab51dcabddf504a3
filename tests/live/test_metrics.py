"""GET /metrics of real relays, alone and with workers: what is counted, for whom, and what never gets in."""

import contextlib
import http.server
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from addons.cli.fake_openai.server import Upstream
from tests.support import exposition
from tests.support.crew import asleep, crew, workers
from tests.support.live import Answer, Live, eventually, free_port, relay

MARKED = "sk-test-MARKED0123456789abcdefMARKED"
PLAIN = "marked-key-of-no-known-shape-0123456789"
"""Nobody would take it for a key by its looks."""
TOKEN = "metrics-token-0123456789"
COMPLETIONS = "/v1/chat/completions"


def talk(live: Live, key: str, model: str = "gpt-4o-mini", *, stream: bool = False, **more: Any) -> Answer:
    body = {"model": model, "messages": [{"role": "user", "content": f"hello {key}"}], "stream": stream, **more}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return live.ask("POST", COMPLETIONS, body, {"Authorization": f"Bearer {key}"})


def everything(live: Live, key: str) -> None:
    """Requests, errors, streams, a chat, and the key where it does not belong."""
    talk(live, key)
    talk(live, key, stream=True)
    talk(live, key, "no-such-model")
    talk(live, key, f"model-{key}")
    live.ask("GET", f"/v1/models/{key}", headers={"Authorization": f"Bearer {key}"})
    live.ask("GET", f"/nothing/{key}?key={key}", headers={"Authorization": f"Bearer {key}"})
    live.ask("GET", f"/pro/balance?apiKey={key}")
    live.chat("hi", key=key)
    live.chat("x" * 2000, key=key)


def scrape(live: Live, path: str = "/metrics", **headers: str) -> exposition.Series:
    answer = live.ask("GET", path, headers=headers)
    assert answer.status == 200, answer.body
    return exposition.read(answer.body.decode())


@contextlib.contextmanager
def serving(folder: Path, upstream: Upstream, count: int, **settings: Any) -> Iterator[Live]:
    if count == 1:
        with relay(folder, upstream.url, **settings) as live:
            yield live
    else:
        with crew(folder, upstream.url, **settings) as live:
            yield live


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def served(
    request: pytest.FixtureRequest, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    if request.param > 1 and sys.platform != "linux":
        pytest.skip("looks into /proc")
    with serving(tmp_path_factory.mktemp("metrics"), upstream, request.param) as live:
        yield live


def test_what_passes_is_counted_once_whoever_is_asked(served: Live) -> None:
    before = scrape(served)
    for number in range(6):
        assert talk(served, "sk-test-0123456789", stream=number % 2 == 0).status == 200
    served.chat("hi")
    assert served.ask("GET", "/nowhere").status == 404

    def counted() -> bool:
        after = scrape(served)

        def more(name: str, **labels: str) -> float:
            return exposition.total(after, name, **labels) - exposition.total(before, name, **labels)

        return (
            more("relay_requests_total", endpoint="chat_completions", outcome="ok", status="2xx") == 6
            and more("relay_requests_total", endpoint="relay_chat", outcome="ok") == 1
            and more("relay_errors_total", kind="unknown_path") == 1
            and more("gen_ai_server_time_to_first_token_seconds_count") == 3
            and more("gen_ai_client_operation_time_per_output_chunk_seconds_count") > 3
            and more("relay_tokens_total", model="gpt-4o-mini", type="input") > 0
            and more("relay_cost_nanodollars_total", model="gpt-4o-mini") > 0
            and more("relay_overhead_seconds_count") >= 7
            and more("relay_store_seconds_count", operation="save") == 1
        )

    assert eventually(counted, 10), scrape(served)


def test_promtool_finds_nothing_to_complain_of(served: Live) -> None:
    talk(served, "sk-test-0123456789", stream=True)
    text = served.ask("GET", "/metrics").body
    exposition.check_with_promtool(text)
    asked = served.ask("GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert asked.body.endswith(b"# EOF\n")


def test_no_key_gets_in(served: Live) -> None:
    for key in (MARKED, PLAIN):
        everything(served, key)
    text = served.ask("GET", "/metrics").body.decode()
    assert "no-such-model" not in text, "upstream has not answered for it"
    for key in (MARKED, PLAIN):
        assert key not in text and key[8:] not in text


def test_names_that_strangers_invent_add_no_series(served: Live) -> None:
    talk(served, "sk-bad-0123456789", "invented-by-nobody")
    before = len(scrape(served))
    for number in range(40):
        assert talk(served, "sk-bad-0123456789", f"invented-{number}").status == 401
    # What others have begun meanwhile may have new buckets, but none is named after a model that nobody serves.
    assert len(scrape(served)) <= before + 2
    assert "invented" not in served.ask("GET", "/metrics").body.decode()


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"X-Forwarded-For": "203.0.113.7"}, id="another server has passed it on"),
        pytest.param({"Forwarded": "for=203.0.113.7"}, id="and says so as RFC 7239 has it"),
        pytest.param({"Origin": "https://evil.example"}, id="a page asks"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, id="a page asks without an Origin"),
        pytest.param({"Host": "evil.example"}, id="a name that leads here only now"),
    ],
)
def test_without_a_token_only_this_machine_may_read_them(served: Live, headers: dict[str, str]) -> None:
    answer = served.ask("GET", "/metrics", headers=headers)
    assert answer.status == 403
    assert answer.json()["error"]["code"] == "metrics_not_allowed"
    assert served.ask("POST", "/metrics", b"").status == 405


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_stopped_worker_keeps_nobody_and_a_killed_one_takes_nothing(upstream: Upstream, tmp_path: Path) -> None:
    port = free_port()
    metrics = {"listen": f"127.0.0.1:{port}", "token": TOKEN}
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with crew(tmp_path, upstream.url, metrics=metrics) as live:
        aside = Live(live.process, port, live.log_file, live.folder)
        assert live.ask("GET", "/metrics", headers=bearer).status == 404, "it has an address of its own"
        assert aside.ask("GET", "/metrics").status == 401
        assert aside.ask("GET", "/v1/models", headers=bearer).status == 404
        for _ in range(12):
            assert talk(live, "sk-test-0123456789").status == 200
        assert eventually(
            lambda: exposition.total(scrape(aside, **bearer), "relay_requests_total", endpoint="chat_completions") == 12
        )
        assert exposition.total(scrape(aside, **bearer), "relay_processes") == 2
        before = scrape(aside, **bearer)
        with asleep(workers(live)[1]):
            assert eventually(lambda: _answers(aside, before, bearer), 5)
        for number in (1, 2):
            before = scrape(aside, **bearer)
            os.kill(pid := workers(live)[number], signal.SIGKILL)
            assert eventually(lambda gone=pid, which=number: workers(live).get(which) not in (None, gone), 15)
            for _ in range(3):
                after = scrape(aside, **bearer)
                assert exposition.fallen(before, after) == []
                before = after
        assert exposition.total(before, "relay_requests_total", endpoint="chat_completions") == 12


def _answers(aside: Live, before: exposition.Series, headers: dict[str, str]) -> bool:
    """Whether it is answered in time, with no less than before; the one that is stopped may have taken the client."""
    try:
        answer = aside.ask("GET", "/metrics", headers=headers, timeout=1.5)
    except TimeoutError:
        return False
    assert exposition.fallen(before, exposition.read(answer.body.decode())) == []
    return True


class Collector:
    """Takes spans; `how` says what it does with a request."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        self.text = b""
        self.hangs = threading.Event()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.hangs.wait(20)
                collector.text += body
                for resource in json.loads(body)["resourceSpans"]:
                    for scope in resource["scopeSpans"]:
                        collector.spans += scope["spans"]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def of(self, answer: Answer) -> list[dict[str, Any]]:
        """The spans of an exchange, its own first."""
        id = answer.headers["x-relay-request-id"]
        mine = {"key": "relay.request_id", "value": {"stringValue": id}}
        own = next(span for span in self.spans if mine in span["attributes"])
        return [own, *(span for span in self.spans if span.get("parentSpanId") == own["spanId"])]


def test_a_collector_gets_spans_without_keys_and_keeps_nobody_waiting(upstream: Upstream, tmp_path: Path) -> None:
    collector = Collector()
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with relay(tmp_path, upstream.url, telemetry={"otlp": collector.url, "content": True}) as live:
        begun = time.monotonic()
        headers = {"Authorization": f"Bearer {MARKED}", "traceparent": f"00-{trace}-{parent}-01"}
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"call me Ishmael {PLAIN} {MARKED}"}]}
        first = live.ask("POST", COMPLETIONS, body, headers)
        echoed = live.ask("POST", "/v1/echo", b"", headers).json()["headers"]
        for key in (MARKED, PLAIN):
            everything(live, key)
        assert time.monotonic() - begun < 8, "it hangs, and nobody waits for it"
        collector.hangs.set()
        # 2 x 9, less what upstream was not asked for, and these two.
        assert eventually(lambda: len(collector.spans) >= 25 and MARKED.encode() not in collector.text, 8)
    [own, attempt] = collector.of(first)
    assert (own["traceId"], own["parentSpanId"], attempt["traceId"]) == (trace, parent, trace)
    assert ["traceparent", headers["traceparent"]] in [[name.lower(), value] for name, value in echoed]
    assert b"Ishmael" in collector.text, "content: true"
    for key in (MARKED, PLAIN):
        found = collector.text.replace(f"call me Ishmael {PLAIN}".encode(), b"")
        assert key.encode() not in found and key[8:].encode() not in found


def test_log_json_has_a_line_for_each_exchange_and_no_key(upstream: Upstream, tmp_path: Path) -> None:
    with relay(tmp_path, upstream.url, log="json") as live:
        answers = [talk(live, MARKED), talk(live, MARKED, stream=True), talk(live, "sk-bad-0123456789")]
        for key in (MARKED, PLAIN):
            everything(live, key)
        assert eventually(lambda: live.log.count('"event":"exchange"') >= 3 + 2 * 9, 5), live.log
        log = live.log
    lines = [json.loads(line) for line in log.splitlines()]
    assert {line["event"] for line in lines} == {"message", "exchange"}
    assert not any(key in log or key[8:] in log for key in (MARKED, PLAIN))
    by_id = {line["request_id"]: line for line in lines if line["event"] == "exchange"}
    first, streamed, refused = (by_id[answer.headers["x-relay-request-id"]] for answer in answers)
    assert (first["outcome"], first["status"], first["model"], first["upstream"]) == ("ok", 200, "gpt-4o-mini", "test")
    assert first["tokens"] == {"input": first["tokens"]["input"], "output": first["tokens"]["output"]}
    assert first["cost"].startswith("0.0000") and first["estimated"] is False
    assert first["key"] == streamed["key"] and len(first["key"]) == 8
    assert streamed["stream"] and 0 < streamed["first_byte_ms"] <= streamed["duration_ms"]
    assert (refused["outcome"], refused["error"], refused["cost"]) == ("upstream_error", "http_401", None)
