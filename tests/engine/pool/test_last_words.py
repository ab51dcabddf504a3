"""What an exchange says to its upstream when its connection is somebody else's already."""

from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.connection import Server
from mitmproxy.proxy.layers.http._events import ErrorCode, RequestProtocolError

from addons.engine.corrections import framing
from addons.engine.pool.lending import _Connections


def test_a_connection_that_is_gone_takes_whatever_is_said() -> None:
    here, gone = Server(address=("example.com", 443)), Server(address=("example.com", 443))
    connections = _Connections({here: "a layer"})
    assert connections[here] == "a layer" and gone not in connections
    assert list(connections[gone].handle_event(object())) == []


@pytest.mark.parametrize(("at_work_for", "heard"), [(1, True), (3, False), (None, False)])
def test_only_who_is_under_way_on_a_connection_can_break_it_off(at_work_for: int | None, heard: bool) -> None:
    client = SimpleNamespace(stream_id=at_work_for, conn=Server(address=("example.com", 443)))

    def stock(_client: Any, _event: Any) -> list[str]:
        return ["close"]

    event = RequestProtocolError(1, "left", ErrorCode.CLIENT_DISCONNECTED)
    assert list(framing._frame_http2_bodies(stock, client, event)) == (["close"] if heard else [])
