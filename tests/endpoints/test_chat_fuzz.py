"""/chat's hooks are given anything at all: always an envelope with code 400 or 413, in bounded time. Over the wire:
live/test_chat_fuzz.py."""

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from addons.chain import Chain
from addons.endpoints.chat import Chat
from addons.endpoints.chat_sessions import Sessions
from addons.store.embedded import EmbeddedStore
from tests.support import flows
from tests.support.any_json import fuzz, texts, values
from tests.support.metering import a_meter

MB = 1 << 20
FIELDS = ("apiKey", "sessionId", "content", "stream", "reset", "model", "system", "temperature", "stop", "messages")
objects = st.dictionaries(st.sampled_from(FIELDS) | texts, values, max_size=8)
GOOD = {"apiKey": "sk-0123456789abcdef", "sessionId": "s", "content": "hi"}


class Hooks:
    """The hooks of /chat, for one message after the other."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.store = EmbeddedStore(folder, 1000, 1000, time.time)
        self.chain = Chain([Chat(self.store, a_meter()), Sessions(self.store, a_meter())])

    def take(self, body: bytes, headers: Any = (), target: str = "/chat", method: str = "POST", **chat: Any) -> Any:
        """The envelope that a request is answered with; None where the message goes up."""
        return self.runner.run(asyncio.wait_for(self._take(body, headers, target, method, chat), 10))

    async def _take(self, body: bytes, headers: Any, target: str, method: str, chat: dict[str, Any]) -> Any:
        flow = flows.opened(method, target, headers, body, chat=chat)
        for name in ("requestheaders", "request"):
            if flow.response is None:
                await self._run(name, flow)
        if flow.response is None:
            flow.request.raw_content = b"" if not flow.request.raw_content else flow.request.raw_content
            went_up = json.loads(flow.request.raw_content)
            assert went_up["messages"]
            flows.fail(flow, "server closed connection")
            await self._run("error", flow)
            assert len(self.store.leases) == 0
            return None
        answer = flows.answer_of(flow)
        raw = answer.raw_content or b""
        assert b"\n" not in raw
        envelope = json.loads(raw.decode("utf-8"))
        assert list(envelope) == ["code", "message", "data"]
        assert answer.status_code == (405 if envelope["code"] == 405 else 200)
        assert len(self.store.leases) == 0
        return envelope

    async def _run(self, name: str, flow: Any) -> None:
        pending: Any = self.chain.run(name, flow)
        if pending is not None:
            await pending


@pytest.fixture(scope="module")
def hooks() -> Iterator[Hooks]:
    """One store for all examples."""
    with tempfile.TemporaryDirectory() as folder:
        made = Hooks(Path(folder))
        yield made
        made.store.close()
        made.runner.close()


def refused(envelope: Any) -> None:
    """An error as it should be."""
    assert envelope is not None, "it went up"
    assert envelope["code"] in (400, 413) and envelope["data"] is None, envelope
    assert len(envelope["message"]) < 1000


def good(fields: dict[str, Any]) -> bool:
    """Whether what is not optional is there; a sessionId may be a number."""
    key, session = fields.get("apiKey"), fields.get("sessionId")
    if isinstance(session, int | float) and not isinstance(session, bool):
        session = str(session)
    return all(isinstance(each, str) and each.strip() for each in (key, session))


@fuzz
@given(st.binary(max_size=300))
@example(b"")
@example(b"\0")
@example(b"\xff\xfe[\0]\0")
@example(b'{"apiKey":"k","sessionId":"s","content":"\xed\xa0\x80"}')
def test_arbitrary_bytes(hooks: Hooks, body: bytes) -> None:
    refused(hooks.take(body))


@fuzz
@given(values, st.booleans())
def test_json_of_any_shape(hooks: Hooks, value: Any, escaped: bool) -> None:
    body = json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    envelope = hooks.take(body)
    if not isinstance(value, dict) or not good(value):
        refused(envelope)


@fuzz
@given(objects)
@example({"sessionId": 0})
@example({"sessionId": True})
def test_messages_with_any_fields(hooks: Hooks, more: dict[str, Any]) -> None:
    fields = {**GOOD, **more}
    envelope = hooks.take(json.dumps(fields).encode(), allow=list(FIELDS))
    if envelope is not None:
        refused(envelope)
    else:
        assert good(fields)


@fuzz
@given(st.sampled_from(FIELDS[:3]), texts.filter(bool))
def test_any_text_in_any_field(hooks: Hooks, name: str, text: str) -> None:
    envelope = hooks.take(json.dumps({**GOOD, name: text}).encode())
    if envelope is not None:
        refused(envelope)
        assert name in envelope["message"]
        assert name == "apiKey" or not text, "any text is a session's name, and any is a message"


@fuzz
@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "br", "zstd", "x", "gzip, br", "identity", ",,"]))
def test_bodies_that_are_not_compressed_as_they_say(hooks: Hooks, body: bytes, encoding: str) -> None:
    refused(hooks.take(body, {"Content-Encoding": encoding}))


@fuzz
@given(st.binary(max_size=60), st.sampled_from(["GET", "DELETE", "PUT"]), texts)
def test_any_name_of_a_session(hooks: Hooks, name: bytes, method: str, bearer: str) -> None:
    target = "/chat/" + "".join(f"%{byte:02x}" for byte in name or b"x")
    headers = [(b"Authorization", b"Bearer " + bearer.encode("utf-8", "surrogatepass").translate(None, b"\r\n\0"))]
    envelope = hooks.take(b"", headers, target, method)
    assert envelope["code"] in ((405,) if method == "PUT" else (200, 400, 401))


def deep(opening: str, count: int) -> bytes:
    return b'{"apiKey":"k","sessionId":"s","content":"c","x":' + opening.encode() * count


SIZE = 64 * MB
HUGE = [
    pytest.param(lambda: b"[" * SIZE, id="["),
    pytest.param(lambda: b'{"a":' * (SIZE // 5), id="objects"),
    pytest.param(lambda: b"[" * (SIZE // 2) + b"]" * (SIZE // 2), id="[]"),
    pytest.param(lambda: b'"' * SIZE, id="quotes"),
    pytest.param(lambda: b'"' + b"\\" * SIZE, id="backslashes"),
    pytest.param(lambda: b"9" * SIZE, id="a number"),
    pytest.param(lambda: b"1e" + b"9" * SIZE, id="an exponent"),
    pytest.param(lambda: b" " * SIZE, id="blanks"),
    pytest.param(lambda: b"\0" * SIZE, id="NUL"),
    pytest.param(lambda: deep('{"a":[', SIZE // 6), id="a message, then nesting"),
    pytest.param(lambda: b'{"content":"' + b"\\ud800" * (SIZE // 6) + b'"}', id="lone surrogates"),
]


@pytest.mark.parametrize("body", HUGE)
def test_64_mb_are_judged_in_bounded_time(hooks: Hooks, body: Any) -> None:
    """Even where relay.yaml lets as much through: the usual bound refuses it unread."""
    data = body()
    begun = time.process_time()
    refused(hooks.take(data, max_body=2 * SIZE))
    assert time.process_time() - begun < 10
    refused(hooks.take(data))


def test_what_is_nested_to_the_bound_passes(hooks: Hooks) -> None:
    assert hooks.take(deep("[", 63) + b"]" * 63 + b"}") is None
    refused(hooks.take(deep("[", 64) + b"]" * 64 + b"}"))
