"""Chat's hooks on flows without a wire, with a real store."""

import asyncio
import gzip
import itertools
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from addons.chain import Chain
from addons.core.sessions import Session
from addons.endpoints import chat as chat_module
from addons.endpoints.chat import Chat
from addons.proxy.failures import Failures
from addons.store import StoreError
from addons.store.embedded import EmbeddedStore
from tests.support import flows
from tests.support.metering import a_meter

KEY = "sk-0123456789abcdef"


class Relay:
    """Chat before an upstream that the test plays."""

    def __init__(self, folder: Path) -> None:
        self.now = 1_000_000.0
        self.store = EmbeddedStore(folder, 1000, 1000, self._clock)
        self.chain = Chain([Chat(self.store, a_meter()), Failures()])

    def _clock(self) -> float:
        self.now += 0.001
        return self.now

    def message(self, content: Any = "hi", session: Any = "s", *, path: str = "/chat", **more: Any) -> http.HTTPFlow:
        sections = more.pop("sections", {})
        fields = {"apiKey": KEY, "sessionId": session, "content": content} | more
        body = json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()
        return flows.opened("POST", path, {"Content-Type": "application/json"}, body, **sections)

    async def ask(self, flow: http.HTTPFlow) -> None:
        await self.chain.run("requestheaders", flow)
        if flow.response is None:
            await self.chain.run("request", flow)

    async def answered(self, flow: http.HTTPFlow, said: Any = None, status: int = 200) -> Any:
        if flow.response is None:
            flows.respond(flow, status, said if said is not None else completion("ok"))
            await self.chain.run("responseheaders", flow)
        await self.chain.run("response", flow)
        return flows.json_of(flow)

    async def broken(self, flow: http.HTTPFlow, why: str = "server closed connection") -> None:
        flows.fail(flow, why)
        await self.chain.run("error", flow)

    async def exchange(self, *arguments: Any, said: Any = None, status: int = 200, **more: Any) -> Any:
        flow = self.message(*arguments, **more)
        await self.ask(flow)
        return await self.answered(flow, said, status)

    async def sent(self, *arguments: Any, **more: Any) -> list[str]:
        """The contents of the messages that go up with a further one, which is then broken off."""
        flow = self.message(*arguments, **more)
        await self.ask(flow)
        contents = [message["content"] for message in up(flow)["messages"]]
        await self.broken(flow)
        return contents

    def at_rest(self) -> bool:
        return len(self.store.leases) == 0


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    made = Relay(tmp_path)
    yield made
    made.store.close()
    assert made.at_rest(), "a session is left locked"


def completion(text: str | None, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text} | more.pop("message", {})
    return {"id": "x", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"} | more]}


def up(flow: http.HTTPFlow) -> Any:
    assert flow.response is None, flow.response.text
    return json.loads(flow.request.raw_content or b"")


def test_a_message_goes_up_as_a_completion_request(relay: Relay) -> None:
    flow = relay.message("你是谁?")
    flow.request.headers["Cookie"] = "a=b"
    asyncio.run(relay.ask(flow))
    request = flow.request
    assert (request.method, request.scheme, request.host, request.port) == ("POST", "https", "api.test", 443)
    assert request.path == "/proxy/v1/chat/completions"
    assert dict(request.headers) == {
        "Host": "api.test",
        "Authorization": f"Bearer {KEY}",
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "content-length": str(len(request.raw_content or b"")),
    }
    assert up(flow) == {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "你是谁?"}]}
    asyncio.run(relay.broken(flow))


def test_an_answer_comes_back_in_an_envelope(relay: Relay) -> None:
    flow = relay.message()

    async def scenario() -> None:
        await relay.ask(flow)
        await relay.answered(flow, completion("我是一名\n人工智能助手..."))

    asyncio.run(scenario())
    answer = flows.answer_of(flow)
    assert answer.raw_content == '{"code": 200, "message": "执行成功", "data": "我是一名\\n人工智能助手..."}'.encode()
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["x-relay-request-id"]


def test_a_session_remembers(relay: Relay) -> None:
    async def scenario() -> None:
        await relay.exchange("one", said=completion("1"))
        await relay.exchange("two", path="/pro/chat/completions", said=completion("2"))
        assert await relay.sent("three", path="/other/chat") == ["one", "1", "two", "2", "three"]
        assert await relay.sent("three", "another") == ["three"]
        assert await relay.sent("three", apiKey="sk-another-123456") == ["three"]

    asyncio.run(scenario())


def test_a_session_ends_a_while_after_its_last_turn(relay: Relay) -> None:
    async def scenario() -> None:
        await relay.exchange("one")
        relay.now += 1799
        await relay.exchange("two")
        relay.now += 1799
        assert await relay.sent("three") == ["one", "ok", "two", "ok", "three"]
        relay.now += 2
        assert await relay.sent("three") == ["three"]

    asyncio.run(scenario())


def test_the_settings_shape_the_request(relay: Relay) -> None:
    settings = {"system": "Be kind.", "params": {"temperature": 0.2}, "model": "gpt-x", "context": {"max_turns": 1}}

    async def scenario() -> None:
        for content in ("one", "two"):
            await relay.exchange(content, sections={"chat": settings})
        flow = relay.message("three", sections={"chat": settings})
        await relay.ask(flow)
        body = up(flow)
        assert [message["content"] for message in body.pop("messages")] == ["Be kind.", "two", "ok", "three"]
        assert body == {"temperature": 0.2, "model": "gpt-x"}
        await relay.broken(flow)

    asyncio.run(scenario())


def test_an_upstream_has_a_model_of_its_own(relay: Relay) -> None:
    flow = relay.message(path="/other/chat")
    asyncio.run(relay.ask(flow))
    assert up(flow)["model"] == "other-chat"
    asyncio.run(relay.broken(flow))


def test_a_reset_forgets_only_once_it_is_answered(relay: Relay) -> None:
    async def scenario() -> None:
        await relay.exchange("one")
        assert await relay.sent("new", reset=True) == ["new"]
        assert await relay.sent("two") == ["one", "ok", "two"]
        await relay.exchange("new", reset=True)
        assert await relay.sent("two") == ["new", "ok", "two"]

    asyncio.run(scenario())


def test_a_compressed_message_with_its_key_as_bearer_is_read(relay: Relay) -> None:
    body = gzip.compress(b'{"sessionId":"s","content":"packed"}')
    head = {"Authorization": f"Bearer {KEY}", "Content-Encoding": "gzip"}
    flow = flows.opened("POST", "/chat", head, body)
    asyncio.run(relay.ask(flow))
    assert up(flow)["messages"][0]["content"] == "packed"
    assert flow.request.headers["Authorization"] == f"Bearer {KEY}"
    asyncio.run(relay.broken(flow))


@pytest.mark.parametrize(
    ("fields", "headers", "code"),
    [
        pytest.param({"content": ""}, {}, 400, id="empty content"),
        pytest.param({"content": "x" * 1001}, {}, 400, id="long content"),
        pytest.param({"session": ...}, {}, 400, id="no sessionId"),
        pytest.param({"apiKey": ...}, {}, 400, id="no key"),
        pytest.param({"apiKey": "sk-a\r\nX: y"}, {}, 400, id="a key that ends its header"),
        pytest.param({}, {"Content-Encoding": "gzip"}, 400, id="not compressed as it says"),
        pytest.param({}, {"Content-Length": "65537"}, 413, id="too long as it declares"),
    ],
)
def test_bad_input_goes_nowhere(relay: Relay, fields: dict[str, Any], headers: Mapping[str, str], code: int) -> None:
    flow = relay.message(**fields)
    for name, value in headers.items():
        flow.request.headers[name] = value
    asyncio.run(relay.ask(flow))
    assert flow.request.host == "relay.invalid"
    assert flows.answer_of(flow).status_code == 200
    answer = flows.json_of(flow)
    assert (answer["code"], answer["data"]) == (code, None)


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE"])
def test_a_wrong_method_goes_nowhere(relay: Relay, method: str) -> None:
    flow = flows.opened(method, "/chat")
    asyncio.run(relay.ask(flow))
    assert flows.answer_of(flow).status_code == 405
    assert flows.answer_of(flow).headers["Allow"] == "POST"
    assert method == "HEAD" or flows.json_of(flow)["data"] is None


REFUSALS = [
    pytest.param(401, {"error": {"message": "Incorrect API key: sk-abcdefgh123456"}}, 401, id="the key is refused"),
    pytest.param(429, {"error": {"message": "slow down"}}, 429, id="too fast"),
    pytest.param(404, {"error": {"message": "no such model"}}, 404, id="no such model"),
    pytest.param(500, b"<html>", 502, id="the upstream fails"),
    pytest.param(200, b"<html>", 502, id="a page for an answer"),
    pytest.param(200, b"", 502, id="nothing"),
    pytest.param(200, {"error": {"message": "invalid api key"}}, 401, id="refused in a 200"),
    pytest.param(200, completion(None), 502, id="no words"),
    pytest.param(200, completion(""), 502, id="empty words"),
    pytest.param(200, {"choices": []}, 502, id="no choice"),
    pytest.param(200, completion(None, message={"refusal": "I can't"}), 403, id="the model refuses"),
    pytest.param(200, completion(None, message={"tool_calls": [{"id": "x"}]}), 502, id="a tool call"),
]


@pytest.mark.parametrize(("status", "said", "code"), REFUSALS)
def test_a_refusal_leaves_the_session_as_it_was(relay: Relay, status: int, said: Any, code: int) -> None:
    async def scenario() -> None:
        await relay.exchange("one")
        flow = relay.message("two")
        await relay.ask(flow)
        answer = await relay.answered(flow, said, status)
        assert flows.answer_of(flow).status_code == 200
        assert (answer["code"], answer["data"]) == (code, None)
        assert "abcdefgh" not in answer["message"]
        assert relay.at_rest()
        assert await relay.sent("three") == ["one", "ok", "three"]

    asyncio.run(scenario())


@pytest.mark.parametrize("why", ["server closed connection", "Client disconnected.", "[Errno 111] refused"])
def test_a_break_drops_the_turn_and_frees_the_session(relay: Relay, why: str) -> None:
    async def scenario() -> None:
        await relay.exchange("one")
        flow = relay.message("two")
        await relay.ask(flow)
        await relay.broken(flow, why)
        assert relay.at_rest()
        substitute = flows.exchange(flow).failure.substitute
        assert (substitute is None) == (why == "Client disconnected.")
        assert substitute is None or (substitute.status_code, substitute.json()["code"]) == (200, 502)
        assert await relay.sent("three") == ["one", "ok", "three"]

    asyncio.run(scenario())


def own_client(flow: http.HTTPFlow) -> http.HTTPFlow:
    flow.client_conn = tflow.tclient_conn()
    return flow


async def waiting(relay: Relay, *contents: str, **more: Any) -> list[tuple[http.HTTPFlow, asyncio.Task[None]]]:
    made = []
    for content in contents:
        flow = own_client(relay.message(content, **more))
        made.append((flow, asyncio.ensure_future(relay.ask(flow))))
        await asyncio.sleep(0.02)
    return made


def test_messages_of_one_session_take_turns(relay: Relay) -> None:
    async def scenario() -> None:
        queue = await waiting(relay, "one", "two", "three")
        assert [task.done() for _, task in queue] == [True, False, False]
        other = relay.message("elsewhere", "another session")
        await asyncio.wait_for(relay.ask(other), 5)
        await relay.answered(other)
        for flow, task in queue:
            await asyncio.wait_for(task, 5)
            await relay.answered(flow, completion("ok"))
        assert await relay.sent("four") == ["one", "ok", "two", "ok", "three", "ok", "four"]

    asyncio.run(scenario())


def test_too_many_that_wait_are_told_at_once(relay: Relay) -> None:
    async def scenario() -> None:
        queue = await waiting(relay, "one", "two", "three", sections={"chat": {"max_waiting": 1}})
        assert [task.done() for _, task in queue] == [True, False, True]
        answer = flows.json_of(queue.pop()[0])
        assert (answer["code"], answer["data"]) == (409, None)
        for flow, task in queue:
            await asyncio.wait_for(task, 5)
            await relay.answered(flow)

    asyncio.run(scenario())


def test_who_leaves_while_waiting_gives_up_its_place(relay: Relay) -> None:
    async def scenario() -> None:
        (one, _), (two, gone), (three, last) = await waiting(relay, "one", "two", "three")
        await relay.chain.run("client_disconnected", two.client_conn)
        await asyncio.wait_for(gone, 5)
        assert two.request.host == "relay.invalid"
        await relay.answered(one)
        await asyncio.wait_for(last, 5)
        await relay.broken(two, "Client disconnected.")
        assert not relay.at_rest()  # three is inside: the end of two has not let it out
        await relay.answered(three)
        assert await relay.sent("four") == ["one", "ok", "three", "ok", "four"]

    asyncio.run(scenario())


@pytest.mark.parametrize("call", ["load", "save"])
def test_a_store_that_fails_is_told(relay: Relay, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*args: object) -> Session:
        raise StoreError("disk I/O error")

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(relay.store, call, fails)
            flow = relay.message("one")
            await relay.ask(flow)
            answer = await relay.answered(flow)
            assert (answer["code"], answer["data"]) == (503, None)
            assert "disk" not in answer["message"]
        assert relay.at_rest()
        assert await relay.sent("two") == ["two"]

    asyncio.run(scenario())


def test_a_queue_that_is_gone_with_its_process_is_told(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(*_arguments: object) -> None:
        raise StoreError("the process that keeps the sessions is gone")

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(relay.store, "lease", gone)
            answer = await relay.exchange("one")
        assert (answer["code"], answer["data"]) == (503, None)
        assert "会话" in answer["message"]
        assert relay.at_rest()
        assert await relay.sent("two") == ["two"]

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["_rewrite", "owner_of", "completion_of", "_read"])
def test_a_bug_frees_the_session(relay: Relay, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(*args: object) -> None:
        raise RuntimeError("a bug")

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(chat_module, name, buggy)
            flow = relay.message("one")
            await relay.ask(flow)
            answer = await relay.answered(flow)
            assert (answer["code"], answer["data"]) == (503, None)
        assert relay.at_rest()
        assert await relay.sent("two") == ["two"]

    asyncio.run(scenario())


def test_an_answer_that_takes_too_long_is_cut_off(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[http.HTTPFlow] = []
    monkeypatch.setattr(chat_module, "cut_upstream", lambda flow, why: cuts.append(flow))

    async def scenario() -> None:
        flow = relay.message(sections={"chat": {"timeout": "20ms"}})
        await relay.ask(flow)
        await asyncio.sleep(0.1)
        assert cuts == [flow]
        await relay.broken(flow, "connection closed")
        substitute = flows.exchange(flow).failure.substitute
        assert substitute is not None
        assert substitute.json()["code"] == 408
        quick = relay.message(sections={"chat": {"timeout": "20ms"}})
        await relay.ask(quick)
        await relay.answered(quick)
        await asyncio.sleep(0.1)
        assert cuts == [flow]  # no timer outlives its exchange

    asyncio.run(scenario())


def test_a_message_under_way_survives_a_reload(relay: Relay) -> None:
    async def scenario() -> None:
        flow = relay.message("one")
        await relay.ask(flow)
        relay.chain = Chain([Chat(relay.store, a_meter()), Failures()])
        assert (await relay.answered(flow))["code"] == 200
        assert await relay.sent("two") == ["one", "ok", "two"]

    asyncio.run(scenario())


def test_a_streamed_answer_is_retold_and_kept(relay: Relay) -> None:
    async def scenario() -> None:
        flow = relay.message("one", stream=True)
        await relay.ask(flow)
        assert up(flow)["stream"] is True
        flows.respond(flow, 200, b"", {"Content-Type": "text/event-stream"})
        await relay.chain.run("responseheaders", flow)
        tell = flows.answer_of(flow).stream
        assert callable(tell)
        told = [
            tell(chunk("你")),
            tell(b": still there\n\n"),
            tell(chunk("好", "stop")),
            tell(b"data: [DONE]\n\n"),
            tell(b""),
        ]
        assert told == ['data: {"delta": "你"}\n\n'.encode(), [], 'data: {"delta": "好"}\n\n'.encode(), [], []]
        await relay.chain.run("response", flow)
        envelope = '{"code": 200, "message": "执行成功", "data": "你好"}'
        assert flows.exchange(flow).answer.tail == f"data: {envelope}\n\n".encode()
        assert await relay.sent("two") == ["one", "你好", "two"]

    asyncio.run(scenario())


def chunk(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


def test_a_stream_that_stops_half_way_is_a_break_and_no_turn(relay: Relay) -> None:
    async def scenario() -> None:
        flow = relay.message("one", stream=True)
        await relay.ask(flow)
        flows.respond(flow, 200, b"", {"Content-Type": "text/event-stream"})
        await relay.chain.run("responseheaders", flow)
        tell = flows.answer_of(flow).stream
        assert callable(tell)
        tell(chunk("half"))
        await relay.chain.run("response", flow)
        assert flow.error is not None
        assert flows.exchange(flow).answer.tail == b""
        assert relay.at_rest()
        assert await relay.sent("two") == ["two"]

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_the_session_holds_what_was_acknowledged(relay: Relay, seed: int) -> None:
    """Forty messages to two sessions at random moments; some clients leave, some upstreams break, some refuse."""
    luck = random.Random(seed)
    acknowledged: dict[str, list[str]] = {"a": [], "b": []}
    numbers = itertools.count()

    async def one() -> None:
        number, session = next(numbers), luck.choice("ab")
        await asyncio.sleep(luck.random() / 20)
        flow = own_client(relay.message(f"m{number}", session))
        leaves = luck.random() < 0.3
        if leaves:
            asyncio.get_running_loop().call_later(
                luck.random() / 20,
                lambda: asyncio.ensure_future(relay.chain.run("client_disconnected", flow.client_conn)),
            )
        await relay.ask(flow)
        if flow.response is None:
            carried = [message["content"] for message in up(flow)["messages"]]
            assert carried == [*itertools.chain(*((m, "ok") for m in acknowledged[session])), f"m{number}"]
            await asyncio.sleep(luck.random() / 200)
            match luck.choice(["answer", "answer", "break", "refuse"]):
                case "break":
                    await relay.broken(flow)
                    return
                case "refuse":
                    await relay.answered(flow, b"", 500)
                    return
        if (await relay.answered(flow))["code"] == 200:
            acknowledged[session].append(f"m{number}")

    async def scenario() -> None:
        await asyncio.wait_for(asyncio.gather(*(one() for _ in range(40))), 30)
        for session, contents in acknowledged.items():
            kept = await relay.store.load(relay.store.key(KEY, session)[0], 1800)
            assert [turn.user for turn in kept.turns] == contents

    asyncio.run(scenario())
    assert acknowledged["a"] and acknowledged["b"]
    assert relay.at_rest()
