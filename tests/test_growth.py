"""Nothing that reads the network takes longer than in proportion to what it reads.

`READERS` names every function that gets what a client or an upstream has sent: one row each, with the longest input it
meets and what is hostile to it in particular. Each row is held to linear growth with its own units, and with shapes
that hypothesis makes of all units (tests/support/growth.py). A new reader is one more row.

    RELAY_GROWTH=2000 pytest tests/test_growth.py      looks for what a short run does not find
"""

import gzip
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mitmproxy import http, websocket
from mitmproxy.addons import view
from mitmproxy.contentviews import Metadata
from mitmproxy.test import taddons, tflow, tutils
from wsproto.frame_protocol import Opcode

from addons import logs
from addons.core import (
    bounded_json,
    chat,
    headers,
    lenient,
    matching,
    money,
    paths,
    secrets,
    sessions,
    summary,
    upstream_error,
)
from addons.core.answer_usage import AnswerUsage
from addons.core.claims import claiming
from addons.core.completion import Completion
from addons.core.ending import Ending
from addons.core.failures import classify
from addons.core.form_fields import form, is_of_ascii
from addons.core.generations import Generation, generation_of, model_in
from addons.core.key_mask import KeyMask
from addons.core.known_secrets import KnownSecrets
from addons.core.reading import mend, page, values
from addons.core.retelling import Retelling
from addons.core.slices import Sliced, at_once
from addons.core.sse import Parser
from addons.core.threads.call import Call, Outcome
from addons.core.threads.registry import Threads
from addons.core.top_level import NoObject, finding
from addons.core.usage_chunk import UsageChunk
from addons.engine.speed.lookups import values_by_name
from addons.errors import RelayError
from addons.exchange import Exchange, Kind, RecordState, attach
from addons.flow import upstream_errors as refusals
from addons.flow.credentials import keys_in, replaced
from addons.inspection import contentviews
from addons.inspection import redaction as redact
from addons.inspection.flow_summary import FlowSummary
from addons.meter.gate import read_claim
from addons.workers.channel import Unpacker
from tests.support import flows, growth
from tests.support.growth import Shape

pytestmark = pytest.mark.alone

HEAD = 64 << 10
"""Bytes of a request's head (limits.header_size), and of a body to /chat (chat.max_body)."""
ANSWER = 1 << 20
"""Bytes of an answer that are looked into at once."""
LONG = 128 << 10
"""What growth shows itself in where work stops at a bound of its own."""
PIECE = 16 << 10
"""Bytes of a stream that are read at once: of much work less is read (addons/engine/corrections/connections.py)."""
KEY = "sk-test-growth-0123456789"
BEGINNINGS = ("", '{"messages":[', '{"choices":[', '{"data":[', '{"a":"', "data: ", "data: [", "--b")
"""What makes a reader look further."""
BOUNDS = chat.Bounds(256, 64, 1000)
EXAMPLES = int(os.environ.get("RELAY_GROWTH", "6"))


USED = 'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'


def claim(text: str) -> Sliced[object]:
    """What a relay key's body may cost."""
    return _claim('{"model":"m",' + text)


def claim_of(name: str) -> Callable[[str], Sliced[object]]:
    """The same of one field."""
    return lambda text: _claim(f'{{"model":"m","{name}":[{text}]}}')


def _claim(text: str) -> Sliced[object]:
    try:
        found = yield from finding(text)
        return (yield from claiming(Generation.RESPONSE, found, len(text)))
    except ValueError:
        return None


def claim_of_form(text: str) -> Sliced[object]:
    """What an upload may cost."""
    try:
        return (yield from read_claim(Generation.IMAGE, raw(text), "multipart/form-data; boundary=b"))
    except RelayError:
        return None


def typed_form(text: str) -> None:
    """A form whose content-type goes on like that."""
    kind = "multipart/form-data; boundary=b" + text
    is_of_ascii(kind)
    with suppress(NoObject):
        form(b"--b--", kind)


def metered_by(size: int) -> Callable[[str], Sliced[object]]:
    """What an answer says of its usage, in chunks of this size; whoever sends it has others between."""

    def hear(text: str) -> Sliced[object]:
        answer, said = AnswerUsage(), raw("data: {}\n\n" + text if not text.startswith("{") else text)
        for start in range(0, len(said), size):
            answer.feed(said[start : start + size])
            if size > 1 or not start % 1000:
                yield
        return answer.told()

    return hear


def unasked(size: int) -> Callable[[str], Sliced[object]]:
    """A stream without the chunk that its client did not ask for."""

    def feed(text: str) -> Sliced[object]:
        chunk, said = UsageChunk(), raw(text)
        for start in range(0, len(said), size):
            chunk.feed(said[start : start + size])
            if size > 1 or not start % 1000:
                yield
        return None

    return feed


def masked_in(size: int) -> Callable[[str], Sliced[object]]:
    """An answer without relay's own key."""

    def feed(text: str) -> Sliced[object]:
        mask, said = KeyMask(KEY.encode()), raw(text)
        for start in range(0, len(said), size):
            mask.feed(said[start : start + size])
            if size > 1 or not start % 1000:
                yield
        return mask.feed(b"")

    return feed


def shown_keys(text: str) -> object:
    """The keys in a head, and another in their place."""
    fields = tuple((name, raw(text)) for name in (b"Authorization", b"x-api-key", b"Sec-WebSocket-Protocol"))
    return [replaced(fields, list(keys_in(fields))[:1], "other")]


class Reader(NamedTuple):
    """A function that reads what strangers send."""

    name: str
    call: Callable[[str], object]
    longest: int
    hostile: tuple[str | Shape, ...] = ()
    """What is hostile to it: shapes, or units to be repeated."""


def raw(text: str) -> bytes:
    """As the wire may bring it."""
    return text.encode("utf-8", "surrogatepass")


# -- heads


def head(fields: list[tuple[bytes, bytes]]) -> object:
    """All that relay does with a request's headers."""
    flow = flows.request("GET", "/v1/models", fields)
    values_by_name(flow.request.headers)
    up = headers.upward(flow.request.headers.fields, websocket=False)
    return headers.downward(up.fields, origin=True)


def many(text: str) -> list[tuple[bytes, bytes]]:
    """A text as headers: a line, a header."""
    return [(name or b"a", value) for name, _, value in (line.partition(b":") for line in raw(text).split(b"\n"))]


def path(text: str) -> object:
    """Where a request goes."""
    target = paths.resolve("/" + text, ("/deepseek", "/v1"))
    return paths.climbs(target.path), paths.is_official(target.path), matching.service_path("/" + text, ["/proxy"])


# -- redaction


def cleaned(flow: http.HTTPFlow) -> Iterator[None]:
    """What is done to keep keys out of a record."""
    redactor = redact.Redaction(flows.settings(), b"0" * 32)
    redactor.begin(flow)
    yield
    yield from turns(redactor.request(flow))
    yield from turns(redactor.response(flow))


def turns(work: Awaitable[None] | None) -> Iterator[None]:
    """What a hook has left to do, slice by slice, without a loop and whatever else shares its rounds."""
    if work is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(redact, "in_turns", _InTurns)
            yield from work.__await__()


class _InTurns:
    """In the place of `in_turns`."""

    def __init__(self, work: Sliced[None]) -> None:
        self._work = work

    def __await__(self) -> Sliced[None]:
        return self._work


def in_header(name: str) -> Callable[[str], object]:
    return lambda text: cleaned(flows.request("GET", "/v1/models", [(name.encode(), raw(text))]))


def target(text: str) -> str:
    """As mitmproxy makes text of a request's target."""
    return raw(text).decode("utf-8", "surrogateescape")


def in_query(text: str) -> object:
    flow = flows.request("GET", "/v1/models", {"Authorization": f"Bearer {KEY}"})
    flow.request.path = f"/v1/models?{target(text)}"
    return cleaned(flow)


def in_request(kind: str) -> Callable[[str], object]:
    fields = {"Content-Type": kind, "Authorization": f"Bearer {KEY}"}
    return lambda text: cleaned(flows.request("POST", "/chat", fields, raw(text)))


def in_answer(kind: str) -> Callable[[str], object]:
    def call(text: str) -> object:
        flow = flows.request("POST", "/chat", {"Authorization": f"Bearer {KEY}"}, b"{}")
        flows.respond(flow, 200, raw(text), {"Content-Type": kind})
        return cleaned(flow)

    return call


def in_answer_head(text: str) -> object:
    flow = flows.request("GET", "/v1/models", {"Authorization": f"Bearer {KEY}"})
    flows.respond(flow, 200, b"you said")
    response = flows.answer_of(flow)
    response.headers.fields = ((b"Set-Cookie", raw(text)), (b"Location", raw(text)))
    return cleaned(flow)


def in_members(text: str) -> object:
    """A gzip of many members, and what follows it."""
    flow = flows.request("POST", "/v1/x", {"Content-Encoding": "gzip"}, EMPTY_GZIP * (len(text) // 20) + raw(text))
    return cleaned(flow)


def in_reason(text: str) -> object:
    flow = flows.request("GET", "/v1/models", {"Authorization": f"Bearer {KEY}"})
    flows.fail(flow, text)
    return cleaned(flow)


def in_websocket(text: str) -> object:
    flow = flows.request("GET", "/v1/realtime", {"Authorization": f"Bearer {KEY}"})
    flow.websocket = websocket.WebSocketData()
    flow.websocket.messages.append(websocket.WebSocketMessage(Opcode.TEXT, True, raw(text)))
    return turns(redact.Redaction(flows.settings(), b"0" * 32).websocket_message(flow))


def log_line(name: str) -> Callable[[str], object]:
    def call(text: str) -> object:
        try:
            raise ValueError(text)
        except ValueError as error:
            info = (ValueError, error, error.__traceback__)
            return logs.SafeRecord(name, logging.ERROR, "x.py", 1, f"{text!r} %s", (text,), info)

    return call


def log_line_beside_keys(text: str) -> object:
    """The same, where exchanges have named as much as is kept of it."""
    before, logs.known_secrets = logs.known_secrets, logs._Known()
    try:
        for number in range(64):
            known = KnownSecrets(b"0" * 32)
            for each in range(16):
                known.add(f"{number:03}-a-key-{each:03}".ljust(240, "x").encode())
            logs.known_secrets.put(str(number), known)
        return log_line("mitmproxy.proxy")(text)
    finally:
        logs.known_secrets = before


def named(text: str) -> Iterator[None]:
    """One client names ever more, and each of its exchanges as much as it may."""
    kept = logs._Known()
    for number in range(len(text) // 64):
        known = KnownSecrets(b"0" * 32)
        for each in range(100):
            known.put(b"%d-%d" % (number, each), b"***")
        kept.put(str(number), known, "a" if number % 2 else text[number : number + 8])
        if number % 3 == 0:
            kept.over(str(number))
        yield


# -- views


def shown(request: bool, where: str, kind: str) -> Callable[[str], object]:
    """A body as mitmweb shows it."""

    def call(text: str) -> Iterator[None]:
        flow = tflow.tflow(req=tutils.treq(path=raw(where)), resp=tutils.tresp())
        message = flow.request if request else flow.response
        assert message is not None
        message.headers["content-type"] = target(kind)
        message.raw_content = raw(text)
        metadata = Metadata(flow=flow, content_type=kind, http_message=message)
        view = contentviews.OpenAI()
        view.render_priority(message.raw_content, metadata)
        yield
        contentviews.Events().prettify(message.raw_content, metadata)
        yield
        view.prettify(message.raw_content, metadata)

    return call


def glance(text: str) -> object:
    """The line of a flow list."""
    flow, _ = flows.attached(Kind.CHAT)
    flow.request.content = raw(text)
    flows.respond(flow, 200, raw(text))
    FlowSummary().response(flow)
    return flow.comment


def laid_out(text: str) -> object:
    made = page.Page()
    made.field(text, text)
    made.item(text, text)
    made.block(text, text)
    made.note(text)
    return made.text(), values.brief(text), values.brief([text]), summary.summary(model=text, reason=text, error=text)


# -- which calls belong together


@cache
def crowded() -> Threads:
    """Threads of one key, with much that may be looked for in a request."""
    threads = Threads(64 << 20)
    for number in range(40):
        said = [
            {
                "message": {
                    "content": f"{number} {each} " + LOREM * 600,
                    "tool_calls": [{"function": {"arguments": TOOL}}],
                }
            }
            for each in range(8)
        ]
        asked = json.dumps({"model": "m", "messages": [{"role": "user", "content": f"{number}?"}]})
        at_once(threads.placing(call(asked, json.dumps({"choices": said}))))
    return threads


LOREM = "lorem ipsum dolor sit amet "
TOOL = json.dumps({f"a{number}": f"{number} " + LOREM * 300 for number in range(8)})


def call(asked: str, said: str, *, stream: bool = False) -> Call:
    path = "/v1/chat/completions"
    about = ("one", "k", frozenset(("the session",)))
    return Call(asked[:40], 0.0, path, (), raw(asked), raw(said), stream, Outcome.ANSWERED, *about)


def placed(before: str, after: str) -> Callable[[str], Sliced[object]]:
    """A request that holds such a text, and another one of the same session that it is compared with."""

    def place(text: str) -> Sliced[object]:
        for model in ("a", "b"):
            body = f'{{"model":"{model}",{before}{text}{after}}}'
            yield from crowded().placing(call(body, '{"choices":[{"message":{"content":"Yes."}}]}'))
        return None

    return place


def placed_by_answer(*, stream: bool) -> Callable[[str], Sliced[object]]:
    """A call that was answered so."""
    return lambda text: crowded().placing(call('{"model":"m","messages":[{"role":"user"}]}', text, stream=stream))


# -- what upstreams say, and what /chat takes


def message(text: str) -> object:
    with suppress(chat.Invalid):
        return chat.read(raw(text), None, BOUNDS, ("model",))
    return None


def in_message(text: str) -> object:
    return message(json.dumps({"apiKey": text, "sessionId": text, "content": text}))


def fed(step: int) -> Callable[[str], object]:
    """An event stream in pieces."""

    def call(text: str) -> Iterator[None]:
        parser, data = Parser(), raw(text)
        for start in range(0, len(data), step):
            parser.feed(data[start : start + step])
            yield
        assert not parser.close()
        parser.pending, parser.remainder  # noqa: B018

    return call


def retold(text: str) -> Iterator[None]:
    retelling, data = Retelling(1 << 20), raw(text)
    for start in range(0, len(data), PIECE):
        retelling.feed(data[start : start + PIECE])
        yield


def watched_for_its_end(step: int) -> Callable[[str], object]:
    """A stream that passes by, in pieces."""

    def call(text: str) -> Iterator[None]:
        ending, data = Ending(), raw(text)
        for start in range(0, len(data), step):
            ending.feed(data[start : start + step])
            yield

    return call


def gathered(text: str) -> object:
    """A completion in many chunks, with `text` for the words of each."""
    completion = Completion(1 << 20)
    for start in range(0, len(text), 8):
        completion.add({"choices": [{"delta": {"content": text[start : start + 8]}}]})
    completion.finish()
    return completion.text


def refused(status: int) -> Callable[[str], object]:
    return lambda text: (
        refusals.refusal(upstream_error.read(status, raw(text)), key=KEY),
        refusals.refusal(
            upstream_error.read(status, json.dumps({"error": {"message": text, "code": text}}).encode()), key=KEY
        ),
    )


def unwatched(text: str) -> object:
    """The line that mitmdump prints, where nobody sees more of a flow."""
    flow = flows.request("GET", "/v1/models")
    flow.request.path = f"/v1/models?{target(text)}"
    in_force = flows.settings()
    attach(flow, Exchange(in_force, in_force.upstreams[0], Kind.PASS, "/v1/models", record=RecordState(watched=False)))
    flows.respond(flow, 200)
    return cleaned(flow)


def read_mildly(text: str) -> object:
    with suppress(ValueError):
        return lenient.loads_object(raw(text))
    return None


def amount(text: str) -> object:
    with suppress(ValueError):
        return money.parse(raw(text))
    return None


def mended(text: str) -> object:
    with suppress(ValueError):
        return mend.mend(text)
    return None


def stored(text: str) -> object:
    with suppress(ValueError):
        return sessions.Session.from_json(raw(text))
    return None


# -- replays


def asked(kind: str) -> Callable[[str], object]:
    def call(text: str) -> object:
        return matching.ask("POST", f"/v1/x?{text[:HEAD]}", kind, raw(text), ("user", "metadata.run"))

    return call


def not_recorded(text: str) -> Iterator[None]:
    """A request that is in no record, beside one much like it."""
    answers: matching.RecordedAnswers[int] = matching.RecordedAnswers()
    for number in range(4):
        answers.add(None, matching.ask("POST", "/v1/x", "", raw(text + str(number))), number)
        yield
    new = matching.ask("POST", "/v1/x", "", raw(text + "x"))
    yield
    answers.find("test", new)
    yield
    answers.nearest("test", new)


def recorded_keys(text: str) -> Iterator[None]:
    """A record that is full of hidden keys."""
    answers: matching.RecordedAnswers[int] = matching.RecordedAnswers()
    recorded = matching.ask("POST", "/v1/x", "", raw(text))
    yield
    answers.add(None, recorded, 1)
    new = matching.ask("POST", "/v1/x", "", raw(text.replace("*", "k") + "x"))
    yield
    answers.find(None, new)


def elsewhere(text: str) -> object:
    answers: matching.RecordedAnswers[int] = matching.RecordedAnswers()
    answers.add(None, matching.ask("GET", "/" + text[:HEAD], "", b""), 1)
    return answers.nearest(None, matching.ask("GET", "/a" + text[:HEAD], "", b""))


def frames(text: str) -> Iterator[None]:
    unpacker, data = Unpacker(), b"\0\0\0\4[1]\n" * (len(text) // 8)
    for start in range(0, len(data), 1 << 16):
        unpacker.feed(data[start : start + (1 << 16)])
        while unpacker.next() is not None:
            pass
        yield


JSON, SSE, FORM = "application/json", "text/event-stream", "multipart/form-data; boundary=b"
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
DENSE = ("[],", "{},", "1,", '{"a":')
ESCAPES = ("\\", "\\\\", "\\u0041", "%41", '\\"')
WITHIN = (
    "%3Fkey%3D",
    "%3Fkey%3Dabcdefgh0123456#",
    "%2526api_key%253D#",
    "%26api_key%253D%2526a%3D",
    "?%3F%253F%25253Fkey%3D",
    "%253",
    "%25",
)
PAIRS = (
    '{"name":"api_key","value":"secret#"},',
    '["Authorization","Bearer secret#"],',
    '"api_keys":["secret#"],',
    '{"api_keys":[',
    '{"properties":{"api_key":',
    '"value":"secret#","name":"token",',
    '"name",',
    '"--api-key","secret#",',
    '"{\\"api_key\\":\\"secret#\\"}",',
    '"[\\"{\\\\\\"key',
    '"[token\\"\\u0041',
)
KEYS = (
    "apikey:",
    "apikey\n",
    "apikey=",
    " ",
    "sk-0123456789ab# ",
    "Bearer ",
    "Bearer secret#,",
    "access_token:\\",
    "key=%41b#&",
    "apikey=secret#&",
    '"apiKey":"secret#",',
    '"apiKey":"\\u0041secret#",',
)


def within(before: str, after: str = "") -> tuple[Shape, ...]:
    """Wide and deep JSON inside of some other."""
    return tuple(Shape((unit,), before, after) for unit in DENSE)


MESSAGES = ('{"model":"m","messages":[', '{"model":"m","messages":[{"role":"user","content":[')
CALLS = '{"model":"m","choices":[{"message":{"tool_calls":['
ARGUMENTS = Shape(("[],",), '{"choices":[{"message":{"tool_calls":[{"function":{"arguments":"[', '"}}]}}]}')
EMPTY_GZIP = gzip.compress(b"")
EVENT = 'data: {"index":0,"delta":"a"}\n\n'
DELTA = 'data: {"choices":[{"delta":{"tool_calls":[{"index":1,"function":{"arguments":"[],"}}]}}]}\n\n'

READERS = (
    Reader(
        "headers: many",
        lambda text: head(many(text)),
        HEAD,
        ("a\n", "cookie: a=secretvalue#\n", "a#: b\n", "connection:a\n"),
    ),
    Reader("headers: connection", lambda text: head([(b"connection", raw(text))]), HEAD, (",", "a,", "a#,", "close,")),
    Reader("headers: a name", lambda text: head([(raw(text) or b"a", b"")]), HEAD, ("a",)),
    Reader("path", path, HEAD, ("/v1", "/v1/", "/.", "%2e", "//", "/deepseek", "/v1//v1")),
    Reader("redact: query", in_query, HEAD, (*KEYS, *WITHIN, ";", "%2541")),
    Reader("redact: an answer's head", in_answer_head, HEAD // 2, ("a=secretvalue#; ", ";", "=", *WITHIN)),
    Reader("redact: a line", unwatched, HEAD, (*KEYS, ";", "%2541")),
    Reader("redact: cookies", in_header("cookie"), HEAD, ("a=secretvalue#; ", ";", "=")),
    Reader(
        "redact: authorization", in_header("authorization"), HEAD, ("Bearer ", "Bearer\t", " ", "Basic QUFB", "key#,")
    ),
    Reader("redact: subprotocols", in_header("sec-websocket-protocol"), HEAD, ("openai-insecure-api-key.abcdef#, ",)),
    Reader("redact: any header", in_header("x-key"), HEAD, KEYS),
    Reader("redact: request", in_request(JSON), LONG, (*KEYS, *DENSE, *ESCAPES)),
    Reader("redact: pairs", in_request(JSON), LONG, (*PAIRS, *(Shape((unit,), "[") for unit in PAIRS))),
    Reader("redact: form", in_request("application/x-www-form-urlencoded"), LONG, (*KEYS, *WITHIN, "&", "key=a#&")),
    Reader("redact: upload", in_request(FORM), LONG, (*KEYS, "\r\n--b\r\n", "\r\n--b\r\nname=key\r\n\r\n")),
    Reader("redact: answer", in_answer(JSON), LONG, (*KEYS, *DENSE, *ESCAPES)),
    Reader("redact: events", in_answer(SSE), LONG, (*KEYS, "data:", "data: x\n\n", '"content":"', DELTA)),
    Reader(
        "redact: pieces",
        in_answer(SSE),
        LONG,
        (EVENT, EVENT.replace('"index":0', '"index":#'), '"a":"', '"index":1'),
    ),
    Reader("redact: choices", in_answer(SSE), LONG, (Shape(('{"index":#,"a":"b"},',), "data: ["), f"[{EVENT}{EVENT}")),
    Reader("redact: lines", in_answer(JSON), LONG, ('{"a":"b"}\n', '{"a":"b", "a":"c"}\n', '{"a":"{\\"key\\":"}\n')),
    Reader("redact: numbers", in_answer(JSON), LONG, ("1,", "1 , ", "1.5e", "null,", "1,,", "-" * 40 + ",")),
    Reader("redact: members", in_members, LONG, ("\0", "a", "\x1f")),
    Reader("redact: an error's words", in_reason, HEAD, KEYS),
    Reader("redact: websocket", in_websocket, LONG, (*KEYS, *DENSE)),
    Reader("secrets: scrub", secrets.scrub, HEAD, KEYS),
    Reader("secrets: scrubbing", lambda text: secrets.scrubbing(raw(text)), ANSWER, KEYS),
    Reader("log: mitmproxy's", log_line("mitmproxy.proxy"), HEAD, (*KEYS, "b'", "b'\\", "ClientHello: ", "\x1b[")),
    Reader("log: beside many keys", log_line_beside_keys, HEAD, ("a", "a ", "%41", "sk-")),
    Reader("log: what is kept", named, HEAD, ("a", "ab#")),
    Reader("log: relay's", log_line("addons.relay"), HEAD, KEYS),
    Reader("view: chat request", shown(True, CHAT, JSON), ANSWER, (*within(MESSAGES[0]), *within(MESSAGES[1]))),
    Reader("view: chat answer", shown(False, CHAT, JSON), ANSWER, (*within('{"choices":['), *within(CALLS), ARGUMENTS)),
    Reader(
        "view: chat stream", shown(False, CHAT, SSE), ANSWER, (DELTA, "data: {}\n\n", "data: [],\n", "\n", "data:[\n")
    ),
    Reader("view: responses request", shown(True, RESPONSES, JSON), ANSWER, within('{"input":[')),
    Reader("view: responses answer", shown(False, RESPONSES, JSON), ANSWER, within('{"output":[')),
    Reader("view: responses stream", shown(False, RESPONSES, SSE), ANSWER, ('data: {"type":"error","error":1}\n\n',)),
    Reader("view: completions request", shown(True, "/v1/completions", JSON), ANSWER, within('{"prompt":[')),
    Reader("view: embeddings request", shown(True, "/v1/embeddings", JSON), ANSWER, within('{"input":[')),
    Reader("view: embeddings", shown(False, "/v1/embeddings", JSON), ANSWER, within('{"data":[')),
    Reader("view: images", shown(False, "/v1/images/edits", JSON), ANSWER, within('{"data":[')),
    Reader("view: image events", shown(False, "/v1/images/edits", SSE), ANSWER, ("data: {}\n\n",)),
    Reader("view: upload", shown(True, "/v1/files", FORM), ANSWER, ("\r\n--b", '\r\n--b\r\nname="', "\r\n--b\r\n\r\n")),
    Reader("view: heard", shown(False, "/v1/audio/transcriptions", JSON), ANSWER, within('{"segments":[')),
    Reader("view: billing", shown(False, "/v1/dashboard/billing/usage", JSON), ANSWER, within('{"daily_costs":[')),
    Reader(
        "view: other events",
        shown(False, "/v1/x", SSE),
        ANSWER,
        ("data: {}\n\n", "\r", "data:\n", "event:a\n", *within("data: [")),
    ),
    Reader("view: a path", lambda text: shown(False, "/" + text, SSE)("data: x\n\n"), HEAD, ("/responses/a", "/v1/a")),
    Reader("view: a boundary", lambda text: shown(True, "/v1/files", text)("--b"), HEAD, ('boundary="', "boundary=")),
    Reader("view: a page", laid_out, ANSWER, ("\n", "\r\n", " ", "\ud800")),
    Reader("glance", glance, ANSWER, ('"model" ', '{"code": 429, "message": "', '"prompt_tokens" ', "\\", "。A")),
    Reader(
        "threads: messages",
        placed('"messages":[', "]"),
        ANSWER,
        (
            Shape((f'{{"role":"user","content":"# {LOREM * 2}"}},',), after='{"role":"user","content":"?"}'),
            Shape((f'{{"role":"assistant","content":"# {LOREM * 2}"}},',), after='{"role":"user","content":"?"}'),
            Shape(('{"role":"tool","tool_call_id":"call_#00000001"},',), after='{"role":"user","content":"?"}'),
            *DENSE,
        ),
    ),
    Reader(
        "threads: a message",
        placed('"messages":[{"role":"user","content":"', '"}]'),
        ANSWER,
        ("a", "界", LOREM, *ESCAPES),
    ),
    Reader(
        "threads: its parts",
        placed('"messages":[{"role":"user","content":[', "]}]"),
        ANSWER,
        (Shape((f'{{"type":"text","text":"# {LOREM * 2}"}},',), after="{}"), *DENSE),
    ),
    Reader("threads: tools", placed('"messages":[{"role":"user","content":"?"}],"tools":[', "0]"), ANSWER, DENSE),
    Reader("threads: an answer", placed_by_answer(stream=False), ANSWER, (*DENSE, *ESCAPES, '"')),
    Reader("threads: a stream", placed_by_answer(stream=True), ANSWER, (DELTA, "data:", "data: []\n\n", "\n")),
    Reader("mend", mended, ANSWER, (*DENSE, *ESCAPES, '"')),
    Reader("bounded JSON", bounded_json.loading, ANSWER, (*DENSE, *ESCAPES, '"')),
    Reader("chat: a body", message, HEAD, (*KEYS, *DENSE, *ESCAPES)),
    Reader("chat: its fields", in_message, HEAD, (*KEYS, " ")),
    Reader("chat: a bearer", chat.read_bearer, HEAD, (" ", "Bearer ")),
    Reader("lenient JSON", read_mildly, HEAD, (*DENSE, *ESCAPES, '"')),
    Reader("events, whole", fed(1 << 16), ANSWER, ("\n", "\r", "data:\n", ":", "id:1\n")),
    Reader("events, byte by byte", fed(1), LONG, ("\n", "\r", "data:\n", ":", "a")),
    Reader("events, in pieces", fed(1000), ANSWER, ("data:", "data:\n", "\n")),
    Reader("retelling", retold, ANSWER, (DELTA, "data: {}\n\n", "data: [DONE]\n\n", "data:[],\n")),
    Reader(
        "last event, whole",
        watched_for_its_end(1 << 16),
        ANSWER,
        ('data: {"index":1}\n\n', "message_stop", '"finish_reason":"a', 'data: {"usage":{}}\n\n', "[DONE]\n\n", "\n"),
    ),
    Reader("last event, byte by byte", watched_for_its_end(1), LONG, ("[DONE]", "\n", "\r\n", "data: [DONE]", "a")),
    Reader("completion", gathered, LONG, ("a", "\ud800", "界")),
    Reader("refusal", refused(429), LONG, (*KEYS, *DENSE, KEY, " ")),
    Reader("refusal in a 200", refused(200), LONG, (*KEYS, *DENSE)),
    Reader("failure", classify, LONG, ("timed out ", "[Errno ", "SSL")),
    Reader("balance", amount, LONG, (*DENSE, "1", "0.1")),
    Reader("session", stored, ANSWER, DENSE),
    Reader("claim: a body", claim, ANSWER, (*DENSE, *ESCAPES, '"a#":1,', '"image_url":', '"type":"image"', "\\u0061")),
    Reader("claim: its messages", claim_of("messages"), ANSWER, (*DENSE, *ESCAPES, '"type" : "file",', '"file_id"  :')),
    Reader("claim: its tools", claim_of("tools"), ANSWER, ('{"type":"a#"},', *DENSE)),
    Reader(
        "claim: a form",
        claim_of_form,
        ANSWER,
        (
            "\r\n--b",
            Shape(('\r\n--b\r\nContent-Disposition: form-data; name="a#"\r\n\r\n',), after="\r\n--b--"),
            Shape((" ",), before="--b\r\nContent-Disposition: form-data;", after="\r\n\r\n\r\n--b--"),
            Shape(("name=",), before="--b\r\nContent-Disposition: form-data;", after="\r\n\r\n\r\n--b--"),
        ),
    ),
    Reader("usage of a stream", metered_by(1 << 16), ANSWER, (USED, '"usage":{', "error\n\n", "data:\n", "\n\n")),
    Reader("usage, byte by byte", metered_by(1), LONG, (USED, '"usage" :', "\n", "\r\n", "data: error\n\n", "a")),
    Reader(
        "usage of JSON", lambda text: metered_by(1000)('{"a":"' + text), ANSWER, ('"usage":{', '"usage" : {"a":1},')
    ),
    Reader("usage chunk", unasked(1 << 16), ANSWER, (USED, "\n\n", "\r\r", '"usage""choices"\n\n')),
    Reader("usage chunk, byte by byte", unasked(1), LONG, (USED, "\n", "\r", '"usage"')),
    Reader("key mask", masked_in(1 << 16), ANSWER, (KEY, KEY[:-1], "s", "sk-test-")),
    Reader("key mask, byte by byte", masked_in(1), LONG, (KEY, KEY[:-1], "s", "sk-test-")),
    Reader("usage of JSON, byte by byte", lambda text: metered_by(1)('{"a":' + text), LONG, (*DENSE, *ESCAPES, '"')),
    Reader("credentials", shown_keys, HEAD, (",", "openai-insecure-api-key.,", " ", "Bearer ")),
    Reader(
        "generation",
        lambda text: generation_of("POST", "/" + text),
        HEAD,
        ("/completions", "%2F", "%", ";", "%25", "//", "%00"),
    ),
    Reader(
        "model in a path", lambda text: model_in("/v1/engines/" + text + "/completions"), HEAD, ("/engines/", "%2F")
    ),
    Reader("content-type of a form", typed_form, HEAD, (" ", ";", "a=b;", "; boundary=", '"', "\\", "charset ")),
    Reader("replay: JSON", asked(JSON), LONG, (*DENSE, *KEYS)),
    Reader("replay: form", asked(FORM), LONG, ('\r\n--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n',)),
    Reader("replay: a part", lambda text: asked(FORM)(f"--b\r\nContent-Disposition: a{text}\r\n\r\n"), LONG, (';"',)),
    Reader("replay: a type", lambda text: asked("multipart/form-data" + text)("--b"), HEAD, (";a=", ';"', ";a*0=")),
    Reader("replay: not recorded", not_recorded, LONG, (*DENSE, "a")),
    Reader("replay: not recorded, wide", lambda text: not_recorded(f"[{text}1]"), LONG, DENSE),
    Reader("replay: hidden keys", recorded_keys, LONG, ("***00000000", "***00000000 ", '***00000000"')),
    Reader("replay: elsewhere", elsewhere, HEAD, ("a", "ab")),
    Reader("frames", frames, ANSWER, ("a",)),
)


@pytest.fixture(autouse=True, scope="module")
def watched() -> Iterator[None]:
    """Somebody looks, so that all is redacted and noted."""
    with taddons.context(view.View()):
        yield


@pytest.mark.parametrize("reader", [pytest.param(each, id=each.name) for each in READERS])
def test_a_reader_is_linear_in_its_input(reader: Reader) -> None:
    given_shapes = [Shape((each,)) if isinstance(each, str) else each for each in reader.hostile]
    found = [growth.too_much(reader.call, shape, reader.longest) for shape in given_shapes]
    assert not [each for each in found if each]


@pytest.mark.parametrize("reader", [pytest.param(each, id=each.name) for each in READERS])
def test_a_reader_is_linear_in_any_shape(reader: Reader) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="RELAY_GROWTH" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(BEGINNINGS), growth.shapes())
    def holds(before: str, shape: Shape) -> None:
        whole = Shape(shape.units, before + shape.before, shape.after, shape.nested)
        assert growth.too_much(reader.call, whole, min(reader.longest, LONG)) is None

    holds()


# -- the measure itself


def each_after_each(text: str) -> int:
    """Quadratic: every place is compared with what stands before it."""
    return sum(text.startswith("key", at) + text.count("z", 0, at) for at in range(len(text)))


def once(text: str) -> int:
    """Linear, and slow."""
    return sum(ord(letter) for letter in text)


@pytest.mark.parametrize("unit", ["key", "%41", "a"])
def test_quadratic_work_is_seen(unit: str) -> None:
    found = growth.too_much(each_after_each, Shape((unit,)), HEAD)
    assert found is not None


@pytest.mark.parametrize("unit", ["key", "%41", "a"])
def test_linear_work_is_not_taken_for_more(unit: str) -> None:
    assert growth.too_much(once, Shape((unit,)), ANSWER, most=10) is None


def test_work_that_stops_at_a_bound_is_not_taken_for_more() -> None:
    assert growth.too_much(lambda text: each_after_each(text[:1000]), Shape(("key",)), ANSWER) is None


def test_work_that_begins_at_a_bound_is_not_taken_for_more() -> None:
    assert growth.too_much(lambda text: once("a" * 300_000) if len(text) > 5000 else 0, Shape(("a",)), ANSWER) is None


def test_what_holds_the_loop_is_seen_and_slices_of_it_do_not() -> None:
    def sliced(text: str) -> Iterator[None]:
        for start in range(0, len(text), 1 << 15):
            once(text[start : start + (1 << 15)])
            yield

    held = growth.too_much(once, Shape(("a",)), 8 * ANSWER)
    assert held is not None and "hold the loop" in held
    assert growth.too_much(sliced, Shape(("a",)), 8 * ANSWER) is None


@given(growth.shapes(), st.integers(512, 4096))
@example(Shape(("[",), nested=True), 1000)
def test_a_shape_is_as_long_as_it_is_asked_to_be(shape: Shape, size: int) -> None:
    slack = 2 * len("".join(shape.units)) + len(shape.before) + len(shape.after) + 8
    assert size - slack <= len(shape.of(size)) <= size + slack
