"""Clients of relays behind HAProxy: some talk, some spend, some stream, some leave. Each keeps what it was told."""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.asking import ask
from tests.support.cluster.haproxy import TAG
from tests.support.cluster.history import Told

PATIENCE = 9.0
"""Seconds that a client waits for an answer."""
OWN = "sk-own-cluster-0123456789abcdef"
TURNS = 25
"""Of a conversation, before the next one begins."""
CHAT = "/v1/chat/completions"
MODEL = "gpt-4o-mini"
_WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("json", {}),
    ("json", {}),
    ("silent", {}),
    ("refuse", {}),
    ("last", {"stream": True}),
    ("last", {"stream": True}),
    ("last", {"stream": True, "stream_options": {"include_usage": True}}),
    ("none", {"stream": True}),
)


@dataclass
class Talk:
    """A conversation."""

    session: str
    key: str
    told: list[Told] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    """What its owner has said, as relay shows it at its end."""


class Clients:
    """All of them. They go on until `over` is set."""

    def __init__(self, port: int, seed: int, keys: Iterator[str], rich: Iterator[str]) -> None:
        """`keys` have small budgets and are used for a few requests each; those that are `rich` never run out."""
        self.port = port
        self.over = asyncio.Event()
        self.told: list[Told] = []
        self.talks: list[Talk] = []
        self._seed = seed
        self._keys = keys
        self._rich = rich

    async def run(self, talkers: int, spenders: int, streamers: int) -> None:
        """Until all have come to their end."""
        async with asyncio.TaskGroup() as group:
            for number in range(talkers):
                group.create_task(self._talk(number, self._chance(f"t{number}")))
            for number in range(spenders):
                group.create_task(self._spend(number, self._chance(f"s{number}")))
            for number in range(streamers):
                group.create_task(self._stream(number, self._chance(f"r{number}")))

    def _chance(self, name: str) -> random.Random:
        return random.Random(f"{self._seed} {name}")

    async def ask(self, told: Told, path: str, body: object, leave_after: int | None = None) -> Told:
        """Send a request, and keep what comes of it."""
        self.told.append(told)
        told.begun = time.monotonic()
        told.heard = await ask(
            self.port, path, told.key, body, leave_after=leave_after, timeout=PATIENCE, headers={TAG: told.tag}
        )
        told.ended = time.monotonic()
        return told

    # Who talks

    async def _talk(self, number: int, chance: random.Random) -> None:
        conversation = 0
        while not self.over.is_set():
            key = OWN if number % 2 else next(self._rich)
            talk = Talk(f"talk-{number}-{conversation}", key)
            self.talks.append(talk)
            while len(talk.told) < TURNS and not self.over.is_set():
                await self._say(talk, chance)
                await asyncio.sleep(chance.random() * 0.25)
            conversation += 1

    async def _say(self, talk: Talk, chance: random.Random) -> None:
        """One message, or two at once."""
        if chance.random() < 0.9:
            await self._message(talk, chance)
            return
        first = asyncio.create_task(self._message(talk, chance))
        await asyncio.sleep(chance.random() * 0.05)
        await asyncio.gather(first, self._message(talk, chance))

    async def _message(self, talk: Talk, chance: random.Random) -> None:
        tag = f"{talk.session}-{len(talk.told)}"
        stream = chance.random() < 0.4
        plan: dict[str, Any] = {
            "tag": tag,
            "how": "last" if stream else "json",
            "out": chance.randint(1, 20),
            "pace": 0.01,
        }
        plan["wait"] = chance.choice([0, 0.02, 0.2])
        told = Told(tag, "chat", "stream" if stream else "json", 0.0, talk.key, talk.session)
        told.takes = plan["wait"] + stream * plan["out"] * 0.012
        talk.told.append(told)
        leave = chance.choice([0, 30, 300]) if chance.random() < 0.07 else None
        body = {"sessionId": talk.session, "content": json.dumps(plan), "stream": stream}
        await self.ask(told, "/chat", body, leave)

    # Who spends

    async def _spend(self, number: int, chance: random.Random) -> None:
        turn = 0
        while not self.over.is_set():
            key, turn = next(self._keys), turn + 1
            async with asyncio.TaskGroup() as group:
                for request in range(chance.randint(3, 12)):
                    group.create_task(self._complete(key, f"spend-{number}-{turn}-{request}", chance))
            await asyncio.sleep(chance.random() * 0.4)

    async def _complete(self, key: str, tag: str, chance: random.Random) -> None:
        how, more = chance.choice(_WAYS)
        given, said = chance.randint(1, 60), chance.randint(1, 30)
        plan = {"tag": tag, "how": how, "in": given, "out": said, "pace": chance.choice([0, 0.004])}
        plan["cached"] = chance.randint(0, given)
        plan["wait"] = chance.choice([0, 0, 0.1])
        bound = said + chance.choice([0, 5, 100])
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": json.dumps(plan)}],
            "max_tokens": bound,
            **more,
        }
        leave = chance.choice([0, chance.randint(1, 3000)]) if chance.random() < 0.15 else None
        await asyncio.sleep(chance.random() * 0.03)
        await self.ask(Told(tag, "completion", how, 0.0, key, takes=0.5), CHAT, body, leave)

    # Who streams

    async def _stream(self, number: int, chance: random.Random) -> None:
        turn = 0
        while not self.over.is_set():
            tag, turn = f"stream-{number}-{turn}", turn + 1
            plan: dict[str, Any] = {"tag": tag, "how": "last", "in": 20, "out": chance.randint(10, 120), "pace": 0.02}
            body = {"model": MODEL, "messages": [{"role": "user", "content": json.dumps(plan)}], "max_tokens": 150}
            leave = chance.randint(1, 9000) if chance.random() < 0.2 else None
            told = Told(tag, "completion", "stream", 0.0, OWN, takes=plan["out"] * 0.025)
            await self.ask(told, CHAT, body | {"stream": True}, leave)
            await asyncio.sleep(0.3 if told.error else 0.02)

    # At the end

    async def show(self) -> None:
        """Ask for each conversation."""
        for talk in self.talks:
            told = Told(f"show-{talk.session}", "show", "", 0.0, talk.key, talk.session)
            await self.ask(told, f"/chat/{talk.session}", None)
            data = told.envelope.get("data")
            messages = data if isinstance(data, list) else []
            talk.shown = [json.loads(each["content"])["tag"] for each in messages if each["role"] == "user"]

    async def all_at_once(self, tag: str, key: str, count: int, wait: float) -> list[Told]:
        """So many requests at the same time, each answered no sooner than after `wait` seconds."""
        body = request_of(tag, wait)
        asking = (self.ask(Told(tag, "completion", "json", 0.0, key, takes=wait), CHAT, body) for _ in range(count))
        return list(await asyncio.gather(*asking))


def request_of(tag: str, wait: float) -> dict[str, Any]:
    """One of those."""
    content = json.dumps({"tag": tag, "how": "json", "wait": wait, "in": 5, "out": 5})
    return {"model": "gpt-4o", "messages": [{"content": content}], "max_tokens": 100, "service_tier": "default"}


def hold_of(body: dict[str, Any]) -> int:
    """What relay holds for it, in nano-dollars: each byte could be a token."""
    return len(json.dumps(body)) * 2500 + 100 * 10_000
