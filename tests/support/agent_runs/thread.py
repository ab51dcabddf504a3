"""A thread while it runs: what it holds, and the requests it makes of that."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.support.agent_runs.dialect import Prompt
from tests.support.agent_runs.dice import Dice
from tests.support.agent_runs.programs import UPSTREAMS, Program
from tests.support.agent_runs.saying import Item, Said, ToolCall
from tests.support.agent_runs.texts import prose, question, tool_output
from tests.support.agent_runs.toolbox import TASK, Tool, arguments

SECOND = 1_000
ANSWERED, REFUSED, TIMED_OUT, LEFT = "answered", "refused", "timed_out", "left"
"""How a call ends: answered whole; refused before any work (429, 500, 503, 529); nothing heard in time (504); left by
its client amid the answer."""


@dataclass(frozen=True, slots=True)
class Step:
    """A call as its run makes it, before the upstream's cache is asked."""

    scenario: str
    thread: str
    parent: str | None
    program: Program
    body: dict[str, Any]
    kept: tuple[Item, ...]
    """A chain's items that the upstream keeps."""
    headers: tuple[tuple[str, str], ...]
    key: str
    upstream: str
    said: Said
    outcome: str
    status: int
    wait: int
    """Milliseconds since the run's previous call."""
    took: int
    """Milliseconds until it ended."""
    compacted: bool = False
    """Its history was just replaced by a summary, or cut at its old end."""
    debatable: bool = False


@dataclass
class Thread:
    label: str
    scenario: str
    dice: Dice
    program: Program
    key: str
    upstream: str
    model: str
    settings: dict[str, Any]
    system: tuple[str, ...]
    tools: tuple[Tool, ...]
    session: str | None = None
    parent: str | None = None
    marks: str | None = None
    chain: bool = False
    """Each request names the answer before it and sends what is new alone (Responses)."""
    items: list[Item] = field(default_factory=list)
    pending: tuple[ToolCall, ...] = ()
    """Calls of tools without results as yet."""
    sent: int = 0
    last_answer: str | None = None
    last_text: str = ""
    opening: int = 0
    """How many items stand before what the person asks first."""
    reminder: str | None = None
    """What Claude Code puts before the first question, in the same message."""
    asked: int = 0
    """How many items the last request was made of."""
    fresh: bool = True
    """The first question is there already, and not asked as yet."""

    @property
    def thinks(self) -> bool:
        """Whether its answers tell what the model thought: in messages, where the request asks for it."""
        asked = self.program.dialect.name != "messages" or self.settings.get("thinking", {}).get("type") == "enabled"
        return self.program.thinks and asked

    def saved(self) -> "Thread":
        """The thread as it is now, to come back to."""
        return replace(self, items=list(self.items))

    def restore(self, saved: "Thread") -> None:
        self.items, self.pending = list(saved.items), saved.pending
        self.sent, self.last_answer, self.last_text = saved.sent, saved.last_answer, saved.last_text

    def user(self, *texts: str) -> None:
        self.items.append(self.program.dialect.user(texts))

    def prepare(self) -> None:
        """Add what the next request brings: the results of pending calls, or what the person says next."""
        if self.fresh:
            self.fresh = False
            return
        if not self.pending:
            return self.user(question(self.dice))
        order = self.dice.shuffled(self.pending) if self.dice.chance(0.3) else self.pending
        self.give_results([(each.id, tool_output(self.dice)) for each in order])

    def give_results(self, outputs: Sequence[tuple[str, str]]) -> None:
        self.items += self.program.dialect.results(outputs)
        self.pending = ()

    def say(self, calls: int = 0, size: int | None = None, only: str | None = None) -> Said:
        """What the model answers: text, or calls of so many tools, all of one kind where `only` is given."""
        dice, dialect = self.dice, self.program.dialect
        usable = [each for each in self.tools if each.name == only or (only is None and each.name != TASK)]
        asked = [dice.pick(usable) for _ in range(calls)] if usable else []
        made = tuple(ToolCall(dialect.call_id + dice.digits(22), each.name, arguments(dice, each)) for each in asked)
        text = "" if made and dice.chance(0.4) else f"{prose(dice, size or dice.between(30, 900))} [{dice.digits(10)}]"
        thinking = prose(dice, dice.between(60, 600)) if self.thinks else None
        created = 1_767_225_600 + dice.below(10_000_000)
        return Said(dialect.answer_id + dice.digits(22), text, thinking, made, created)

    def ask(
        self,
        said: Said,
        *,
        wait: int | None = None,
        outcome: str = ANSWERED,
        status: int = 200,
        tries: int = 0,
        compacted: bool = False,
        debatable: bool = False,
    ) -> Step:
        """The request as things stand. The history stays as it is: `hear` takes the answer."""
        self.asked = len(self.items)
        program, chained = self.program, self.chain and self.last_answer is not None
        headers, named = program.session_parts(self.session)
        prompt = Prompt(
            self.model,
            {**self.settings, **named},
            self.system,
            self.tools,
            tuple(self.items),
            self.sent if chained else 0,
            self.last_answer if chained else None,
            program.stream,
            self.marks,
        )
        return Step(
            self.scenario,
            self.label,
            self.parent,
            program,
            program.dialect.body(prompt),
            tuple(self.items[: prompt.sent]),
            (*self._common_headers(tries), *headers),
            self.key,
            self.upstream,
            said,
            outcome,
            status,
            self.dice.between(2 * SECOND, 25 * SECOND) if wait is None else wait,
            60 * SECOND if outcome == TIMED_OUT else self.dice.between(300, 1_900),
            compacted,
            debatable,
        )

    def hear(self, said: Said) -> None:
        self.items += self.program.dialect.said(said)
        self.pending, self.sent = said.calls, len(self.items)
        self.last_answer, self.last_text = said.id, said.text

    def _common_headers(self, tries: int) -> tuple[tuple[str, str], ...]:
        program = self.program
        own_key = program.dialect.name == "messages" and program.name != "Claude Code"
        auth = ("x-api-key", self.key) if own_key else ("authorization", f"Bearer {self.key}")
        accept = "text/event-stream" if program.stream else "application/json"
        stainless = any(name == "x-stainless-lang" for name, _ in program.headers)
        count = (("x-stainless-retry-count", str(tries)),) if stainless else ()
        return (
            ("content-type", "application/json"),
            ("accept", accept),
            ("user-agent", program.user_agent),
            auth,
            *program.headers,
            *count,
        )


def path_of(step: Step) -> str:
    usual = UPSTREAMS[step.program.dialect.name][0]
    beta = "?beta=true" if step.program.name == "Claude Code" else ""
    return ("" if step.upstream == usual else f"/{step.upstream}") + step.program.dialect.path + beta
