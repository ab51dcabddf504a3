"""The three formats of exports: that they can be read, say what is known, and let nothing of a stranger's run."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.export import jsonl, otlp, page
from addons.core.export.markup import Markup, element, escaped
from addons.core.export.record import Exported, Message, SocketMessage
from addons.core.export.style import HASH, STYLE
from addons.core.export.threads import threads, tools
from addons.core.metered import Metered
from addons.core.metrics import SEMANTIC_CONVENTIONS
from addons.core.threads.causes import Cause, Reason
from addons.core.threads.noted import amount, cause_of
from tests.support.any_json import fuzz, values

JSON = (("content-type", "application/json"),)
AT = 1_767_225_600.25
EVIL = "</code></pre></style></title>--><script>alert(1)</script><img src=x onerror=alert(1)>\"' onload='x"


def record(**more: Any) -> Exported:
    """An exchange: a chat completion of a thread."""
    request = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
    answer = {"choices": [{"message": {"role": "assistant", "content": "Hi there"}, "finish_reason": "stop"}]}
    known: dict[str, Any] = {
        "id": "f1",
        "at": AT,
        "method": "POST",
        "path": "/v1/chat/completions",
        "request": Message(JSON, json.dumps(request).encode()),
        "response": Message(JSON, json.dumps(answer).encode()),
        "status": 200,
        "duration_ms": 1500.0,
        "upstream": "openai",
        "model": "gpt-4o",
        "thread": "aaaaaaaa",
    }
    return Exported(**known | more)


CAUSE = Cause(Reason.PREFIX_CHANGED, "tools", "tools[1].name", "b", "c", 1024, Decimal("0.0026"), "f1")


def second(**more: Any) -> Exported:
    """The call behind it, whose tools have changed."""
    request = {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi there"},
            {"role": "user", "content": "And now?"},
        ],
        "tools": [{"type": "function", "function": {"name": "search"}}],
    }
    known: dict[str, Any] = {
        "id": "f2",
        "at": AT + 60,
        "request": Message(JSON, json.dumps(request).encode()),
        "cause": CAUSE,
        "known": 2,
        "tokens": Metered(input=2000, cached=976, output=50),
        "cost": Decimal("0.00312"),
        "first_byte_ms": 310.0,
    }
    return record(**known | more)


# JSONL


def read(one: Exported) -> Any:
    line = jsonl.line(one)
    assert "\n" not in line
    return json.loads(line, parse_constant=lambda name: pytest.fail(name))


def test_a_line_tells_what_is_known() -> None:
    told = read(second(key="alice", attempts=[{"upstream": "openai", "status": 200}]))
    assert told["time"] == "2026-01-01T00:01:00.250Z"
    assert (told["id"], told["method"], told["path"], told["status"]) == ("f2", "POST", "/v1/chat/completions", 200)
    assert (told["relay.thread"], told["relay.known"], told["relay.key"]) == ("aaaaaaaa", 2, "alice")
    assert told["relay.cause"] == {
        "reason": "prefix_changed",
        "part": "tools",
        "path": "tools[1].name",
        "before": "b",
        "after": "c",
        "tokens": 1024,
        "cost": "0.0026",
        "previous": "f1",
    }
    assert told["relay.tokens"] == {"input": 2000, "cached": 976, "output": 50}
    assert told["relay.cost"] == "0.00312" and told["relay.cost_estimated"] is False
    assert told["request"]["kind"] == "json" and told["request"]["body"]["messages"][2]["content"] == "And now?"
    assert told["relay.attempts"] == [{"upstream": "openai", "status": 200}]
    assert told["messages"] is None


def test_what_is_not_known_is_null_and_never_zero() -> None:
    told = read(Exported(id="x", at=0.0, method="GET", path="/v1/models", request=Message()))
    unknown = {name for name, value in told.items() if value is None}
    assert unknown >= {"status", "model", "upstream", "first_byte_ms", "duration_ms", "relay.tokens", "relay.cost"}
    assert unknown >= {"relay.cost_estimated", "relay.cause", "relay.thread", "relay.key", "response", "error"}
    assert told["request"] == {"headers": [], "kind": None, "bytes": None, "cut": False, "body": None}


def test_small_money_is_written_out() -> None:
    assert read(record(cost=Decimal("1E-9")))["relay.cost"] == "0.000000001"


@pytest.mark.parametrize(
    ("body", "kind", "shown"),
    [
        (b'{"a": 1.10,\n\t"b": 12345678901234567890123}', "json", {"a": 1.1, "b": 12345678901234567890123}),
        (b"\xef\xbb\xbf[1, 2]\n", "json", [1, 2]),
        (b'{"a": NaN}', "text", '{"a": NaN}'),
        (b'{"a": "NaN"}', "json", {"a": "NaN"}),
        (b'{"a": ', "text", '{"a": '),
        (b"[" * 100_000, "text", "[" * 100_000),
        (b"data: {}\n\n", "text", "data: {}\n\n"),
        (b"ID3\x00\x01\xff", "binary", None),
        (b"", "text", ""),
    ],
)
def test_a_body_is_told_as_what_it_is(body: bytes, kind: str, shown: object) -> None:
    told = read(record(response=Message((("content-type", "audio/mpeg"),), body)))["response"]
    assert (told["kind"], told["body"], told["bytes"]) == (kind, shown, len(body))


def test_numbers_stay_as_they_were_written() -> None:
    assert '"a": 1.10' in jsonl.line(record(request=Message(JSON, b'{"a": 1.10}')))


def test_a_cut_body_says_so() -> None:
    told = read(record(request=Message(JSON, b'{"a', 5_000_000)))["request"]
    assert (told["bytes"], told["cut"], told["kind"]) == (5_000_000, True, "text")


def test_messages_of_a_websocket_are_told() -> None:
    messages = (SocketMessage(AT, True, "hello", 5), SocketMessage(AT + 1, False, None, 9))
    assert read(record(socket=messages))["messages"] == [
        {"time": "2026-01-01T00:00:00.250Z", "from": "client", "bytes": 5, "text": "hello"},
        {"time": "2026-01-01T00:00:01.250Z", "from": "upstream", "bytes": 9, "text": None},
    ]


# OTLP


def attributes(span: Mapping[str, Any]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


def spans(*records: Exported) -> list[dict[str, Any]]:
    [resource] = otlp.document(records, "0.2.0")["resourceSpans"]
    [scope] = resource["scopeSpans"]
    assert scope["schemaUrl"].endswith(f"/{SEMANTIC_CONVENTIONS}")
    found: list[dict[str, Any]] = scope["spans"]
    for span in found:
        assert re.fullmatch("[0-9a-f]{32}", span["traceId"]) and re.fullmatch("[0-9a-f]{16}", span["spanId"])
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
    assert len({each["spanId"] for each in found}) == len(found)
    return found


def test_a_thread_is_a_trace() -> None:
    child = record(id="f3", at=AT + 5, thread="bbbbbbbb", parent="aaaaaaaa")
    found = spans(record(), second(), child)
    whole, other = (
        next(each for each in found if each["name"] == f"thread {name}") for name in ("aaaaaaaa", "bbbbbbbb")
    )
    calls = [each for each in found if each.get("parentSpanId") == whole["spanId"]]
    assert len(calls) == 2 and {each["traceId"] for each in calls} == {whole["traceId"]}
    assert whole["traceId"] != other["traceId"]
    assert other["links"] == [{"traceId": whole["traceId"], "spanId": whole["spanId"]}]
    assert abs(int(whole["startTimeUnixNano"]) - 1767225600_250_000_000) < 1000


def test_a_span_says_what_it_cost_and_why() -> None:
    found = spans(record(), second())
    told = attributes(next(each for each in found if attributes(each).get("relay.cause.reason")))
    assert told["gen_ai.operation.name"] == "chat" and told["gen_ai.request.model"] == "gpt-4o"
    assert told["gen_ai.usage.input_tokens"] == "2000" and told["gen_ai.usage.cache_read.input_tokens"] == "976"
    assert told["relay.cost_nanodollars"] == "3120000" and told["relay.cause.cost_nanodollars"] == "2600000"
    assert (told["relay.cause.part"], told["relay.cause.tokens"]) == ("tools", "1024")
    assert told["relay.attempts"] == "1"
    assert json.loads(told["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "And now?"}]}
    ]
    assert json.loads(told["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Hi there"}], "finish_reason": "stop"}
    ]


def test_a_failed_exchange_is_an_error() -> None:
    [span, *_] = spans(record(thread=None, status=500))
    assert span["status"] == {"code": 2, "message": "http_500"}
    [span, *_] = spans(record(thread=None, error="Client disconnected."))
    assert span["status"]["code"] == 2


def test_an_error_that_an_answer_tells_is_one() -> None:
    told = Message(JSON, json.dumps({"code": 429, "message": "too many", "data": None}).encode())
    [span, *_] = spans(record(thread=None, response=told))
    assert span["status"] == {"code": 2, "message": "told_in_answer"}


def test_what_asks_no_model_is_a_span_too() -> None:
    for path in ("/v1/models", "/v1/chat/completions"):
        [span, *_] = spans(record(path=path, method="GET", thread=None))
        assert "gen_ai.operation.name" not in attributes(span)


def test_geminis_calls_are_told_by_their_operation() -> None:
    [span, *_] = spans(record(path="/v1beta/models/gemini-2.5-pro:generateContent", thread=None))
    assert attributes(span)["gen_ai.operation.name"] == "generate_content"


def test_the_same_records_give_the_same_spans() -> None:
    assert otlp.document([second(), record()], "1") == otlp.document([record(), second()], "1")


# HTML


class Reader(HTMLParser):
    """Reads a page strictly: what is opened is closed; which elements and attributes there are."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.elements[tag] += 1
        self.attributes |= told.keys()
        self.links += [told["href"] or ""] if "href" in told else []
        self.ids += [told["id"] or ""] if "id" in told else []
        if told.get("http-equiv") == "Content-Security-Policy":
            self.policy = told["content"] or ""
        if tag not in ("meta", "br", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes |= dict(attrs).keys()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "section", "article", "nav", "ul"),
    *("li", "a", "div", "span", "b", "i", "p", "pre", "code", "details", "summary", "figure", "svg", "rect", "table"),
    *("thead", "tbody", "tr", "th", "td", "footer"),
}
ATTRIBUTES = {
    *("class", "id", "href", "lang", "charset", "http-equiv", "content", "name", "scope", "role", "aria-label"),
    *("viewbox", "preserveaspectratio", "x", "y", "width", "height"),
}


def shown(*records: Exported) -> Reader:
    text = page.page(records)
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    assert set(reader.elements) <= ELEMENTS and reader.attributes <= ATTRIBUTES
    assert all(each.startswith("#") and each[1:] in reader.ids for each in reader.links)
    assert len(set(reader.ids)) == len(reader.ids)
    assert reader.policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in reader.policy
    assert f"<style>{STYLE}</style>" in text and HASH in reader.policy
    return reader


def test_the_page_shows_each_message_once() -> None:
    reader = shown(record(), second())
    text = "\n".join(reader.text)
    for said in ("Hello", "And now?"):
        assert text.count(said) == 1
    assert text.count("Hi there") == 2, "each call was answered so"
    for part in ("prefix changed: tools", "tools[1].name", "1,024 tokens", "976 cached", "1,024 new", "$0.00312"):
        assert part in text
    assert "tokens not known" in text and "1 call of unknown cost" in text
    assert reader.elements["rect"] == 4 and "#c2" in reader.links


def test_a_call_whose_thread_began_elsewhere_is_shown_whole() -> None:
    text = "\n".join(shown(second()).text)
    assert "Hello" in text and "And now?" in text


def test_several_threads_have_a_section_each() -> None:
    child = record(id="f3", at=AT + 5, thread="bbbbbbbb", parent="aaaaaaaa")
    reader = shown(record(), child, record(id="f4", thread=None), record(id="f5", path="/v1/models", method="GET"))
    assert {"t-aaaaaaaa", "t-bbbbbbbb"} < set(reader.ids)
    assert reader.links.count("#t-aaaaaaaa") == reader.links.count("#t-bbbbbbbb") == 2, "the list, and its relative"
    assert "GET /v1/models" in "".join(reader.text)


def test_the_same_records_give_the_same_page() -> None:
    assert page.page([second(), record()]) == page.page([record(), second()])


def test_a_page_of_nothing_is_a_page() -> None:
    assert "no thread" in "".join(shown().text)


def test_unreadable_and_cut_requests_are_told() -> None:
    text = "".join(shown(record(request=Message(JSON, b'{"messages": [', 9_000_000), error="it broke")).text)
    assert "can't be read" in text and "only the start of the request" in text and "it broke" in text


def spiked(text: str) -> list[Exported]:
    """A record with `text` in every place that a stranger writes."""
    body = {
        "model": text,
        "messages": [
            {"role": "system", "content": text},
            {"role": text, "content": text},
            {
                "role": "user",
                "content": [{"type": "text", "text": f"```{text}\n{text}\n```"}, {"type": text, "url": text}],
            },
            {"role": "assistant", "tool_calls": [{"id": text, "function": {"name": text, "arguments": text}}]},
            {"role": "tool", "tool_call_id": text, "content": text * 200},
        ],
        "tools": [{"type": "function", "function": {"name": text, "description": text}}, {text: text}],
    }
    answer = {
        "choices": [{"message": {"role": text, "content": text, "reasoning_content": text}}],
        "error": {"message": text},
    }
    one = record(
        id=text,
        path=f"/v1/chat/completions?{text}",
        request=Message(((text, text), *JSON), json.dumps(body).encode()),
        response=Message(((text, text), *JSON), json.dumps(answer).encode()),
        upstream=text,
        model=text,
        key=text,
        session=text,
        thread=text,
        parent=text,
        cause=Cause(Reason.PREFIX_CHANGED, text, text, text, text, 1, Decimal(1), text),
        error=text,
        attempts=[{"upstream": text, "error": text}],
    )
    other = record(id="o", method=text, path=text, model=text)
    return [one, other]


def test_no_script_of_a_strangers_runs() -> None:
    reader = shown(*spiked(EVIL))
    assert "".join(reader.text).count("<script>alert(1)</script>") > 15
    for one in spiked(EVIL):
        read(one)
    json.dumps(otlp.document(spiked(EVIL), "1"))


@fuzz
@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_text_stays_text(text: str) -> None:
    shown(*spiked(text))
    for one in spiked(text):
        json.loads(jsonl.line(one).encode())
    json.dumps(otlp.document(spiked(text), "1")).encode()


@fuzz
@given(values)
def test_any_body_is_exported(value: Any) -> None:
    body = Message(JSON, json.dumps(value).encode())
    one = record(request=body, response=body)
    shown(one)
    read(one)
    otlp.document([one], "1")


@pytest.mark.parametrize("text", ["\x1b", "\0", "\u202e", "\x85", "\ud800"])
def test_what_html_does_not_allow_is_replaced(text: str) -> None:
    assert escaped(f"a{text}b") in ("a\ufffdb", "a?b")
    assert element("p", escaped("<"), "<", Markup("<br>"), title='"') == '<p title="&quot;">&lt;&lt;<br></p>'


# Sums


def test_tools_are_ranked_by_what_was_sent_of_them() -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "read", "arguments": "{}"}}]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "x" * 1000}
    offered = [{"name": "read"}, {"name": "write", "description": "y" * 100}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": "a"}, call, result]
    body = {"messages": messages, "tools": offered}
    longer = {"messages": [*messages, {"role": "user", "content": "b"}], "tools": offered}
    [thread], _ = threads(
        [
            record(request=Message(JSON, json.dumps(body).encode()), known=0),
            record(id="f2", at=AT + 1, request=Message(JSON, json.dumps(longer).encode()), known=3),
        ]
    )
    first, then = tools(thread)
    assert (first.name, first.calls, first.results, first.sent) == ("read", 1, 1000, 2 * (1000 + 2 + first.definition))
    assert (then.name, then.calls, then.results) == ("write", 0, 0)


def test_what_is_not_known_is_no_part_of_a_sum() -> None:
    [thread], _ = threads(
        [record(), second(), second(id="f3", cost=Decimal(1), estimated=True, cause=Cause(Reason.RETRY))]
    )
    total = thread.total
    assert (total.calls, total.unknown, total.estimated) == (3, 1, 1)
    assert (total.cost, total.lost, total.lost_unknown) == (Decimal("1.00312"), 1024, 2)
    assert list(thread.by_reason) == ["prefix_changed", "retry", ""]


@pytest.mark.parametrize(
    ("text", "found"),
    [("0.0012", Decimal("0.0012")), ("~0.5", Decimal("0.5")), ("-1", None), ("NaN", None), ("1e99", None), (3, None)],
)
def test_amounts_are_exact(text: object, found: Decimal | None) -> None:
    assert amount(text) == found


@pytest.mark.parametrize("told", [None, {}, {"reason": "else"}, {"reason": ["retry"]}, "retry"])
def test_what_is_no_cause_is_none(told: object) -> None:
    assert cause_of(told) is None
