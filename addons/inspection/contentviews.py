"""What a person sees of a body in mitmweb, in mitmproxy's console and under `flow_detail`.

Two views: `OpenAI` wins by priority for what it knows, `Events` for any other event stream; the raw body stays one
click away. They run on relay's own loop, so both stop after `core.reading.body.MAX_READ` bytes or `SECONDS`.

What they read from `flow.metadata`, each optional, other types ignored:
  relay.first_byte_ms   number: from the request's first byte to the first of the answer's body
  relay.duration_ms     number: from the request's first byte to the answer's last
  relay.events          integer: events of the stream
  relay.upload_bytes, relay.answer_bytes   integer: size on the wire, where the record keeps only the start
  relay.chat            {"session": short hash, "content": the app's message, "turns": earlier turns added}
  relay.upstream_path   string: the path upstream was asked for, where the record has the client's
  relay.usage           the usage object of the completion behind an envelope, as upstream sent it
"""

import time
from collections.abc import Mapping

from mitmproxy import contentviews, http
from mitmproxy.contentviews import Contentview, Metadata, SyntaxHighlight

from addons.core.reading import events, reader
from addons.core.reading.body import MAX_READ, About, ChatFacts, Timing, UnreadableBody
from addons.core.reading.page import one_line, size
from addons.engine.corrections import views
from addons.flow.decoding import decode

SECONDS = 0.05
"""The time a view takes at most."""

_OPENAI, _EVENTS = 10.0, 5.0  # mitmproxy's own views give 2 at most


class OpenAI(Contentview):
    """Conversations, answers, errors and the rest of OpenAI's API, and relay's own."""

    name = "OpenAI"
    syntax_highlight: SyntaxHighlight = "yaml"

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """High for what is known, below 0 for the rest. Never raises."""
        try:
            about = about_of(metadata)
            writer = reader.writer_for(decoded(data, metadata), about)
        except Exception:
            return -1
        return -1 if writer is None or writer is events.events else _OPENAI

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """The body as text; of one that can't be read, its beginning and why. Never raises."""
        return _read(data, metadata, None)


class Events(Contentview):
    """Event streams, one event after the other."""

    name = "Events"
    syntax_highlight: SyntaxHighlight = "yaml"

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """Above mitmproxy's own views for event streams, below 0 for the rest."""
        return _EVENTS if data and metadata.content_type == "text/event-stream" else -1

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """The events as text. Never raises."""
        return _read(data, metadata, events.events)


VIEWS: tuple[type[Contentview], ...] = (OpenAI, Events)


def register() -> None:
    """Offer the views to mitmproxy. They take the place of those that an earlier load of this file has left."""
    unregister()
    for view in VIEWS:
        contentviews.add(view())


def unregister() -> None:
    """Take the views back; nothing happens where there are none."""
    views.remove(__name__)


def _read(data: bytes, metadata: Metadata, writer: reader.Writer | None) -> str:
    until = time.monotonic() + SECONDS
    try:
        body = decoded(data, metadata)
        return reader.read(body, about_of(metadata), lambda: time.monotonic() > until, writer)
    except UnreadableBody as error:
        return _plain(data, f"shown as it is: {error}")
    except Exception as error:
        return _plain(data, f"shown as it is, since reading it failed: {error!r}")


def _plain(data: bytes, why: str) -> str:
    left = f"\n# a view reads {size(MAX_READ)}: {size(len(data) - MAX_READ)} more left out" * (len(data) > MAX_READ)
    return f"# {one_line(why, 300)}{left}\n\n{data[:MAX_READ].decode('utf-8', 'replace')}"


def decoded(data: bytes, metadata: Metadata) -> bytes:
    """The body decoded as far as it goes: mitmproxy hands over compressed what was cut or broke, since it decodes all
    or nothing."""
    message = metadata.http_message
    encoding = message.headers.get("content-encoding", "") if message is not None else ""
    if not encoding or message is None or data != message.raw_content:
        return data
    try:
        return decode(data, encoding, MAX_READ, cut=True)
    except ValueError:
        return data


def about_of(metadata: Metadata) -> About:
    """What the flow tells of a body."""
    message, flow = metadata.http_message, metadata.flow
    if not isinstance(flow, http.HTTPFlow) or message is None:
        return About(content_type=metadata.content_type or "")
    request = isinstance(message, http.Request)
    known = flow.metadata
    return About(
        request=request,
        path=flow.request.path.partition("?")[0],
        content_type=message.headers.get("content-type", ""),
        status=message.status_code if isinstance(message, http.Response) else None,
        own="x-relay-request-id" in message.headers,
        real_size=_whole(known.get("relay.upload_bytes" if request else "relay.answer_bytes")),
        failure=flow.error.msg if flow.error is not None else None,
        timing=Timing(
            _number(known.get("relay.first_byte_ms")),
            _number(known.get("relay.duration_ms")),
            _whole(known.get("relay.events")),
        ),
        chat=_chat(known.get("relay.chat"), known.get("relay.upstream_path")),
        usage=known.get("relay.usage"),
    )


def _chat(value: object, path: object) -> ChatFacts | None:
    if not isinstance(value, Mapping):
        return None
    content = value.get("content")
    return ChatFacts(
        session=str(value.get("session") or "")[:64],
        content=content if isinstance(content, str) else None,
        turns=_whole(value.get("turns")),
        went_to=path if isinstance(path, str) else "",
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        return None
    return value


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None else None
