"""mitmweb: what it does with every record whenever somebody opens the page, and how that page looks."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from mitmproxy.addons.view import View
from mitmproxy.flow import Flow
from mitmproxy.http import HTTPFlow

from addons.engine.wrapping import wrap
from addons.exchange import of

if TYPE_CHECKING:
    from tornado.web import OutputTransform, RequestHandler

logger = logging.getLogger(__name__)

_PAGE = "mitmproxy.tools.web.app"
_MASK = (1 << 64) - 1
_MOMENT = 0.02

waiting: dict[Flow, tuple[View, asyncio.AbstractEventLoop]] = {}
"""Flows that their list is about to be told of."""


def install() -> None:
    """Make the changes of this room: the first one in every list, the others where mitmweb runs."""
    wrap(View, "update", _update)
    if (page := sys.modules.get(_PAGE)) is not None:
        vars(page)["hashlib"] = SimpleNamespace(sha256=Digest)
        wrap(page.ClientConnection, "broadcast_flow", _broadcast_flow)
        wrap(page.ClientConnection, "broadcast", _broadcast)


def _broadcast(stock: Any, **told: Any) -> None:
    """mitmproxy 12.2.3 writes a line of its log, and what has left its list, as JSON before it looks whether a page is
    open; so each of them costs what nobody sees. Remove when WebSocketEventBroadcaster.broadcast looks first.
    """
    if stock.__self__.connections:
        stock(**told)


def _update(stock: Any, view: View, flows: Sequence[Flow]) -> None:
    """mitmproxy 12.2.3 tells a list of an exchange after each of its hooks; so one that is over within milliseconds is
    told of four times. Here those under way are told of together, every 20 ms. Remove when View.update does so.
    """
    if len(flows) == 1 and flows[0] in waiting:
        return
    if not all(map(_is_under_way, flows)):
        stock(view, flows)
        return
    loop = asyncio.get_running_loop()
    if not waiting or next(iter(waiting.values()))[1] is not loop:
        loop.call_later(_MOMENT, _tell, stock)
    waiting.update(dict.fromkeys(flows, (view, loop)))


def _tell(stock: Any) -> None:
    told = list(waiting.items())
    waiting.clear()
    for flow, (view, _) in told:
        try:
            stock(view, [flow])
        except Exception:
            logger.exception("a list can't be told of an exchange")


def _is_under_way(flow: Flow) -> bool:
    """Whether it is to be told of again, as soon as its record is finished (inspection/finishing.py)."""
    exchange = of(flow) if isinstance(flow, HTTPFlow) and not flow.intercepted else None
    return exchange is not None and exchange.record.later


def _broadcast_flow(stock: Any, kind: str, flow: Any) -> None:
    """mitmproxy 12.2.3 lays out a flow for the pages that are open before it looks whether one is; so each exchange
    costs what nobody sees. Remove when ClientConnection.broadcast_flow looks first.
    """
    if stock.__self__.connections:
        stock(kind, flow)


class Digest:
    """Tells one content from another, which is all that the page does with it.

    mitmproxy 12.2.3 works out the SHA-256 of every body each time the page is opened; so many records hold the loop for
    seconds. Python remembers the hash of a text. Remove when mitmweb keeps a body's hash with the flow.
    """

    def __init__(self, content: Any) -> None:
        self._content = content

    def hexdigest(self) -> str:
        """As hashlib's, but shorter."""
        return f"{hash(self._content) & _MASK:016x}{len(self._content):08x}"


def transform_pages(master: Any, transform: "type[OutputTransform]") -> None:
    """Have each page of a mitmweb pass `transform`, in place of an earlier one of that name; without mitmweb, nothing.

    mitmproxy 12.2.3 offers no way to change how mitmweb's page looks; so its list of flows has 150 pixels for a
    comment. This is tornado's own interface for such changes, reached through mitmweb's application. Remove when
    mitmweb has an option for the width of a column, or for a style sheet.
    """
    transforms = getattr(getattr(master, "app", None), "transforms", None)
    if isinstance(transforms, list):
        transforms[:] = [each for each in transforms if each.__name__ != transform.__name__]
        transforms.append(transform)


def add_pages(master: Any, prefix: str, pages: "Sequence[tuple[str, type[RequestHandler], dict[str, Any]]]") -> None:
    """Have a mitmweb serve further pages below `prefix`, in place of earlier ones there; without mitmweb, nothing.

    mitmproxy 12.2.3 lets addons add no page; so the page of a thread would stand on a server of its own, without
    mitmweb's token. This is tornado's own interface, reached through mitmweb's application, but for what an earlier
    load of relay has added: that is taken out again. Remove when mitmweb takes handlers from addons.
    """
    application = getattr(master, "app", None)
    router = getattr(application, "wildcard_router", None)
    if application is None or router is None:
        return
    from tornado.routing import URLSpec

    router.rules[:] = [each for each in router.rules if not _is_below(each, prefix)]
    router.add_rules([URLSpec(*each) for each in pages])


def _is_below(rule: Any, prefix: str) -> bool:
    pattern = getattr(getattr(rule, "matcher", None), "regex", None)
    return pattern is not None and pattern.pattern.startswith(prefix)
