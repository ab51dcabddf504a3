"""Preambles: what a proxy says of a client before its first byte (core/proxy_protocol.py).

It is read before there is anything else of the connection, below TLS, so that every hook, record and log line has the
client's own address. A connection of a proxy that brings none is closed: to guess would let anybody name an address.
"""

import asyncio
import logging
from ipaddress import ip_address
from typing import Any

from mitmproxy.proxy import mode_specs
from mitmproxy.proxy.mode_servers import ServerInstance
from mitmproxy.proxy.server import ConnectionHandler

from addons.config.settings import ClientAddressSettings
from addons.core.client_address import is_within, parse_address
from addons.core.proxy_protocol import FIRST, Announced, NoPreamble, announced, missing
from addons.engine.wrapping import wrap

TIME = 5.0
"""Seconds that a proxy has for it: it is the first thing that a proxy sends."""
_BETWEEN_LINES = 10.0  # seconds
_LOOKED_AT = "relay_looked_at"

logger = logging.getLogger(__name__)


def install(settings: ClientAddressSettings) -> None:
    """Read preambles where `settings` ask for them; what is connected already stays as it is."""
    _taking.settings = settings
    wrap(ServerInstance, "handle_stream", _handle_stream)


class _Taking:
    """What servers go by that were started under other settings, too."""

    def __init__(self) -> None:
        self.settings = ClientAddressSettings()
        self.refusals = _Refusals()


async def _handle_stream(stock: Any, instance: Any, reader: Any, writer: Any = None) -> None:
    """mitmproxy 12.2.3 knows no PROXY protocol: a client's address is that of whoever connects; so behind a proxy every
    client is the same one, in records and under limits. Remove when a mode can ask for the preamble.
    """
    if (
        isinstance(writer, asyncio.StreamWriter)
        and isinstance(instance.mode, mode_specs.ReverseMode)
        and _expects_one(_taking.settings, writer)
    ):
        try:
            await _take_preamble(reader, writer)
        except NoPreamble as error:
            _taking.refusals.note(writer, str(error))
            writer.close()
            return
    setattr(writer, _LOOKED_AT, True)
    await stock(instance, reader, writer)


def came_before(handler: ConnectionHandler) -> bool:
    """Whether a proxy was accepted before anybody could read its preamble: mitmproxy listens before it loads its
    scripts."""
    io = handler.transports.get(handler.client)
    writer = io.writer if io is not None else None
    if not isinstance(writer, asyncio.StreamWriter) or hasattr(writer, _LOOKED_AT):
        return False
    return _expects_one(_taking.settings, writer)


def _expects_one(settings: ClientAddressSettings, writer: asyncio.StreamWriter) -> bool:
    """Whether a peer is a proxy, which says first who its client is. Others are clients, whoever they say they are."""
    if settings.source != "proxy_protocol" or not settings.networks:
        return settings.source == "proxy_protocol"
    peer = writer.get_extra_info("peername")
    address = parse_address(peer[0]) if peer else None
    return address is not None and is_within(address, settings.networks)


async def _take_preamble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Raises NoPreamble."""
    data = b""
    try:
        async with asyncio.timeout(TIME):
            data = await reader.readexactly(FIRST)
            while count := missing(data):
                data += await reader.readexactly(count)
    except TimeoutError:
        raise NoPreamble(f"none within {TIME:g} s") from None
    except asyncio.IncompleteReadError as error:
        raise NoPreamble("it was closed before its end" if error.partial or data else "") from None
    except OSError:
        raise NoPreamble("") from None
    if (said := announced(data)) is not None:
        writer.__class__ = _AnnouncedWriter
        assert isinstance(writer, _AnnouncedWriter)
        writer.announced = said


class _AnnouncedWriter(asyncio.StreamWriter):
    """A writer whose peer is who was announced. mitmproxy asks it once, when it begins with a connection."""

    announced: Announced

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As stock, but for the address of the peer."""
        if name != "peername":
            return super().get_extra_info(name, default)
        host, port = self.announced
        return (host, port) if ip_address(host).version == 4 else (host, port, 0, 0)


class _Refusals:
    """A line of the log now and then: whoever sets this up has to see that both sides don't agree."""

    def __init__(self) -> None:
        self._silent_until = float("-inf")

    def note(self, writer: asyncio.StreamWriter, why: str) -> None:
        """A connection was refused; not worth a word where it never said anything."""
        now = asyncio.get_running_loop().time()
        if not why or now < self._silent_until:
            return
        self._silent_until = now + _BETWEEN_LINES
        peer = writer.get_extra_info("peername")
        logger.warning(
            f"a connection of {peer[0] if peer else 'nobody'} was refused for want of a PROXY preamble ({why}): "
            "listen.client_address asks for one"
        )


_taking = _Taking()
