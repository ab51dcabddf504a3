"""Websockets: `/v1/realtime` passes messages, pings and closes both ways, and its memory does not grow."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Self

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import Extension, PerMessageDeflate

from addons.cli.fake_openai.server import Seen, Upstream
from tests.support.live import Live, eventually
from tests.support.raw import Client

KEY = "sk-test-0123456789"
BEARER = [(b"Authorization", f"Bearer {KEY}".encode())]
TARGET = "/v1/realtime?model=gpt-realtime"
Subprotocols = Sequence[str]


class Refused(Exception):
    """The handshake was answered with something else than 101."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


class Socket:
    """A websocket client whose frames are in plain sight. Raises Refused."""

    def __init__(
        self,
        relay: Live,
        headers: Sequence[tuple[bytes, bytes]] = BEARER,
        subprotocols: Subprotocols = (),
        deflate: bool = False,
        target: str = TARGET,
    ) -> None:
        self.client = Client(relay.port, 10)
        self.ws = WSConnection(ConnectionType.CLIENT)
        self._events: Iterator[Event] = iter(())
        extensions: list[Extension] = [PerMessageDeflate()] if deflate else []
        offered = list(subprotocols)
        asked = Request("relay.test", target, extensions=extensions, subprotocols=offered, extra_headers=list(headers))
        self.send(asked)
        self.accepted = self._handshake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.socket.close()

    def send(self, event: Event) -> None:
        """Send one event."""
        self.client.send(self.ws.send(event))

    def receive(self) -> Event:
        """The next event. Raises TimeoutError."""
        while True:
            for event in self._events:
                return event
            self.ws.receive_data(self.client.socket.recv(1 << 18) or None)
            self._events = self.ws.events()

    def message(self) -> str | bytes:
        """The next message, whole; pings are answered on the way."""
        parts: list[str | bytes] = []
        while True:
            event = self.receive()
            if isinstance(event, Ping):
                self.send(event.response())
                continue
            assert isinstance(event, TextMessage | BytesMessage), event
            parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
            if event.message_finished:
                return parts[0][:0].join(parts)  # type: ignore[arg-type]  # all of one type

    def _handshake(self) -> AcceptConnection:
        event = self.receive()
        if isinstance(event, RejectConnection):
            status, body = event.status_code, b""
            while event and not (isinstance(event, RejectData) and event.body_finished):
                event = self.receive()
                body += bytes(event.data) if isinstance(event, RejectData) else b""
            raise Refused(status, body)
        assert isinstance(event, AcceptConnection)
        return event


def newest(upstream: Upstream) -> Seen:
    """The newest handshake."""
    return upstream.wait(lambda seen: [one for one in reversed(seen) if one.path == "/v1/realtime"])[0]


def test_a_key_in_a_header(relay: Live, upstream: Upstream) -> None:
    with Socket(relay, [*BEARER, (b"OpenAI-Beta", b"realtime=v1")]) as socket:
        assert socket.accepted.subprotocol is None
        socket.send(TextMessage("你好"))
        assert socket.message() == "你好"
    seen = newest(upstream)
    assert seen.target == TARGET
    assert seen.header("host") == f"127.0.0.1:{upstream.port}"
    assert seen.header("openai-beta") == "realtime=v1"
    assert seen.header("upgrade") == "websocket"


def test_a_browsers_key_in_a_subprotocol(relay: Live, upstream: Upstream) -> None:
    offered = ["realtime", f"openai-insecure-api-key.{KEY}", "openai-beta.realtime-v1"]
    with Socket(relay, [(b"Origin", b"https://chat.example.com")], offered) as socket:
        assert socket.accepted.subprotocol == "realtime"
        socket.send(TextMessage("hi"))
        assert socket.message() == "hi"
    assert newest(upstream).header("sec-websocket-protocol") == ", ".join(offered)
    assert KEY not in relay.log


def test_a_refused_key_is_upstreams_own_error(relay: Live) -> None:
    with pytest.raises(Refused) as refused:
        Socket(relay, [(b"Authorization", b"Bearer sk-bad-0123456789")])
    assert refused.value.status == 401
    assert json.loads(refused.value.body)["error"]["code"] == "invalid_api_key"


def test_a_websocket_anywhere_else_is_refused(relay: Live) -> None:
    with pytest.raises(Refused) as refused:
        Socket(relay, target="/unknown")
    assert refused.value.status == 404


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "permessage-deflate"])
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param("", id="empty text"),
        pytest.param('{"type":"session.update","x":"汉字😀"}', id="text"),
        pytest.param(b"", id="empty bytes"),
        pytest.param(bytes(range(256)), id="bytes"),
        pytest.param("汉" * 700_000, id="2 MB of text"),
        pytest.param(bytes(range(256)) * (1 << 14), id="4 MB of bytes"),
    ],
)
def test_messages_come_back_as_they_were_sent(relay: Live, sent: str | bytes, deflate: bool) -> None:
    with Socket(relay, deflate=deflate) as socket:
        assert bool(socket.accepted.extensions) == deflate
        socket.send(TextMessage(sent) if isinstance(sent, str) else BytesMessage(sent))
        got = socket.message()
    assert type(got) is type(sent)
    assert _digest(got) == _digest(sent)


def test_messages_keep_their_order_and_kind(relay: Live) -> None:
    with Socket(relay) as socket:
        sent: list[str | bytes] = [str(n) if n % 2 else bytes([n]) for n in range(100)]
        for one in sent:
            socket.send(TextMessage(one) if isinstance(one, str) else BytesMessage(one))
        assert [socket.message() for _ in sent] == sent


def test_a_message_in_several_frames_arrives_whole_both_ways(relay: Live) -> None:
    with Socket(relay) as socket:
        socket.send(TextMessage("从前", message_finished=False))
        socket.send(TextMessage("有座", message_finished=False))
        socket.send(TextMessage("山", message_finished=True))
        assert socket.message() == "从前有座山"
        socket.send(TextMessage("/fragments"))
        assert socket.message() == "one two"


def test_frames_that_do_not_end_with_a_character_pass(relay: Live) -> None:
    text, mask = "汉".encode(), b"\0\0\0\0"
    with Socket(relay) as socket:  # a character in two frames: the parts of a text need not be text
        socket.client.send(b"\x01\x81" + mask + text[:1] + b"\x80\x82" + mask + text[1:])
        assert socket.message() == "汉"


def test_the_clients_pings_are_answered(relay: Live) -> None:
    with Socket(relay) as socket:
        socket.send(Ping(b"client"))
        event = socket.receive()
        assert isinstance(event, Pong)
        assert bytes(event.payload) == b"client"


def test_upstreams_pings_reach_the_client(relay: Live) -> None:
    with Socket(relay) as socket:
        socket.send(TextMessage("/ping"))
        event = socket.receive()
        assert isinstance(event, Ping)
        assert bytes(event.payload) == b"upstream"
        socket.send(event.response())
        socket.send(TextMessage("on"))
        assert socket.message() == "on"


@pytest.mark.parametrize(("code", "reason"), [(1000, None), (1001, "going"), (3000, "再见"), (4999, "x" * 100)])
def test_the_clients_close_reaches_upstream_and_comes_back(
    relay: Live, upstream: Upstream, code: int, reason: str | None
) -> None:
    with Socket(relay) as socket:
        socket.send(CloseConnection(code, reason))
        event = socket.receive()
        assert isinstance(event, CloseConnection)
        assert event.code == code
        assert socket.ws.state is ConnectionState.CLOSED
        assert socket.client.closed
    seen = newest(upstream)
    assert eventually(lambda: seen.answered_at is not None)


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1011, "inner"), (4001, "会话过期")])
def test_upstreams_close_reaches_the_client(relay: Live, code: int, reason: str) -> None:
    with Socket(relay) as socket:
        socket.send(TextMessage(f"/close {code} {reason}"))
        event = socket.receive()
        assert isinstance(event, CloseConnection)
        assert (event.code, event.reason or "") == (code, reason)


@pytest.mark.parametrize("code", [1000, 4001, 5000])
@pytest.mark.parametrize("says", ["client", "upstream"])
def test_the_reason_of_a_close_steers_no_terminal(relay: Live, code: int, says: str) -> None:
    reason = f"{says}{code}\x1b[2J\x07\x9b\u202egone"
    with Socket(relay) as socket:
        if says == "client":
            socket.send(CloseConnection(code, reason))
        else:
            socket.send(TextMessage(f"/close {code} {reason}"))
        socket.receive()
    shown = f"{says}{code}\\x1b[2J\\x07\\x9b\\u202egone"
    if code < 5000:  # beyond what a close may say
        assert eventually(lambda: shown in relay.log), relay.log[-500:]
    assert not {"\x07", "\x9b", "\u202e"}.intersection(relay.log)
    assert "\x1b[2J" not in relay.log


def test_the_path_of_a_message_steers_no_terminal(relay: Live) -> None:
    lines = [
        "GET /v1/realtime?model=\u009b31m\u202ered HTTP/1.1",
        "Host: relay.test",
        f"Authorization: Bearer {KEY}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    with Client(relay.port) as client:
        client.send("\r\n".join([*lines, "", ""]).encode())
        assert b"101" in client.socket.recv(1 << 16)
        client.send(b"\x81\x82\0\0\0\0hi")
        assert client.socket.recv(1 << 16) == b"\x81\x02hi"
    assert eventually(lambda: "message -> 127.0.0.1" in relay.log and "model=\\x9b31m\\u202ered" in relay.log)
    assert not {"\x9b", "\u202e"}.intersection(relay.log)


def test_a_break_from_upstream_is_a_break(relay: Live) -> None:
    with Socket(relay) as socket:
        socket.send(TextMessage("/drop"))
        event = socket.receive()
        assert isinstance(event, CloseConnection)
        assert event.code == 1006  # wsproto's word for: no closing frame came


def test_a_client_that_leaves_closes_upstream(relay: Live, upstream: Upstream) -> None:
    with Socket(relay) as socket:
        socket.send(TextMessage("hi"))
        assert socket.message() == "hi"
        seen = newest(upstream)
    assert eventually(lambda: seen.closed_at is not None or seen.answered_at is not None, 1)


def test_memory_does_not_grow_with_the_number_of_messages(relay: Live) -> None:
    message = "x" * 20_000
    with Socket(relay) as socket:
        for _ in range(100):
            socket.send(TextMessage(message))
            assert socket.message() == message
        before = relay.memory()
        for _ in range(2000):
            socket.send(TextMessage(message))
            assert len(socket.message()) == len(message)
        assert relay.memory() - before < 8 << 20  # 80 MB have passed


def test_nothing_of_all_this_left_a_traceback(relay: Live) -> None:
    assert "Traceback" not in relay.log


def _digest(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
