"""Files of recorded traffic: what is read from them, what is left out, what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.addons.savehar import SaveHar
from mitmproxy.test import tflow

from addons.addresses import Refusal
from addons.replay import flow_file
from tests.support.recordings import made, saved, settings


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


def test_a_har_is_read_but_for_the_entries_that_are_none(tmp_path: Path) -> None:
    har = SaveHar().make_har([made("/proxy/v1/models", b'{"a": 1}', {"content-type": "application/json"})])
    har["log"]["entries"].insert(0, {"nonsense": True})
    path = tmp_path / "a.har"
    path.write_text(json.dumps(har), encoding="utf-8-sig")  # with a byte order mark, as some browsers write it
    found = flow_file.read(path, settings())
    [record] = found.records
    assert (record.number, record.upstream, record.asked.path, record.body) == (2, "one", "/v1/models", b'{"a": 1}')
    assert flow_file.reasons(found) == ["1 not readable"]
    assert flow_file.is_har(path) and not flow_file.is_har(saved(tmp_path / "x", made()))


def test_what_is_added_to_a_file_is_read_from_where_it_ended(tmp_path: Path) -> None:
    path = saved(tmp_path / "x", made())
    found = flow_file.read(path, settings())
    more = saved(tmp_path / "y", made("/v1/files"), made(meta={"relay.own": True})).read_bytes()
    path.write_bytes(path.read_bytes() + more)
    [new] = flow_file.extend(found, path, settings())
    assert (new.number, new.asked.path, found.seen, found.end) == (2, "/v1/files", 3, path.stat().st_size)
    assert flow_file.reasons(found) == [f"1 {flow_file.OWN}"] and not flow_file.reasons(found, flow_file.OWN)
    assert not flow_file.extend(found, path, settings())


def test_a_file_of_too_many_exchanges_is_read_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_file, "MOST_RECORDS", 2)
    found = flow_file.read(saved(tmp_path / "x", made(), made(), made()), settings())
    assert len(found.records) == 2
    assert flow_file.reasons(found) == ["the rest of the file is broken: it has more than 2 exchanges"]


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_file, "MOST_BYTES", 1)
    with pytest.raises(Refusal, match="record less into one file"):
        flow_file.read(saved(tmp_path / "x", made()), settings())


def test_the_table_has_a_line_an_exchange(tmp_path: Path) -> None:
    events = made("/v1/x?b=1", b"data: 1\n\ndata: [DONE]\n\n", {"content-type": "text/event-stream"})
    head, one, two = flow_file.table(flow_file.read(saved(tmp_path / "x", made(), events), settings()).records)
    assert head.split() == ["method", "path", "model", "status", "bytes", "chunks", "took"]
    assert one.split()[:7] == ["1", "GET", "/v1/models", "-", "200", "2", "1"]
    assert two.split()[:7] == ["2", "GET", "/v1/x?b=1", "-", "200", "23", "2"]
