"""Bytes: what a client sends is what upstream gets, and back, but for the differences that the design names."""

import gzip
import hashlib
import itertools
import json
from collections.abc import Callable

import brotli
import pytest
import zstandard

from addons.cli.fake_openai.server import Behaviour, Seen, Upstream
from addons.cli.fake_openai.wire import Headers
from tests.support.live import Live
from tests.support.raw import Client, Reply, chunk, request

ALL_BYTES = bytes(range(256)) * 300
AUTH = ("Authorization", "Bearer sk-test-0123456789")
TEXT = "你好, world! ".encode() * 500
_numbers = itertools.count(1)


def fresh(path: str = "/v1/echo") -> str:
    """A target nobody else has used."""
    return f"{path}/{next(_numbers)}"


def seen_at(upstream: Upstream, target: str) -> Seen:
    """The request for this target, its body complete."""
    return upstream.wait(lambda seen: [one for one in seen if one.target == target and one.complete])[0]


def scripted(upstream: Upstream, behaviour: Behaviour) -> str:
    """A fresh target that is answered like this."""
    target = fresh("/v1/scripted")
    upstream.script(target, behaviour)
    return target


# Requests


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
def test_a_request_body_arrives_byte_for_byte_with_any_method(relay: Live, upstream: Upstream, method: str) -> None:
    target = fresh()
    with Client(relay.port) as client:
        reply, _ = client.ask(method, target, [AUTH], ALL_BYTES)
    seen = seen_at(upstream, target)
    assert reply.status == 200
    assert (seen.method, seen.body) == (method, ALL_BYTES)


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "PROPFIND"])
def test_a_request_without_a_body_stays_without_one(relay: Live, upstream: Upstream, method: str) -> None:
    target = fresh()
    with Client(relay.port) as client:
        reply, _ = client.ask(method, target, [AUTH])
    seen = seen_at(upstream, target)
    assert reply.status == 200
    assert (seen.method, seen.length) == (method, 0)
    assert seen.header("content-length") is None
    assert seen.header("transfer-encoding") is None


def test_head_has_the_headers_of_an_answer_and_the_connection_goes_on(relay: Live) -> None:
    with Client(relay.port) as client:
        reply, _ = client.ask("HEAD", "/v1/models", [AUTH])
        assert reply.status == 200
        assert int(reply.get("content-length") or 0) > 100
        assert client.ask("GET", fresh(), [AUTH])[0].status == 200


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/v1/echo/a%2Fb%20c%zz?x=%E4%BD%A0&y=a+b&&z&=", id="percent-encodings, well formed or not"),
        pytest.param("/v1/echo//double///slashes/", id="slashes inside and at the end"),
        pytest.param("/v1/echo/empty-query?", id="a question mark and nothing behind it"),
        pytest.param("/v1/echo/q?a=1?b=2#not-a-fragment", id="question mark and hash in the query"),
        pytest.param('/v1/echo/"quoted"|{curly}[square]^`', id="characters that should have been encoded"),
        pytest.param("/v1/echo/\u00e4\u00bd\u00a0\u00e5\u00a5\u00bd", id="raw UTF-8"),
        pytest.param("/v1/echo/at?url=https://example.com:1/v1//x&p=/../y", id="an address in the query"),
        pytest.param("/v1/unheard/of;a=1,2/:batch", id="a path nobody knows"),
        pytest.param("/v1/echo/UPPER/" + "x" * 8000, id="a long path"),
    ],
)
def test_path_and_query_go_up_as_they_were_sent(relay: Live, upstream: Upstream, target: str) -> None:
    with Client(relay.port) as client:
        assert client.ask("GET", target, [AUTH])[0].status == 200
    assert seen_at(upstream, target).target == target


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ("//v1/echo/doubled-slash//kept?a=//b", "/v1/echo/doubled-slash//kept?a=//b"),
        ("/v1/v1/dashboard/billing/usage?x=mended", "/v1/dashboard/billing/usage?x=mended"),
    ],
)
def test_a_doubled_start_is_mended_and_the_rest_kept(relay: Live, upstream: Upstream, sent: str, arrives: str) -> None:
    with Client(relay.port) as client:
        assert client.ask("GET", sent, [AUTH])[0].status == 200
    assert seen_at(upstream, arrives)


def test_request_headers_keep_order_case_repetition_and_values(relay: Live, upstream: Upstream) -> None:
    target = fresh()
    headers = [
        AUTH,
        ("X-Twice", "one"),
        ("x-between", 'a, b;c="d"'),
        ("X-Twice", "two"),
        ("x-tWICE", "three"),
        ("X-Empty", ""),
        ("X-Latin", "caf\xe9 \xe4\xbd\xa0"),
        ("X-Long", "v" * 20000),
        ("Cookie", "a=1; b=2"),
        ("Cookie", "c=3"),
        ("User-Agent", "OpenAI/Python 1.0"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("OpenAI-Beta", "assistants=v2"),
        ("OpenAI-Organization", "org-1"),
        ("Idempotency-Key", "k"),
    ]
    with Client(relay.port) as client:
        client.ask("GET", target, headers)
    assert seen_at(upstream, target).headers == [("Host", f"127.0.0.1:{upstream.port}"), *headers]


def test_what_speaks_of_hops_before_relay_goes_no_further(relay: Live, upstream: Upstream) -> None:
    target = fresh()
    dropped = {
        "X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "h", "Forwarded": "for=1.2.3.4",
        "X-Real-IP": "1.2.3.4", "Via": "1.1 a", "CF-Ray": "x", "CF-Connecting-IP": "1.2.3.4",
        "True-Client-IP": "1.2.3.4", "Connection": "keep-alive, X-Named", "X-Named": "hop", "Keep-Alive": "timeout=5",
        "Proxy-Connection": "keep-alive", "Proxy-Authorization": "Basic eA==", "TE": "trailers", "Upgrade": "h2c",
    }  # fmt: skip
    with Client(relay.port) as client:
        assert client.ask("GET", target, [*dropped.items(), AUTH, ("X-Kept", "1")])[0].status == 200
    assert [name for name, _ in seen_at(upstream, target).headers] == ["Host", "Authorization", "X-Kept"]


def test_a_chunked_request_goes_up_chunk_by_chunk_without_a_length(relay: Live, upstream: Upstream) -> None:
    target, pieces = fresh(), [b"{", b'"a": ' + b"1" * 5000, b"}", "汉".encode() * 7]
    with Client(relay.port) as client:
        client.send(request("POST", target, [AUTH, ("Transfer-Encoding", "chunked")]))
        for piece in pieces:  # as NextChat's server sends it, in one packet or in several
            client.send(chunk(piece))
        client.send(chunk(b""))
        assert client.head().status == 200
    seen = seen_at(upstream, target)
    assert seen.body == b"".join(pieces)
    assert [size for _, size in seen.arrived] == [len(piece) for piece in pieces]
    assert (seen.header("transfer-encoding"), seen.header("content-length")) == ("chunked", None)


def test_chunk_extensions_and_request_trailers_do_no_harm(relay: Live, upstream: Upstream) -> None:
    target = fresh()
    with Client(relay.port) as client:
        client.send(request("POST", target, [AUTH, ("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum")]))
        client.send(b"5;name=value\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
        assert client.head().status == 200
    assert seen_at(upstream, target).body == b"hello"


@pytest.mark.parametrize(
    "framing",
    [
        pytest.param([("Content-Length", "0")], id="a length of 0"),
        pytest.param([("Transfer-Encoding", "chunked")], id="no chunks"),
    ],
)
def test_an_empty_body_goes_up_empty(relay: Live, upstream: Upstream, framing: Headers) -> None:
    target = fresh()
    with Client(relay.port) as client:
        client.send(request("POST", target, [AUTH, *framing]))
        if framing[0][1] == "chunked":
            client.send(chunk(b""))
        assert client.head().status == 200
    seen = seen_at(upstream, target)
    assert seen.body == b""
    assert all(field in seen.headers for field in framing)


def test_the_first_half_of_a_body_goes_up_before_the_second_is_sent(relay: Live, upstream: Upstream) -> None:
    target = fresh()
    with Client(relay.port) as client:
        client.send(request("POST", target, [AUTH, ("Content-Length", "10")]) + b"first")
        upstream.wait(lambda seen: any(one.target == target and one.length == 5 for one in seen))
        client.send(b"secnd")
        assert client.head().status == 200


# Compression

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "br": brotli.compress,
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_compressed_bodies_pass_as_they_are_both_ways(relay: Live, upstream: Upstream, name: str) -> None:
    packed = COMPRESSORS[name](TEXT)
    answer = [("content-type", "application/json"), ("content-encoding", name), ("vary", "accept-encoding")]
    target = scripted(upstream, Behaviour(headers=answer, body=packed))
    with Client(relay.port) as client:
        reply, body = client.ask("POST", target, [AUTH, ("Content-Encoding", name), ("Accept-Encoding", name)], packed)
    seen = seen_at(upstream, target)
    assert seen.body == packed
    assert (seen.header("content-encoding"), seen.header("accept-encoding")) == (name, name)
    assert body == packed
    assert (reply.get("content-encoding"), reply.get("content-length")) == (name, str(len(packed)))


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_compressed_stream_gains_no_length(relay: Live, upstream: Upstream, name: str) -> None:
    packed = COMPRESSORS[name](TEXT)
    pieces = [packed[at : at + 40] for at in range(0, len(packed), 40)]
    headers = [("content-type", "text/event-stream"), ("content-encoding", name)]
    target = scripted(upstream, Behaviour(headers=headers, chunks=[(piece, 0) for piece in pieces]))
    with Client(relay.port) as client:
        client.send(request("GET", target, [AUTH, ("Accept-Encoding", name)]))
        reply = client.head()
        assert list(client.pieces(reply)) == pieces
    assert reply.get("content-length") is None


def test_a_body_that_lies_about_its_encoding_passes_too(relay: Live, upstream: Upstream) -> None:
    target = scripted(upstream, Behaviour(headers=[("content-encoding", "gzip")], body=b"this is no gzip"))
    with Client(relay.port) as client:
        assert client.ask("GET", target, [AUTH])[1] == b"this is no gzip"


# Answers


def test_an_answer_arrives_byte_for_byte(relay: Live, upstream: Upstream) -> None:
    target = scripted(upstream, Behaviour(headers=[("content-type", "application/octet-stream")], body=ALL_BYTES))
    with Client(relay.port) as client:
        reply, body = client.ask("GET", target, [AUTH])
    assert hashlib.sha256(body).digest() == hashlib.sha256(ALL_BYTES).digest()
    assert reply.get("content-length") == str(len(ALL_BYTES))


@pytest.mark.parametrize(
    "status", [200, 201, 202, 299, 300, 400, 401, 403, 404, 409, 418, 422, 429, 500, 502, 503, 599]
)
def test_every_status_and_its_body_pass(relay: Live, upstream: Upstream, status: int) -> None:
    headers = [("content-type", "text/plain"), ("retry-after", "7"), ("x-should-retry", "false")]
    target = scripted(upstream, Behaviour(status=status, reason="As It Is", headers=headers, body=b"said upstream"))
    with Client(relay.port) as client:
        reply, body = client.ask("POST", target, [AUTH], b"{}")
    assert (reply.status, reply.reason, body) == (status, "As It Is", b"said upstream")
    assert all(field in reply.fields for field in headers)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        pytest.param(204, [("x-a", "1")], id="204"),
        pytest.param(304, [("etag", '"e"'), ("content-length", "500")], id="304 with a length"),
        pytest.param(200, [("content-length", "0")], id="200 with a length of 0"),
        pytest.param(301, [("location", "https://example.com/v1/x?y=%20"), ("content-length", "0")], id="301"),
        pytest.param(307, [("location", "/v1/elsewhere"), ("content-length", "0")], id="307"),
    ],
)
def test_answers_without_a_body_pass_and_the_connection_goes_on(
    relay: Live, upstream: Upstream, status: int, headers: Headers
) -> None:
    target = scripted(upstream, Behaviour(status=status, headers=headers))
    with Client(relay.port) as client:
        reply, body = client.ask("GET", target, [AUTH])
        assert (reply.status, body) == (status, b"")
        assert [field for field in reply.fields if field[0] != "x-relay-request-id"] == headers
        assert client.ask("GET", fresh(), [AUTH])[0].status == 200


def test_an_empty_chunked_answer_stays_chunked(relay: Live, upstream: Upstream) -> None:
    target = scripted(upstream, Behaviour(chunks=[]))
    with Client(relay.port) as client:
        reply, body = client.ask("GET", target, [AUTH])
        assert (reply.chunked, body) == (True, b"")
        assert client.ask("GET", fresh(), [AUTH])[0].status == 200


def test_answer_headers_keep_order_case_repetition_and_values(relay: Live, upstream: Upstream) -> None:
    headers = [
        ("Content-Type", "application/json"),
        ("Set-Cookie", "a=1; Path=/"),
        ("set-cookie", "b=2"),
        ("X-Request-ID", "req_1"),
        ("x-ratelimit-reset-tokens", "6ms"),
        ("X-Empty", ""),
        ("X-Latin", "caf\xe9"),
        ("Strict-Transport-Security", "max-age=1"),
        ("Server", "cloudflare"),
        ("CF-RAY", "1-FRA"),
        ("Content-Length", "2"),
    ]
    target = scripted(upstream, Behaviour(headers=headers, body=b"{}"))
    with Client(relay.port) as client:
        reply, _ = client.ask("GET", target, [AUTH])
    assert [field for field in reply.fields if field[0] != "x-relay-request-id"] == headers


def test_alt_svc_and_hop_by_hop_headers_end_at_relay(relay: Live, upstream: Upstream) -> None:
    dropped = [("Alt-Svc", 'h3=":443"'), ("Keep-Alive", "timeout=5"), ("Connection", "keep-alive, X-Named")]
    headers = [*dropped, ("X-Named", "hop"), ("Proxy-Authenticate", "Basic"), ("x-kept", "1"), ("content-length", "0")]
    target = scripted(upstream, Behaviour(status=200, headers=headers))
    with Client(relay.port) as client:
        reply, _ = client.ask("GET", target, [AUTH])
    assert {name.lower() for name, _ in reply.fields} == {"x-kept", "content-length", "x-relay-request-id"}


def test_chunks_leave_as_upstream_cut_them(relay: Live, upstream: Upstream) -> None:
    pieces = [b"a", "汉字".encode()[:2], "汉字".encode()[2:], b"x" * 30000, b"\n", b"\r\n", b"0", b"tail"]
    target = scripted(
        upstream, Behaviour(chunks=[(piece, 0.01) for piece in pieces[:4]] + [(p, 0) for p in pieces[4:]])
    )
    with Client(relay.port) as client:
        client.send(request("GET", target, [AUTH]))
        assert list(client.pieces(client.head())) == pieces


def test_many_chunks_in_one_packet_stay_apart(relay: Live, upstream: Upstream) -> None:
    pieces = [b"%d" % number * (1 + number % 5) for number in range(200)]
    whole = b"".join(chunk(piece) for piece in [*pieces, b""])
    target = scripted(upstream, Behaviour(headers=[("transfer-encoding", "chunked")], body=whole, framing="length"))
    with Client(relay.port) as client:
        client.send(request("GET", target, [AUTH]))
        assert list(client.pieces(client.head())) == pieces


def test_an_answer_framed_by_the_end_of_the_connection_passes(relay: Live, upstream: Upstream) -> None:
    target = scripted(upstream, Behaviour(chunks=[(b"one ", 0.05), (b"two", 0)], framing="close"))
    with Client(relay.port) as client:
        reply, body = client.ask("GET", target, [AUTH])
        assert (reply.status, body) == (200, b"one two")
        assert client.closed


def test_upstream_trailers_do_not_break_the_answer(relay: Live, upstream: Upstream) -> None:
    target = scripted(upstream, Behaviour(chunks=[(b"one", 0)], trailers=[("x-sum", "1")]))
    with Client(relay.port) as client:
        reply, body = client.ask("GET", target, [AUTH])
        assert (reply.status, body) == (200, b"one")
        assert client.ask("GET", fresh(), [AUTH])[0].status == 200


def test_an_interim_answer_is_not_taken_for_the_final_one(relay: Live, upstream: Upstream) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nfinal"
    target = scripted(upstream, Behaviour(garbage=early + final))
    with Client(relay.port) as client:
        reply, body = client.ask("GET", target, [AUTH])
        if reply.status == 103:
            reply = client.head()
            body = b"".join(client.pieces(reply))
    assert (reply.status, body) == (200, b"final")


# Connections


def test_a_client_keeps_its_connection_and_relay_its_own(relay: Live, upstream: Upstream) -> None:
    targets = [fresh() for _ in range(5)]
    with Client(relay.port) as client:
        for target in targets:
            assert client.ask("POST", target, [AUTH], b"{}")[0].status == 200
    assert len({seen_at(upstream, target).connection for target in targets}) == 1


def test_pipelined_requests_are_answered_in_their_order(relay: Live) -> None:
    targets = [fresh() for _ in range(4)]
    with Client(relay.port) as client:
        client.send(b"".join(request("POST", target, [AUTH], b"{}") for target in targets))
        answers = [json.loads(b"".join(client.pieces(client.head()))) for _ in targets]
    assert [answer["target"] for answer in answers] == targets


def test_close_is_honoured_and_not_passed_on(relay: Live, upstream: Upstream) -> None:
    target = fresh()
    with Client(relay.port) as client:
        reply, body = client.ask("GET", target, [AUTH, ("Connection", "close")])
        assert (reply.status, reply.get("connection")) == (200, "close")
        assert json.loads(body)["target"] == target
        assert client.closed
    assert seen_at(upstream, target).header("connection") is None


def test_upstream_closing_after_an_answer_does_not_spoil_the_next(relay: Live, upstream: Upstream) -> None:
    announced = scripted(upstream, Behaviour(headers=[("connection", "close")], body=b"last"))
    silent = scripted(upstream, Behaviour(body=b"last", close=True))
    for target in (announced, silent):
        with Client(relay.port) as client:
            reply, body = client.ask("GET", target, [AUTH])
            assert (reply.status, body) == (200, b"last")
            if reply.get("connection") != "close":
                assert client.ask("GET", fresh(), [AUTH])[0].status == 200


def test_a_client_of_http_1_0_gets_its_body_and_the_end(relay: Live) -> None:
    target = fresh()
    with Client(relay.port) as client:
        reply, body = client.ask("GET", target, [AUTH], version="1.0")
        assert reply.status == 200
        assert json.loads(body)["target"] == target
        assert client.closed


def test_a_client_of_http_1_0_gets_no_chunks(relay: Live, upstream: Upstream) -> None:
    # An upstream may answer in HTTP/1.1 chunks whatever it is asked with.
    body = chunk(b"one ") + chunk(b"two") + chunk(b"")
    headers = [("transfer-encoding", "chunked"), ("content-type", "text/event-stream")]
    target = scripted(upstream, Behaviour(headers=headers, body=body, framing="length"))
    with Client(relay.port) as client:
        client.send(request("GET", target, [AUTH], version="1.0"))
        reply = client.head()
        assert not reply.chunked
        assert client.rest() == b"one two"


def test_a_client_of_http_1_0_may_keep_its_connection(relay: Live) -> None:
    with Client(relay.port) as client:
        reply, _ = client.ask("GET", fresh(), [AUTH, ("Connection", "keep-alive")], version="1.0")
        if (reply.get("connection") or "").lower() == "keep-alive":
            assert client.ask("GET", fresh(), [AUTH], version="1.0")[0].status == 200
        else:
            assert client.closed


# With and without relay


def test_with_and_without_relay_upstream_sees_the_same_but_for_the_host(relay: Live, upstream: Upstream) -> None:
    body = json.dumps({"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "hi"}]}).encode()
    sent = [AUTH, ("Content-Type", "application/json"), ("Accept", "*/*"), ("x-stainless-lang", "python")]
    seen = [_seen_from(port, upstream, sent, body) for port in (upstream.port, relay.port)]
    straight, relayed = seen
    assert relayed.headers == [
        (name, f"127.0.0.1:{upstream.port}" if name == "Host" else value) for name, value in straight.headers
    ]
    assert (relayed.method, relayed.version, relayed.body) == (straight.method, straight.version, straight.body)


def _seen_from(port: int, upstream: Upstream, headers: Headers, body: bytes) -> Seen:
    target = fresh("/v1/chat/completions?from=")
    with Client(port) as client:
        assert client.ask("POST", target, headers, body)[0].status == 200
    return seen_at(upstream, target)


@pytest.mark.parametrize(
    ("method", "target", "stream"),
    [
        ("GET", "/v1/models", False),
        ("POST", "/v1/chat/completions", False),
        ("POST", "/v1/chat/completions", True),
        ("GET", "/v1/no/key", False),
        ("GET", "/v1/files/file-made-300000/content", False),
    ],
)
def test_with_and_without_relay_the_client_sees_the_same_but_for_what_the_design_names(
    relay: Live, upstream: Upstream, method: str, target: str, stream: bool
) -> None:
    headers = [] if target.endswith("key") else [AUTH]
    given = {"model": "gpt-3.5-turbo", "stream": stream, "messages": [{"role": "user", "content": "hello there"}]}
    body = json.dumps(given).encode() if method == "POST" else None
    (straight, straight_body), (relayed, relayed_body) = (
        _asked(port, method, target, headers, body) for port in (upstream.port, relay.port)
    )
    added = [("X-Accel-Buffering", "no"), ("Cache-Control", "no-cache")] if stream else []
    ours = [field for field in relayed.fields if field[0] != "x-relay-request-id"]
    assert _comparable(ours) == _comparable([*(f for f in straight.fields if f[0] != "alt-svc"), *added])
    assert (relayed.version, relayed.status, relayed.reason) == (straight.version, straight.status, straight.reason)
    assert len(relayed_body) == len(straight_body)


def _asked(port: int, method: str, target: str, headers: Headers, body: bytes | None) -> tuple[Reply, bytes]:
    with Client(port) as client:
        return client.ask(method, target, headers, body)


def _comparable(fields: Headers) -> Headers:
    return [(name, "" if name == "x-request-id" else value) for name, value in fields]
