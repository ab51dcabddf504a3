"""Scenarios in which nothing goes wrong: talk, loops with tools, subagents, several agents on one key."""

from tests.support.agent_runs.cast import (
    MINUTE,
    Cast,
    Steps,
    advance,
    again,
    failing,
    loop,
    side_by_side,
    without_tool_settings,
)
from tests.support.agent_runs.programs import SESSION_PROGRAMS, named_program
from tests.support.agent_runs.saying import Said, ToolCall
from tests.support.agent_runs.texts import prose, question
from tests.support.agent_runs.thread import LEFT, Thread
from tests.support.agent_runs.toolbox import TASK


def plain_chat(cast: Cast) -> Steps:
    """A person and a model talk, without tools."""
    thread = cast.thread()
    thread.tools = ()
    thread.settings = without_tool_settings(thread.settings)
    for _ in range(cast.dice.between(4, 8)):
        yield advance(thread, 0)


def short_chat(cast: Cast) -> Steps:
    """Talk that is too short to be cached."""
    thread = cast.thread()
    thread.tools, thread.system, thread.marks = (), ("Answer briefly.",), None
    thread.settings = {name: each for name, each in thread.settings.items() if name in ("temperature", "max_tokens")}
    for _ in range(cast.dice.between(2, 4)):
        yield advance(thread, 0)


def agent_loop(cast: Cast) -> Steps:
    """Calls of tools and their results, several at once, the results in another order than the calls."""
    thread = cast.thread()
    for calls in (1, cast.dice.between(3, 5), *(cast.dice.between(0, 3) for _ in range(cast.dice.between(3, 8)))):
        yield advance(thread, calls)


def subagents(cast: Cast) -> Steps:
    """A main agent sends two or three subagents, which run at once, and goes on with what they found."""
    main = cast.thread()
    yield from loop(main, 1, 2)
    main.prepare()
    helpers = [
        cast.helper(main, f"{prose(cast.dice, 300)} #{cast.dice.digits(8)}") for _ in range(cast.dice.between(2, 3))
    ]
    sent = _sending(main, helpers)
    yield main.ask(sent)
    main.hear(sent)
    yield from side_by_side(*(loop(each, 2, 4) for each in helpers))
    main.give_results([(call.id, each.last_text or "Done.") for call, each in zip(sent.calls, helpers, strict=True)])
    yield again(main)
    yield from loop(main, 1, 2)


def _sending(main: Thread, helpers: list[Thread]) -> Said:
    dice, dialect = main.dice, main.program.dialect
    prompts = [_first_text(each) for each in helpers]
    given = [{"description": prose(dice, 30), "prompt": each, "agent": "explorer"} for each in prompts]
    calls = tuple(ToolCall(dialect.call_id + dice.digits(22), TASK, each) for each in given)
    thinking = prose(dice, 200) if main.thinks else None
    return Said(dialect.answer_id + dice.digits(22), "", thinking, calls)


def _first_text(thread: Thread) -> str:
    content = thread.items[0]["content"]
    return content if isinstance(content, str) else str(content[0]["text"])


def with_title(cast: Cast) -> Steps:
    """Besides its work, a program has a title made for the session by a small call of its own."""
    main = cast.thread()
    title = cast.helper(
        main, f"Write a title for this conversation:\n{question(cast.dice)}", agent="titles", tools=False
    )
    title.model = main.program.models[-1]
    yield from side_by_side(loop(main, 3, 5), iter([advance(title, 0)]))


def two_agents(cast: Cast) -> Steps:
    """Two of the same program on one key, with the same system prompt and tools, mixed."""
    one = cast.thread()
    other = cast.like(one)
    yield from side_by_side(loop(one, 3, 6), loop(other, 3, 6))


def twins(cast: Cast) -> Steps:
    """Two conversations that begin with the same message and then part; nothing names their sessions."""
    yield from _parting(cast, cast.thread(named=False))


def twins_with_sessions(cast: Cast) -> Steps:
    """The same of a program that names its sessions."""
    yield from _parting(cast, cast.thread(named_program(SESSION_PROGRAMS[cast.dialect]), named=True))


def _parting(cast: Cast, one: Thread) -> Steps:
    other = cast.like(one, alike=True)
    yield advance(one)
    yield advance(other)
    yield from side_by_side(loop(one, 2, 4), loop(other, 2, 4))


def interrupted(cast: Cast) -> Steps:
    """The person stops an answer and says something else: the stopped request stays in the history, its answer does
    not.
    """
    thread = cast.thread(cast.streaming())
    yield from loop(thread, 2, 3)
    thread.prepare()
    yield failing(thread, LEFT, 200)
    thread.user("[Request interrupted by user]", question(cast.dice))
    yield again(thread)
    yield from loop(thread, 1, 2)


def short_pause(cast: Cast) -> Steps:
    """A pause that the cache survives: minutes, or more where it is kept for longer."""
    thread = cast.thread(marks="1h")
    if cast.dialect != "messages":
        thread.settings = {**thread.settings, "prompt_cache_retention": "24h"}
    yield from loop(thread, 2, 3)
    minutes = cast.dice.between(12, 45) if cast.dialect == "messages" else cast.dice.between(90, 600)
    yield advance(thread, wait=minutes * MINUTE)
    yield from loop(thread, 1, 2)
