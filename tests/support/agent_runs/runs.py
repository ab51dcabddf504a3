"""The runs in their order: a deck of scenarios, dealt anew when it is through, and played a few runs at a time."""

from collections.abc import Callable, Iterator
from itertools import count, islice

from tests.support.agent_runs import ordinary
from tests.support.agent_runs.calls import Call, answered
from tests.support.agent_runs.cast import MINUTE, Cast, Steps, in_time
from tests.support.agent_runs.changes import CHANGES, thinking_dropped
from tests.support.agent_runs.dice import Dice
from tests.support.agent_runs.histories import HISTORIES
from tests.support.agent_runs.thread import SECOND, Step
from tests.support.agent_runs.troubles import TROUBLES

DIALECTS = ("chat", "responses", "messages")
SCENARIOS: dict[str, Callable[[Cast], Steps]] = {
    "plain_chat": ordinary.plain_chat,
    "short_chat": ordinary.short_chat,
    "agent_loop": ordinary.agent_loop,
    "subagents": ordinary.subagents,
    "with_title": ordinary.with_title,
    "two_agents": ordinary.two_agents,
    "twins": ordinary.twins,
    "twins_with_sessions": ordinary.twins_with_sessions,
    "interrupted": ordinary.interrupted,
    "short_pause": ordinary.short_pause,
    "thinking_dropped": thinking_dropped,
    **CHANGES,
    **TROUBLES,
    **HISTORIES,
}
_DIALECTS_OF: dict[str, tuple[str, ...]] = {
    name: ("responses",) for name in ("chain", "chain_changed", "chain_asked_again")
}
_DIALECTS_OF["thinking_dropped"] = ("responses", "messages")
_OFTEN = (
    *("agent_loop", "compaction", "subagents", "message_edited", "first_message_edited"),
    *("cache_expired", "model_changed", "setting_changed", "other_upstream"),
)
"""These come twice in a deck."""


def agent_runs(seed: int, calls: int) -> Iterator[Call]:
    """So many calls of agent runs, in the order in which they pass; the same for the same seed.

    Fewer calls are the beginning of more. All scenarios occur in the first 500.
    """
    return islice(answered(_steps(Dice(f"agent runs {seed}"))), calls)


def _steps(dice: Dice) -> Iterator[tuple[int, Step]]:
    """Groups of runs, one group after another, since a pause of hours in one run must not be filled by others without
    end.
    """
    now, runs = 0, _runs(dice)
    while True:
        group = [(now + dice.below(90 * SECOND), next(runs)) for _ in range(dice.between(1, 4))]
        for at, step in in_time(group):
            now = at
            yield at, step
        now += dice.between(90 * SECOND, 20 * MINUTE)


def _runs(dice: Dice) -> Iterator[Steps]:
    numbers = count()
    for deal in count(dice.below(len(DIALECTS))):
        turns = {name: deal + at for at, name in enumerate(SCENARIOS)}
        for name in dice.shuffled([*SCENARIOS, *_OFTEN]):
            dialects = _DIALECTS_OF.get(name, DIALECTS)
            turns[name] += 1
            label = f"run{next(numbers)}"
            yield SCENARIOS[name](
                Cast(label, name, dialects[turns[name] % len(dialects)], Dice(f"{dice.digits(16)} {label}"))
            )
