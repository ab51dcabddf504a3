"""Items of the Responses API, of input and output alike: who says what, which tool is called, what came of it."""

from collections.abc import Callable

from addons.core.reading import tools
from addons.core.reading.media import placeholder
from addons.core.reading.messages import FOLDED, called, content_text
from addons.core.reading.page import LONG, Page, size
from addons.core.reading.values import brief, objects, text_of, written

type _Item = dict[str, object]

_HIDDEN = frozenset(("type", "id", "status", "call_id", "encrypted_content"))


def item(page: Page, said: _Item, speaker: str = "assistant") -> None:
    """Write one item; `speaker` is who says what has no role."""
    kind = text_of(said.get("type")) or "message"
    if kind == "message":
        role = text_of(said.get("role")) or speaker
        phase = text_of(said.get("phase"))
        words = content_text(said.get("content")) or ""
        page.block(f"{role} ({phase})" if phase else role, words, LONG if role in FOLDED else None)
    elif kind.endswith(("_call_output", "_search_output")):
        _result(page, said, kind)
    elif (writer := _WRITERS.get(kind)) is not None:
        writer(page, said)
    elif kind.endswith("_call"):
        _hosted(page, said, kind)
    else:
        written(page, kind, {name: value for name, value in said.items() if name != "type"}, LONG)


def _name(said: _Item) -> str:
    """The name of a tool, behind the namespace or the server that it belongs to."""
    within = text_of(said.get("namespace")) or text_of(said.get("server_label"))
    name = text_of(said.get("name")) or "?"
    return f"{within}.{name}" if within else name


def _function(page: Page, said: _Item) -> None:
    arguments = said.get("arguments", said.get("input"))
    called(page, "assistant", _name(said), text_of(said.get("call_id")), arguments)


def _result(page: Page, said: _Item, kind: str) -> None:
    """What a tool has answered: text, parts, or an object (a screenshot, found tools)."""
    of = brief(said.get("call_id")) or "?"
    if kind == "tool_search_output":
        page.gap()
        page.comment(f"tools found by {of}")
        tools.offered(page, said.get("tools"))
        return
    output = said.get("output")
    if isinstance(output, dict):
        output = [output]
    page.block(f"tool result of {of}", content_text(output) or "", LONG)


def _reasoning(page: Page, said: _Item) -> None:
    words = content_text(said.get("summary")) or content_text(said.get("content"))
    sealed = said.get("encrypted_content")
    kept = f"(kept to itself, encrypted: {size(len(sealed))})" if isinstance(sealed, str) else "(kept to itself)"
    page.block("assistant thinks", words or kept)


def _compaction(page: Page, said: _Item) -> None:
    sealed = said.get("encrypted_content")
    told = f"encrypted: {size(len(sealed))}" if isinstance(sealed, str) else ""
    page.block("compaction of what was said before", content_text(said.get("summary")) or f"({told or 'empty'})")


def _drawn(page: Page, said: _Item) -> None:
    result = said.get("result")
    page.block("assistant draws", placeholder("image", result) if isinstance(result, str) else "")


def _shell(page: Page, said: _Item) -> None:
    """A command: Codex' `local_shell_call`, and `shell_call` with several."""
    action = said.get("action")
    given: _Item = action if isinstance(action, dict) else {}
    command = given.get("command", given.get("commands"))
    lines = [each for each in command if isinstance(each, str)] if isinstance(command, list) else []
    text = (" " if "command" in given else "\n").join(lines)
    called(page, "assistant", "shell", text_of(said.get("call_id")), text or given)


def _code(page: Page, said: _Item) -> None:
    called(page, "assistant", "code interpreter", text_of(said.get("id")), said.get("code"))
    for output in objects(said.get("outputs")):
        page.block("code interpreter answers", text_of(output.get("logs")) or brief(output) or "", LONG)


def _mcp(page: Page, said: _Item) -> None:
    called(page, "assistant", _name(said), text_of(said.get("id")), said.get("arguments"))
    if said.get("error"):
        written(page, "tool error", said["error"], LONG)
    elif output := content_text(said.get("output")):
        page.block("tool result", output, LONG)


def _mcp_tools(page: Page, said: _Item) -> None:
    page.gap()
    page.comment(f"tools of the server {brief(said.get('server_label')) or '?'}")
    tools.offered(page, said.get("tools"))


def _tools(page: Page, said: _Item) -> None:
    page.gap()
    page.comment("more tools")
    tools.offered(page, said.get("tools"))


def _hosted(page: Page, said: _Item, kind: str) -> None:
    """A tool of the upstream's own: `web_search_call`, `file_search_call`, `computer_call`."""
    told = said.get("action")
    found = said.get("results")
    if not isinstance(told, dict):
        told = {name: value for name, value in said.items() if name not in _HIDDEN and name != "results"}
    words = text_of(told.get("query")) if set(told) <= {"type", "query", "sources"} else None
    called(page, "assistant", kind.removesuffix("_call").replace("_", " "), text_of(said.get("id")), words or told)
    if found:
        written(page, "found", found, LONG)


_WRITERS: dict[str, Callable[[Page, _Item], None]] = {
    "function_call": _function,
    "custom_tool_call": _function,
    "reasoning": _reasoning,
    "compaction": _compaction,
    "compaction_summary": _compaction,
    "image_generation_call": _drawn,
    "local_shell_call": _shell,
    "shell_call": _shell,
    "code_interpreter_call": _code,
    "mcp_call": _mcp,
    "mcp_list_tools": _mcp_tools,
    "additional_tools": _tools,
}
