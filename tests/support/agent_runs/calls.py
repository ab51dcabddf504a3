"""From steps in the order of time to calls: the stub's upstreams answer, bill and remember."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.agent_runs.cache import Cache
from tests.support.agent_runs.dialect import compact
from tests.support.agent_runs.saying import Usage
from tests.support.agent_runs.thread import ANSWERED, LEFT, REFUSED, TIMED_OUT, Step, path_of
from tests.support.agent_runs.truth import ThreadPast, Truth
from tests.support.agent_runs.views import view


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as it passes a relay, and what is true of it."""

    index: int
    """Its place in the order of passing, from 0: calls are sent and answered one after another, as far as a thread
    goes.
    """
    at: float
    """When it passes, in seconds since 2026-01-01 UTC."""
    took: float
    """Seconds until its answer, or whatever there was of it, had ended."""
    scenario: str
    program: str
    dialect: str
    """`chat`, `responses` or `messages`."""
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    key: str
    """The client's key, as in the headers."""
    upstream: str
    model: str
    request: dict[str, Any]
    """The body; shared with other calls, so not to be changed."""
    answer: bytes
    """Of a call that its client left: what it had heard until then."""
    answer_type: str
    status: int
    outcome: str
    """`answered`, `refused`, `timed_out` or `left`."""
    usage: Usage | None
    """As it stands in the answer; None where no usage does."""
    truth: Truth

    @property
    def body(self) -> bytes:
        return compact(self.request).encode()


class Upstreams:
    """The stub: its cache, and for the truth what has passed of each thread."""

    def __init__(self) -> None:
        self._cache = Cache()
        self._threads: defaultdict[str, ThreadPast] = defaultdict(ThreadPast)

    def call(self, index: int, at: int, step: Step) -> Call:
        dialect = step.program.dialect
        model = step.body["model"]
        seen = view(dialect.name, step.body, step.kept)
        fills = step.outcome != REFUSED
        served = self._cache.serve(f"{step.upstream} {step.key} {model}", seen, step.body, at, fills=fills)
        billed = Usage(served.input, served.cached, served.written_5m, served.written_1h, step.said.tokens)
        told = billed if step.outcome == ANSWERED else None
        truth = self._threads[step.thread].truth(index, at, step, seen, served, told)
        answer, answer_type = _answer(step, model, billed)
        return Call(
            index,
            at / 1_000,
            step.took / 1_000,
            step.scenario,
            step.program.name,
            dialect.name,
            "POST",
            path_of(step),
            step.headers,
            step.key,
            step.upstream,
            model,
            step.body,
            answer,
            answer_type,
            step.status,
            step.outcome,
            told,
            truth,
        )


def _answer(step: Step, model: str, usage: Usage) -> tuple[bytes, str]:
    dialect = step.program.dialect
    if step.outcome in (REFUSED, TIMED_OUT):
        return compact(dialect.error(step.status)).encode(), "application/json"
    if not step.program.stream:
        whole = compact(dialect.json_answer(step.said, model, usage)).encode()
        return b"" if step.outcome == LEFT else whole, "application/json"
    events = dialect.events(step.said, model, usage)
    return b"".join(events[: len(events) // 2] if step.outcome == LEFT else events), "text/event-stream"


def answered(steps: Iterable[tuple[int, Step]]) -> Iterator[Call]:
    """The calls for steps that come in the order of time, each with its time in milliseconds."""
    upstreams = Upstreams()
    for index, (at, step) in enumerate(steps):
        yield upstreams.call(index, at, step)
