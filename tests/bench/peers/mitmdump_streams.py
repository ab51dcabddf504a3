"""What plain mitmdump needs to pass server-sent events on as they come (its documentation: "Streaming")."""

from mitmproxy import http


def responseheaders(flow: http.HTTPFlow) -> None:
    """Stream events; everything else as ever."""
    if flow.response is not None and flow.response.headers.get("content-type", "").startswith("text/event-stream"):
        flow.response.stream = True
