"""Request bodies that are read whole: how much of them this process holds, and no more than `limits.held` together.

One that has to be read is refused where there is no room. One that is kept for a repeat alone passes, and is not
repeated.
"""

import asyncio

from mitmproxy import http

from addons import errors
from addons.exchange import Exchange
from addons.flow.answers import refuse
from addons.flow.request_body import read_body
from addons.flow.upstream import declared_length

_AT_ONCE = 4
"""Compressed bodies that are unpacked at a time."""
_UNCOUNTED = 1 << 20
"""Bytes of a body that don't count, where relay has to read it."""
_BODILESS = ("GET", "HEAD", "OPTIONS")
_AGAIN = {"retry-after": "1", "x-should-retry": "true"}
"""Bodies come and go in moments."""


class HeldBodies:
    """Counts large bodies of all clients together."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes that are held now."""

        self._decoding = asyncio.Semaphore(_AT_ONCE)

    def hold(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Have a body read whole, of at most `limits.json`, or refuse it by its declared length.

        Called in `requestheaders`, before anybody streams it.
        """
        limits = exchange.settings.limits
        release(exchange)  # of a body that was to be kept for a repeat
        if (declared_length(flow.request) or 0) > limits.json:
            refuse(flow, exchange, too_large(limits.json))
            return
        exchange.body.cap, exchange.body.passes = limits.json, False
        exchange.body.holding = _Holding(self, limits.held)

    def keep(self, flow: http.HTTPFlow, exchange: Exchange, most: int) -> None:
        """Have a body of at most `most` bytes read whole, so that it can be sent again, where there is room for it. A
        longer one passes as it comes. Called as `hold`."""
        request, size = flow.request, declared_length(flow.request)
        chunked = request.is_http2 or "transfer-encoding" in request.headers
        if size is None and (request.method in _BODILESS or not chunked):
            return
        wanted = most if size is None else size
        if wanted > most or self.size + wanted > exchange.settings.limits.held:
            return
        exchange.body.cap, exchange.body.passes = most, True
        exchange.body.holding = _Holding(self, exchange.settings.limits.held, wanted)

    async def read(self, flow: http.HTTPFlow, exchange: Exchange) -> bytes:
        """A body that has come, decoded. Raises RelayError.

        A few bytes may unpack to `limits.json`: so few are unpacked at a time, and what comes out counts.
        """
        request, limit = flow.request, exchange.settings.limits.json
        if request.headers.get("content-encoding", "").strip().lower() in ("", "identity"):
            return await read_body(request, limit)
        async with self._decoding:
            body = await read_body(request, limit)
            holding = exchange.body.holding
            if holding is not None and (error := holding(len(request.raw_content or b"") + len(body))) is not None:
                raise error
            return body


class _Holding:
    """Counts one of them."""

    def __init__(self, together: HeldBodies, most: int, reserved: int = 0) -> None:
        self._together = together
        self._most = most
        self._counted = reserved
        together.size += reserved

    def __call__(self, size: int) -> errors.RelayError | None:
        """So much of it is held now; an error where that is too much, together with the others."""
        if size <= _UNCOUNTED:
            return None
        self._together.size += size - self._counted
        self._counted = size
        if self._together.size <= self._most:
            return None
        self.release()
        return errors.Unavailable(
            "正在处理的大请求过多，请稍后再试。",
            "Too many large requests are under way: try again later.",
            headers=_AGAIN,
        )

    def release(self) -> None:
        """It is held no longer."""
        self._together.size -= self._counted
        self._counted = 0


def release(exchange: Exchange) -> None:
    """The body of an exchange is held no longer, if it was."""
    # By its method: it may be of the code before a reload.
    if (let_go := getattr(exchange.body.holding, "release", None)) is not None:
        let_go()


def too_large(limit: int) -> errors.TooLarge:
    """The error for a body that is read whole, and over `limit` bytes."""
    return errors.TooLarge(
        f"请求体超过 {limit} 字节，请缩短内容。", f"The request body is over {limit} bytes: shorten it."
    )
