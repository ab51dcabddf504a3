"""Conversations through a real mitmdump against a plain model of what a session should be: a list of turns.

endpoints/test_chat_model.py has the larger model, at the hooks.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from addons.cli.fake_openai.server import Behaviour, Upstream
from tests.support import live
from tests.support.live import Live, LogWatch
from tests.support.raw import Client
from tests.support.talking import DONE, Told, begin, chunk, completion, message, streamed, streaming

KEYS = ("sk-test-0123456789abcdef", "sk-test-another-0123456789")
KEPT = 3
ROUTES = 4


@pytest.fixture(scope="module")
def routed(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A relay with a route for each conversation, so that a test can tell their upstreams apart."""
    names = [f"r{number}" for number in range(ROUTES)]
    with live.relay(
        tmp_path_factory.mktemp("routed"),
        [{"name": name, "url": f"{upstream.url}/{name}"} for name in names],
        routes=[{"path": f"/{name}", "upstream": name} for name in names],
        chat={"max_waiting": 2, "context": {"max_turns": KEPT, "max_tokens": 1_000_000}},
    ) as running:
        watch = LogWatch(running)
        yield running
        watch.check()


STEPS = st.lists(
    st.sampled_from(
        ["ok", "ok", "stream", "500", "break", "stream break", "leave", "stream leave", "reset", "reset 500", "forget"]
    ),
    max_size=12,
)


class Talk:
    """One conversation, and what it should be."""

    def __init__(self, relay: Live, upstream: Upstream, number: int, session: str) -> None:
        self.relay = relay
        self.upstream = upstream
        self.path = f"/r{number}/chat"
        self.up = f"/r{number}/v1/chat/completions"
        # Two keys and two sessions make four conversations.
        self.key, self.session = KEYS[number % 2], f"{session} {number // 2}"
        self.turns: list[str] = []
        self.number = 0

    def run(self, steps: list[str]) -> None:
        """Take the steps, and look after each."""
        for step in steps:
            self.number += 1
            self.step(step, f"m{self.number}", f"answer {self.number}")
            seen = self.relay.ask("GET", f"/chat/{self.session.replace(' ', '%20')}", headers=self.auth).json()
            assert [one["content"] for one in seen["data"]] == self.turns, (step, steps)

    @property
    def auth(self) -> dict[str, str]:
        """The key as bearer."""
        return {"Authorization": f"Bearer {self.key}"}

    def step(self, step: str, content: str, words: str) -> None:
        """One thing happens."""
        fields = message(self.session, content, reset=step.startswith("reset"), stream=step.startswith("stream"))
        fields["apiKey"] = self.key
        match step:
            case "forget":
                self.relay.ask("DELETE", f"/chat/{self.session.replace(' ', '%20')}", headers=self.auth)
                self.turns = []
            case "leave" | "stream leave":
                self.leave(fields)
            case "500" | "reset 500":
                self.upstream.script(self.up, Behaviour(status=500, body=b""))
                assert self.say(fields)["code"] == 502
            case "break":
                self.upstream.script(self.up, Behaviour(body=completion(words), break_after=20))
                assert self.say(fields)["code"] == 502
            case "stream break":
                self.upstream.script(self.up, streaming(chunk("half"), pause=0.01))
                assert self.tell(fields).broken
            case "stream":
                self.upstream.script(self.up, streaming(chunk(words[:3]), chunk(words[3:], "stop"), DONE))
                assert self.tell(fields).text() == words
                self.turns = [*self.turns, content, words][-2 * KEPT :]
            case _:
                self.upstream.script(self.up, Behaviour(body=completion(words)))
                assert self.say(fields)["data"] == words
                self.turns = [*([] if fields["reset"] else self.turns), content, words][-2 * KEPT :]

    def say(self, fields: dict[str, Any]) -> Any:
        """A message and its envelope."""
        return self.relay.ask("POST", self.path, fields).json()

    def tell(self, fields: dict[str, Any]) -> Told:
        """A message and its stream."""
        return streamed(self.relay, fields, path=self.path)

    def leave(self, fields: dict[str, Any]) -> None:
        """Send a message and go, once upstream has it."""
        self.upstream.script(self.up, streaming(chunk("half"), pause=30) if fields["stream"] else Behaviour(never=True))
        before = self.count()
        with Client(self.relay.port) as client:
            begin(client, fields, path=self.path)
            self.upstream.wait(lambda _: self.count() > before)

    def count(self) -> int:
        """How many requests upstream has had from this conversation."""
        return sum(seen.path == self.up for seen in self.upstream.seen)


_sessions = iter(range(1_000_000))


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=ROUTES, max_size=ROUTES))
def test_conversations_through_a_real_relay(routed: Live, upstream: Upstream, scripts: list[list[str]]) -> None:
    upstream.clear()
    session = f"c{next(_sessions)}"
    with ThreadPoolExecutor(ROUTES) as pool:
        talks = [Talk(routed, upstream, number, session) for number in range(ROUTES)]
        for each in [pool.submit(talk.run, steps) for talk, steps in zip(talks, scripts, strict=True)]:
            each.result()
