"""Nothing secret: a marked key and marked ids of an account go down every path there is and through every dialect, and
no byte that relay leaves behind holds them.

1. Keys of several shapes, each with a mark in it; relay runs in mitmweb and in mitmdump, everything on that
   writes.
2. `drive` sends them wherever a key may stand, in exchanges that succeed, fail, break, time out or never become one.
3. `found` looks for the mark as it is, percent-encoded, escaped, in base64, and in what is compressed.
"""

import base64
import contextlib
import gzip
import json
import re
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pytest
from mitmproxy import io as mio
from wsproto.events import CloseConnection, Ping, TextMessage

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.live.test_wire_websocket import Refused, Socket
from tests.support import dialects, live, web
from tests.support.raw import Client

MARK = "QZ7xMARKx7QZ"
KEYS = {
    "as OpenAI's": f"sk-proj-{MARK}-0123456789",
    "as a reseller's": f"fk186009-{MARK}0123456789",
    "as any text": f"0a1b{MARK}2c3d4e5f",
    "with signs": f"odd+{MARK}/key=~'x",
}
WHO = dialects.Who(
    organization=f"org-{MARK}0123456789abcdef",
    project=f"proj_{MARK}0123456789abcdef",
    account=f"acct-{MARK}-0123456789",
    device=f"{MARK}0123456789abcdef",
    installation=f"{MARK}-installation-0123456789",
    session=f"{MARK}-session-0123456789",
)
BOOM = """
from addons.proxy import streaming as streams
_stock = streams.declared_length
def boom(request):
    if "x-boom" in request.headers:
        raise ValueError(f"{request.headers} {request.path} {request.headers.get('authorization')}")
    return _stock(request)
streams.declared_length = boom
"""
SMALL = {
    "limits": {"body": 8000, "header_size": 8192},
    "chat": {"timeout": 1, "max_body": 4000},
    "balance": {"timeout": 1, "cache": "1ms"},
}
ROUTES = [{"path": "/down", "upstream": "down"}, {"path": "/gemini", "upstream": "test"}]


def escaped(text: str) -> str:
    """Each character as JSON may write it."""
    return "".join(f"\\u{ord(one):04x}" for one in text)


def percent(text: str) -> str:
    """Each character as an address may write it."""
    return "".join(f"%{ord(one):02x}" for one in text)


def drive(relay: live.Live, upstream: Upstream, key: str) -> None:
    """Send `key` down every path."""
    bearer = {"Authorization": f"Bearer {key}"}
    _official(relay, upstream, key, bearer)
    _failures(relay, upstream, key, bearer)
    _own(relay, upstream, key, bearer)
    _malformed(relay, key)
    _sockets(relay, key)
    _dialects(relay, upstream, key, {**bearer, **WHO.headers()})


def _official(relay: live.Live, upstream: Upstream, key: str, bearer: dict[str, str]) -> None:
    told = json.dumps(
        {"error": {"message": f"Incorrect API key provided: {key}. {percent(key)}", "code": key}}
    ).encode()
    token = base64.b64encode(f"user:{key}".encode()).decode()
    ask = relay.ask
    assert key in ask("GET", "/v1/echo", headers={**bearer, "X-Again": key}).body.decode()  # the answer stays whole
    assert upstream.seen[-1].header("authorization") == f"Bearer {key}"
    ask("GET", "/v1/echo", headers={"authorization": f"bearer   {key} "})
    ask("GET", "/v1/echo", headers={"Authorization": f"Basic {token}"})
    for name in ("api-key", "X-Api-Key", "X-Auth-Token", "OpenAI-Ephemeral-Secret", "Proxy-Authorization"):
        ask("POST", "/v1/echo", f"a body that quotes {key}", {name: key})
    ask("GET", "/v1/echo", headers={"Cookie": f"a=1; session={key}", **bearer})
    for name, value in (("apiKey", key), ("api_key", quote(key, safe="")), ("key", percent(key)), ("api-key", key)):
        ask("GET", f"/v1/echo?x=1&{name}={value}&y=2", headers=bearer if name == "key" else {})
        assert value in upstream.seen[-1].target
    ask("POST", "/v1/echo", json.dumps({"apiKey": key, "text": f"{key} {escaped(key)}"}), bearer)
    ask("POST", "/v1/echo", f'{{"apiKey": "{escaped(key)}"', {})
    pairs = {"headers": [{"name": "X-Api-Key", "value": key}], "api_keys": ["a", key], "api_key_prod": {"eu": [key]}}
    ask("POST", "/v1/echo", json.dumps({**pairs, "arguments": json.dumps(pairs)}), {"Content-Type": "application/json"})
    within = quote(f"https://x/?access_token={quote(key, safe='')}&scope=all", safe="")
    ask("GET", f"/v1/echo?next={within}&again={quote(f'https://x/?next={within}', safe='')}")
    ask("POST", "/v1/echo", f"next={within}", {"Content-Type": FORM, "Referer": f"https://x/?next={within}"})
    ask("POST", "/v1/echo", f"apiKey={quote(key, safe='')}&sessionId=1", {"Content-Type": FORM})
    ask("POST", "/v1/echo", multipart(key), {"Content-Type": "multipart/form-data; boundary=b"})
    ask("POST", "/v1/echo", gzip.compress(key.encode()), {**bearer, "Content-Encoding": "gzip"})
    ask("POST", "/v1/echo", zlib.compress(key.encode()), {**bearer, "Content-Encoding": "deflate"})
    upstream.script(
        "/v1/models",
        Behaviour(headers=[("Set-Cookie", f"s={key}; Path=/"), ("Location", f"/?k={percent(key)}"), ("X-Key", key)]),
        Behaviour(status=401, body=told, gzip=True),
        Behaviour(status=500, reason=f"no {key}", body=told),
        Behaviour(status=200, chunks=[(b"data: " + told + b"\n\n", 0.0)] * 3, headers=[("Content-Type", SSE)]),
    )
    for _ in range(4):
        ask("GET", "/v1/models", headers=bearer)
    ask("POST", "/v1/chat/completions", {"model": key, "stream": True, "messages": [user(key)]}, bearer)
    ask(
        "OPTIONS", f"/v1/models?apiKey={key}", headers={**bearer, "Origin": "x", "Access-Control-Request-Method": "GET"}
    )
    ask("HEAD", f"/v1/models?apiKey={key}", headers=bearer)


SSE, FORM = "text/event-stream", "application/x-www-form-urlencoded"


def user(content: str) -> dict[str, str]:
    """A message."""
    return {"role": "user", "content": f"my key is {content}"}


def multipart(key: str) -> bytes:
    """A form with a key in it."""
    field = f'--b\r\nContent-Disposition: form-data; name="apiKey"\r\n\r\n{key}\r\n'
    return f"{field}--b--\r\n".encode()


def _failures(relay: live.Live, upstream: Upstream, key: str, bearer: dict[str, str]) -> None:
    query = f"apiKey={quote(key, safe='')}"
    assert relay.ask("GET", f"/down/v1/models?{query}", headers=bearer).status == 502
    assert relay.ask("POST", "/v1/echo", key * 400, bearer).status == 413
    assert relay.ask("GET", f"/nowhere?{query}", headers=bearer).status == 404
    assert relay.ask("GET", f"/v1/models?{query}", headers={**bearer, "X-Boom": key}).status in (200, 503)
    pieces = [(key.encode(), 0.0), (key.encode(), 0.0)]
    upstream.script(
        "/v1/files",
        Behaviour(chunks=pieces, break_after=len(key) + 3),
        Behaviour(garbage=f"HTTP/1.1 {key}\r\n{key}\r\n\r\n".encode()),
        Behaviour(garbage=f"{key} {key}\r\n\r\n".encode()),
        Behaviour(close_without_answer=True),
        Behaviour(status=200, body=b"{}", headers=[("Bad Name", key)]),
    )
    for _ in range(5):
        with contextlib.suppress(Exception):  # a break is what is wanted
            relay.ask("GET", f"/v1/files?{query}", headers=bearer)
    upstream.clear()
    upstream.script("/v1/files", Behaviour(never=True))
    with relay.connect() as client:  # a client that leaves
        client.sendall(f"GET /v1/files?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        upstream.wait(lambda seen: seen)


def _own(relay: live.Live, upstream: Upstream, key: str, bearer: dict[str, str]) -> None:
    message = {"apiKey": key, "sessionId": "s", "content": "你是谁?"}
    chat = "/chat"
    said = json.dumps({"error": {"message": f"no {key}", "code": "x"}}).encode()
    assert relay.ask("POST", chat, message).json()["code"] == 200
    assert relay.ask("POST", chat, {**message, "stream": True, "content": f"remember {percent(key)}"}).status == 200
    for body in (
        json.dumps({**message, "content": "x" * 2000}),
        json.dumps({**message, "content": ""}),
        json.dumps(message)[:-9],
        f'{{"apiKey": "{escaped(key)}", "sessionId": "1"}}',
        f'{{"a\\u0070iKey": "{key}"}}',
        f"apiKey={quote(key)}&sessionId=1",
        f"{{'apiKey': '{quote(key)}'}}",
        gzip.compress(json.dumps({"apiKey": key}).encode()),
        json.dumps([message]),
        json.dumps({**message, "x": key * 200}),
    ):
        headers = {"Content-Encoding": "gzip"} if isinstance(body, bytes) else {}
        assert relay.ask("POST", chat, body, headers).json()["code"] in (400, 413)
    upstream.script("/v1/chat/completions", Behaviour(status=401, body=said), Behaviour(never=True))
    assert relay.ask("POST", chat, message).json()["code"] == 401
    assert relay.ask("POST", chat, message).json()["code"] == 408
    assert relay.ask("PUT", chat, message, bearer).status == 405
    relay.ask("GET", "/chat/s", headers=bearer)
    relay.ask("DELETE", "/chat/s", headers=bearer)
    for spelt in (quote(key, safe=""), percent(key), f"%20{quote(key, safe='')}"):
        assert relay.ask("GET", f"/pro/balance?apiKey={spelt}").json()["code"] == 200
    upstream.script("/v1/dashboard/billing/usage", Behaviour(status=401, body=said), Behaviour(never=True))
    assert relay.ask("GET", "/pro/balance", headers=bearer).json()["code"] == 401
    assert relay.ask("GET", "/pro/balance", headers=bearer).json()["detail"]["stale"] is True
    relay.ask("GET", "/healthz", headers=bearer)
    relay.ask("GET", "/metrics", headers=bearer)


def _malformed(relay: live.Live, key: str) -> None:
    for head in (
        f"GET /v1/models?apiKey={key}\r\n\r\n",
        f"GET {key} {key} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /v1/models HTTP/9.{key}\r\n\r\n",
        f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization {key}\r\n\r\n",
        f" {key}\r\n\r\n",
        f"G@T /v1/models?apiKey={key} HTTP/1.1\r\nHost: x\r\napi-key: {key}\r\n\r\n",
        f"POST /v1/echo HTTP/1.1\r\nHost: x\r\napi-key: {key}\r\nContent-Length: x\r\n\r\n",
        f"POST /v1/echo HTTP/1.1\r\nHost: x\r\napi-key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n{key}\r\n",
        f"GET /v1/models HTTP/1.1\r\nHost: x\r\napi-key: {key * 400}\r\n\r\n",
        f"GET http://{quote(key)}@x/v1/models HTTP/1.1\r\nHost: x\r\napi-key: {key}\r\n\r\n",
        f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{key * 3}",
        f"\x16\x03\x01\x00\x60\x01\x00\x00\x5c{key * 5}",
    ):
        with contextlib.suppress(TimeoutError, OSError):
            relay.raw(head.encode("latin-1"), timeout=0.5)
    with relay.connect() as client:  # leaves in the middle of a head
        client.sendall(f"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer {key}".encode())
        client.shutdown(socket.SHUT_WR)
        live.read_all(client)


def _sockets(relay: live.Live, key: str) -> None:
    header = [(b"Authorization", f"Bearer {key}".encode())]
    with Socket(relay, header) as one:
        for text in (f'{{"session": "{key}"}}', escaped(key)):
            one.send(TextMessage(text))
            assert one.message() == text  # the wire is not touched
        one.send(Ping(key.encode()))
        one.send(TextMessage("last"))
        one.send(CloseConnection(4000, f"bye {key}"))
        one.client.rest()
    with contextlib.suppress(Refused), Socket(relay, [], ["realtime", f"openai-insecure-api-key.{quote(key)}"]) as two:
        two.send(TextMessage(f"/close 4001 no {key}"))
        two.client.rest()
    with Client(relay.port) as three:
        three.ask("GET", f"/v1/realtime?api_key={quote(key, safe='')}", [("Upgrade", "websocket"), ("api-key", key)])


def _dialects(relay: live.Live, upstream: Upstream, key: str, headers: dict[str, str]) -> None:
    """What agents send and get, with the key in what a tool was asked, and whose it is wherever they say that."""
    words = f"curl -H 'Authorization: Bearer {key}' {escaped(key)}"
    told = [("Content-Type", SSE), ("openai-organization", WHO.organization), ("openai-project", WHO.project)]
    error = {
        "error": {"message": f"Rate limit in {WHO.organization} of {WHO.project} on tokens", "account_id": WHO.account}
    }
    nested = {**dialects.messages_request(words, WHO), "metadata": {"user_id": WHO.nested()}}
    for path, asked, answered in (
        (
            dialects.MESSAGES,
            dialects.messages_request(words, WHO),
            dialects.sse(dialects.messages_events(words), named=True),
        ),
        (dialects.MESSAGES, nested, json.dumps(dialects.messages_answer(words)).encode()),
        (f"{dialects.MESSAGES}/count_tokens", dialects.messages_request(words, WHO), b'{"input_tokens": 12}'),
        (
            dialects.RESPONSES,
            dialects.responses_request(words, WHO),
            dialects.sse(dialects.responses_events(words), named=True),
        ),
        (
            "/v1/chat/completions",
            {"model": "m", "messages": [user(words)], "user_id": WHO.joined()},
            json.dumps(error).encode(),
        ),
        (
            "/v1/embeddings",
            {"model": "m", "input": words, "organization_id": WHO.organization},
            json.dumps(error).encode(),
        ),
        (f"/gemini{dialects.GEMINI}", dialects.gemini_request(words, WHO), dialects.sse(dialects.gemini_pieces(words))),
        (
            f"/gemini{dialects.GEMINI}",
            dialects.gemini_request(words, WHO),
            json.dumps(dialects.gemini_pieces(words)).encode(),
        ),
        ("/v1/batches", {"input_file_id": words, "metadata": {"user_id": WHO.nested()}}, json.dumps(error).encode()),
        ("/v1/files/file-1/content", {}, dialects.batch_results(words)),
    ):
        upstream.script(path.removeprefix("/gemini"), Behaviour(status=200, body=answered, headers=told))
        answer = relay.ask("POST", path, json.dumps(_shortened(asked)), headers)
        assert answer.status == 200 and answer.body == answered, path
    line = [(name.encode(), value.encode()) for name, value in headers.items()]
    with Socket(relay, line) as one:
        for _, event in dialects.realtime_events(words):
            one.send(TextMessage(json.dumps({**event, "session_id": WHO.session})))
            one.message()
        one.send(CloseConnection(1000))
        one.client.rest()


def _shortened(asked: object) -> object:
    """The same with shorter texts: the body has a limit here."""
    if isinstance(asked, dict):
        return {name: _shortened(each) for name, each in asked.items()}
    if isinstance(asked, list):
        return [_shortened(each) for each in asked]
    return asked[:40] if isinstance(asked, str) and len(asked) > 1000 else asked


def found(data: bytes) -> list[str]:
    """Where the mark is, in whatever clothes."""
    mark = MARK.encode()
    places = {"as it is": data, "percent-encoded": unquote_to_bytes(data), "escaped": _unescaped(data)}
    places["in base64"] = b"\n".join(_decoded(each) for each in re.findall(rb"[A-Za-z0-9+/]{12,}={0,2}", data))
    places["in hexadecimal"] = b"\n".join(
        bytes.fromhex(each.decode()) for each in re.findall(rb"(?:[0-9a-f]{2}){6,}", data)
    )
    for start in (found.start() for found in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", data)):
        with contextlib.suppress(zlib.error):
            places[f"compressed at {start}"] = zlib.decompressobj(47).decompress(data[start:], 1 << 20)
    hits = []
    for how, text in places.items():
        at = text.lower().find(mark.lower())
        if at >= 0:
            hits.append(f"{how}: {text[max(at - 200, 0) : at + 60]!r}")
    return hits


def _unescaped(data: bytes) -> bytes:
    data = re.sub(rb"\\+/", b"/", data)
    return re.sub(rb"\\+u00([0-9a-fA-F]{2})", lambda found: bytes.fromhex(found[1].decode()), data)


def _decoded(text: bytes) -> bytes:
    decoded = b""
    for shift in range(4):  # it may have begun in the middle of something longer
        with contextlib.suppress(ValueError):
            decoded += base64.b64decode(text[shift : shift + (len(text) - shift) // 4 * 4]) + b"\n"
    return decoded


def files(folder: Path) -> dict[str, bytes]:
    """Everything that relay has left in its folder, but for its own settings."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("relay.yaml", "boom.py")
    }


def arguments(folder: Path, *more: str) -> list[str]:
    """Everything on that writes, and further options."""
    boom = folder / "boom.py"
    boom.write_text(BOOM)
    options = [f"hardump={folder / 'out.har'}", "termlog_verbosity=debug", *more]
    return ["-s", str(boom), "-w", str(folder / "out.flow"), *(part for one in options for part in ("--set", one))]


def closed_port() -> str:
    """An upstream that is down."""
    return f"http://127.0.0.1:{live.free_port()}"


def nothing_in(left: dict[str, bytes]) -> None:
    """Fail with every place that holds a mark."""
    hits = {name: places for name, data in left.items() if (places := found(data))}
    assert not hits, "\n".join(f"{name}: {place}" for name, places in hits.items() for place in places)


def decoded(folder: Path) -> dict[str, bytes]:
    """The bodies in the flow file as a reader sees them, and the HAR's."""
    seen = {}
    with (folder / "out.flow").open("rb") as file:
        for number, flow in enumerate(mio.FlowReader(file).stream()):
            state = repr(flow.get_state()).encode()
            bodies = [
                getattr(flow, side).get_content(strict=False) for side in ("request", "response") if getattr(flow, side)
            ]
            seen[f"flow {number}"] = state + b"".join(body or b"" for body in bodies)
    assert len(seen) > 100
    assert json.loads((folder / "out.har").read_bytes())["log"]["entries"]
    return seen


def upstreams(upstream: Upstream) -> list[dict[str, str]]:
    """The one that answers, and one that is down."""
    return [{"name": "test", "url": upstream.url}, {"name": "down", "url": closed_port()}]


def test_the_search_finds_a_mark_in_every_clothing() -> None:
    key = KEYS["with signs"]
    for clothed in (
        key,
        percent(key),
        escaped(key),
        base64.b64encode(b"ab" + key.encode()).decode(),
        key.encode().hex(),
    ):
        assert found(clothed.encode())
    assert found(b"xx" + gzip.compress(key.encode()))
    assert not found(b"nothing")


def test_nothing_in_what_mitmdump_leaves(upstream: Upstream, tmp_path: Path) -> None:
    with live.relay(
        tmp_path, upstreams(upstream), arguments(tmp_path, "flow_detail=4"), routes=ROUTES, **SMALL
    ) as relay:
        for key in KEYS.values():
            drive(relay, upstream, key)
    left = files(tmp_path)
    assert {"out.flow", "out.har", "relay.log", ".relay/sessions.db", ".relay/secret"} <= left.keys()
    assert "Traceback" in relay.log and "requestheaders of Streaming failed" in relay.log  # the raising hook
    nothing_in(left | decoded(tmp_path))


@pytest.mark.parametrize("option", ["flow_detail=1", "flow_detail=3", "hardump={}/out.har"])
def test_nothing_in_what_mitmdump_prints(option: str, upstream: Upstream, tmp_path: Path) -> None:
    key = KEYS["as any text"]
    with live.relay(tmp_path, upstreams(upstream), ["--set", option.format(tmp_path)], routes=ROUTES, **SMALL) as relay:
        _official(relay, upstream, key, {"Authorization": f"Bearer {key}"})
        _failures(relay, upstream, key, {"Authorization": f"Bearer {key}"})
    assert "/v1/echo" in relay.log
    nothing_in(files(tmp_path))


def test_nothing_in_what_mitmweb_shows_and_leaves(upstream: Upstream, tmp_path: Path) -> None:
    more = {**SMALL, "upstreams": upstreams(upstream), "routes": ROUTES}
    with web.mitmweb(tmp_path, upstream.url, arguments(tmp_path), **more) as page:
        for key in KEYS.values():
            drive(page.live, upstream, key)
        again = next(flow for flow in page.flows() if flow["request"]["path"] == "/v1/echo")
        page.post(f"/flows/{again['id']}/replay")
        page.command("relay.replay", "~u completions & ~c 200 & !~replayq", KEYS["as any text"])
        page.command("relay.balance", KEYS["with signs"])
        assert live.eventually(lambda: all("response" in flow or "error" in flow for flow in page.flows()))
        shown = dict(_pages(page))
        page.command("save.har", "@all", str(tmp_path / "saved.har"))
        page.command("save.file", "@all", str(tmp_path / "saved.flow"))
    assert any(name.endswith("/request/content/auto") for name in shown)
    nothing_in(shown | files(tmp_path) | decoded(tmp_path))


def _pages(page: web.Web) -> Iterator[tuple[str, bytes]]:
    for path in ("/flows", "/flows/dump", "/events", "/options", "/state", "/commands"):
        yield path, page.get(path)
    for flow in page.flows():
        folder = f"/flows/{flow['id']}"
        for side in ("request", "response"):
            if flow.get(side) and flow[side]["contentLength"] is not None:
                yield f"{folder}/{side}/content.data", page.get(f"{folder}/{side}/content.data")
                for view in ("auto", "raw", "json"):
                    yield f"{folder}/{side}/content/{view}", page.get(f"{folder}/{side}/content/{view}.json")
        if flow.get("websocket"):
            yield f"{folder}/messages", page.get(f"{folder}/messages/content/auto.json")


def test_redaction_that_is_switched_off_is_warned_of(upstream: Upstream, tmp_path: Path) -> None:
    file = tmp_path / "out.flow"
    with live.relay(tmp_path, upstream.url, ["-w", str(file)], inspect={"redact": False}) as relay:
        relay.ask("GET", "/v1/models", headers={"Authorization": f"Bearer {KEYS['as any text']}"})
    assert "inspect.redact is false" in relay.log
    assert MARK.encode() in file.read_bytes()


def test_a_saved_file_that_holds_keys_is_cleaned_when_it_is_read(upstream: Upstream, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    key, file = KEYS["as any text"], str(first / "out.flow")
    with live.relay(first, upstream.url, ["-w", file], inspect={"redact": False}) as relay:
        relay.ask("POST", "/v1/echo", key, {"Authorization": f"Bearer {key}"})
    with web.mitmweb(second, upstream.url, ["-r", file]) as page:
        assert live.eventually(lambda: page.flows())
        assert page.flows()[0]["response"]["status_code"] == 200
        nothing_in(dict(_pages(page)))


def test_a_long_stream_shows_no_key_while_it_runs(upstream: Upstream, tmp_path: Path) -> None:
    key = KEYS["as any text"]
    with web.mitmweb(tmp_path, upstream.url) as page:
        upstream.script("/v1/files", Behaviour(chunks=[(b"data: x\n\n", 3.0)] * 2, headers=[("Content-Type", SSE)]))
        with Client(page.live.port) as client:
            client.send(
                f"GET /v1/files?apiKey={key} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
            )
            client.head()
            flow = page.flows()[-1]
            assert flow["request"]["path"].startswith("/v1/files") and not flow["comment"]
            nothing_in({"flows": page.get("/flows")})
