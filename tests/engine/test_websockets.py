"""A websocket's message is bounded, however it comes; what is not too long passes frame by frame as it came."""

from typing import Any

import pytest
from mitmproxy.proxy.layers.websocket import WebsocketConnection
from mitmproxy.test import tflow
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, TextMessage
from wsproto.extensions import Extension, PerMessageDeflate

from addons.engine.corrections import websockets
from addons.engine.corrections.websockets import MOST

FRAME = 1 << 20


@pytest.fixture(autouse=True)
def changed() -> None:
    websockets.install()


def peer(*, packed: bool = False) -> tuple[Any, WebsocketConnection]:
    """A client's side, and relay's side of it."""
    kinds: list[list[Extension]] = []
    for _ in range(2):
        deflate = PerMessageDeflate()
        deflate.finalize("permessage-deflate")
        kinds.append([deflate] if packed else [])
    there = Connection(ConnectionType.CLIENT, kinds[0])
    return there, WebsocketConnection(ConnectionType.SERVER, kinds[1], conn=tflow.tclient_conn())


def heard(relay: WebsocketConnection, data: bytes, step: int = 1 << 16) -> list[Event]:
    """The events of `data`, read `step` bytes at a time."""
    found: list[Event] = []
    for at in range(0, len(data), step):
        relay.receive_data(data[at : at + step])
        found += relay.events()
        if found and isinstance(found[-1], CloseConnection):
            break
    return found


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("step", [1, 7, 1 << 16])
def test_a_frame_comes_as_one_however_it_is_read(packed: bool, step: int) -> None:
    there, relay = peer(packed=packed)
    text = [TextMessage("你", message_finished=False), TextMessage("好" * 300)]
    sent: list[Any] = [*text, BytesMessage(b""), BytesMessage(b"\0" * 99)]
    events: Any = heard(relay, b"".join(map(there.send, sent)), step)
    assert [(type(each), each.frame_finished, each.message_finished) for each in events] == [
        (type(each), True, each.message_finished) for each in sent
    ]
    assert "".join(each.data for each in events[:2]) == "你" + "好" * 300  # packed, a frame may end in the next
    assert [each.data for each in events[2:]] == [b"", b"\0" * 99]


@pytest.mark.parametrize("kind", ["one frame", "many frames", "characters"])
def test_a_message_without_end_is_an_end(kind: str) -> None:
    there, relay = peer()
    if kind == "one frame":
        data = there.send(BytesMessage(bytes(MOST + 1)))
    elif kind == "many frames":
        part = BytesMessage(bytes(FRAME), message_finished=False)
        data = b"".join(there.send(part) for _ in range(MOST // FRAME + 1))
    else:
        data = there.send(TextMessage("x" * (MOST + 1)))
    (end,) = [each for each in heard(relay, data) if isinstance(each, CloseConnection)]
    assert end.code == 1009


def test_the_longest_message_passes_and_the_next_one_starts_from_nothing() -> None:
    there, relay = peer()
    first, second = (heard(relay, there.send(BytesMessage(bytes(MOST)))) for _ in range(2))
    assert [len(each.data) for each in (*first, *second)] == [MOST, MOST]  # type: ignore[attr-defined]


def test_a_bomb_is_not_unpacked() -> None:
    there, relay = peer(packed=True)
    (end,) = heard(relay, there.send(BytesMessage(bytes(8 * MOST))), 1 << 20)
    assert isinstance(end, CloseConnection) and end.code == 1009


def test_what_can_not_be_unpacked_is_told_as_such() -> None:
    _, relay = peer(packed=True)
    (end,) = heard(relay, b"\xc2\x94" + bytes(4) + b"\xff" * 20)
    assert isinstance(end, CloseConnection) and end.code == 1007
