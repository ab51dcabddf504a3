"""The tools that a model is offered, in any dialect: names first, and how large each is; schemas are left out.

Functions (`{"type": "function", "function": {...}}`, or without the inner object in the Responses API), Anthropic's
(`input_schema`), Gemini's (`functionDeclarations`), tools of the upstream's own (`{"type": "web_search"}`,
`{"googleSearch": {}}`), and namespaces that hold tools themselves.
"""

from collections.abc import Iterator

from addons.core.reading.page import Page, count, one_line, size
from addons.core.reading.values import brief, bytes_of, objects, text_of

_MOST = 256
_DEEPEST = 3
_SCHEMAS = ("parameters", "input_schema", "parametersJsonSchema", "inputSchema", "schema")
_ABOUT = ("type", "name", "description", "tools", *_SCHEMAS)


def offered(page: Page, tools: object, name: str = "tools") -> None:
    """Write a list of tools, a line each: name, parameters, size, what it is for. Nothing where there are none."""
    given = objects(tools)
    if not given:
        return
    lines = [line for tool in given for line in _lines(tool, "", _DEEPEST)]
    page.field(name, f"{len(lines)} ({size(bytes_of(tools))})")
    for title, said in lines[:_MOST]:
        page.item(title, said)
    if len(lines) > _MOST:
        page.note(f"{count(len(lines) - _MOST, 'more tool')} left out; the raw view has them")


def _lines(tool: dict[str, object], within: str, deepest: int) -> Iterator[tuple[str, str]]:
    """Each tool's title and what is said of it; of one that holds tools, those behind it."""
    if declared := objects(tool.get("functionDeclarations", tool.get("function_declarations"))):
        for each in declared:
            yield from _lines(each, within, deepest)
        return
    inner = tool.get("function", tool.get("custom"))
    said: dict[str, object] = inner if isinstance(inner, dict) else tool
    name = within + (text_of(said.get("name")) or text_of(tool.get("type")) or ", ".join(list(tool)[:3]) or "?")
    held = objects(tool.get("tools")) if deepest else []
    told = [size(bytes_of(tool)), f"holds {count(len(held), 'tool')}" if held else "", *_marks(tool), _purpose(said)]
    yield _title(name, said), " · ".join(part for part in told if part)
    for each in held:
        yield from _lines(each, f"{name}.", deepest - 1)


def _title(name: str, said: dict[str, object]) -> str:
    schema = next((found for each in _SCHEMAS if isinstance(found := said.get(each), dict)), {})
    properties = schema.get("properties")
    return f"{name}({', '.join(properties)})" if isinstance(properties, dict) and properties else name


def _marks(tool: dict[str, object]) -> Iterator[str]:
    """Where the upstream is asked to cache up to, and what is loaded later."""
    if tool.get("cache_control"):
        yield "cached up to here"
    if tool.get("defer_loading") is True:
        yield "loaded when it is looked for"


def _purpose(said: dict[str, object]) -> str:
    """What it is for; of a tool of the upstream's own its settings."""
    if described := text_of(said.get("description")):
        return one_line(described, 160)
    rest = {name: value for name, value in said.items() if name not in _ABOUT and name != "cache_control"}
    if "type" not in said and "name" not in said:  # {"googleSearch": {...}}
        rest = {name: value for name, value in rest.items() if value}
        return brief(rest) or "" if rest else ""
    return brief(rest) or "" if rest and not any(each in said for each in _SCHEMAS) else "(no description)"
