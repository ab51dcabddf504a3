"""mitmdump's lines for a flow are those of stock, to the letter."""

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy import flow as mflow
from mitmproxy import http
from mitmproxy.addons import dumper
from mitmproxy.test import taddons, tflow, tutils

from tests.support.side_by_side import engine


class Writes(io.StringIO):
    """Counts how often it is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, text: str) -> int:
        """As a file's."""
        self.writes += 1
        return super().write(text)


def printed(flow: http.HTTPFlow, fast: bool, **options: Any) -> tuple[str, int]:
    """What mitmdump prints of `flow`, and in how many pieces."""
    out = Writes()
    printer: Any = dumper.Dumper(out)
    with engine(fast), taddons.context(printer) as context:
        context.configure(printer, **options)
        (printer.error if flow.error else printer.response)(flow)
    return out.getvalue(), out.writes


def same(flow: http.HTTPFlow, **options: Any) -> str:
    """What both print."""
    (stock, _), (fast, _) = printed(flow, False, **options), printed(flow, True, **options)
    assert fast == stock
    return stock


def flow_of(**more: Any) -> http.HTTPFlow:
    """A finished flow, with further attributes of its request and response."""
    request = {name.removeprefix("request_"): more.pop(name) for name in list(more) if name.startswith("request_")}
    flow = tflow.tflow(req=tutils.treq(**request), resp=tutils.tresp(**more))
    flow.client_conn.peername = ("127.0.0.1", 54321)
    return flow


def test_an_ordinary_flow_is_one_write() -> None:
    flow = flow_of()
    assert printed(flow, True) == (same(flow), 1)
    assert same(flow) == ("127.0.0.1:54321: GET http://address:22/path\n              << 200 OK 7b\n")


WORDS = st.text(st.characters(codec="utf-8"), max_size=90)


@settings(max_examples=150, deadline=None)
@given(
    method=st.sampled_from([b"GET", b"DELETE", b"post", b"CONNECT", b"\x07", "é".encode()]),
    path=st.one_of(st.just("*"), WORDS.map(lambda text: f"/{text}")),
    host=st.sampled_from(["api.openai.com", "::1", "a\tb", "例"]),
    port=st.sampled_from([80, 443, 8080]),
    scheme=st.sampled_from([b"http", b"https", b""]),
    authority=st.sampled_from([b"", b"other:1"]),
    versions=st.tuples(*[st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0"])] * 2),
    status=st.integers(100, 599),
    reason=WORDS.map(lambda text: text.encode("latin-1", "replace")),
    content=st.sampled_from([None, b"", b"x" * 999, b"x" * 5000]),
    peer=st.sampled_from([("127.0.0.1", 1), ("::1", 65535, 0, 0), ("::ffff:1.2.3.4", 80), None, ("a", 5)]),
    detail=st.sampled_from([0, 1, 1, 1, 2, 3]),
    showhost=st.booleans(),
)
def test_any_flow(
    method: bytes,
    path: str,
    host: str,
    port: int,
    scheme: bytes,
    authority: bytes,
    versions: tuple[bytes, bytes],
    status: int,
    reason: bytes,
    content: bytes | None,
    peer: Any,
    detail: int,
    showhost: bool,
) -> None:
    flow = flow_of(
        request_method=method,
        request_path=path.encode(),
        request_host=host,
        request_port=port,
        request_scheme=scheme,
        request_authority=authority,
        request_http_version=versions[0],
        http_version=versions[1],
        status_code=status,
        reason=reason,
        content=content,
    )
    flow.client_conn.peername = peer
    same(flow, flow_detail=detail, showhost=showhost)


@pytest.mark.parametrize("replay", ["request", "response"])
def test_a_replay(replay: str) -> None:
    flow = flow_of()
    flow.is_replay = replay
    assert "[replay]" in same(flow)


def test_one_that_broke() -> None:
    flow = flow_of()
    flow.error = mflow.Error("gone")
    assert "<< gone" in same(flow)


def test_a_filter_leaves_flows_out() -> None:
    assert same(flow_of(), dumper_filter="~m POST") == ""
