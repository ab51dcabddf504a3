"""Who takes part in a run, and the moves that scenarios are made of."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from tests.support.agent_runs.dice import Dice
from tests.support.agent_runs.programs import KEYS, RESPONSES, UPSTREAMS, Program, of_dialect
from tests.support.agent_runs.texts import prose, question
from tests.support.agent_runs.thread import ANSWERED, SECOND, Step, Thread
from tests.support.agent_runs.toolbox import TASK

Steps = Iterator[Step]
MINUTE = 60 * SECOND


def _weighted(dialect: str) -> list[Program]:
    """The programs of a dialect, those with sessions of their own twice: they are the most used."""
    return [each for each in of_dialect(dialect) for _ in range(2 if each.ids not in (None, "constant") else 1)]


class Cast:
    """The threads of one run."""

    def __init__(self, name: str, scenario: str, dialect: str, dice: Dice) -> None:
        self.name, self.scenario, self.dialect, self.dice = name, scenario, dialect, dice
        self._threads = 0

    def thread(self, program: Program | None = None, *, named: bool | None = None, marks: str | None = None) -> Thread:
        """A thread with its first question, not yet asked. `named`: whether it tells its session's id, if its program
        can.
        """
        dice = self.dice
        program = program or dice.pick(_weighted(self.dialect))
        usual, _ = UPSTREAMS[program.dialect.name]
        named = dice.chance(0.6) if named is None else named
        thread = Thread(
            self._label(),
            self.scenario,
            dice,
            program,
            dice.pick(KEYS),
            usual,
            program.models[0] if dice.chance(0.6) else dice.pick(program.models),
            program.settings,
            program.system,
            program.tools,
            dice.uuid() if named else None,
            marks=(marks or "5m") if program.marks else None,
        )
        self._open(thread)
        return thread

    def streaming(self) -> Program:
        """A program whose answers are streams."""
        return self.dice.pick([each for each in _weighted(self.dialect) if each.stream])

    def like(self, other: Thread, *, alike: bool = False) -> Thread:
        """Another thread of the same program, on the same key; with the very same first question if `alike`."""
        session = None if other.session is None else self.dice.uuid()
        made = self._anew(other, session=session, opening=other.opening, reminder=other.reminder)
        made.items = list(other.items[: other.opening + 1 if alike else other.opening])
        if not alike:
            made.user(*([made.reminder] if made.reminder else []), question(self.dice))
        return made

    def helper(self, parent: Thread, prompt: str, *, agent: str = "explorer", tools: bool = True) -> Thread:
        """A subagent: a system prompt of its own, fewer tools, what its parent wrote as its first message."""
        own = parent.program.ids == "codex" and parent.session is not None
        made = self._anew(parent, parent=parent.label, session=self.dice.uuid() if own else parent.session)
        instructions = prose(Dice(f"{parent.program.name}:{agent}"), 3_000)
        made.system = (f"You are {agent}, working for {parent.program.name}. {instructions}",)
        made.tools = tuple(each for each in parent.tools if each.name != TASK)[:6] if tools else ()
        if not tools:
            made.settings = without_tool_settings(parent.settings)
        made.user(prompt)
        return made

    def _anew(self, other: Thread, **changes: Any) -> Thread:
        """A thread with the other's program, key, model, prompt and settings, and no history."""
        blank: dict[str, Any] = {"opening": 0, "reminder": None, "fresh": True, **changes}
        return replace(
            other, label=self._label(), items=[], pending=(), sent=0, last_answer=None, last_text="", **blank
        )

    def _label(self) -> str:
        self._threads += 1
        return f"{self.name}.{self._threads}"

    def _open(self, thread: Thread) -> None:
        dice = self.dice
        if thread.program.name == "Codex":
            rules = RESPONSES.message("developer", [f"<permissions>{prose(dice, 600)}</permissions>"])
            place = RESPONSES.message(
                "user", [f"<environment_context><cwd>/home/{dice.digits(6)}</cwd></environment_context>"]
            )
            thread.items += [rules, place]
            thread.opening = 2
        if thread.program.name == "Claude Code":
            thread.reminder = f"<system-reminder>{prose(dice, dice.between(300, 2_500))}</system-reminder>"
        thread.user(*([thread.reminder] if thread.reminder else []), question(dice))


def without_tool_settings(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in settings.items() if name not in ("tool_choice", "parallel_tool_calls")}


def advance(thread: Thread, calls: int | None = None, **how: Any) -> Step:
    """The thread's next call, which is answered; `calls`: of how many tools the answer makes use."""
    thread.prepare()
    return again(thread, calls, **how)


def again(thread: Thread, calls: int | None = None, **how: Any) -> Step:
    """A call with what the thread holds, and nothing new; it is answered."""
    dice = thread.dice
    if calls is None:
        calls = dice.pick((0, 1, 1, 2, 4))
    said = thread.say(calls)
    step = thread.ask(said, **how)
    thread.hear(said)
    return step


def failing(thread: Thread, outcome: str, status: int, **how: Any) -> Step:
    """A call with what the thread holds that comes to nothing."""
    assert outcome != ANSWERED
    return thread.ask(thread.say(), outcome=outcome, status=status, **how)


def loop(thread: Thread, low: int, high: int) -> Steps:
    for _ in range(thread.dice.between(low, high)):
        yield advance(thread)


def settled(thread: Thread) -> Steps:
    """Go on until no result of a tool is owed."""
    if thread.pending:
        yield advance(thread, 0)


def in_time(runs: Iterable[tuple[int, Steps]]) -> Iterator[tuple[int, Step]]:
    """Several runs at once, each with the time at which it starts: their steps in the order of time, each with its
    time.
    """
    waiting: list[tuple[int, int, Step, Steps]] = []
    for number, (start, run) in enumerate(runs):
        _await(waiting, start, number, run)
    while waiting:
        at, number, step, run = heapq.heappop(waiting)
        yield at, step
        _await(waiting, at, number, run)


def _await(waiting: list[tuple[int, int, Step, Steps]], now: int, number: int, run: Steps) -> None:
    step = next(run, None)
    if step is not None:
        heapq.heappush(waiting, (now + step.wait, number, step, run))


def side_by_side(*runs: Steps) -> Steps:
    """Parts of one run at once."""
    before = 0
    for at, step in in_time((0, each) for each in runs):
        yield replace(step, wait=at - before)
        before = at
