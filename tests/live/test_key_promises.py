"""What relay promises of its keys at the edges: kills, work in the background, models without a price, pictures that
are priced each, what is not known, preflights, and a relay.yaml that is read again."""

import contextlib
import http.client
import json
import os
import signal
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from addons.cli.fake_openai.answer import Behaviour
from addons.cli.fake_openai.server import Upstream
from addons.store.ledger import NAME as LEDGER
from tests.support import live
from tests.support.certificates import self_signed
from tests.support.live import Live, LogWatch, eventually

REAL = "sk-real-MARKx-0123456789abcdef"
OWN = "sk-own-MARKx-0123456789abcdefg"
RICH = "rk-rich-MARKx-0123456789abcdefg"
FREE = "rk-free-MARKx-0123456789abcdefg"
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
JSON = [("Content-Type", "application/json")]
LISTED = [
    {"name": "rich", "key": RICH, "budget": {"amount": 5, "per": "month"}},
    {"name": "free", "key": FREE},
]


@contextlib.contextmanager
def begun(folder: Path, upstream: Upstream, **more: Any) -> Iterator[Live]:
    written = {
        "upstreams": [{"name": "test", "url": upstream.url, "keys": [REAL]}],
        "keys": {"list": LISTED, "open": True},
        "store": {"path": "store"},
        **more,
    }
    with live.relay(folder, written.pop("upstreams"), **written) as running:
        assert running.ask("GET", "/readyz").status == 200
        yield running


@pytest.fixture(scope="module")
def relay(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    prices = {"painter": {"request": 0.04}, "mystery-of-ours": {"input": 1, "output": 2}}
    with begun(tmp_path_factory.mktemp("relay"), upstream, prices=prices) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def rows(relay: Live, table: str = "Settlements") -> list[Mapping[str, Any]]:
    sql = sqlite3.connect(f"{(relay.folder / 'store' / LEDGER).as_uri()}?mode=ro", uri=True, timeout=5)
    sql.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in sql.execute(f"SELECT * FROM {table} ORDER BY at")]
    finally:
        sql.close()


def balance(relay: Live, key: str) -> dict[str, Any]:
    told: dict[str, Any] = relay.ask("GET", f"/pro/balance?apiKey={key}").json()
    return told


# A relay that is killed


@pytest.mark.parametrize(("key", "known"), [(RICH, True), (FREE, False)], ids=["budget", "no budget"])
def test_what_was_under_way_when_relay_was_killed_is_found(
    upstream: Upstream, tmp_path: Path, key: str, known: bool
) -> None:
    upstream.clear()
    upstream.script(CHAT, Behaviour(delay_headers=5))
    body = {"model": "gpt-4o", "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}]}
    with begun(tmp_path, upstream) as first, first.connect() as client:
        text = json.dumps(body)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {key}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
        upstream.wait(lambda seen: bool(seen) and seen[-1].path == CHAT)
        assert len(rows(first, "Holds")) == 1, "it is on the disk before upstream is asked"
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(10)
    upstream.clear()
    with begun(tmp_path, upstream) as second:
        (row,) = rows(second)
        assert (row["reason"], row["estimated"], row["usage"]) == ("relay killed", 1, None)
        assert (row["amount"] is not None) == known
        told = balance(second, key)
        if known:
            assert told["data"]["used"] >= 0 and "unpriced_requests" not in told["detail"]
        else:
            assert told["data"]["used"] is None and told["detail"]["unpriced_requests"] == 1
            usage = second.ask("GET", "/v1/dashboard/billing/usage", headers=bearer(key)).json()
            assert (usage["total_usage"], usage["unpriced_requests"]) == (None, 1)
        assert second.ask("POST", CHAT, body, bearer(key)).status == 200
        assert eventually(lambda: len(rows(second)) == 2), "and goes on counting"


# Work in the background


def response_of(name: str, status: str, usage: Mapping[str, int] | None) -> dict[str, Any]:
    about = {"id": name, "object": "response", "background": True, "status": status, "model": "gpt-4o"}
    return {**about, "service_tier": "default", "output": [], "usage": usage}


USED = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
COST = 1000 * 2500 + 100 * 10_000


def events(name: str) -> bytes:
    said = [("response.created", "queued", None), ("response.completed", "completed", USED)]
    return b"".join(
        f"event: {kind}\ndata: {json.dumps({'type': kind, 'response': response_of(name, status, usage)})}\n\n".encode()
        for kind, status, usage in said
    )


def stream(body: bytes) -> Behaviour:
    return Behaviour(status=200, headers=[("Content-Type", "text/event-stream")], chunks=[(body, 0.0)])


def of_background(relay: Live, name: str) -> list[Mapping[str, Any]]:
    return [row for row in rows(relay) if row["request"].endswith(f" {name}")]


@pytest.mark.parametrize("key", [FREE, OWN], ids=["relay key", "own key"])
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "asked about"])
@pytest.mark.parametrize("asked", ["json", "stream"])
def test_a_response_in_the_background_is_counted_once(
    relay: Live, upstream: Upstream, key: str, streamed: bool, asked: str
) -> None:
    name = f"resp_{os.urandom(8).hex()}"
    before = len(rows(relay))
    begins = json.dumps(response_of(name, "queued", None)).encode()
    upstream.script(RESPONSES, stream(events(name)) if streamed else Behaviour(status=200, headers=JSON, body=begins))
    body = {"model": "gpt-4o", "input": "Hello", "background": True, "stream": streamed}
    assert relay.ask("POST", RESPONSES, body, bearer(key)).status == 200
    if streamed:
        assert eventually(lambda: len(of_background(relay, name)) == 1), "its stream has told all"
    path = f"{RESPONSES}/{name}"
    over = json.dumps(response_of(name, "completed", USED)).encode()
    for _ in range(2):
        upstream.script(path, stream(events(name)) if asked == "stream" else Behaviour(200, headers=JSON, body=over))
        suffix = "?stream=true" if asked == "stream" else ""
        assert relay.ask("GET", f"{path}{suffix}", headers=bearer(key)).status == 200
    assert eventually(lambda: len(of_background(relay, name)) == 1)
    time.sleep(0.3)
    assert len(rows(relay)) == before + 1, "and in no other row"
    (row,) = of_background(relay, name)
    assert json.loads(row["usage"]) == {"input": 1000, "output": 100}
    assert row["amount"] == (COST if key == FREE else None)
    assert row["path"] == RESPONSES
    requests = {each["request"] for each in rows(relay)}
    assert not [each for each in rows(relay, "Holds") if each["request"] not in requests], "nothing is held any more"


# Models


def test_models_of_a_key_with_a_budget_are_those_that_have_a_price(relay: Live, upstream: Upstream) -> None:
    names = ["gpt-4o", "mystery", "mystery-of-ours", "painter", "gpt-4o-search-preview", "text-embedding-3-small"]
    listed = json.dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in names]}).encode()
    for path in ("/v1/models", "/v1/models/"):
        for key, wanted in ((RICH, [each for each in names if each != "mystery"]), (FREE, names)):
            upstream.script(path, Behaviour(status=200, headers=JSON, body=listed))
            answer = relay.ask("GET", path, headers=bearer(key))
            assert answer.status == 200
            found = [each["id"] for each in answer.json()["data"]]
            assert [each for each in found if "search" not in each] == [each for each in wanted if "search" not in each]
    for name, status in (("mystery", 403), ("gpt-4o", 200), ("mystery-of-ours", 200)):
        for path in (f"/v1/models/{name}", f"/v1/models/{name}/"):
            upstream.script(path, Behaviour(status=200, headers=JSON, body=b"{}"))
            assert relay.ask("GET", path, headers=bearer(RICH)).status == status, path
    upstream.clear()
    hello = {"model": "mystery", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}
    assert relay.ask("POST", CHAT, hello, bearer(RICH)).json()["error"]["code"] == "model_not_priced"


# Browsers


@pytest.mark.parametrize(
    "path",
    ["/api/usage/token", "/api/usage/token/", "/api/status", "/dashboard/billing/usage"]
    + [f"/v1/dashboard/billing/{name}" for name in ("subscription", "usage", "credit_grants")],
)
def test_a_browser_may_ask_for_what_is_left(relay: Live, path: str) -> None:
    origin = {"Origin": "https://app.example"}
    asks = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    answer = relay.ask("OPTIONS", path, headers=origin | asks)
    allowed = {name.lower(): value for name, value in answer.headers.items()}
    assert answer.status == 204
    assert allowed["access-control-allow-origin"] == "*"
    assert allowed["access-control-allow-headers"] == "authorization"
    for key in (RICH, "rk-nobodys-0123456789abcdefghijklm"):
        told = relay.ask("GET", path, headers=origin | bearer(key))
        assert {name.lower(): value for name, value in told.headers.items()}["access-control-allow-origin"] == "*"


# Prices of each


def test_pictures_that_are_priced_each_are_held_and_billed_each(relay: Live, upstream: Upstream) -> None:
    path = "/v1/images/generations"
    drawn = json.dumps({"created": 1, "data": [{"url": "https://pictures.example/1"}] * 3}).encode()
    upstream.script(path, Behaviour(status=200, headers=JSON, body=drawn))
    body = {"model": "painter", "prompt": "a cat", "n": 3}
    assert relay.ask("POST", path, body, bearer(RICH)).status == 200
    assert eventually(lambda: any(row["model"] == "painter" for row in rows(relay)))
    row = next(row for row in rows(relay) if row["model"] == "painter")
    assert (row["amount"], row["estimated"], json.loads(row["usage"])) == (120_000_000, 0, {"pictures": 3})
    held = next(each for each in rows(relay, "Holds") if each["request"] == row["request"])
    assert held["amount"] == 120_000_000
    too_many = relay.ask("POST", path, body | {"n": 200}, bearer(RICH))
    assert too_many.status == 429 and too_many.json()["error"]["code"] == "insufficient_quota"


def test_what_has_no_price_is_said_to_be_unknown(relay: Live, upstream: Upstream) -> None:
    hello = {"model": "mystery", "messages": [{"role": "user", "content": "Hello"}]}
    before = balance(relay, FREE)["detail"].get("unpriced_requests", 0)
    assert relay.ask("POST", CHAT, hello, bearer(FREE)).status == 200
    assert eventually(lambda: balance(relay, FREE)["detail"].get("unpriced_requests", 0) == before + 1)
    for path in ("/v1/dashboard/billing/usage", "/v1/dashboard/billing/credit_grants", "/api/usage/token"):
        assert relay.ask("GET", path, headers=bearer(FREE)).json()["unpriced_requests"] == before + 1
    assert "unpriced_requests" not in balance(relay, RICH)["detail"]


# relay.yaml, read again


def rewrite(relay: Live, **more: Any) -> None:
    written = dict(relay.settings) | more
    (relay.folder / "relay.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")


@pytest.fixture
def changing(upstream: Upstream, tmp_path: Path) -> Iterator[Live]:
    with begun(tmp_path, upstream) as running:
        yield running


def test_sighup_reads_relay_yaml_again_and_lets_what_is_under_way_end(changing: Live, upstream: Upstream) -> None:
    relay, watch = changing, LogWatch(changing)
    fresh = "rk-fresh-MARKx-0123456789abcdef"
    pieces = [f'data: {{"choices":[{{"delta":{{"content":"{number}"}}}}]}}\n\n'.encode() for number in range(8)]
    slow = Behaviour(
        status=200,
        headers=[("Content-Type", "text/event-stream")],
        chunks=[*((piece, 0.2) for piece in pieces), (b"data: [DONE]\n\n", 0)],
    )
    upstream.clear()
    upstream.script(CHAT, slow)
    hello = {"model": "gpt-4o", "stream": True, "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
    told: list[bytes] = []
    talk = threading.Thread(target=lambda: told.append(relay.ask("POST", CHAT, hello, bearer(RICH)).body))
    talk.start()
    upstream.wait(lambda seen: bool(seen))
    listed = [*LISTED[1:], {"name": "fresh", "key": fresh, "budget": {"amount": 7}}]
    rewrite(relay, keys={"list": listed, "open": False})
    relay.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: "relay.yaml is read anew" in watch.new), watch.new
    assert balance(relay, fresh)["data"]["total"] == 7.0
    assert balance(relay, RICH)["code"] == 401, "a key that is taken out is one no more"
    assert relay.ask("GET", "/v1/models", headers=bearer(OWN)).status == 401, "nor is it open to others"
    talk.join(20)
    assert told == [b"".join((*pieces, b"data: [DONE]\n\n"))], "what was under way ends whole"
    assert eventually(lambda: any(row["name"] == "rich" for row in rows(relay)))
    (row,) = [row for row in rows(relay) if row["name"] == "rich"]
    assert row["reason"] == "finished" and row["amount"] > 0
    watch.check()


def test_sighup_with_a_wrong_relay_yaml_changes_nothing(changing: Live) -> None:
    relay, watch = changing, LogWatch(changing)
    (relay.folder / "relay.yaml").write_text("limitz: {}")
    relay.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: "relay.yaml was not read anew; the settings in force stay." in watch.new), watch.new
    assert "limitz" in watch.new
    assert balance(relay, RICH)["data"]["total"] == 5.0
    assert relay.process.poll() is None


def test_sighup_names_what_takes_a_restart(changing: Live) -> None:
    relay, watch = changing, LogWatch(changing)
    rewrite(relay, listen={"port": live.free_port()}, workers=2)
    relay.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: "relay.yaml is read anew" in watch.new), watch.new
    assert "listen.port and workers changed in relay.yaml: that takes a restart of relay" in watch.new
    assert balance(relay, RICH)["data"]["total"] == 5.0, "where it was"
    watch.check()


def shown(port: int) -> str:
    """The certificate that a client is shown."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)


def test_sighup_takes_a_renewed_certificate(upstream: Upstream, tmp_path: Path) -> None:
    pair = self_signed(tmp_path)
    tls = {"cert": str(pair.cert), "key": str(pair.key)}
    (tmp_path / "relay").mkdir()
    with live.relay(tmp_path / "relay", upstream.url, listen={"tls": tls}, store={"path": "store"}) as running:
        watch = LogWatch(running)
        assert running.ask("GET", "/readyz").status == 200
        assert shown(running.port).strip() == pair.cert.read_text().strip()
        before = pair.cert.read_text()
        self_signed(tmp_path)
        running.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: "relay.yaml is read anew" in watch.new), watch.new
        assert shown(running.port).strip() == pair.cert.read_text().strip() != before.strip()
        pair.key.write_text("no key")
        running.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: "relay.yaml was not read anew" in watch.new), watch.new
        assert shown(running.port).strip() == pair.cert.read_text().strip(), "the one in force stays"


def test_a_relay_whose_terminal_is_gone_ends(upstream: Upstream, tmp_path: Path) -> None:
    port = live.free_port()
    config = tmp_path / "relay.yaml"
    config.write_text(yaml.safe_dump({"listen": {"port": port}, "upstreams": [{"name": "u", "url": upstream.url}]}))
    command = [sys.executable, "-m", "addons.cli", "start"]
    environ = live.environment(RELAY_CONFIG=str(config))
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _WITH_TERMINAL, *command],
        cwd=tmp_path,
        env=environ,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        assert eventually(lambda: answers(port), 30)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert answers(port), "a signal by hand has relay.yaml read again"
        os.close(ours)
        assert process.wait(20) is not None
    finally:
        process.kill()
        process.wait()


_WITH_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def answers(port: int) -> bool:
    """Whether relay serves there."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    return False


def test_a_message_that_is_under_way_when_relay_yaml_is_read_again_is_answered(
    changing: Live, upstream: Upstream
) -> None:
    relay, watch = changing, LogWatch(changing)
    upstream.clear()
    upstream.script(CHAT, Behaviour(delay_headers=2.0))
    told: list[dict[str, Any]] = []
    talk = threading.Thread(target=lambda: told.append(relay.chat("我叫小明", key=FREE, session="talk")))
    talk.start()
    upstream.wait(lambda seen: bool(seen))
    rewrite(relay, chat={"model": "gpt-4.1"}, keys={"list": LISTED})
    relay.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: "relay.yaml is read anew" in watch.new), watch.new
    talk.join(20)
    assert told and told[0]["code"] == 200, told
    upstream.clear()
    again = relay.chat("我叫什么名字?", key=FREE, session="talk")
    assert again["data"] == "你叫小明。", "its turn is kept"
    assert upstream.seen[-1].json()["model"] == "gpt-4.1"
    assert eventually(lambda: [row["name"] for row in rows(relay)] == ["free", "free"])
    assert relay.ask("GET", "/v1/models", headers=bearer(OWN)).status == 401
    watch.check()
