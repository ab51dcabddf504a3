"""Lines: what mitmdump prints of a flow by default, written at once.

By mitmproxy the two lines of an ordinary exchange (HTTP/1 on both sides, an answer, no colours) take some forty calls
and, where Python does not buffer, four writes. All else is stock's.
"""

from functools import lru_cache
from typing import Any

from mitmproxy import ctx, http
from mitmproxy.addons import dumper
from mitmproxy.net.http.url import hostport
from mitmproxy.utils import human, strutils

from addons.engine.wrapping import restore, wrap

_HTTP_1 = (b"HTTP/1.1", b"HTTP/1.0")
_hostport = lru_cache(1024)(hostport)


def install() -> None:
    """Make the changes of this room."""
    wrap(dumper.Dumper, "echo_flow", _echo_flow)


def uninstall() -> None:
    """Take them back."""
    restore(dumper.Dumper, "echo_flow")


def _echo_flow(stock: Any, printer: Any, flow: http.HTTPFlow) -> None:
    """mitmproxy 12.2.3 takes some forty calls for the two lines of an ordinary exchange and, where Python does not
    buffer, four writes; so the list takes a good part of a short exchange's time. Here both are put together and
    written at once; all else is stock's. Remove when Dumper.echo_flow writes its lines in one piece.
    """
    if not _is_ordinary(printer, flow) or ctx.options.flow_detail != 1 or ctx.options.showhost:
        stock(printer, flow)
        return
    client = human.format_address(flow.client_conn.peername)
    response: Any = flow.response
    content = response.raw_content
    size = "(content missing)" if content is None else human.pretty_size(len(content))
    lines = (
        f"{_shown(client)}: {_shown(flow.request.method)} {_shown(_fit(_url(flow.request)))}\n"
        f"{' ' * max(0, len(client) - 2)} << {response.status_code} {_shown(response.reason)} {size}\n"
    )
    printer.outfp.write(lines)
    printer.outfp.flush()


def _is_ordinary(printer: Any, flow: http.HTTPFlow) -> bool:
    """Whether the lines of `flow` say no more than the usual."""
    request, response = flow.request, flow.response
    return not (
        request is None
        or response is None
        or flow.error
        or flow.is_replay
        or printer.out_has_vt_codes
        or not flow.client_conn.peername
        or flow.metadata.get("h2-pushed-stream")
        or request.data.http_version != response.data.http_version
        or request.data.http_version not in _HTTP_1
        or request.data.method.upper() == b"CONNECT"
    )


def _url(request: http.Request) -> str:
    path = request.path
    return f"{request.scheme}://{_hostport(request.scheme, request.host, request.port)}{path if path != '*' else ''}"


def _fit(url: str) -> str:
    shutil: Any = vars(dumper)["shutil"]  # which may be one of trifles.py
    width = max(shutil.get_terminal_size()[0] - 25, 50)
    return url if len(url) <= width else f"{url[:width]}…"


def _shown(text: str) -> str:
    return text if text.isascii() and text.isprintable() else strutils.escape_control_characters(text)
