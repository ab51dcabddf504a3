"""One message of a conversation, whoever says it: text, pictures, sounds, files, tool calls and their results."""

from addons.core.reading.media import picture, placeholder
from addons.core.reading.page import LONG, Page, count
from addons.core.reading.values import brief, compact, objects, text_of, written

_MOST_PARTS = 1000
"""Of one content."""
FOLDED = frozenset(("system", "developer", "tool", "function"))
"""Who says what is sent again and again, or what is long and nobody's words."""


def message(page: Page, item: dict[str, object]) -> None:
    """Write a message of a chat."""
    role = text_of(item.get("role")) or "message"
    title = role
    if name := text_of(item.get("name")):
        title = f"{role} ({name})"
    if answered := text_of(item.get("tool_call_id")):
        title = f"{title} result of {answered}"
    calls = objects(item.get("tool_calls"))
    if isinstance(old := item.get("function_call"), dict):
        calls.append({"function": old})
    if reasoning := text_of(item.get("reasoning_content")) or text_of(item.get("reasoning")):
        page.block(f"{role} thinks", reasoning)
    content = content_text(item.get("content"))
    if content or not (calls or item.get("refusal") or item.get("audio")):
        page.block(title, content or "", LONG if role in FOLDED else None)
    if refusal := text_of(item.get("refusal")):
        page.block(f"{role} refuses", refusal)
    if isinstance(audio := item.get("audio"), dict):
        page.block(f"{role} speaks", _audio(audio))
    for call in calls:
        tool_call(page, role, call)


def tool_call(page: Page, role: str, call: dict[str, object]) -> None:
    """Write what a model asks of a tool."""
    body = call.get("function", call.get("custom"))
    function = body if isinstance(body, dict) else {}
    called(
        page,
        role,
        text_of(function.get("name")) or "?",
        text_of(call.get("id")),
        function.get("arguments", function.get("input")),
    )


def called(page: Page, role: str, name: str, call_id: str | None, arguments: object) -> None:
    """Write a call by its parts."""
    title = f"{role} calls {name}" + (f" ({call_id})" if call_id else "")
    if arguments is None:
        page.block(title, "")
    else:
        written(page, title, arguments)


def content_text(content: object) -> str | None:
    """The words of a content, pictures and the like as placeholders; None where there is none."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list):
        shown = [_part(part) for part in content[:_MOST_PARTS]]
        if len(content) > _MOST_PARTS:
            shown.append(f"[{count(len(content) - _MOST_PARTS, 'more part')} left out; the raw view has them]")
        return "\n".join(shown)
    return compact(content)


def _part(part: object) -> str:
    if not isinstance(part, dict):
        return part if isinstance(part, str) else brief(part) or "null"
    kind = text_of(part.get("type")) or "part"
    if isinstance(words := part.get("text"), str):
        return f"{words}\n{mark}" if (mark := cache_mark(part)) else words
    if kind == "refusal":
        return f"[refusal: {brief(part.get('refusal'))}]"
    if kind in ("image_url", "input_image", "image"):
        return _picture(part)
    sound = part.get("input_audio")
    if kind == "input_audio" and isinstance(sound, dict):
        return placeholder("audio", str(sound.get("data", "")), str(sound.get("format", "")))
    if kind in ("file", "input_file"):
        return _file(part)
    return f"[{kind}: {brief({name: value for name, value in part.items() if name != 'type'})}]"


def cache_mark(part: dict[str, object]) -> str:
    """What stands behind a part up to which the upstream is asked to cache; else ""."""
    control = part.get("cache_control")
    if not isinstance(control, dict):
        return ""
    lasts = text_of(control.get("ttl"))
    return f"[cached up to here{', for ' + lasts[:20] if lasts else ''}]"


def _picture(part: dict[str, object]) -> str:
    given = part.get("image_url")
    inner: dict[str, object] = given if isinstance(given, dict) else {"url": given, "detail": part.get("detail")}
    source, detail = inner.get("url"), inner.get("detail")
    shown = picture(source) if isinstance(source, str) else f"[image: {brief(part.get('file_id')) or '?'}]"
    return f"{shown[:-1]}, detail {detail}]" if isinstance(detail, str) and len(detail) < 20 else shown


def _file(part: dict[str, object]) -> str:
    inner = part.get("file")
    file: dict[str, object] = inner if isinstance(inner, dict) else part
    name = text_of(file.get("filename")) or text_of(file.get("file_id")) or text_of(file.get("file_url")) or ""
    data = file.get("file_data")
    return placeholder("file", data, name) if isinstance(data, str) else f"[file: {name}]"


def _audio(audio: dict[str, object]) -> str:
    parts = [text_of(audio.get("transcript")) or ""]
    if isinstance(data := audio.get("data"), str):
        parts.append(placeholder("audio", data))
    elif name := text_of(audio.get("id")):
        parts.append(f"[audio: {name}]")
    return "\n".join(part for part in parts if part)
