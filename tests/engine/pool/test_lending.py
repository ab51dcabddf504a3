"""What a connection is given back for, what is left of one that is gone, and who may cut it off."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.connection import ConnectionState, Server
from mitmproxy.proxy import commands
from mitmproxy.test import tflow, tutils

from addons.engine.pool import lending
from addons.engine.pool.places import Place
from addons.engine.pool.upstream_connection import Seat
from addons.engine.transports import cut_upstream
from addons.exchange import keep_handler

HERE = Place("here.test", 80, False)


class Connection:
    """A clean one."""

    def __init__(self) -> None:
        self.place = HERE
        self.keeps: float | None = None
        self.spoilt = False
        self.seat: Any = None
        self.discarded = ""

    def may_rest(self) -> bool:
        return True

    def discard(self, why: str) -> None:
        self.discarded = why


def seated(state: ConnectionState = ConnectionState.OPEN) -> tuple[Seat, Connection]:
    """A seat with a connection."""
    server = Server(address=("here.test", 80))
    server.state = state
    seat = Seat(HERE, server, SimpleNamespace(connections={}, streams={}), fresh=False)
    connection: Any = Connection()
    seat.connection, connection.seat = connection, seat
    return seat, connection


@pytest.mark.parametrize("state", [ConnectionState.OPEN, ConnectionState.CLOSED, ConnectionState.CAN_WRITE])
def test_a_connection_that_is_being_closed_never_rests(state: ConnectionState, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is refused for its framing has it closed, and may come to its end all the same."""
    seat, _ = seated(state)
    rested: list[Any] = []
    monkeypatch.setattr(lending, "_rest", lambda connection, _keeps: rested.append(connection))
    client: Any = SimpleNamespace(
        conn=seat.server,
        request=tutils.treq(),
        response=tutils.tresp(),
        request_done=True,
        response_done=False,
        buf=b"",
    )
    client.read_headers = client.done = None
    said = list(lending._mark_done(None, client, response=True))
    assert bool(rested) == (state is ConnectionState.OPEN)
    assert [type(each) for each in said] == ([] if rested else [commands.CloseConnection])


def test_what_is_given_up_between_the_connect_and_the_first_read_is_closed() -> None:
    seat, connection = seated()
    handler: Any = SimpleNamespace(transports={})
    layer = seat.layer

    async def stock(_handler: Any, _command: Any) -> None:
        handler.transports[seat.server] = SimpleNamespace(handler=asyncio.current_task())
        layer.connections[seat.server] = SimpleNamespace()
        await asyncio.sleep(10)  # for its turn

    async def life() -> None:
        task = asyncio.ensure_future(lending._open_connection(stock, handler, commands.OpenConnection(seat.server)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(life())
    assert connection.discarded and connection.seat is None
    assert not handler.transports and not layer.connections


def test_what_is_not_read_any_more_is_closed() -> None:
    """A task that is ended while it waits for mitmproxy's lock does not close what it reads."""
    seat, connection = seated()
    lending.end(None, seat.server)
    assert connection.discarded and connection.seat is None
    connection.discarded = ""
    lending.end(None, seat.server)
    assert not connection.discarded, "somebody else may have it by now"


def test_layers_of_an_ended_connection_stay_as_long_as_its_stream() -> None:
    seat, _ = seated()
    layer: Any = seat.layer
    layer.streams[3] = object()
    layer.connections[seat.server] = SimpleNamespace(
        _handle_event=SimpleNamespace(__self__=SimpleNamespace(stream_id=3))
    )
    lending.end(None, seat.server)
    assert layer.connections, "its stream may go on sending"
    layer.streams.clear()
    lending._sweep(layer, vars(layer)[lending._ENDED])
    assert not layer.connections and not vars(layer)[lending._ENDED]


@pytest.mark.parametrize("own", [True, False])
def test_only_the_exchange_that_is_under_way_is_cut_off(own: bool) -> None:
    """A timer may be late, and the next stream of the same client at work on the same connection."""
    cancelled: list[str] = []
    flow = tflow.tflow()
    seat, _ = seated()
    flow.server_conn = seat.server
    seat.request = flow.request if own else tutils.treq()
    reading = SimpleNamespace(cancel=cancelled.append)
    handler: Any = SimpleNamespace(transports={seat.server: SimpleNamespace(handler=reading)})
    keep_handler(flow, handler)
    cut_upstream(flow, "too late")
    assert cancelled == (["too late"] if own else [])
