"""Scenarios in which the history itself is another: summaries, branches, chains; and those on whose cause people may
disagree.
"""

from collections.abc import Callable

from tests.support.agent_runs.cast import Cast, Steps, advance, again, failing, loop, settled
from tests.support.agent_runs.changes import add_tool, edit_at, edit_system, edited, model_changed
from tests.support.agent_runs.dice import Dice
from tests.support.agent_runs.programs import KEYS, SESSION_PROGRAMS, named_program
from tests.support.agent_runs.saying import Item, Said
from tests.support.agent_runs.texts import prose, question
from tests.support.agent_runs.thread import REFUSED, Step, Thread
from tests.support.agent_runs.troubles import long_while

_ASK_SUMMARY = (
    "Write a summary for another model that will go on with this task: what was done, what was decided, what is left."
)
_LED = {
    "Codex": "Another model began this task and left a summary of its work. Build on it and do nothing twice.\n",
    "Claude Code": "This session goes on from an earlier conversation that ran out of context. Its summary:\n",
}


def compaction(cast: Cast) -> Steps:
    """The program asks for a summary at the end of the history, as a turn like any other, and goes on from that
    summary.
    """
    thread = cast.thread()
    yield from loop(thread, 5, 8)
    yield from settled(thread)
    thread.user(_ASK_SUMMARY)
    said, step = _summary(thread)
    yield step
    _go_on_from(thread, said)
    yield again(thread, compacted=True)
    yield from loop(thread, 2, 3)


def _summary(thread: Thread, *, debatable: bool = False) -> tuple[Said, Step]:
    said = thread.say(0, size=thread.dice.between(800, 2_500))
    step = thread.ask(said, debatable=debatable)
    thread.hear(said)
    return said, step


def _go_on_from(thread: Thread, said: Said) -> None:
    """Put the summary in the history's place.

    Codex keeps what stands before the first question, and the person's questions; Claude Code its reminder, in the
    same message as the summary; the others nothing. The person may ask on at once.
    """
    name = thread.program.name
    text = _LED.get(name, "Summary of the conversation so far:\n") + said.text
    kept = thread.items[: thread.opening]
    if name == "Codex":
        questions = [each for each in thread.items[thread.opening : -2] if each.get("role") == "user"]
        kept = [*kept, *questions[: thread.dice.between(1, 3)]]
    thread.items, thread.pending, thread.last_answer, thread.sent = kept, (), None, 0
    asked = [question(thread.dice)] if thread.dice.chance(0.5) else []
    if name == "Claude Code":
        thread.user(*([thread.reminder] if thread.reminder else []), text, *asked)
        return
    thread.user(text)
    if asked:
        thread.user(*asked)


def asked_again(cast: Cast) -> Steps:
    """An earlier turn is asked once more and answered otherwise; the thread goes on from there."""
    thread = cast.thread()
    yield advance(thread)
    thread.prepare()
    there = thread.saved()
    yield again(thread)
    yield from loop(thread, 1, 2)
    thread.restore(there)
    yield again(thread)
    yield from loop(thread, 1, 2)


def answered_anew(cast: Cast) -> Steps:
    """The last turn is asked once more, as it is, since its answer did not please."""
    thread = cast.thread()
    yield from loop(thread, 1, 2)
    thread.prepare()
    there = thread.saved()
    yield again(thread)
    thread.restore(there)
    yield again(thread)
    yield from loop(thread, 1, 2)


def branched(cast: Cast) -> Steps:
    """The person goes back to an earlier question, writes another in its place, and goes on from there."""
    thread = cast.thread()
    for _ in range(cast.dice.between(1, 2)):
        yield advance(thread, 0)
    there = thread.saved()
    for _ in range(cast.dice.between(2, 3)):
        yield advance(thread, 0)
    thread.restore(there)
    for _ in range(cast.dice.between(2, 3)):
        yield advance(thread, 0)


def _chained(cast: Cast) -> Thread:
    thread = cast.thread(named_program(cast.dice.pick(("openai-agents", "support-desk"))))
    thread.chain = True
    if cast.dice.chance(0.5):
        thread.settings = {**thread.settings, "store": True}
    return thread


def chain(cast: Cast) -> Steps:
    """Each request names the answer before it and sends what is new alone."""
    thread = _chained(cast)
    yield from loop(thread, 4, 7)


def chain_changed(cast: Cast) -> Steps:
    """In a chain, instructions or tools change, which are sent each time."""
    thread = _chained(cast)
    yield from loop(thread, 2, 3)
    cast.dice.pick((edit_system, add_tool))(thread)
    yield from loop(thread, 2, 3)


def chain_asked_again(cast: Cast) -> Steps:
    """In a chain, an earlier answer is gone on from with the same input as before."""
    thread = _chained(cast)
    yield from loop(thread, 1, 2)
    thread.prepare()
    there = thread.saved()
    yield again(thread)
    yield from loop(thread, 1, 2)
    thread.restore(there)
    yield again(thread)
    yield from loop(thread, 1, 2)


def two_causes(cast: Cast) -> Steps:
    """Two causes at once, of which each alone would have cost as much."""
    thread = cast.thread()
    yield from loop(thread, 3, 4)
    which = cast.dice.below(3)
    wait = None
    if which == 0:
        edit_system(thread)
        wait = long_while(cast, thread)
    elif which == 1:
        edit_system(thread)
        model_changed(thread)
    else:
        edit_at(thread, range(thread.opening + 1, thread.asked), lambda text: f"{text} [{cast.dice.digits(4)}]")
        thread.key = cast.dice.pick([each for each in KEYS if each != thread.key])
    yield advance(thread, wait=wait)
    yield from loop(thread, 1, 2)


def retry_elsewhere(cast: Cast) -> Steps:
    """A refused call is sent again with another key."""
    thread = cast.thread()
    yield from loop(thread, 2, 3)
    thread.prepare()
    yield failing(thread, REFUSED, 429)
    thread.key = cast.dice.pick([each for each in KEYS if each != thread.key])
    yield again(thread, tries=1)
    yield from loop(thread, 1, 2)


def window(cast: Cast) -> Steps:
    """A program that keeps the newest turns alone: the history's old end is cut off, a compaction of sorts."""
    thread = cast.thread(named_program(SESSION_PROGRAMS[cast.dialect]), named=True)
    for _ in range(4):
        yield advance(thread, 0)
    turns = [at for at, each in enumerate(thread.items) if at >= thread.opening and each.get("role") == "user"]
    thread.items = [*thread.items[: thread.opening], *thread.items[turns[1] :]]
    yield advance(thread, 0, compacted=True, debatable=True)


def results_cleared(cast: Cast) -> Steps:
    """The program leaves out old results of tools, so as to save room: messages edited, or a compaction of sorts."""
    thread = cast.thread()
    for _ in range(4):
        yield advance(thread, 2)
    thread.prepare()
    results = [at for at, each in enumerate(thread.items) if _is_result(each)]
    for at in results[: len(results) // 2]:
        thread.items[at] = edited(thread.items[at], lambda _: "[Old tool result content cleared]") or thread.items[at]
    yield again(thread, debatable=True)
    yield from loop(thread, 1, 2)


def _is_result(item: Item) -> bool:
    content = item.get("content")
    first = content[0].get("type") if isinstance(content, list) and content else None
    return item.get("role") == "tool" or item.get("type") == "function_call_output" or first == "tool_result"


def compaction_by_another(cast: Cast) -> Steps:
    """The summary is asked for under a system prompt of its own: its call changes the prefix, for the sake of a
    compaction.
    """
    thread = cast.thread()
    yield from loop(thread, 4, 5)
    yield from settled(thread)
    usual = thread.system
    thread.user(_ASK_SUMMARY)
    thread.system = (*usual[:-1], f"You summarize conversations. {prose(Dice('summaries'), 500)}")
    said, step = _summary(thread, debatable=True)
    yield step
    thread.system = usual
    _go_on_from(thread, said)
    yield again(thread, compacted=True, debatable=True)
    yield from loop(thread, 1, 2)


_DEBATABLE = (retry_elsewhere, window, results_cleared, compaction_by_another)


def debatable(cast: Cast) -> Steps:
    yield from cast.dice.pick(_DEBATABLE)(cast)


HISTORIES: dict[str, Callable[[Cast], Steps]] = {
    "compaction": compaction,
    "asked_again": asked_again,
    "answered_anew": answered_anew,
    "branched": branched,
    "chain": chain,
    "chain_changed": chain_changed,
    "chain_asked_again": chain_asked_again,
    "two_causes": two_causes,
    "debatable": debatable,
}
