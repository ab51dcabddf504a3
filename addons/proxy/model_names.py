"""ModelNames: models that an upstream knows by other names (`upstreams[].models`).

What is mapped is the top-level `model` of a JSON body. So bodies are read whole for such upstreams, but for those that
can't be JSON; for all other upstreams nothing is read here. The bodies of relay keys' generations are mapped by the
meter, which judges them as they go up (meter/gate.py).
"""

from collections.abc import Awaitable

from mitmproxy import http

from addons import errors
from addons.exchange import Exchange, Kind, ongoing
from addons.flow.answers import refuse
from addons.flow.held_bodies import HeldBodies
from addons.flow.model_mapping import check_address, mapped_for, note_mapped
from addons.flow.request_body import replace_body
from addons.meter.under_way import METERING

_BODILESS = ("GET", "HEAD", "OPTIONS")
_NO_JSON = ("audio/", "image/", "video/", "application/octet-stream", "application/sdp")
"""How content types begin of bodies that name no model."""
_FILES = ("/files", "/parts")
"""How paths end to which forms bring a file, and name no model: https://platform.openai.com/docs/api-reference/files"""


class ModelNames:
    """Stands behind the meter, which knows where a relay key leads, and before whoever streams."""

    serves = (Kind.PASS,)

    def __init__(self, held: HeldBodies) -> None:
        self.held = held

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Refuse a mapped name in the address, and have a body read that may name one."""
        exchange = ongoing(flow, Kind.PASS)
        if exchange is None or not exchange.upstream.models:
            return
        try:
            check_address(exchange.upstream, exchange.path, flow.request.path.partition("?")[2])
        except errors.RelayError as error:
            refuse(flow, exchange, error)
            return
        if (exchange.body.cap is None or exchange.body.passes) and _may_name_one(flow.request, exchange.path):
            self.held.hold(flow, exchange)

    def request(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Put the name that upstream knows in the place of the caller's."""
        exchange = ongoing(flow, Kind.PASS)
        if exchange is None or exchange.body.cap is None or not exchange.upstream.models:
            return None
        metering = METERING.of(exchange)
        if metering is not None and metering.admission is not None:
            return None  # it was mapped as it was admitted
        return self._map(flow, exchange)

    async def _map(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        request = flow.request
        try:
            body = await self.held.read(flow, exchange)
            mapped = await mapped_for(exchange.upstream, body, request.headers.get("content-type", ""))
        except errors.RelayError as error:
            refuse(flow, exchange, error)
            return
        if mapped.sent is None:
            return
        replace_body(request, mapped.body)
        note_mapped(flow, mapped.asked)
        if (metering := METERING.of(exchange)) is not None:
            metering.model = mapped.sent


def _may_name_one(request: http.Request, path: str) -> bool:
    """Whether a body may be JSON or a form with a `model` in it."""
    if request.method in _BODILESS:
        return False
    kind = request.headers.get("content-type", "").strip().lower()
    if kind.startswith("multipart/") and path.rstrip("/").endswith(_FILES):
        return False
    return not kind.startswith(_NO_JSON)
