"""Upstreams that fail: waiting for a key, clients that leave, bounds, budgets, sockets, HTTP/2."""

import contextlib
import json
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from addons.cli.fake_openai.server import Upstream
from addons.store.ledger import NAME as LEDGER
from tests.live.test_failover import BUDGETED, CHAT, KEY, A, B, Case, D, settings, where
from tests.live.test_wire_tls import Http2
from tests.live.test_wire_websocket import Socket
from tests.support import certificates, failing_upstream, live
from tests.support.failing_upstream import FailingUpstream
from tests.support.live import Live, eventually, free_port


@contextlib.contextmanager
def serving(folder: Path, **limits: Any) -> Iterator[tuple[Live, FailingUpstream]]:
    with failing_upstream.running("one", "two", "lonely") as failing:
        written = settings(failing, **limits)
        with live.relay(folder, written.pop("upstreams"), **written) as relay:
            yield relay, failing


def all_at_once(case: Case, count: int, **more: Any) -> list[int]:
    statuses: list[int] = []

    def ask(number: int) -> None:
        statuses.append(case.ask(f"{number}", **more).status)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    return statuses


# Waiting for a key


def test_requests_wait_for_a_key_and_none_fails(tmp_path: Path) -> None:
    with serving(tmp_path, queue="8s") as (relay, failing):
        case = Case(relay, failing)
        begun = time.monotonic()
        failing.plan = lambda _asked: "429 for 1 s" if time.monotonic() - begun < 1.5 else "ok"
        assert all_at_once(case, 30, path=f"/lonely{CHAT}") == [200] * 30
        assert 1.5 < time.monotonic() - begun < 8
        assert all(count == 1 for count in failing.accepted.values()) and len(failing.accepted) == 30


def test_who_waits_too_long_hears_when_to_come_back(tmp_path: Path) -> None:
    with serving(tmp_path, queue="500ms") as (relay, failing):
        case = Case(relay, failing)
        failing.plan = lambda _asked: "429 for 2 s"
        begun = time.monotonic()
        assert case.ask(path=f"/lonely{CHAT}").status == 429
        answer = case.ask("later", path=f"/lonely{CHAT}")
        assert (answer.status, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert answer.headers["x-should-retry"] == "true" and 1 <= int(answer.headers["retry-after"]) <= 2
        assert time.monotonic() - begun < 8
        assert case.asked("later") == []


def test_the_time_in_line_is_that_of_all_waits_together(tmp_path: Path) -> None:
    with serving(tmp_path, queue="1500ms") as (relay, failing):
        case = Case(relay, failing)
        failing.plan = lambda _asked: "429 for 1 s"
        begun = time.monotonic()
        assert case.ask(path=f"/lonely{CHAT}").status == 429
        assert 1.4 < time.monotonic() - begun < 3.5
        assert len(case.asked()) == 2


def test_who_leaves_the_line_is_asked_for_no_more(tmp_path: Path) -> None:
    with serving(tmp_path, queue="5s") as (relay, failing):
        case = Case(relay, failing)
        failing.plan = lambda asked: "429 for 1 s" if asked.said.endswith("first") and asked.before == 0 else "ok"
        threading.Thread(target=case.ask, args=("first",), kwargs={"path": f"/lonely{CHAT}"}).start()
        assert eventually(lambda: case.asked("first"))
        body = json.dumps({"model": case.model, "user": "left", "messages": []}).encode()
        head = f"POST /lonely{CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        leaving = [relay.connect() for _ in range(50)]
        for each in leaving:
            each.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(0.3)
        for each in leaving:
            each.close()
        time.sleep(1.5)
        assert [each for each in failing.asked if each.said == "left"] == []
        assert case.ask("then", path=f"/lonely{CHAT}").status == 200


def test_a_stream_that_its_client_resets_gives_up_its_place_at_once(tmp_path: Path) -> None:
    pair = certificates.self_signed(tmp_path)
    with failing_upstream.running("one", "two", "lonely") as failing:
        written = settings(failing, queue="6s")
        written["listen"] = {"tls": {"cert": str(pair.cert), "key": str(pair.key)}}
        with live.relay(tmp_path, written.pop("upstreams"), **written) as relay, Http2(relay, pair) as client:
            case = Case(relay, failing)
            failing.plan = lambda asked: "429 for 2 s" if asked.said.endswith("first") and asked.before == 0 else "ok"
            threading.Thread(target=case.ask, args=("first",), kwargs={"path": f"/lonely{CHAT}"}).start()
            assert eventually(lambda: case.asked("first"))
            time.sleep(0.2)
            body = json.dumps({"model": case.model, "user": "left", "messages": []}).encode()
            headers = [("x-api-key", KEY), ("content-type", "application/json")]
            waiting = [client.send("POST", f"/lonely{CHAT}", headers, body) for _ in range(99)]  # and the first: 100
            time.sleep(0.5)
            for each in waiting:
                client.cancel(each)
            time.sleep(0.3)
            assert case.ask("then", path=f"/lonely{CHAT}").status == 200
            assert [each for each in failing.asked if each.said == "left"] == []


# Bodies that are kept for a repeat


def upload(case: Case, size: int, *, chunked: bool) -> live.Answer:
    """A body of so many bytes and a few, that relay has no need to read, to an upstream whose first key refuses it."""
    case.failing.plan = lambda asked: "429 for 0 s" if asked.before == 0 else "ok"
    body = json.dumps({"user": f"{case.number} {size} {chunked}", "input": "x" * size}).encode()
    head = f"POST /v1/moderations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    with case.relay.connect() as connection:
        connection.sendall(f"{head}{framing}\r\n\r\n".encode())
        for piece in (body[:1000], body[1000:]):
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            time.sleep(0.05)
        connection.sendall(b"0\r\n\r\n" if chunked else b"")
        answer = live.read_answer(connection, "POST")
    assert all(each.body == body for each in case.failing.asked)
    return answer


def test_a_body_that_ends_within_64_kib_is_repeated_however_it_is_framed(tmp_path: Path) -> None:
    with serving(tmp_path) as (relay, failing):
        for size, chunked, status, times in (
            (2000, True, 200, 2),
            (60_000, False, 200, 2),
            (200_000, True, 429, 1),
            (200_000, False, 429, 1),
        ):
            case = Case(relay, failing)
            assert (upload(case, size, chunked=chunked).status, len(failing.asked)) == (status, times), size


def test_a_body_for_whose_repeat_there_is_no_room_passes(tmp_path: Path) -> None:
    with serving(tmp_path, held="1500") as (relay, failing):
        for size, chunked, status in ((1200, False, 200), (2000, False, 429), (2000, True, 429)):
            assert upload(Case(relay, failing), size, chunked=chunked).status == status, size


# Clients that leave


def test_of_200_clients_that_leave_meanwhile_nothing_is_left(tmp_path: Path) -> None:
    with serving(tmp_path) as (relay, failing):
        case = Case(relay, failing)
        failing.deafen("lonely")
        body = json.dumps({"model": case.model, "user": "left", "messages": []}).encode()
        head = f"POST /lonely{CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        leaving = [relay.connect() for _ in range(200)]
        for each in leaving:
            each.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(0.02)
        for each in leaving:
            each.close()
        assert eventually(lambda: len(list(Path(f"/proc/{relay.process.pid}/fd").iterdir())) < 100, 15)
        failing.listen("lonely")
        time.sleep(1)
        assert [each for each in failing.asked if each.said == "left"] == []
        assert case.ask(path=f"/lonely{CHAT}").status == 200
        assert "Traceback" not in relay.log and "Task was destroyed" not in relay.log


# Bounds


def test_attempts_are_bounded(tmp_path: Path) -> None:
    with serving(tmp_path, attempts=2) as (relay, failing):
        case = Case(relay, failing)
        failing.plan = lambda _asked: "429 for 1 s"
        assert case.ask().status == 429
        assert where(case.asked()) == ["one", "one"]


def test_so_is_their_time(tmp_path: Path) -> None:
    with serving(tmp_path, attempt_time="300ms") as (relay, failing):
        case = Case(relay, failing)

        def plan(_asked: object) -> str:
            time.sleep(0.4)
            return "429 for 1 s"

        failing.plan = plan
        assert case.ask().status == 429
        assert where(case.asked()) == ["one"]


# Budgets


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    sql = sqlite3.connect(f"{(folder / 'store' / LEDGER).as_uri()}?mode=ro", uri=True, timeout=5)
    sql.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in sql.execute(f"SELECT * FROM {table}")]
    finally:
        sql.close()


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with failing_upstream.running("one", "two", "lonely") as failing:
        written = settings(failing)
        upstreams = written.pop("upstreams")
        upstreams[1]["price"] = 10  # the fallback is dearer
        folder = tmp_path_factory.mktemp("priced")
        with live.relay(folder, upstreams, **written) as relay:
            case = Case(relay, failing)
            case.model = "m"
            yield case


def settled(case: Case, request: str) -> list[dict[str, Any]]:
    """The rows of a request, its hold first."""
    assert eventually(lambda: any(row["request"] == request for row in rows(case.relay.folder, "Settlements")))
    holds = [row for row in rows(case.relay.folder, "Holds") if row["request"] == request]
    return holds + [row for row in rows(case.relay.folder, "Settlements") if row["request"].startswith(request)]


def test_the_hold_covers_the_dearest_candidate(priced: Case) -> None:
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": "m", "user": f"{priced.number} cheap", "messages": messages, "max_tokens": 50}
    size = len(json.dumps(body))
    priced.failing.plan = lambda _asked: "ok"
    answer = priced.ask("cheap", key=BUDGETED, max_tokens=50)
    hold, row = settled(priced, answer.headers["x-relay-request-id"])
    assert hold["amount"] == 10 * (size * 1000 + 50 * 2000)
    assert (row["upstream"], row["amount"]) == ("one", 10 * 1000 + 5 * 2000)


def test_a_request_is_settled_at_the_prices_of_who_has_answered(priced: Case) -> None:
    priced.failing.plan = lambda asked: "529" if asked.place == "one" else "ok"
    answer = priced.ask("dear", key=BUDGETED, max_tokens=50)
    assert answer.status == 200
    _, row = settled(priced, answer.headers["x-relay-request-id"])
    assert (row["upstream"], row["amount"], row["reason"]) == ("two", 10 * (10 * 1000 + 5 * 2000), "finished")
    assert eventually(lambda: priced.relay.ask("GET", "/readyz").json()["upstreams"][0].get("for") == 0)


def test_refusals_cost_nothing(priced: Case) -> None:
    priced.failing.plan = lambda _asked: "429 for 1 s"
    answer = priced.ask("refused", key=BUDGETED, max_tokens=50)
    assert answer.status == 429
    _, row = settled(priced, answer.headers["x-relay-request-id"])
    assert (row["reason"], row["amount"]) == ("refused", 0)
    time.sleep(1.2)


def test_uncertain_repeats_are_held_for_and_have_rows(priced: Case) -> None:
    priced.failing.plan = lambda _asked: "ok"
    priced.ask("warm", key=BUDGETED)  # the probes of those that were set aside
    priced.failing.plan = lambda asked: "hang up" if asked.said.endswith("again") and asked.before < 2 else "ok"
    once = priced.ask("once", key=BUDGETED, max_tokens=50)
    again = priced.ask("again", key=BUDGETED, headers={"Idempotency-Key": "k"}, max_tokens=50)
    assert (once.status, again.status) == (200, 200)
    [hold, *found] = settled(priced, again.headers["x-relay-request-id"])
    [plain, _] = settled(priced, once.headers["x-relay-request-id"])
    longer = len("again") - len("once")
    assert hold["amount"] == 3 * (plain["amount"] + 10 * longer * 1000)
    assert sorted(row["reason"] for row in found) == ["finished", "upstream broke", "upstream broke"]
    assert sum(row["amount"] for row in found) == 10 * 1000 + 5 * 2000


def test_what_can_t_be_priced_is_no_candidate(tmp_path: Path) -> None:
    with failing_upstream.running("one", "two", "lonely") as failing:
        written = settings(failing)
        upstreams = written.pop("upstreams")
        upstreams[1]["model"] = "nobody-knows-this-one"
        with live.relay(tmp_path, upstreams, **written | {"chat": {"model": "m"}}) as relay:
            failing.deafen("one")
            assert relay.chat("hello", key=BUDGETED)["code"] == 502
            assert failing.asked == []
            assert relay.chat("hello", key=KEY)["data"] == "two says hello"


# Sockets, HTTP/2


def test_a_websocket_s_handshake_goes_elsewhere_too(tmp_path: Path) -> None:
    with Upstream.running() as well, failing_upstream.running("one") as failing:
        failing.plan = lambda _asked: "429 for 1 s"
        upstreams = [
            {"name": "away", "url": f"http://127.0.0.1:{free_port()}", "keys": [A], "fallback": ["one", "well"]},
            {"name": "one", "url": failing.url("one"), "keys": [B]},
            {"name": "well", "url": well.url, "keys": ["sk-real-well-0123456789"]},
        ]
        with live.relay(tmp_path, upstreams, keys={"list": [{"name": "x", "key": KEY}]}) as relay:
            with Socket(relay, [(b"Authorization", f"Bearer {KEY}".encode())]):
                pass
            assert len(failing.asked) == 1
            [seen] = [each for each in well.seen if each.path.startswith("/v1/realtime")]
            assert dict(seen.headers)["Authorization"] == "Bearer sk-real-well-0123456789"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl speaks HTTP/2")
def test_clients_of_http2_are_served_as_well(tmp_path: Path) -> None:
    with serving(tmp_path) as (relay, failing):
        failing.plan = lambda asked: "429 for 1 s" if asked.place == "one" and asked.before == 0 else "ok"
        url = f"https://127.0.0.1:{relay.port}{CHAT}"
        for number in range(5):
            body = json.dumps({"model": f"m{number}", "user": f"h2 {number}", "messages": []})
            asked = ["curl", "-sk", "--http2", "--noproxy", "*", "-w", " %{http_code} %{http_version}", "-d", body]
            said = subprocess.run(
                [*asked, "-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json", url],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            ).stdout
            assert said.endswith(" 200 2"), said
            assert len([each for each in failing.asked if each.said == f"h2 {number}"]) == 2


def test_a_connect_that_times_out_says_nothing_of_another_stream_that_broke(tmp_path: Path) -> None:
    """It was sent, and may have been worked on: to be told to ask again would be to be billed twice."""

    def plan(_asked: object) -> str:
        time.sleep(0.8)
        return "hang up"

    pair = certificates.self_signed(tmp_path)
    with failing_upstream.running("one", "two", "lonely") as failing, socket.create_server(("127.0.0.1", 0)) as silent:
        written = settings(failing, idle="30s")
        away = {"name": "away", "url": f"https://127.0.0.1:{silent.getsockname()[1]}", "keys": [D]}
        written["routes"].append({"path": "/away", "upstream": "away"})
        written["listen"] = {"tls": {"cert": str(pair.cert), "key": str(pair.key)}}
        failing.plan = plan
        upstreams = [*written.pop("upstreams"), away]
        with live.relay(tmp_path, upstreams, **written) as relay, Http2(relay, pair) as client:
            body = json.dumps({"model": "m", "user": "h2", "messages": []}).encode()
            headers = [("x-api-key", KEY), ("content-type", "application/json")]
            sent = client.send("POST", f"/lonely{CHAT}", headers, body)
            gone = client.send("POST", f"/away{CHAT}", headers, body)
            while not (sent.ended and gone.ended):
                client.receive()
        assert (gone.status, dict(gone.fields)["x-should-retry"]) == (504, "true")
        assert (sent.status, dict(sent.fields)["x-should-retry"]) == (502, "false")


# What people see


def test_the_attempts_stand_in_the_flow(tmp_path: Path) -> None:
    from mitmproxy import io as mio

    saved = tmp_path / "flows"
    with failing_upstream.running("one", "two", "lonely") as failing:
        written = settings(failing)
        with live.relay(tmp_path, written.pop("upstreams"), ["-w", str(saved)], **written) as relay:
            case = Case(relay, failing)
            failing.plan = lambda asked: "429 for 1 s" if asked.place == "one" else "ok"
            failing.deafen("lonely")
            assert case.ask(path=f"/lonely{CHAT}", key="sk-own-MARKED-01").status == 502
            assert case.ask().status == 200
    with saved.open("rb") as file:
        flows = [each for each in mio.FlowReader(file).stream() if each.metadata.get("relay.attempts")]
    own, attempts = (each.metadata["relay.attempts"] for each in flows)
    assert [(each["upstream"], each["reason"], "key" in each) for each in own] == [
        ("lonely", "no connection", False)
    ] * 3
    assert [(each["upstream"], each["status"], each.get("reason")) for each in attempts] == [
        ("one", 429, "rate limited"),
        ("one", 429, "rate limited"),
        ("two", 200, None),
    ]
    assert all(each["ms"] >= 0 and each["start"] > 1e9 and len(each["key"]) == 8 for each in attempts)
    assert len({each["key"] for each in attempts}) == 3
    assert "3 attempts" in flows[-1].comment
    assert b"MARK" not in saved.read_bytes()


def test_a_model_has_its_name_of_the_upstream_that_it_goes_to(tmp_path: Path) -> None:
    with failing_upstream.running("one", "two", "lonely") as failing:
        written = settings(failing)
        upstreams = written.pop("upstreams")
        upstreams[0]["models"] = {"fast": "one-fast"}
        upstreams[1]["models"] = {"fast": "two-fast", "plain": "two-plain"}
        with live.relay(tmp_path, upstreams, **written) as relay:
            case = Case(relay, failing)
            failing.plan = lambda asked: "429 for 1 s" if asked.place == "one" else "stream"
            for model in ("fast", "plain"):
                case.model = model
                assert case.ask(model, stream=True).status == 200
                bodies = [json.loads(each.body) for each in case.asked(model)]
                names = ["one-fast", "one-fast", "two-fast"] if model == "fast" else ["plain", "plain", "two-plain"]
                assert [each["model"] for each in bodies] == names
                assert all(each["stream_options"] == {"include_usage": True} for each in bodies)


def test_a_name_in_an_address_goes_to_nobody_who_has_another_for_it(tmp_path: Path) -> None:
    with failing_upstream.running("one", "two", "lonely") as failing:
        written = settings(failing)
        upstreams = written.pop("upstreams")
        upstreams[1]["models"] = {"mine": "theirs"}
        with live.relay(tmp_path, upstreams, **written) as relay:
            failing.plan = lambda asked: "429 for 1 s" if asked.place == "one" else "ok"
            for name, status in (("mine", 429), ("plain", 200)):
                path = f"/v1/models/{name}"
                assert relay.ask("GET", path, None, {"Authorization": f"Bearer {KEY}"}).status == status
                assert any(each.place == "two" for each in failing.asked if each.said == path) is (status == 200)
