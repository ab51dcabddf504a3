import gzip
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http

from addons.exchange import Kind
from addons.flow.capture import ANSWER, Copy, Listener
from addons.flow.decoding import decode
from addons.flow.upstream import declared_length
from addons.proxy import streaming as streams
from addons.proxy.streaming import Streaming, Upload
from tests.support import flows

chunks = st.lists(st.binary(max_size=20), max_size=20)


@given(chunks, st.integers(0, 100))
def test_a_copy_changes_nothing_and_keeps_the_beginning(sent: list[bytes], cap: int) -> None:
    copy = Copy(cap)
    assert [copy(chunk) for chunk in sent] == sent
    whole = b"".join(sent)
    assert copy.body() == whole[:cap]
    assert copy.seen == len(whole)
    assert copy.cut == (len(whole) > cap)


def upload(limit: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Upload, http.HTTPFlow, list[str]]:
    cuts: list[str] = []
    monkeypatch.setattr(streams, "cut_upstream", lambda flow, why: cuts.append(why))
    flow = flows.opened("POST", "/v1/files", limits={"body": limit})
    Streaming().requestheaders(flow)
    tap = flow.request.stream
    assert isinstance(tap, Upload)
    return tap, flow, cuts


@pytest.mark.parametrize("sizes", [[10], [4, 6], [1] * 10, [10, 0]], ids=["whole", "in two", "byte by byte", "ended"])
def test_an_upload_up_to_its_limit_passes(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    tap, flow, cuts = upload(10, monkeypatch)
    assert [tap(b"x" * size) for size in sizes] == [b"x" * size for size in sizes]
    assert not cuts
    assert flows.exchange(flow).failure.fault is None


@pytest.mark.parametrize("sizes", [[11], [10, 1], [6, 6]], ids=["at once", "by one byte", "in its second part"])
def test_an_upload_over_its_limit_is_cut_off_once(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    tap, flow, cuts = upload(10, monkeypatch)
    passed = [tap(b"x" * size) for size in [*sizes, 5]]
    assert passed[-2:] == [[], []]
    assert tap(b"") == []  # an empty chunk would be a false end of the body
    assert len(cuts) == 1
    fault = flows.exchange(flow).failure.fault
    assert fault is not None
    assert fault.status == 413


@pytest.mark.parametrize(("declared", "refused"), [("10", False), ("11", True), ("99999999999999999", True)])
def test_a_declared_length_is_judged_before_a_byte_is_sent(declared: str, refused: bool) -> None:
    flow = flows.opened("POST", "/v1/files", {"Content-Length": declared}, limits={"body": 10})
    Streaming().requestheaders(flow)
    if refused:
        assert flows.answer_of(flow).status_code == 413
        assert not isinstance(flow.request.stream, Upload)
    else:
        assert flow.response is None
        assert isinstance(flow.request.stream, Upload)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("0", 0),
        ("17", 17),
        (None, None),
        ("", None),
        ("-1", None),
        ("1e3", None),
        ("1, 2", None),
        ("٣", None),
        ("9" * 30, sys.maxsize),
        ("+1", None),
    ],
    ids=repr,
)
def test_a_length_is_read_only_where_it_is_one(text: str | None, length: int | None) -> None:
    flow = flows.request("POST", "/", {} if text is None else {"Content-Length": text})
    assert declared_length(flow.request) == length


@pytest.mark.parametrize("path", ["/chat", "/pro/balance", "/healthz", "/nowhere"])
def test_only_what_passes_is_streamed(path: str) -> None:
    flow = flows.opened("POST", path, body=b"x")
    before = flow.request.stream
    Streaming().requestheaders(flow)
    flows.respond(flow, 200, b"raw")
    Streaming().responseheaders(flow)
    assert flow.request.stream == before
    assert not flows.answer_of(flow).stream
    assert not flows.exchange(flow).committed


def test_an_answer_is_streamed_and_committed() -> None:
    flow = flows.opened("GET", "/v1/models")
    flows.respond(flow, 500, b"")
    Streaming().responseheaders(flow)
    assert isinstance(flows.answer_of(flow).stream, Copy)
    assert flows.exchange(flow).committed


@pytest.mark.parametrize(
    ("head", "cache"),
    [
        ({"Content-Type": "text/event-stream"}, "no-cache"),
        ({"Content-Type": "Text/Event-Stream; charset=utf-8", "Cache-Control": "no-store"}, "no-store"),
    ],
    ids=["none set by upstream", "one set by upstream"],
)
def test_an_event_stream_is_not_buffered(head: dict[str, str], cache: str) -> None:
    flow = flows.opened("POST", "/v1/chat/completions")
    flows.respond(flow, 200, b"", head)
    Streaming().responseheaders(flow)
    headers = flows.answer_of(flow).headers
    assert headers["X-Accel-Buffering"] == "no"
    assert headers.get_all("Cache-Control") == [cache]


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("body", "ended"),
    [
        (b": hello\n\ndata: {}\n\ndata: [DONE]\n\n", True),
        (b"data: {}\n\ndata: [DONE]\n\n", True),
        (b"data: {}\n\n", False),
        (b'{"data": "[DONE]"}', None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_an_event_stream_without_its_type_is_watched_for_its_end(body: bytes, ended: bool | None, size: int) -> None:
    flow = flows.opened("POST", "/v1/chat/completions")
    flows.respond(flow, 200, b"", {"Content-Type": "text/plain"})
    answer = flows.answer_of(flow)
    del answer.headers["Content-Length"]
    before = answer.headers.copy()
    Streaming().responseheaders(flow)
    tap: Any = answer.stream
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert [tap(piece) for piece in (*pieces, b"")] == [*pieces, b""]
    judged = flows.exchange(flow).stream.ended
    assert (judged() if judged is not None else None) == ended
    assert answer.headers == before


def test_a_body_of_a_known_length_is_not_looked_at() -> None:
    flow = flows.opened("GET", "/v1/models")
    flows.respond(flow, 200, b"data: 1\n\n", {"Content-Type": "text/plain"})
    Streaming().responseheaders(flow)
    assert isinstance(flows.answer_of(flow).stream, Copy)


def test_other_answers_keep_their_headers() -> None:
    flow = flows.opened("GET", "/v1/models")
    flows.respond(flow, 200, b"", {"Content-Type": "application/json"})
    before = flows.answer_of(flow).headers.copy()
    Streaming().responseheaders(flow)
    assert flows.answer_of(flow).headers == before


@pytest.mark.parametrize("broken", [False, True], ids=["at its end", "when it broke"])
@pytest.mark.parametrize(("cap", "cut"), [(100, False), (4, True)], ids=["short bodies", "long bodies"])
def test_the_copies_enter_the_record(broken: bool, cap: int, cut: bool) -> None:
    flow = flows.opened("POST", "/v1/files", inspect={"max_body": cap})
    addon = Streaming()
    addon.requestheaders(flow)
    flow.request.raw_content = None
    assert callable(flow.request.stream)
    flow.request.stream(b"upload")
    flows.respond(flow, 200)
    addon.responseheaders(flow)
    answer = flows.answer_of(flow)
    answer.raw_content = None
    assert callable(answer.stream)
    answer.stream(b"ans")
    answer.stream(b"wer")
    (addon.error if broken else addon.response)(flow)
    assert [message.raw_content for message in (flow.request, answer)] == [b"upload"[:cap], b"answer"[:cap]]
    told = {"relay.upload_bytes": 6, "relay.answer_bytes": 6} if cut else {}
    assert {name: value for name, value in flow.metadata.items() if name.startswith("relay.")} == told


def test_a_body_that_was_held_is_its_own_record() -> None:
    flow, exchange = flows.attached(Kind.PASS)
    ANSWER.keep(exchange, Copy(9))
    flows.respond(flow, 200, b"held")
    Streaming().response(flow)
    assert flows.answer_of(flow).raw_content == b"held"


def test_a_stream_that_can_t_be_edited_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[str] = []
    monkeypatch.setattr(streams, "cut_upstream", lambda flow, why: cuts.append(why))
    flow = flows.opened("POST", "/v1/chat/completions")
    flow.live = True

    def edit(chunk: bytes) -> bytes:
        if chunk == b"second":
            raise RuntimeError
        return chunk

    tap = streams.Heard(flow, Listener(lambda _chunk: None, edit), lambda chunk: chunk)
    assert [tap(chunk) for chunk in (b"first", b"second", b"third", b"")] == [b"first", [], [], []]
    assert len(cuts) == 1 and flow.error is not None
    assert flows.exchange(flow).failure.fault is not None


def test_a_compressed_stream_is_looked_at_once_for_what_there_is_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def looking(body: bytes, *about: Any, **more: Any) -> bytes:
        looked.append(len(body))
        return decode(body, *about, **more)

    monkeypatch.setattr(streams, "decode", looking)
    _, exchange = flows.attached(Kind.PASS)
    events = streams.Events(exchange, Copy(1 << 20), "gzip")
    whole = gzip.compress(b"data: {}\n\ndata: [DONE]\n\n")
    assert not events.ended() and not looked
    events(whole[:15])
    assert [events.ended() for _ in range(5)] == [False] * 5
    events(whole[15:])
    assert [events.ended() for _ in range(5)] == [True] * 5
    assert looked == [15, len(whole)]
