"""DisplayPath: the record of a message to `/chat` bears the path that the client asked for.

What went upstream is a completion request, under a path of upstream's. Once it is sent the record's path is set back,
so that a person finds in the list what the client did; upstream's stays beside it as `relay.upstream_path` in the
flow's metadata. The body stays what went up: the view tells in it what the client said and what relay added, and
recordings are replayed by it. A record that is sent again goes where it went before.
"""

from mitmproxy import flow, http

from addons.exchange import Kind, Part, of

UPSTREAM_PATH = "relay.upstream_path"
"""In a flow's metadata: the path and query that upstream was asked for, where the record's is the client's."""

_ASKED = Part[bytes]("display_path")


class DisplayPath:
    """Stands before whoever rewrites the request, and before the record is cleaned."""

    optional = True

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Keep the path as it came; of a record that is sent again, take upstream's."""
        exchange = of(flow)
        if exchange is not None:
            if exchange.kind == Kind.CHAT:
                _ASKED.keep(exchange, flow.request.data.path)
        elif flow.is_replay == "request":
            aim(flow)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """An answer has come: nobody sends the request's head again."""
        self._show(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        """No answer comes any more: nobody sends the request's head again, either."""
        self._show(flow)

    def _show(self, flow: http.HTTPFlow) -> None:
        exchange = of(flow)
        asked = _ASKED.take(exchange) if exchange is not None else None
        if asked is not None and asked != flow.request.data.path:
            flow.metadata[UPSTREAM_PATH] = flow.request.path
            flow.request.data.path = asked


def upstream_path(record: flow.Flow) -> str | None:
    """What upstream was asked for, where the record's own path is another."""
    path = record.metadata.get(UPSTREAM_PATH)
    return path if isinstance(path, str) and path.startswith("/") else None


def aim(record: http.HTTPFlow) -> None:
    """Give a record the path back under which its request goes upstream."""
    path = upstream_path(record)
    if path is not None:
        record.request.path = path
