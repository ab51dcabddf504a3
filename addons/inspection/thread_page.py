"""The page of a thread in mitmweb, behind its token: /relay/threads/HASH; /relay/flows/ID/thread leads a flow there.

It is the page that an export writes (core/export/page.py), made anew each time from the flows in the list. A small
script, which mitmweb's page loads from here, puts a link to it beside the tabs of the flow that is open.
"""

from typing import Any, Protocol

from mitmproxy import flow
from mitmproxy.tools.web.app import RequestHandler

from addons.config.settings import Settings
from addons.core.export.style import POLICY
from addons.engine.corrections import web
from addons.flow.model_calls import label_of
from addons.inspection import exporting
from addons.meter.prices import Prices
from addons.store import Store

SCRIPT_PATH = "/relay/thread_link.js"
SCRIPT = """
"use strict";
// Beside the tabs of the flow that is open: a link to the page of its thread.
(() => {
  const place = () => {
    const tabs = document.querySelector(".flow-detail nav");
    const flow = /^#\\/flows\\/([0-9a-f-]{36})(?:\\/|$)/.exec(location.hash);
    if (!tabs || !flow) return;
    let link = tabs.querySelector("a.relay-thread");
    if (!link) {
      link = document.createElement("a");
      link.className = "relay-thread";
      link.textContent = "Thread \\u2197";
      link.title = "The page of this flow's thread";
      link.target = "_blank";
      link.rel = "noopener";
      link.addEventListener("click", (event) => event.stopPropagation());
      tabs.append(link);
    }
    const href = "/relay/flows/" + flow[1] + "/thread";
    if (link.getAttribute("href") !== href) link.setAttribute("href", href);
  };
  new MutationObserver(place).observe(document.documentElement, {childList: true, subtree: true, attributes: true});
  place();
})();
""".lstrip()


class Served(Protocol):
    """What the pages need of relay."""

    @property
    def settings(self) -> Settings | None:
        """relay.yaml's."""

    @property
    def store(self) -> Store | None:
        """Its secret keys the hashes of keys."""

    @property
    def prices(self) -> Prices | None:
        """What tokens cost."""


def install(master: Any, served: Served) -> None:
    """Add the pages to a mitmweb."""
    more = {"served": served}
    web.add_pages(
        master,
        "/relay/",
        [
            (r"/relay/threads/(?P<label>[0-9a-f]{8})", ThreadPage, more),
            (r"/relay/flows/(?P<flow_id>[0-9a-f\-]{36})/thread", FlowPage, more),
            (SCRIPT_PATH, Script, {}),
        ],
    )


class _Page(RequestHandler):
    """A page of relay's behind mitmweb's token."""

    def initialize(self, served: Served) -> None:
        """As tornado hands it over."""
        self.served = served

    def auth_fail(self, invalid_password: bool) -> None:
        """Say where the token is."""
        self._say("Open mitmweb with its token first: the address is in what it prints at its start.")

    def _say(self, text: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(text + "\n")

    def _flows(self) -> list[flow.Flow]:
        return list(self.view._store.values())  # the view itself holds only what its filter lets through

    async def _show(self, flows: list[flow.Flow], none: str) -> None:
        settings, store, prices = self.served.settings, self.served.store, self.served.prices
        if settings is None or store is None or prices is None:
            self.set_status(503)
            self._say("relay.yaml is wrong: relay serves nothing.")
            return
        text, count = await exporting.export(flows, settings, store.secret, "html", prices)
        if not count:
            self.set_status(404)
            self._say(none)
            return
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", f"{POLICY}; frame-ancestors 'none'")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")
        await self.finish(text)


class ThreadPage(_Page):
    """A thread, by its hash."""

    async def get(self, label: str) -> None:
        """The flows of the list that belong to it."""
        found = [each for each in self._flows() if label_of(each) == label]
        await self._show(found, f"The list has no exchange of thread {label} that is over.")


class FlowPage(_Page):
    """The thread of a flow; of a flow without one, that exchange alone."""

    async def get(self, flow_id: str) -> None:
        """Lead to the thread's own address."""
        one = self.view.get_by_id(flow_id)
        if one is None:
            self.set_status(404)
            self._say("The list has no such exchange any more.")
        elif (label := label_of(one)) is not None:
            self.redirect(f"/relay/threads/{label}")
        else:
            await self._show([one], "This exchange is not over yet.")


class Script(RequestHandler):
    """What puts the link there. It holds nothing that is anybody's."""

    def get(self) -> None:
        """The script."""
        self.set_header("Content-Type", "text/javascript; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        self.finish(SCRIPT)
