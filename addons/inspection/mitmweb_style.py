"""mitmweb's flow list gives comments 150 pixels on one line; here they get the room they need, since relay says in them
what an exchange was about, and where that is not enough, a second line. Of a path its end is shown, which tells more
than the host. Some rules of style are added to the page (engine/corrections/web.py), and a script that links a flow to
the page of its thread (thread_page.py).
"""

from typing import Any

from tornado.httputil import HTTPHeaders
from tornado.web import OutputTransform

from addons.engine.corrections import web
from addons.inspection.thread_page import SCRIPT_PATH

STYLE = (
    b"<style>.flow-table .col-comment{width:58%}"
    b".flow-table td.col-comment{text-align:left;padding-right:8px;white-space:normal;font-size:12px;line-height:14px}"
    b".flow-table td.col-path{direction:rtl;text-align:left}.flow-table td.col-path>*{direction:ltr}</style>"
)
_SCRIPT = f'<script src="{SCRIPT_PATH}" defer></script>'.encode()
_END = b"</head>"


class PageStyle(OutputTransform):
    """Adds the style to a page that comes whole; anything else passes as it is."""

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        """What tornado sends in place of `chunk`."""
        page = finishing and headers.get("Content-Type", "").startswith("text/html")
        if page and b'id="mitmproxy"' in chunk and "Content-Length" in headers:
            chunk = chunk.replace(_END, STYLE + _SCRIPT + _END, 1)
            headers["Content-Length"] = str(len(chunk))
        return status_code, headers, chunk


def install(master: Any) -> None:
    """Change the page of a mitmweb; of other programs, nothing. Done again it takes the place of what was there."""
    web.transform_pages(master, PageStyle)
