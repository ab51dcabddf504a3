import asyncio

import pytest
from mitmproxy import http
from mitmproxy.test import taddons

from addons import engine, errors
from addons.errors import TooSlow
from addons.proxy import timeouts
from addons.proxy.timeouts import Timeouts
from tests.support import flows


def head(total: int, path: str) -> list[tuple[bytes, bytes]]:
    """A head of this many bytes, by relay's count, once Routing has aimed it at the upstream."""
    aimed = flows.opened("POST", path, [(b"Host", b"x"), (b"X", b"")])
    taken = sum(len(name) + len(value) + 4 for name, value in aimed.request.headers.fields) + len(aimed.request.path)
    return [(b"Host", b"x"), (b"X", b"y" * (total - taken))]


@pytest.mark.parametrize(("over", "refused"), [(0, False), (1, True)], ids=["at the limit", "one byte over"])
def test_the_size_of_a_head_is_bounded(over: int, refused: bool) -> None:
    flow = flows.opened("POST", "/v1/models", head(2048 + over, "/v1/models"), limits={"header_size": "2k"})
    addon = Timeouts(flows.exchange(flow).settings)

    async def begin() -> None:
        addon.requestheaders(flow)

    with taddons.context():
        asyncio.run(begin())
    assert flows.exchange(flow).refused is refused
    if refused:
        assert flows.answer_of(flow).status_code == 400
        error = flows.json_of(flow)["error"]
        assert error["code"] == "headers_too_large"
        assert "2048" in error["message"]
    else:
        assert flow.response is None


def test_a_long_path_is_part_of_the_head() -> None:
    flow = flows.opened("GET", "/v1/models?q=" + "x" * 3000, limits={"header_size": "2k"})
    Timeouts(flows.exchange(flow).settings).requestheaders(flow)
    assert flows.json_of(flow)["error"]["code"] == "headers_too_large"


def test_chat_hears_of_it_in_its_envelope() -> None:
    flow = flows.opened("POST", "/chat", {"X": "y" * 3000}, limits={"header_size": "2k"})
    Timeouts(flows.exchange(flow).settings).requestheaders(flow)
    assert flows.answer_of(flow).status_code == 200
    assert (flows.json_of(flow)["code"], flows.json_of(flow)["data"]) == (400, None)


def test_what_is_refused_already_keeps_its_answer() -> None:
    flow = flows.opened("GET", "/nowhere", {"X": "y" * 3000}, limits={"header_size": "2k"})
    Timeouts(flows.exchange(flow).settings).requestheaders(flow)
    assert flows.json_of(flow)["error"]["code"] == "unknown_path"


def test_a_sub_request_is_none_of_ours() -> None:
    flow = flows.request("GET", "/v1/models", {"X": "y" * 3000})
    Timeouts(flows.settings(limits={"header_size": "2k"})).requestheaders(flow)
    assert flow.response is None


# Bodies


@pytest.mark.parametrize(
    ("method", "path", "headers", "watched"),
    [
        ("POST", "/chat", {"Content-Length": "5"}, True),
        ("POST", "/chat", {"Transfer-Encoding": "chunked"}, True),
        ("POST", "/other/chat", {"Content-Length": "5"}, True),
        ("GET", "/chat/7", {"Content-Length": "5"}, True),
        ("GET", "/pro/balance", {"Content-Length": "5"}, True),
        ("GET", "/pro/balance", {}, False),
        ("POST", "/chat", {"Content-Length": "0"}, False),
        ("POST", "/v1/files", {"Content-Length": "5"}, True),
        ("POST", "/chat/completions", {"Content-Length": "5"}, True),
        ("GET", "/v1/models", {}, False),
        ("POST", "/nowhere", {"Content-Length": "5"}, False),
    ],
)
def test_bodies_are_looked_at_where_there_may_be_one(
    monkeypatch: pytest.MonkeyPatch, method: str, path: str, headers: dict[str, str], watched: bool
) -> None:
    looks: list[object] = []
    monkeypatch.setattr(timeouts, "BODY_GRACE", 0.0)
    monkeypatch.setattr(timeouts, "handler_of", looks.append)

    async def begins() -> None:
        flow = flows.opened(method, path, headers)
        addon = Timeouts(flows.exchange(flow).settings)
        addon.requestheaders(flow)
        await asyncio.sleep(0.05)
        addon.response(flow)

    with taddons.context():
        asyncio.run(begins())
    assert bool(looks) is watched


@pytest.mark.parametrize(("held", "given_up"), [(0, True), (100_000, False), (None, False)])
def test_a_slow_body_is_given_up_where_it_is_read_whole(
    monkeypatch: pytest.MonkeyPatch, held: int | None, given_up: bool
) -> None:
    """None: it is passed on as it comes."""
    ended: list[object] = []

    async def give_up(_handler: object, flow: http.HTTPFlow, error: errors.RelayError) -> None:
        ended.append((flow, error.status))

    monkeypatch.setattr(timeouts, "BODY_GRACE", 0.0)
    monkeypatch.setattr(timeouts, "handler_of", lambda _client: object())
    monkeypatch.setattr(engine, "body_held", lambda _handler, _flow: held)
    monkeypatch.setattr(engine, "give_up_body", give_up)
    flow = flows.opened("POST", "/v1/chat/completions", {"Content-Length": "100000"})

    async def begins() -> None:
        addon = Timeouts(flows.exchange(flow).settings)
        addon.requestheaders(flow)
        await asyncio.sleep(0.05)
        addon.response(flow)

    with taddons.context():
        asyncio.run(begins())
    assert ended == ([(flow, 408)] if given_up else [])


@pytest.mark.parametrize(
    ("come", "given_up"),
    [
        pytest.param([0], True, id="nothing has come"),
        pytest.param([1, 1], True, id="a byte, and no more"),
        pytest.param([1 << 20], False, id="a lot has come"),
        pytest.param([2500, None], False, id="it came in the end"),
        pytest.param([None], False, id="it has come"),
    ],
)
def test_a_slow_body_is_given_up_by_what_has_come(
    monkeypatch: pytest.MonkeyPatch, come: list[int | None], given_up: bool
) -> None:
    told: list[str] = []
    left = list(come)

    async def give_up(_handler: object, _flow: object, error: TooSlow) -> None:
        told.append(error.message)

    monkeypatch.setattr(timeouts, "BODY_GRACE", 0.01)
    monkeypatch.setattr(timeouts, "_LOOK", 0.01)
    monkeypatch.setattr(timeouts, "handler_of", lambda _client: object())
    monkeypatch.setattr(engine, "body_held", lambda *_: left.pop(0) if len(left) > 1 else left[0])
    monkeypatch.setattr(engine, "give_up_body", give_up)

    async def waits() -> None:
        flow = flows.opened("POST", "/chat", {"Content-Length": "5"})
        addon = Timeouts(flows.exchange(flow).settings)
        addon.requestheaders(flow)
        await asyncio.sleep(0.3)
        addon.response(flow)

    with taddons.context():
        asyncio.run(waits())
    assert bool(told) is given_up
    if told:
        assert len(told) == 1
        assert "16 KiB/s" in told[0]


# Draining


def test_an_answer_while_it_drains_is_the_connections_last() -> None:
    before, after, spoken = (flows.opened("GET", "/v1/models") for _ in range(3))
    spoken.request.http_version = "HTTP/2.0"

    async def drains() -> None:
        addon = Timeouts(flows.exchange(before).settings)
        addon.requestheaders(before)
        addon.requestheaders(spoken)
        addon.drain()
        addon.requestheaders(after)

    with taddons.context():
        asyncio.run(drains())
    assert flows.exchange(before).client_closes
    assert flows.exchange(after).client_closes
    assert not flows.exchange(spoken).client_closes, "HTTP/2 has no such header"


def test_who_has_nothing_under_way_is_sent_away_while_it_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(timeouts, "close_client", lambda client, why: closed.append(client.id))
    monkeypatch.setattr(timeouts, "FAREWELL", 0.01)
    asking, silent, trickling, late = (flows.opened("GET", "/v1/models") for _ in range(4))

    async def drains() -> None:
        addon = Timeouts(flows.exchange(asking).settings)
        for flow in (asking, silent, trickling):
            addon.client_connected(flow.client_conn)
        addon.requestheaders(asking)
        addon.head_begins(trickling.client_conn)
        addon.drain()
        addon.client_connected(late.client_conn)
        await asyncio.sleep(0.1)
        assert sorted(closed) == sorted([silent.client_conn.id, late.client_conn.id])
        addon.response(asking)
        await asyncio.sleep(0.1)
        assert closed[2:] == [asking.client_conn.id]
        addon.done()

    with taddons.context():
        asyncio.run(drains())
