"""One connection to an upstream: it is lent to one exchange after the other, of whichever client.

Whoever has it reads by a `Patient` of his own and writes by its one writer. When an exchange is over it rests: with the
client that had it last, who may go on without ado, or with nobody. In both cases anybody may take it from there.
"""

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Any

from mitmproxy.connection import Connection, ConnectionState, Server
from mitmproxy.http import HTTPFlow

from addons.engine.corrections.reading import Patient, WholeReading
from addons.engine.pool import tls
from addons.engine.pool.kernel import KernelView
from addons.engine.pool.places import Place

_SEAT = "relay_seat"


class Seat:
    """A client's use of a connection: what mitmproxy knows of it as `server`, in one HTTP layer."""

    __slots__ = ("connection", "fresh", "handler", "layer", "place", "request", "reused", "server")

    def __init__(self, place: Place, server: Server, layer: Any, *, fresh: bool) -> None:
        self.place = place
        self.server = server
        self.layer = layer
        self.fresh = fresh
        """Only a connection that nobody has had before will do."""
        self.handler: Any = None
        """mitmproxy's ConnectionHandler, once the connection is there."""
        self.connection: UpstreamConnection | None = None
        self.request: Any = None
        """What is under way."""
        self.reused = 0
        """Exchanges that the connection had had when the one that is under way began."""
        setattr(server, _SEAT, self)

    def end(self) -> None:
        """Nobody sits here any more. Flows outlive it, and must not hold a client's layers."""
        if self.connection is not None:
            self.connection.seat = None
        self.connection = self.handler = self.layer = self.request = None


def seat_of(server: Connection) -> Seat | None:
    """The seat that stands behind `server`; None for what is no upstream's connection of a request."""
    return getattr(server, _SEAT, None)


def unseat(flow: HTTPFlow) -> None:
    """Point `flow` at no connection, by the same proxy: the one that it had is over, or at work for others."""
    via = flow.server_conn.via
    flow.server_conn = Server(address=None)
    flow.server_conn.via = via


class Writer(asyncio.StreamWriter):
    """asyncio's, but where TLS knows no half of an end, there is none."""

    def write_eof(self) -> None:
        """End this side, if that can be."""
        if self.can_write_eof():
            super().write_eof()


class UpstreamConnection(WholeReading):
    """The protocol that asyncio calls, and what relay knows of the connection."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.reader = asyncio.StreamReader()
        super().__init__(self.reader)
        self.kernel = KernelView(None)
        self.begun_at = self.connected_at = time.time()
        """Seconds since 1970."""
        self.uses = 0
        """Exchanges that were begun on it."""
        self.received = 0
        """Bytes."""
        self.moved_at = 0.0
        """When something was last sent or received, in seconds on the loop's clock."""
        self.ended = False
        """No more of it can be read."""
        self.spoilt = False
        """It must not be used again."""
        self.keeps: float | None = None
        """Seconds that upstream keeps it after the answer there is; 0 where it does not, None where it does not say."""
        self.expires_at = 0.0
        """Seconds on the loop's clock, while it rests."""
        self.seat: Seat | None = None
        self.seen: tls.Seen | None = None
        self.patient: Patient | None = None
        self.writer: Writer
        self.on_change: Callable[[UpstreamConnection], None] | None = None
        """Called with something that has come, or its end, while nobody has it."""
        self._received_at_rest = 0

    def opened(self, transport: asyncio.Transport) -> None:
        """It is there, with TLS where that is wanted."""
        self.connected_at = time.time()
        self.seen = tls.look(transport)
        self.kernel = KernelView(transport.get_extra_info("socket"))
        self.writer = Writer(transport, self, self.reader, asyncio.get_running_loop())

    # What asyncio calls

    def data_received(self, data: bytes) -> None:
        """Hand it to whoever has the connection; nobody may have what comes while nobody has it."""
        self.received += len(data)
        self.moved_at = time.monotonic()
        if self.on_change is not None:
            self.on_change(self)
            return
        super().data_received(data)

    def eof_received(self) -> bool | None:
        """The end of what it says."""
        self.ended = True
        if self.on_change is not None:
            self.on_change(self)
            return False
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Its end. What was said before is still handed on."""
        self.ended = True
        self.kernel.close()
        if self.on_change is not None:
            self.on_change(self)
        super().connection_lost(exc)

    # Whose it is

    def lend(self, seat: Seat) -> Patient:
        """Give it to a seat. What it says from now on is read there."""
        self.seat, self.on_change = seat, None
        seat.connection = self
        self.patient = Patient(self.reader)
        server = seat.server
        server.timestamp_start = self.begun_at
        if self.seen is not None:
            self.seen.tell(server, self.place.host)
        return self.patient

    @property
    def is_untouched(self) -> bool:
        """Whether nothing has come on it, nor its end."""
        return not (self.received or self.ended)

    def may_rest(self) -> bool:
        """Whether all that has come was part of an answer, and all that was to be sent is on its way."""
        patient = self.patient
        return not (
            self.spoilt
            or self.ended
            or patient is None
            or patient.has_more
            or self.writer.transport.is_closing()
            or self.writer.transport.get_write_buffer_size()
            or tls.holds_something(self.writer.transport)
        )

    def rest(self, expires_at: float) -> None:
        """Its exchange is over."""
        self.expires_at = expires_at
        self._received_at_rest = self.received
        if self.seen is not None and self.uses == 1:
            tls.learn_session(self.writer.transport, self.place)

    def is_fit(self, now: float) -> bool:
        """Whether an exchange may begin on it: nothing has come since it rests, and it is still open."""
        if self.ended or self.received != self._received_at_rest or now >= self.expires_at:
            return False
        if self.writer.transport.is_closing():
            return False
        if self.seat is not None and self.seat.server.state is not ConnectionState.OPEN:
            return False
        return self.kernel.waiting() is None and not tls.holds_something(self.writer.transport)

    def leave(self, on_change: Callable[["UpstreamConnection"], None]) -> None:
        """Take it from whoever has it while it rests, without an end being told there."""
        seat, self.seat = self.seat, None
        self.on_change = on_change
        if seat is None:
            return
        seat.handler.transports.pop(seat.server, None)
        seat.layer.connections.pop(seat.server, None)
        seat.server.state = ConnectionState.CLOSED
        seat.end()
        left, self.reader = self.reader, asyncio.StreamReader()
        self.reader.set_transport(self.writer.transport)
        self._stream_reader_wr = weakref.ref(self.reader)
        self.writer._reader = self.reader  # type: ignore[attr-defined]
        if self.patient is not None:
            self.patient.let_go()
            self.patient = None
        left.feed_eof()  # wakes the task that reads

    def discard(self, why: str) -> None:
        """Close it, by whoever has it."""
        handler = self.seat.handler if self.seat is not None else None
        transport = handler.transports.get(self.seat.server) if handler is not None and self.seat is not None else None
        if transport is not None and transport.handler is not None:
            transport.handler.cancel(why)
        else:
            self.on_change = None
            self.writer.close()
