"""Anthropic's Messages API, requests: system blocks, tools, and messages of blocks; counts of tokens, too.

Shapes: https://docs.anthropic.com/en/api/messages, .../messages-count-tokens.
"""

from itertools import groupby

from addons.core.reading import tools, turns
from addons.core.reading.body import Body, document
from addons.core.reading.media import described, picture, placeholder
from addons.core.reading.messages import cache_mark, called
from addons.core.reading.page import LONG, Page, count, size
from addons.core.reading.values import brief, compact, objects, parameters, text_of, written

type Block = dict[str, object]

_CONTENT = frozenset(("system", "messages", "tools", "model"))
_MOST_BLOCKS = 2000
_CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
_TEXTS = ("text", "image", "document", "search_result", "container_upload", "input_audio")


def request(body: Body, page: Page) -> None:
    """Write a request, or one that asks how many tokens it would take."""
    write(body, page, document(body, page))


def write(body: Body, page: Page, value: dict[str, object]) -> None:
    """Write the object of a request."""
    page.field("model", value.get("model"))
    parameters(page, value, _CONTENT)

    def standing() -> None:
        tools.offered(page, value.get("tools"))
        system(page, value.get("system"))

    turns.conversation(body, page, objects(value.get("messages")), "message", message, standing)


def system(page: Page, said: object) -> None:
    """Write a system prompt: a text, or blocks, each by itself, as each may be cached by itself."""
    if isinstance(said, str):
        page.block("system", said, LONG)
        return
    for block in objects(said)[:_MOST_BLOCKS]:
        mark = cache_mark(block)
        page.block(f"system {mark}".rstrip(), text_of(block.get("text")) or _part(block), LONG)


def message(page: Page, said: dict[str, object]) -> None:
    """Write a message: what is said together, and each call and result by itself."""
    role = text_of(said.get("role")) or "message"
    content = said.get("content")
    if isinstance(content, str):
        page.block(role, content)
        return
    blocks(page, role, objects(content))


def blocks(page: Page, role: str, said: list[Block]) -> None:
    """Write the blocks of a message."""
    if len(said) > _MOST_BLOCKS:
        page.note(f"{count(len(said) - _MOST_BLOCKS, 'more block')} left out; the raw view has them")
    for is_text, group in groupby(said[:_MOST_BLOCKS], lambda block: block.get("type") in _TEXTS):
        if is_text:
            page.block(role, "\n".join(_part(block) for block in group))
            continue
        for block in group:
            _block(page, role, block)
    if not said:
        page.block(role, "")


def _block(page: Page, role: str, block: Block) -> None:
    kind = text_of(block.get("type")) or "block"
    if kind in _CALLS:
        server = text_of(block.get("server_name"))
        name = text_of(block.get("name")) or "?"
        called(page, role, f"{server}.{name}" if server else name, text_of(block.get("id")), block.get("input"))
    elif kind.endswith("tool_result"):
        _result(page, block)
        return
    elif kind == "thinking":
        signed = size(len(sign)) if isinstance(sign := block.get("signature"), str) and sign else ""
        words = text_of(block.get("thinking")) or f"(kept to itself{', signed: ' + signed if signed else ''})"
        page.block(f"{role} thinks", words)
    elif kind == "redacted_thinking":
        sealed = block.get("data")
        page.block(f"{role} thinks", f"(encrypted: {size(len(sealed)) if isinstance(sealed, str) else '?'})")
    elif kind == "compaction":
        page.block("compaction of what was said before", text_of(block.get("content")) or "(empty)")
    else:
        written(page, kind, {name: value for name, value in block.items() if name not in ("type", "cache_control")})
    if mark := cache_mark(block):
        page.comment(mark)


def _result(page: Page, block: Block) -> None:
    """What a tool has answered; those of the upstream's own tools have their lists of what was found."""
    failed = " (an error)" if block.get("is_error") is True else ""
    title = f"tool result of {brief(block.get('tool_use_id')) or '?'}{failed}"
    content = block.get("content")
    mark = cache_mark(block)
    if isinstance(content, str):
        text = content
    elif isinstance(content, list):
        text = "\n".join(_part(each) if isinstance(each, dict) else brief(each) or "" for each in content)
    else:
        text = "" if content is None else compact(content)
    page.block(title, text, LONG)
    if mark:
        page.comment(mark)


def _part(block: Block) -> str:
    """A block that is a text, or stands among texts."""
    kind = text_of(block.get("type")) or "block"
    mark = cache_mark(block)
    shown = _shown(kind, block)
    return f"{shown}\n{mark}" if mark and kind in _TEXTS else shown


def _shown(kind: str, block: Block) -> str:
    if isinstance(words := block.get("text"), str):
        return words
    given = block.get("source")
    source: Block = given if isinstance(given, dict) else {}
    if kind == "image":
        return _picture(source)
    if kind == "document":
        return _document(source, text_of(block.get("title")) or "")
    if kind in ("search_result", "web_search_result"):
        where = brief(given if isinstance(given, str) else block.get("url")) or "?"
        words = "\n".join(_part(each) for each in objects(block.get("content")))
        return f"[found: {brief(block.get('title')) or '?'}, {where}]" + (f"\n{words}" if words else "")
    rest = {name: value for name, value in block.items() if name not in ("type", "cache_control", "encrypted_content")}
    return f"[{kind}: {brief(rest)}]"


def _picture(source: Block) -> str:
    data = source.get("data")
    if isinstance(data, str):
        return f"[image: {described(data, text_of(source.get('media_type')) or 'data')}]"
    return picture(text_of(source.get("url")) or text_of(source.get("file_id")) or "?")


def _document(source: Block, title: str) -> str:
    data, kind = source.get("data"), text_of(source.get("media_type")) or ""
    name = ", ".join(part for part in (title, kind) if part)
    if source.get("type") == "text" and isinstance(data, str):
        return f"[document: {name}]\n{data}"
    if isinstance(data, str):
        return placeholder("document", data, name)
    if isinstance(content := source.get("content"), list):
        return f"[document: {title}]\n" + "\n".join(_part(each) for each in objects(content))
    where = text_of(source.get("url")) or text_of(source.get("file_id")) or "?"
    return f"[document: {', '.join(part for part in (title, where) if part)}]"
