"""The stub's cache model: which tokens of a prompt are read from the cache, and which are written.

Tokens. The stub has a counter of its own: the prompt is rendered as the parts' JSON without blanks, in the order of
views.py, one after another, in UTF-8, and four bytes are a token (rounded down). Usage and truth both come from it; no
client can tell how it counts, but by the usage in the answers.

Kept apart by upstream, key and model: what one has cached, no other reads. Threads of one key share what is the same.

chat and responses (as OpenAI documents it): a prompt of 1024 tokens or more is cached in steps of 128: by its first
1024 tokens, its first 1152, and so on. What is read is the longest such beginning that lives. It lives 10 minutes
since it was last in a prompt (24 hours where the body says `"prompt_cache_retention": "24h"`). Writing costs nothing.

messages (as Anthropic documents it): a beginning is cached where a block bears a `cache_control` mark, when it has 1024
tokens or more. What is read is the longest beginning that lives and ends at a mark or at one of the 19 blocks before a
mark. Whatever lies between that and the last mark is written. It lives 5 minutes, or an hour with `"ttl": "1h"`, since
it was last written or read. `tool_choice` and `thinking` belong to the beginning, between system and messages: a
change leaves tools and system cached. Without marks nothing is cached.

A call fills the cache as soon as it passes, if the upstream worked on it: a call that is answered, times out or is
left by its client does; one refused with 429, 500, 503 or 529 does not.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from tests.support.agent_runs.dialect import compact
from tests.support.agent_runs.views import CACHED_SETTINGS, View

BYTES_A_TOKEN = 4
LEAST, STEP = 1024, 128
LOOK_BACK = 20
MINUTE = 60_000
"""Times here are in milliseconds."""
LIFE_OPENAI, LIFE_RETAINED = 10 * MINUTE, 24 * 60 * MINUTE
LIFE_5M, LIFE_1H = 5 * MINUTE, 60 * MINUTE


@dataclass(frozen=True, slots=True)
class Served:
    """What the cache did for one prompt, in tokens."""

    input: int
    cached: int
    written_5m: int
    written_1h: int
    held: int
    """How much of this prompt lies in the cache from now on."""
    life: int
    """How long that lives if nobody reads it, in milliseconds."""


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a block: a place at which a beginning may be cached."""

    digest: bytes
    tokens: int
    life: int | None
    """Of the mark there; None: no mark."""


def _blocks(shown: View, body: dict[str, Any]) -> list[tuple[bytes, int | None]]:
    """A messages prompt block by block, each with its mark's life. What is rendered bears no marks; they are looked up
    in the body.
    """
    blocks: list[tuple[bytes, int | None]] = []
    for part, elements in shown.parts:
        if part == "message":
            gate = compact([shown.settings.get(name) for name in CACHED_SETTINGS]).encode()
            blocks.append((b"\0" + gate, None))
        for at, element in enumerate(elements):
            if part != "message":
                raw = body.get(part)
                blocks.append((compact(element.value).encode(), _life(raw[at] if isinstance(raw, list) else None)))
                continue
            role, content, raw = element.value["role"], element.value["content"], body["messages"][at]["content"]
            texts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for number, block in enumerate(texts):
                mark = _life(raw[number] if isinstance(raw, list) else None)
                blocks.append((compact({"role": role, "content": block}).encode(), mark))
    return blocks


def _life(block: Any) -> int | None:
    mark = block.get("cache_control") if isinstance(block, dict) else None
    return None if mark is None else LIFE_1H if mark.get("ttl") == "1h" else LIFE_5M


class Cache:
    """All that the stub's upstreams have cached."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, bytes], tuple[int, int]] = {}
        """Per owner and beginning: until when it lives, and how long a reading prolongs it."""

    def serve(self, owner: str, shown: View, body: dict[str, Any], now: int, *, fills: bool = True) -> Served:
        """Ask the cache, and fill it. `owner`: upstream, key and model as one text."""
        if shown.dialect == "messages":
            return self._by_marks(owner, _blocks(shown, body), now, fills)
        life = LIFE_RETAINED if body.get("prompt_cache_retention") == "24h" else LIFE_OPENAI
        prompt = b"".join(compact(each.value).encode() for _, elements in shown.parts for each in elements)
        return self._by_steps(owner, prompt, now, life, fills)

    def _alive(self, owner: str, digest: bytes, now: int) -> bool:
        return self._until.get((owner, digest), (-1, 0))[0] >= now

    def _by_steps(self, owner: str, prompt: bytes, now: int, life: int, fills: bool) -> Served:
        tokens = len(prompt) // BYTES_A_TOKEN
        cached = held = at = 0
        running = blake2b(digest_size=12)
        for end in range(LEAST, tokens + 1, STEP):
            running.update(prompt[at * BYTES_A_TOKEN : end * BYTES_A_TOKEN])
            at, digest = end, running.digest()
            if self._alive(owner, digest, now):
                cached = end
            held = end
            if fills:
                until = max(now + life, self._until.get((owner, digest), (0, 0))[0])
                self._until[owner, digest] = until, life
        return Served(tokens, cached, 0, 0, held, life)

    def _by_marks(self, owner: str, blocks: list[tuple[bytes, int | None]], now: int, fills: bool) -> Served:
        ends: list[_End] = []
        size, running = 0, blake2b(digest_size=12)
        for data, life in blocks:
            running.update(data)
            if data[:1] != b"\0":
                size += len(data)
                ends.append(_End(running.digest(), size // BYTES_A_TOKEN, life))
        total = ends[-1].tokens if ends else 0
        marked = [at for at, each in enumerate(ends) if each.life is not None and each.tokens >= LEAST]
        near = {at for mark in marked for at in range(max(0, mark - LOOK_BACK + 1), mark + 1)}
        read = max((at for at in near if self._alive(owner, ends[at].digest, now)), default=-1)
        cached = ends[read].tokens if read >= 0 else 0
        written = {LIFE_5M: 0, LIFE_1H: 0}
        done = cached
        for at in marked:
            life = ends[at].life or LIFE_5M
            written[life] += max(0, ends[at].tokens - done)
            done = max(done, ends[at].tokens)
        if fills:
            self._fill(owner, ends, marked, read, now)
        life = (ends[marked[-1]].life if marked else None) or LIFE_5M
        return Served(total, cached, written[LIFE_5M], written[LIFE_1H], done if marked else 0, life)

    def _fill(self, owner: str, ends: list[_End], marked: list[int], read: int, now: int) -> None:
        for at in range(read + 1):
            found = self._until.get((owner, ends[at].digest))
            if found is not None and found[0] >= now:
                self._until[owner, ends[at].digest] = now + found[1], found[1]
        for at in marked:
            life = ends[at].life or LIFE_5M
            self._until[owner, ends[at].digest] = now + life, life
