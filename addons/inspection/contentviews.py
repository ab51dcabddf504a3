"""What a person sees of a body in mitmweb, in mitmproxy's console and under `flow_detail`.

Two views: `OpenAI` wins by priority for what it knows, `Events` for any other event stream; the raw body stays one
click away. They run on relay's own loop, so what they read is bounded by bytes and by values (`core.reading.body`),
which a busy machine does not change; `SECONDS` is there for what nobody has thought of.

Of a realtime websocket the first message shows the conversation so far, and each its own event.

What they read from `flow.metadata`, each optional, other types ignored:
  relay.first_byte_ms   number: from the request's first byte to the first of the answer's body
  relay.duration_ms     number: from the request's first byte to the answer's last
  relay.events          integer: events of the stream
  relay.upload_bytes, relay.answer_bytes   integer: size on the wire, where the record keeps only the start
  relay.chat            {"session": short hash, "content": the app's message, "turns": earlier turns added}
  relay.upstream_path   string: the path upstream was asked for, where the record has the client's
  relay.usage           the usage object of the completion behind an envelope, as upstream sent it
  relay.known           integer: leading messages, items or contents of the request that the previous request of its
                        thread and the answer to it had
  relay.thread, relay.parent, relay.cause   the thread and why the call cost what it did (flow/model_calls.py)
  relay.messages_dropped   integer: older messages of a websocket that the record no longer has
"""

import time
from collections.abc import Callable, Mapping

from mitmproxy import contentviews, http
from mitmproxy.contentviews import Contentview, Metadata, SyntaxHighlight

from addons.core.reading import events, reader, realtime
from addons.core.reading.body import MAX_READ, About, Body, ChatFacts, Timing, UnreadableBody
from addons.core.reading.page import Page, one_line, size
from addons.core.threads.noted import cause_of
from addons.core.threads.telling import told
from addons.engine.corrections import views
from addons.exchange import noted_secrets
from addons.flow.decoding import decode
from addons.flow.model_calls import CAUSE, PARENT, label_of

SECONDS = 0.3
"""Of the processor's time: a view that takes more stops, and says so."""

_OPENAI, _EVENTS = 10.0, 5.0  # mitmproxy's own views give 2 at most


class OpenAI(Contentview):
    """Conversations, answers, errors and the rest of OpenAI's API, of Anthropic's, Gemini's, and relay's own."""

    name = "OpenAI"
    syntax_highlight: SyntaxHighlight = "yaml"

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """High for what is known, below 0 for the rest. Never raises."""
        try:
            about = about_of(metadata)
            if metadata.websocket_message is not None:
                return _OPENAI if _is_realtime(metadata) and data[:1] == b"{" else -1
            writer = reader.writer_for(decoded(data, metadata), about)
        except Exception:
            return -1
        return -1 if writer is None or writer is events.events else _OPENAI

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """The body as text; of one that can't be read, its beginning and why. Never raises."""
        if _is_realtime(metadata):
            return _event(data, metadata)
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
    try:
        body = decoded(data, metadata)
        return _cause(metadata) + reader.read(body, about_of(metadata), _clock(), writer)
    except UnreadableBody as error:
        return _plain(data, f"shown as it is: {error}")
    except Exception as error:
        return _plain(data, f"shown as it is, since reading it failed: {error!r}")


def _cause(metadata: Metadata) -> str:
    """Above a request: its thread, and why it cost what it did."""
    flow = metadata.flow
    if not isinstance(flow, http.HTTPFlow) or metadata.http_message is not flow.request:
        return ""
    thread, cause, parent = label_of(flow), cause_of(flow.metadata.get(CAUSE)), flow.metadata.get(PARENT)
    if thread is None or cause is None:
        return ""
    of = f", sent by {one_line(parent, 20)}" if isinstance(parent, str) else ""
    lines = [f"thread {thread}{of}", *told(cause)]
    return "".join(f"# {line}\n" for line in lines) + "\n"


def _clock() -> Callable[[], bool]:
    """Tells when the time of a view that begins now is up."""
    until = time.thread_time() + SECONDS
    return lambda: time.thread_time() > until


def _is_realtime(metadata: Metadata) -> bool:
    flow = metadata.flow
    if metadata.websocket_message is None or not isinstance(flow, http.HTTPFlow):
        return False
    return reader.is_realtime(flow.request.path.partition("?")[0])


def _event(data: bytes, metadata: Metadata) -> str:
    """A message of a realtime websocket; before the first one what all of them amount to. Pieces of a text that make a
    secret together are hidden in their messages when the websocket ends: here they are at once."""
    flow = metadata.flow
    try:
        page = Page()
        if isinstance(flow, http.HTTPFlow) and flow.websocket is not None:
            messages = flow.websocket.messages
            talk = reader.is_talk(flow.request.path.partition("?")[0])
            if talk and messages and messages[0] is metadata.websocket_message:
                dropped = _whole(flow.metadata.get("relay.messages_dropped")) or 0
                realtime.conversation(page, [(each.from_client, each.content) for each in messages], dropped)
                page.gap()
                page.comment("--- the first message in the record")
        realtime.message(Body(data[:MAX_READ], about_of(metadata)), page)
        known = noted_secrets(flow) if isinstance(flow, http.HTTPFlow) else None
        return known.mask(page.text()) if known is not None else page.text()
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
        known=_whole(known.get("relay.known")) if request else None,
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
