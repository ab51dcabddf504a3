"""Gemini's own API, requests: generateContent, streamGenerateContent, countTokens, embedContent.

The model stands in the path. Names are read in camel case and, as some clients write them, with underscores. Shapes:
https://ai.google.dev/api/generate-content, .../tokens, .../embeddings.
"""

from functools import lru_cache

from addons.core.generations import GEMINI_GENERATES, gemini_call
from addons.core.reading import tools, turns
from addons.core.reading.body import Body, document
from addons.core.reading.media import described
from addons.core.reading.messages import called
from addons.core.reading.page import LONG, Page, count
from addons.core.reading.values import brief, compact, objects, parameters, text_of, written

type Part = dict[str, object]

_CONTENT = frozenset(
    ("contents", "systemInstruction", "system_instruction", "tools", "model", "generateContentRequest", "content")
)
_MOST_PARTS = 2000
_INNER = ("generateContentRequest", "generate_content_request", "request")
"""Where a request may stand in another: of countTokens, and of the Code Assist that Gemini CLI asks."""


def field(value: dict[str, object], name: str) -> object:
    """A field by its name in camel case, or as it is called with underscores."""
    if name in value:
        return value[name]
    return value.get(_underscored(name))


@lru_cache(64)
def _underscored(name: str) -> str:
    return "".join(f"_{one.lower()}" if one.isupper() else one for one in name)


def request(body: Body, page: Page) -> None:
    """Write a request."""
    value = document(body, page)
    named = gemini_call(body.about.path)
    page.field("model", named[0] if named else brief(value.get("model")))
    if named and named[1] not in GEMINI_GENERATES:
        page.field("asks", named[1])
    if batch := objects(value.get("requests")):  # batchEmbedContents
        for number, each in enumerate(batch[:_MOST_PARTS]):
            _content(page, each.get("content"), f"text {number}")
        return
    for name in _INNER:
        if isinstance(inner := value.get(name), dict):
            parameters(page, value, frozenset((name, "model")))
            value = inner
    config = field(value, "generationConfig")
    settings: dict[str, object] = config if isinstance(config, dict) else {}
    parameters(page, {**value, **settings}, _CONTENT | {"generationConfig", "generation_config"})

    def standing() -> None:
        tools.offered(page, value.get("tools"))
        _content(page, field(value, "systemInstruction"), "system", LONG)

    contents = value.get("contents")
    if isinstance(contents, str):
        contents = [{"parts": [{"text": contents}]}]
    elif isinstance(contents, dict):
        contents = [contents]
    if value.get("content") is not None:  # embedContent
        _content(page, value.get("content"), "text")
    turns.conversation(body, page, objects(contents), "content", content, standing)


def content(page: Page, said: dict[str, object]) -> None:
    """Write one of the contents."""
    parts(page, text_of(said.get("role")) or "user", objects(said.get("parts")))


def _content(page: Page, said: object, title: str, most: int | None = None) -> None:
    """A content whose role goes without saying: an object, or a text."""
    if isinstance(said, str):
        page.block(title, said, most)
    elif isinstance(said, dict):
        given = said.get("parts")
        words = "\n".join(_shown(each) for each in (objects(given) or ([given] if isinstance(given, dict) else [])))
        page.block(title, words, most)


def parts(page: Page, role: str, said: list[Part]) -> None:
    """Write the parts of a content: what is said together, and each thought, call and result by itself."""
    if len(said) > _MOST_PARTS:
        page.note(f"{count(len(said) - _MOST_PARTS, 'more part')} left out; the raw view has them")
    titled: list[tuple[str, list[str]]] = []
    for part in said[:_MOST_PARTS]:
        title = f"{role} thinks" if part.get("thought") is True else role
        if isinstance(call := field(part, "functionCall"), dict):
            _written(page, titled)
            called(page, role, text_of(call.get("name")) or "?", text_of(call.get("id")), call.get("args") or {})
        elif isinstance(result := field(part, "functionResponse"), dict):
            _written(page, titled)
            _result(page, result)
        elif isinstance(code := field(part, "executableCode"), dict):
            _written(page, titled)
            called(page, role, f"code ({brief(code.get('language')) or '?'})", None, text_of(code.get("code")))
        elif isinstance(ran := field(part, "codeExecutionResult"), dict):
            _written(page, titled)
            page.block(f"code result ({brief(ran.get('outcome')) or '?'})", text_of(ran.get("output")) or "", LONG)
        elif titled and titled[-1][0] == title:
            titled[-1][1].append(_shown(part))
        else:
            titled.append((title, [_shown(part)]))
    _written(page, titled)
    if not said:
        page.block(role, "")


def _written(page: Page, titled: list[tuple[str, list[str]]]) -> None:
    for title, words in titled:
        page.block(title, "\n".join(words))
    titled.clear()


def _result(page: Page, result: Part) -> None:
    """What a tool has answered: an object, which nearly always holds one text."""
    title = f"tool result of {text_of(result.get('id')) or text_of(result.get('name')) or '?'}"
    answer = result.get("response")
    only = next(iter(answer.values())) if isinstance(answer, dict) and len(answer) == 1 else None
    if isinstance(only, str):
        page.block(title, only, LONG)
    else:
        written(page, title, answer, LONG)
    for part in objects(result.get("parts")):
        page.block(title, _shown(part))


def _shown(part: Part) -> str:
    if isinstance(words := part.get("text"), str):
        return words
    if isinstance(data := field(part, "inlineData"), dict):
        kind = text_of(field(data, "mimeType")) or "data"
        encoded = data.get("data")
        return f"[{kind.partition('/')[0]}: {described(encoded, kind) if isinstance(encoded, str) else kind}]"
    if isinstance(file := field(part, "fileData"), dict):
        return f"[file: {brief(field(file, 'mimeType')) or '?'}, {brief(field(file, 'fileUri')) or '?'}]"
    rest = {name: value for name, value in part.items() if name not in ("thoughtSignature", "thought_signature")}
    return f"[{compact(rest)}]" if rest else ""
