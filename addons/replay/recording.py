"""Recording: what a flow file needs beyond what a person sees, so that it can be replayed (addons/replay/flow_file.py).

1. `/chat` answers with an envelope. What upstream said to it is kept beside, as `relay.heard` in the flow's metadata.
2. What relay answered by itself is marked `relay.own`: a replaying relay will do so again.
3. An exchange that is under way when relay ends is not saved: its keys are still in it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mitmproxy import ctx, http

from addons.exchange import Kind, Part, of
from addons.flow.capture import Copy, new_copy, recording, warn_cut


@dataclass
class _Heard:
    response: http.Response
    copy: Copy


_HEARD = Part[_Heard]("recording")


class Recording:
    """Stands before Chat, so it sees upstream's answer first."""

    optional = True

    def __init__(self, clean: Callable[[http.HTTPFlow], Awaitable[None] | None]) -> None:
        self.clean = clean  # takes the keys out of a flow

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Begin to keep what upstream says to `/chat`."""
        exchange = of(flow)
        if exchange is None or exchange.kind != Kind.CHAT or exchange.refused or flow.response is None:
            return
        if exchange.record.watched:
            exchange.answer.tap = new_copy(exchange)
            _HEARD.keep(exchange, _Heard(flow.response.copy(), exchange.answer.tap))

    def response(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Put it into the flow."""
        return self._note(flow)

    def error(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """As much as there was."""
        return self._note(flow)

    def _note(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        exchange = of(flow)
        if exchange is None:
            return None
        if exchange.refused or exchange.kind in (Kind.OWN, Kind.BALANCE):
            flow.metadata["relay.own"] = True
            return None
        heard = _HEARD.take(exchange)
        if heard is None:
            return None
        if heard.copy.cut:
            warn_cut(flow, "answer", heard.copy)
            return None
        return self._keep(flow, heard)

    async def _keep(self, flow: http.HTTPFlow, heard: _Heard) -> None:
        whole = flow.response.raw_content if flow.response is not None else None
        heard.response.raw_content = heard.copy.body() if heard.copy.seen else whole or b""
        # The keys to take out are those of the request.
        scratch = http.HTTPFlow(flow.client_conn, flow.server_conn)
        scratch.request, scratch.response = flow.request.copy(), heard.response
        if (cleaning := self.clean(scratch)) is not None:
            await cleaning
        if scratch.response is not None:
            flow.metadata["relay.heard"] = {
                "status": scratch.response.status_code,
                "headers": [[name, value] for name, value in scratch.response.headers.fields],
                "body": scratch.response.raw_content or b"",
                "chunks": heard.copy.times,
            }

    def done(self) -> None:
        """Leave out of the file what is still under way."""
        save = ctx.master.addons.get("save") if recording() else None
        if save is not None:
            save.active_flows.clear()
