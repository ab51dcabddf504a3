"""What live tests of /chat share: messages, what upstream may stream, and a reader of what comes back."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from addons.cli.fake_openai.server import Behaviour, Seen, Upstream
from tests.support.live import Answer, Live
from tests.support.raw import Broken, Client, Reply
from tests.support.shapes import JSON

KEY = "sk-test-talk-0123456789"
COMPLETIONS = "/v1/chat/completions"
SSE = "text/event-stream"
DONE = b"data: [DONE]\n\n"


def message(session: str, content: Any = "hello", **more: Any) -> dict[str, Any]:
    """A message's fields."""
    return {"apiKey": KEY, "sessionId": session, "content": content, **more}


def post(relay: Live, body: Mapping[str, Any], **headers: str) -> Answer:
    """A message and its answer, whole."""
    return relay.ask("POST", "/chat", body, {name.replace("_", "-"): value for name, value in headers.items()})


def succeeded(answer: Answer) -> str:
    """The words of the model."""
    assert (answer.status, answer.headers["content-type"]) == (200, JSON), answer
    body = answer.json()
    assert (body["code"], body["message"]) == (200, "执行成功"), body
    return str(body["data"])


def completions(upstream: Upstream) -> list[Seen]:
    """The completion requests that upstream has seen."""
    return [seen for seen in upstream.seen if seen.path.endswith(COMPLETIONS)]


def at_work(upstream: Upstream, count: int = 1) -> Seen:
    """Wait until so many messages have come to the upstream; the last of them."""
    return upstream.wait(lambda _: completions(upstream)[count - 1 : count])[0]


def sent(seen: Seen) -> list[str]:
    """The contents of the conversation in a request that upstream got."""
    return [one["content"] for one in seen.json()["messages"]]


def ask_session(relay: Live, method: str, session: str, key: str | None = KEY) -> Answer:
    """A question about a session; `session` is percent-encoded here."""
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    return relay.ask(method, f"/chat/{quote(session, safe='')}", headers=headers)


def history(relay: Live, session: str, key: str = KEY) -> list[str]:
    """The contents of a session's messages, as relay tells them."""
    answer = ask_session(relay, "GET", session, key)
    assert (answer.status, answer.headers["content-type"]) == (200, JSON)
    body = answer.json()
    assert (list(body), body["code"]) == (["code", "message", "data"], 200), body
    roles = [one["role"] for one in body["data"]]
    assert roles == ["user", "assistant"] * (len(roles) // 2)
    return [one["content"] for one in body["data"]]


def completion(content: Any = "ok", *, finish: str | None = "stop", usage: Any = None, **more: Any) -> bytes:
    """What an upstream may answer."""
    told = {"role": "assistant", "content": content, **more}
    choice = {"index": 0, "message": told, "finish_reason": finish}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def chunk(text: str | None = None, finish: str | None = None, **delta: Any) -> bytes:
    """One event of an upstream's stream."""
    told = ({} if text is None else {"content": text}) | delta
    value = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": told, "finish_reason": finish}]}
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def streaming(*pieces: bytes, pause: float = 0.0, **more: Any) -> Behaviour:
    """An upstream that streams these bytes, one chunk each, with a pause after each."""
    return Behaviour(headers=[("content-type", SSE)], chunks=[(piece, pause) for piece in pieces], **more)


@dataclass
class Told:
    """An event stream as it came."""

    reply: Reply
    events: list[Any] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    """When each event was there, by time.monotonic()."""
    body: bytes = b""
    broken: bool = False
    """The connection ended before the answer did."""
    ended: float = 0.0

    @property
    def deltas(self) -> list[str]:
        """The pieces of the text."""
        return [event["delta"] for event in self.events if "delta" in event]

    @property
    def envelope(self) -> Any:
        """The last event, where that is an envelope."""
        return self.events[-1] if self.events and "code" in self.events[-1] else None

    def text(self) -> str:
        """The whole text of a stream that must have come to its end."""
        assert not self.broken, self.body
        assert all(list(event) == ["delta"] for event in self.events[:-1]), self.events
        assert list(self.events[-1]) == ["code", "message", "data"], self.events
        assert (self.envelope["code"], self.envelope["message"]) == (200, "执行成功")
        return str(self.envelope["data"])

    def read(self, pieces: Iterable[bytes]) -> None:
        """Take the body as it comes, to its end or its break."""
        try:
            for piece in pieces:
                before = self.body.count(b"\n\n")
                self.body += piece
                for event in self.body.split(b"\n\n")[before:-1]:
                    self.events.append(json.loads(event.removeprefix(b"data: ")))
                    self.at.append(time.monotonic())
        except (Broken, ConnectionResetError):
            self.broken = True
        self.ended = time.monotonic()


def streamed(
    relay: Live,
    body: Mapping[str, Any],
    headers: Iterable[tuple[str, str]] = (),
    version: str = "1.1",
    path: str = "/chat",
) -> Told:
    """Send a message with `stream` and read what comes."""
    with Client(relay.port, timeout=20) as client:
        begin(client, body, headers, version, path)
        told = Told(client.head())
        told.read(client.pieces(told.reply))
    return told


def begin(
    client: Client,
    body: Mapping[str, Any],
    headers: Iterable[tuple[str, str]] = (),
    version: str = "1.1",
    path: str = "/chat",
) -> None:
    """Send a message with `stream`."""
    data = json.dumps({"stream": True, **body}).encode()
    lines = [f"POST {path} HTTP/{version}", "Host: relay.test", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    client.send("\r\n".join([*lines, "", ""]).encode() + data)
