"""mitmproxy's own views of a body, none of which holds the loop for long.

They read all of it at once, on the loop that serves the clients: a form of 1 MB takes ten seconds, a page three. Here
each gets the beginning alone where there is more, and says so; `Raw` has it all.
"""

from dataclasses import replace
from typing import Any

from mitmproxy import http
from mitmproxy.contentviews import Contentview, InteractiveContentview, Metadata, SyntaxHighlight

from addons.core.reading.page import size
from addons.engine.corrections import views

FEW = 8 << 10
"""Bytes that a view gets: the slowest takes 60 ms for them."""
_LIMITS = {"raw": 64 << 20, "json": 64 << 10, "hex dump": 128 << 10, "javascript": 2 << 10}
"""Of those that may have more, or less: JavaScript that nests deeper and deeper is indented as far."""


class Bounded(Contentview):
    """One of mitmproxy's views, with the beginning of what it is to show."""

    def __init__(self, view: Contentview) -> None:
        self.view = view
        self.most = _LIMITS.get(view.name.lower(), FEW)

    @property
    def name(self) -> str:
        """As the view's."""
        return self.view.name

    @property
    def syntax_highlight(self) -> SyntaxHighlight:
        """As the view's."""
        return self.view.syntax_highlight

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """As the view's."""
        return self.view.render_priority(data[: self.most], metadata)

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """As the view's, or a note and the beginning."""
        if (path := _path(metadata)) and self.name.lower() == "query" and len(path) > self.most:
            return f"# a view shows {size(self.most)} of a path: this one has {size(len(path))}\n\n{path[: self.most]}"
        if len(data) <= self.most:
            return self.view.prettify(data, metadata)
        note = f"# the first {size(self.most)} of {size(len(data))}; the view Raw has all of it\n\n"
        try:
            return note + self.view.prettify(data[: self.most], _cut(metadata, data[: self.most]))
        except Exception:  # it is cut, and its format may want an end
            return note + data[: self.most].decode("utf-8", "replace")


class BoundedInteractive(Bounded, InteractiveContentview):
    """One that turns what a person has edited into bytes again."""

    def reencode(self, prettified: str, metadata: Metadata) -> bytes:
        """As the view's. Raises ValueError where only the beginning was shown."""
        if metadata.original_data is not None and len(metadata.original_data) > self.most:
            raise ValueError("only the beginning was shown: edit it in the view Raw")
        view: Any = self.view
        edited: bytes = view.reencode(prettified, metadata)
        return edited


def register() -> None:
    """Take the places of mitmproxy's views, and of those that an earlier load of this file has put there."""
    views.wrap_all(__name__, _bounded)


def unregister() -> None:
    """Give the places back."""
    views.unwrap_all(__name__)


def _bounded(view: Contentview) -> Contentview:
    return BoundedInteractive(view) if isinstance(view, InteractiveContentview) else Bounded(view)


def _cut(metadata: Metadata, beginning: bytes) -> Metadata:
    """The same of a message that is no longer than this: some views read the message itself."""
    if metadata.http_message is None:
        return metadata
    message = metadata.http_message.copy()
    message.headers.pop("content-encoding", None)
    message.raw_content = beginning
    return replace(metadata, http_message=message)


def _path(metadata: Metadata) -> str:
    return metadata.http_message.path if isinstance(metadata.http_message, http.Request) else ""
