"""Scenarios in which a program changes what comes before the new turn: tools, system prompt, earlier messages, model,
settings.
"""

from collections.abc import Callable
from typing import Any

from tests.support.agent_runs.cast import Cast, Steps, advance, loop, settled
from tests.support.agent_runs.programs import SESSION_PROGRAMS, named_program
from tests.support.agent_runs.saying import Item
from tests.support.agent_runs.texts import prose
from tests.support.agent_runs.thread import Thread
from tests.support.agent_runs.toolbox import TOOLS, Tool


def once(change: Callable[[Thread], object], low: int = 2, high: int = 4) -> Callable[[Cast], Steps]:
    """A scenario: some calls, the change, some more calls."""

    def run(cast: Cast) -> Steps:
        thread = cast.thread()
        yield from loop(thread, low, high)
        change(thread)
        yield from loop(thread, 2, 3)

    return run


def each_time(change: Callable[[Thread], object]) -> Callable[[Cast], Steps]:
    """A scenario: the change comes before every call."""

    def run(cast: Cast) -> Steps:
        thread = cast.thread()
        for _ in range(cast.dice.between(4, 6)):
            change(thread)
            yield advance(thread)

    return run


def reorder_tools(thread: Thread) -> None:
    before = thread.tools
    while thread.tools == before:
        thread.tools = tuple(thread.dice.shuffled(before))


def _with_tool(thread: Thread, change: Callable[[Tool], Tool]) -> None:
    at = thread.dice.below(len(thread.tools))
    thread.tools = (*thread.tools[:at], change(thread.tools[at]), *thread.tools[at + 1 :])


def describe_tool(thread: Thread) -> None:
    """One tool has another description: new at its end, or altogether."""
    dice = thread.dice
    addition = f" Note {dice.digits(6)}: {prose(dice, 60)}"
    _with_tool(thread, lambda tool: tool.described(tool.description + addition if dice.chance(0.7) else addition[1:]))


def change_schema(thread: Thread) -> None:
    """One tool has one more parameter, or another schema for one of them (some have names like `-n`)."""
    dice = thread.dice
    new = {"type": "string", "enum": [dice.digits(4), dice.digits(4)], "description": prose(dice, 40)}

    def change(tool: Tool) -> Tool:
        names = [*tool.parameters["properties"], "x-mode"]
        name = dice.pick(names)
        old = tool.parameters["properties"].get(name)
        return tool.with_parameter(
            name, new if old is None else {**old, "description": prose(dice, 50) + dice.digits(4)}
        )

    _with_tool(thread, change)


def add_tool(thread: Thread) -> None:
    """A server of tools is there now: more tools, behind the others or before them."""
    have = {each.name for each in thread.tools}
    added = tuple(TOOLS[name] for name in TOOLS if name not in have)[: thread.dice.between(1, 2)]
    thread.tools = (*thread.tools, *added) if thread.dice.chance(0.6) else (*added, *thread.tools)


def remove_tool(thread: Thread) -> None:
    gone = thread.dice.below(len(thread.tools))
    thread.tools = tuple(each for at, each in enumerate(thread.tools) if at != gone)


def _with_line(thread: Thread, line: str, mark: str) -> None:
    """Put the line into the last block of the system prompt, at its end, in place of one with the same mark."""
    *others, last = thread.system
    kept = [each for each in last.split("\n") if not each.startswith(mark)]
    thread.system = (*others, "\n".join([*kept, line]))


def stamp_system(thread: Thread) -> None:
    """The time, at the end of the system prompt."""
    dice = thread.dice
    hour, minute, second = dice.between(10, 23), dice.between(10, 59), dice.between(10, 59)
    time = f"2026-01-{dice.between(10, 28)}T{hour}:{minute}:{second}.{dice.between(100_000, 999_999)}Z"
    _with_line(thread, f"Current time: {time}", "Current time: ")


def number_system(thread: Thread) -> None:
    """An id, at the start of the system prompt."""
    first, *others = thread.system
    rest = first.partition("\n")[2] if first.startswith("request-id: ") else first
    thread.system = (f"request-id: {thread.dice.uuid()}\n{rest}", *others)


def edit_system(thread: Thread) -> None:
    """A file of instructions changed on the way."""
    _with_line(thread, f"From AGENTS.md: {prose(thread.dice, 300)} {thread.dice.digits(4)}", "From AGENTS.md: ")


def edited(item: Item, change: Callable[[str], str]) -> Item | None:
    """The item with its first text changed; None if it has no text that people or programs edit."""
    if "output" in item:
        return {**item, "output": change(item["output"])}
    content = item.get("content")
    if isinstance(content, str):
        return {**item, "content": change(content)}
    if not isinstance(content, list):
        return None
    for at, block in enumerate(content):
        name = {"text": "text", "input_text": "text", "output_text": "text", "tool_result": "content"}.get(
            block.get("type", "")
        )
        if name is not None:
            return {**item, "content": [*content[:at], {**block, name: change(block[name])}, *content[at + 1 :]]}
    return None


def edit_at(thread: Thread, places: range, change: Callable[[str], str]) -> None:
    """Edit one of these items, any of those that have a text."""
    found = [(at, made) for at in places if (made := edited(thread.items[at], change)) is not None]
    place, changed = thread.dice.pick(found)
    thread.items[place] = changed


def message_edited(cast: Cast) -> Steps:
    """An earlier message, answer or result of a tool is not what it was."""
    thread = cast.thread()
    yield from loop(thread, 3, 4)
    own = f"[edited {cast.dice.digits(6)}]"
    edit_at(
        thread,
        range(thread.opening + 1, thread.asked),
        lambda text: text[: len(text) // 2] + own + text[len(text) // 2 :],
    )
    yield from loop(thread, 1, 3)


def first_message_edited(cast: Cast) -> Steps:
    """What the program puts at the head of the history (the folder's state, a reminder) is not what it was; the rest
    is.
    """
    thread = cast.thread(named=True)
    yield from loop(thread, 3, 4)
    edit_at(thread, range(max(1, thread.opening)), lambda text: f"Changed {cast.dice.digits(6)}. {text}")
    yield from loop(thread, 1, 3)


def results_reordered(cast: Cast) -> Steps:
    """Results of parallel calls stand in another order than in the request before."""
    thread = cast.thread()
    yield advance(thread, 3)
    thread.prepare()
    results = len(thread.items) - (1 if cast.dialect == "messages" else 3)
    said = thread.say(2)
    yield thread.ask(said)
    thread.hear(said)
    if cast.dialect == "messages":
        message = thread.items[results]
        thread.items[results] = {**message, "content": message["content"][::-1]}
    else:
        thread.items[results : results + 3] = thread.items[results : results + 3][::-1]
    yield from loop(thread, 1, 3)


def thinking_dropped(cast: Cast) -> Steps:
    """With a new question of the person, the program leaves out what the model thought before."""
    thread = cast.thread(named_program(SESSION_PROGRAMS[cast.dialect]))
    yield from loop(thread, 2, 3)
    yield from settled(thread)
    thread.items = [kept for each in thread.items if (kept := _without_thinking(each)) is not None]
    yield from loop(thread, 1, 2)


def _without_thinking(item: Item) -> Item | None:
    if item.get("type") == "reasoning":
        return None
    if item.get("role") != "assistant" or not isinstance(item["content"], list):
        return item
    return {**item, "content": [each for each in item["content"] if each["type"] != "thinking"]}


def model_changed(thread: Thread) -> None:
    thread.model = thread.dice.pick([each for each in thread.program.models if each != thread.model])


def change_setting(thread: Thread) -> None:
    """One setting: of sampling, of effort, or which tool may be called."""
    thread.settings = {**thread.settings, **thread.dice.pick(_other_settings(thread))}


def _other_settings(thread: Thread) -> list[dict[str, Any]]:
    dialect, settings, dice = thread.program.dialect.name, thread.settings, thread.dice
    choices: list[dict[str, Any]] = []
    if "temperature" in settings and "thinking" not in settings:
        choices.append({"temperature": dice.pick((0.5, 0.9))})
    if dialect == "messages":
        tool = {"type": "tool", "name": thread.tools[0].name}
        choices.append(
            {"tool_choice": dice.pick(({"type": "any"}, {"type": "auto", "disable_parallel_tool_use": True}, tool))}
        )
    if "thinking" in settings:
        choices += [{"thinking": {**settings["thinking"], "budget_tokens": 10_000}}, {"thinking": {"type": "disabled"}}]
    if dialect == "responses":
        choices += [
            {"reasoning": {**settings.get("reasoning", {}), "effort": dice.pick(("low", "high"))}},
            {"tool_choice": "required"},
        ]
    if dialect == "chat":
        choices += [
            {"reasoning_effort": dice.pick(("low", "high"))},
            {"tool_choice": "required"},
            {"parallel_tool_calls": False},
        ]
    return choices


def setting_for_one_call(cast: Cast) -> Steps:
    """A setting is another one for a single call."""
    thread = cast.thread()
    yield from loop(thread, 2, 3)
    usual = thread.settings
    change_setting(thread)
    yield advance(thread)
    thread.settings = usual
    yield from loop(thread, 1, 2)


def add_tool_and_tell(thread: Thread) -> None:
    """Another tool, and a system prompt that tells of it: two changes of the prefix at once."""
    add_tool(thread)
    edit_system(thread)


CHANGES: dict[str, Callable[[Cast], Steps]] = {
    "tools_reordered": once(reorder_tools),
    "tools_reordered_each_time": each_time(reorder_tools),
    "tool_described": once(describe_tool),
    "tool_schema_changed": once(change_schema),
    "tool_added": once(add_tool),
    "tool_removed": once(remove_tool),
    "tool_and_system_changed": once(add_tool_and_tell),
    "time_in_system": each_time(stamp_system),
    "id_in_system": each_time(number_system),
    "system_edited": once(edit_system),
    "message_edited": message_edited,
    "first_message_edited": first_message_edited,
    "results_reordered": results_reordered,
    "model_changed": once(model_changed),
    "setting_changed": once(change_setting),
    "setting_for_one_call": setting_for_one_call,
}
