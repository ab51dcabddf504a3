"""A request that is asked once more."""

from types import SimpleNamespace
from typing import Any

from mitmproxy.connection import Server
from mitmproxy.test import tflow

from addons.engine.pool import repeats
from addons.engine.pool.repeats import _SENT


def test_a_timer_that_gives_it_up_finds_the_connection_that_is_on_its_way() -> None:
    flow = tflow.tflow()
    over = flow.server_conn = Server(address=("example.com", 443))
    over.via = ("http", ("proxy.test", 3128))
    setattr(over, _SENT, SimpleNamespace(events=[]))
    pointed: list[Server] = []

    def connect() -> Any:
        pointed.append(flow.server_conn)
        yield from ()
        return False

    stream: Any = SimpleNamespace(flow=flow, make_server_connection=connect)
    list(repeats.ask_again(stream))
    assert pointed[0] is not over and pointed[0].via == over.via and repeats.is_repeated(flow)
