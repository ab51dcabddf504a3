"""Whole conversations against a plain model of what a session should be: a list of turns, and when it was last used.

`Conversations` calls the hooks on flows without a wire. Several keys and sessions at a time; upstreams that fail,
break, refuse or find it too long; clients that leave; time that passes, sweeps, full disks, restarts. The same,
smaller, through a real mitmdump: live/test_chat_model.py.
"""

import asyncio
import json
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from mitmproxy import http
from mitmproxy.test import tflow

from addons.chain import Chain
from addons.core.sessions import Session
from addons.endpoints import chat as chat_module
from addons.endpoints.chat import Chat
from addons.endpoints.chat_sessions import Sessions
from addons.proxy.failures import Failures
from addons.store import Lease, StoreError
from addons.store.embedded import EmbeddedStore
from tests.support import flows
from tests.support.metering import a_meter
from tests.support.talking import DONE, SSE, chunk, completion

KEYS = ("sk-0123456789abcdef", "sk-another-0123456789")
NAMES = ("s", "会话/2")
CONVERSATIONS = [(KEYS[0], NAMES[0]), (KEYS[0], NAMES[1]), (KEYS[1], NAMES[0])]
HOW = st.sampled_from(["ok", "ok", "ok", "cut off", "retried", "disk full"])
TTL = 1800.0
KEPT = 3
WAITING = 2
SECTIONS: dict[str, Any] = {"chat": {"max_waiting": WAITING, "context": {"max_turns": KEPT, "max_tokens": 1_000_000}}}
TOO_LONG = {"error": {"message": "too long", "code": "context_length_exceeded"}}

type Name = tuple[str, str]
type Turns = tuple[tuple[str, str], ...]


class Store(EmbeddedStore):
    """A store whose disk may be full."""

    full = False

    async def save(self, lease: Lease, owner: str, session: Session) -> None:
        if self.full:
            raise StoreError("disk full")
        await super().save(lease, owner, session)


@dataclass(eq=False)
class Visit:
    """A message, or a request to forget (`content` is None then), that has not been answered yet."""

    flow: http.HTTPFlow
    task: asyncio.Task[None]
    content: str | None
    reset: bool
    stream: bool
    base: Turns | None = None
    """What the session held when this message's turn came."""


@dataclass
class Model:
    """What a session should be."""

    turns: Turns = ()
    used: float = 0.0
    queue: list[Visit] = field(default_factory=list)
    """In order of arrival; the first one is under way."""


class Conversations(RuleBasedStateMachine):
    """The hooks beside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.now = 1_000_000.0
        self.number = 0
        self.models: dict[Name, Model] = {name: Model() for name in CONVERSATIONS}
        self.again: list[http.Response] = []
        self.patches: list[Any] = [
            mock.patch.object(chat_module, "ask", self._ask),
            mock.patch.object(chat_module, "cut_upstream"),
        ]
        for patch in self.patches:
            patch.start()
        self._start()

    def _start(self) -> None:
        self.store = Store(Path(self.folder.name), 1000, 1000, lambda: self.now)
        self.chain = Chain([Chat(self.store, a_meter()), Sessions(self.store, a_meter()), Failures()])

    async def _ask(self, *_: object, **__: object) -> http.Response:
        return self.again.pop()

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Do something inside the loop, which has ten seconds."""

        async def bounded() -> T:
            return await asyncio.wait_for(work, 10)

        return self.runner.run(bounded())

    async def hook(self, name: str, data: Any) -> None:
        """Run a hook of the chain, whether or not there is anything to wait for."""
        pending: Any = self.chain.run(name, data)
        if pending is not None:
            await pending

    # What happens

    @rule(name=st.sampled_from(CONVERSATIONS), reset=st.booleans(), stream=st.booleans())
    def arrives(self, name: Name, reset: bool, stream: bool) -> None:
        """A message arrives."""
        self.say(*name, reset, stream)

    def say(self, key: str, name: str, reset: bool, stream: bool) -> None:
        """Send a message."""
        self.number += 1
        content = f"m{self.number}"
        fields = {"apiKey": key, "sessionId": name, "content": content, "reset": reset, "stream": stream}
        flow = flows.opened("POST", "/chat", {}, json.dumps(fields).encode(), **SECTIONS)
        self.run(self._arrive((key, name), flow, content, reset, stream))

    @rule(
        name=st.sampled_from(CONVERSATIONS),
        count=st.integers(1, KEPT + 1),
        stream=st.booleans(),
        data=st.data(),
    )
    def talk(self, name: Name, count: int, stream: bool, data: st.DataObject) -> None:
        """A few messages that are answered, one after the other."""
        for _ in range(count):
            if not self.models[name].queue:
                self.say(*name, data.draw(st.integers(0, 5)) == 0, stream)
                self.run(self._answer(name, data.draw(HOW)))

    @rule(name=st.sampled_from(CONVERSATIONS))
    def forget(self, name: Name) -> None:
        """Somebody asks to forget the session."""
        encoded = "".join(f"%{byte:02X}" for byte in name[1].encode())
        flow = flows.opened("DELETE", f"/chat/{encoded}", {"Authorization": f"Bearer {name[0]}"}, **SECTIONS)
        self.run(self._arrive(name, flow, None, False, False))

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), how=HOW)
    def answered(self, data: st.DataObject, how: str) -> None:
        """Upstream has an answer."""
        name = data.draw(st.sampled_from(self.under_way()))
        self.run(self._answer(name, how))

    @precondition(lambda self: self.under_way())
    @rule(
        data=st.data(),
        how=st.sampled_from(["500", "401", "page", "refusal", "tool", "empty", "too long to the end", "error"]),
    )
    def refused(self, data: st.DataObject, how: str) -> None:
        """Upstream answers something else."""
        name = data.draw(st.sampled_from(self.under_way()))
        self.run(self._refuse(name, how))

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), why=st.sampled_from(["server closed connection", "[Errno 111] refused", "relay: too slow"]))
    def broken(self, data: st.DataObject, why: str) -> None:
        """Upstream breaks off, or is cut off."""
        name = data.draw(st.sampled_from(self.under_way()))
        self.run(self._break(name, self.models[name].queue[0], why))

    @precondition(lambda self: any(model.queue for model in self.models.values()))
    @rule(data=st.data())
    def left(self, data: st.DataObject) -> None:
        """A client leaves, be it first or waiting."""
        names = [name for name, model in self.models.items() if model.queue]
        name = data.draw(st.sampled_from(names))
        visit = data.draw(st.sampled_from(self.models[name].queue))
        self.run(self._break(name, visit, "Client disconnected."))

    @rule(seconds=st.sampled_from([1.0, 1.0, 600.0, TTL - 1, TTL, TTL + 1]))
    def time_passes(self, seconds: float) -> None:
        """Nothing happens for a while."""
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        """What is old goes."""
        self.run(self.store.sweep(TTL))

    @rule()
    def restart(self) -> None:
        """relay ends and starts again: what was under way is lost, what was answered is not."""
        self.run(self._cancel_all())
        self.store.close()
        self._start()

    # What should hold

    @invariant()
    def sessions_are_as_they_should_be(self) -> None:
        """Everybody sees the turns of its own session, and nothing else."""
        self.run(self._look())

    def teardown(self) -> None:
        """Everything ends, and nothing is left behind."""
        try:
            for name, model in self.models.items():
                while model.queue:
                    self.run(self._break(name, model.queue[0], "server closed connection"))
            self.sessions_are_as_they_should_be()
            assert len(self.store.leases) == 0, "a session is left locked"
        finally:
            self.store.close()
            self.runner.close()
            for patch in self.patches:
                patch.stop()
            self.folder.cleanup()

    # How

    def under_way(self) -> list[Name]:
        """The sessions with a message upstream."""
        return [name for name, model in self.models.items() if model.queue]

    def held(self, name: Name) -> Turns:
        """What a session holds at this moment."""
        model = self.models[name]
        return model.turns if model.used > self.now - TTL else ()

    async def _arrive(self, name: Name, flow: http.HTTPFlow, content: str | None, reset: bool, stream: bool) -> None:
        flow.client_conn = tflow.tclient_conn()
        queue = self.models[name].queue
        full = len(queue) > WAITING
        task = asyncio.ensure_future(self._request(flow))
        visit = Visit(flow, task, content, reset, stream)
        if full:
            await task
            assert flows.json_of(flow)["code"] == 409
            await self.hook("response", flow)
            return
        queue.append(visit)
        await asyncio.sleep(0)
        await self._advance(name)

    async def _request(self, flow: http.HTTPFlow) -> None:
        await self.hook("requestheaders", flow)
        await self.hook("request", flow)

    async def _advance(self, name: Name) -> None:
        """Whoever is first has its turn by now; nobody else has."""
        model = self.models[name]
        while model.queue:
            visit = model.queue[0]
            await visit.task
            if visit.content is not None:
                break
            assert flows.json_of(visit.flow) == {"code": 200, "message": "执行成功", "data": None}
            model.turns = ()
            model.queue.pop(0)
        for waiting in model.queue[1:]:
            assert not waiting.task.done(), "two at once"
        if model.queue and model.queue[0].base is None:
            self._gone_up(name, model.queue[0])

    def _gone_up(self, name: Name, visit: Visit) -> None:
        assert visit.flow.response is None, visit.flow.response.text
        visit.base = () if visit.reset else self.held(name)
        asked = json.loads(visit.flow.request.raw_content or b"")
        contents = [one["content"] for one in asked["messages"]]
        assert contents == [text for turn in visit.base for text in turn] + [visit.content]
        assert visit.flow.request.headers["Authorization"] == f"Bearer {name[0]}"
        assert asked.get("stream", False) == visit.stream

    async def _answer(self, name: Name, how: str) -> None:
        visit = self.models[name].queue[0]
        assert visit.content is not None and visit.base is not None
        words = f"answer to {visit.content}"
        code = 200
        if how == "retried":
            self.again = [http.Response.make(200, completion(words), {"Content-Type": "application/json"})]
            flows.respond(visit.flow, 400, TOO_LONG)
            code = 200 if visit.base else 400
        elif visit.stream:
            pieces = [chunk(words[:3]), chunk(words[3:], "length" if how == "cut off" else "stop"), DONE]
            await self._stream(visit.flow, pieces)
        else:
            flows.respond(visit.flow, 200, completion(words, finish="length" if how == "cut off" else "stop"))
        if how == "disk full":
            self.store.full, code = True, 503
        said = await self._end(visit)
        self.store.full = False
        assert (said["code"], said["data"]) == (code, words if code == 200 else None), said
        if code == 200:
            model = self.models[name]
            model.turns, model.used = (*visit.base, (visit.content, words))[-KEPT:], self.now
        await self._next(name, visit)

    async def _refuse(self, name: Name, how: str) -> None:
        visit = self.models[name].queue[0]
        self.again = [
            http.Response.make(400, json.dumps(TOO_LONG).encode()) for _ in range(8)
        ]  # with the message alone
        status, body, code = {
            "500": (500, b"", 502),
            "401": (401, b'{"error": {"message": "Incorrect API key"}}', 401),
            "page": (200, b"<html>", 502),
            "refusal": (200, completion(None, refusal="no"), 403),
            "tool": (200, completion(None, tool_calls=[{"id": "x"}]), 502),
            "empty": (200, completion(""), 502),
            "too long to the end": (400, json.dumps(TOO_LONG).encode(), 400),
            "error": (200, b'{"error": {"message": "overloaded"}}', 502),
        }[how]
        if visit.stream and how in ("error", "refusal"):
            delta = chunk(None, "stop", refusal="no")
            await self._stream(visit.flow, [delta if how == "refusal" else b"data: " + body + b"\n\n", DONE])
        else:
            flows.respond(visit.flow, status, body)
        said = await self._end(visit)
        assert (said["code"], said["data"]) == (code, None), said
        await self._next(name, visit)

    async def _stream(self, flow: http.HTTPFlow, pieces: list[bytes]) -> None:
        flows.respond(flow, 200, b"", {"Content-Type": SSE})
        await self.hook("responseheaders", flow)
        tell = flows.answer_of(flow).stream
        assert callable(tell)
        for piece in pieces:
            tell(piece)
        tell(b"")

    async def _end(self, visit: Visit) -> Any:
        """The envelope of a message whose answer has come."""
        exchange = flows.exchange(visit.flow)
        if not exchange.committed:
            await self.hook("responseheaders", visit.flow)
        await self.hook("response", visit.flow)
        body = exchange.answer.tail or flows.answer_of(visit.flow).raw_content or b""
        return json.loads(body.removeprefix(b"data: "))

    async def _break(self, name: Name, visit: Visit, why: str) -> None:
        if why.startswith("Client"):
            await self.hook("client_disconnected", visit.flow.client_conn)
            await visit.task
        elif visit.stream:  # in the middle of its answer
            await self._stream(visit.flow, [chunk("half")])
        flows.fail(visit.flow, why)
        await self.hook("error", visit.flow)
        await self._next(name, visit)

    async def _next(self, name: Name, visit: Visit) -> None:
        self.models[name].queue.remove(visit)
        await self._advance(name)

    async def _cancel_all(self) -> None:
        for model in self.models.values():
            for visit in model.queue:
                visit.task.cancel()
                await asyncio.gather(visit.task, return_exceptions=True)
            model.queue.clear()

    async def _look(self) -> None:
        for (key, name), _ in self.models.items():
            kept = await self.store.load(self.store.key(key, name)[0], TTL)
            assert tuple((turn.user, turn.assistant) for turn in kept.turns) == self.held((key, name))


TestConversations = Conversations.TestCase
TestConversations.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
