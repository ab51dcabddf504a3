"""The most that a request may use, judged by its body before any model sees it.

1. Input: a token is at least one byte of the decoded body, so it has at most so many tokens as bytes; each image adds
   what the largest one is counted as.
2. Output: what `max_tokens` and its like allow, times the answers that are asked for; else what the model can say.
3. What the body does not hold (an earlier response, a file, an image by its address, a tool that upstream runs) may be
   anything: then the input is the model's whole context window.

Bodies are searched for the names that tell of such things, in slices and without parsing: a name that stands in a text
counts as well, which makes a bound too high and never too low. Where letters of a name may be hidden in escapes,
nothing can be told, and the input is unbounded.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from addons.core import bounded_json
from addons.core.form_fields import Form
from addons.core.frozen import FrozenDict
from addons.core.generations import Generation
from addons.core.rates import Bound
from addons.core.slices import Sliced, at_once
from addons.core.top_level import Members

IMAGE_TOKENS = 16_384
"""More than any model counts an image as, but for `_DEAR_IMAGES`."""
_DEAR_IMAGES = (("gpt-4o-mini", 48_169),)
"""gpt-4o-mini: 2833 and 5667 for each of 8 tiles, https://platform.openai.com/docs/guides/images-vision"""
_TOOL_PROMPT = 1024
"""Tokens that Anthropic adds where there are tools: https://docs.anthropic.com/en/docs/build-with-claude/tool-use"""
_SEARCHES = 20
"""Searches of the web that are held where the request does not bound them."""
_BYTES_A_SECOND = 500
"""Of speech in any common encoding, at least."""
_SPOKEN_A_CHARACTER = 10
"""Tokens of audio that a character of text may become."""
_SPOKEN_AT_LEAST = 500
_PICTURE = 16_384
"""Tokens that one picture may take to draw."""
ASKED = ("service_tier", "speed", "inference_geo")
"""What the price depends on besides the model."""
_SLICE = 1 << 18
_OVERLAP = 1024
_BLANK = r"[ \t\r\n]{0,100}+"
_COLON = r"[ \t\r\n]{0,100}+:[ \t\r\n]{0,100}+"
_SIGNS = re.compile(
    rf"""\"(?<!\\")(?:
        image_url"{_COLON}(?:
            (?P<inline>(?:\{{{_BLANK}(?:"detail"{_COLON}"[a-z]{{1,20}}"{_BLANK},{_BLANK})?"url"{_COLON})?"data:image/)
            |(?P<image>))
        |(?P<picture>type"{_COLON}"image")
        |(?P<base64>type"{_COLON}"base64")
        |(?P<address>type"{_COLON}"url")
        |(?P<stored>(?:file_id|file_url|file_data|video_url|audio_url)"{_COLON}
            |data"{_COLON}"https?:
            |audio"{_COLON}\{{
            |type"{_COLON}"(?:input_file|file|item_reference|document|container_upload|video|image_file)")
        |(?P<audio>input_audio"{_COLON})
        |(?P<cache>cache_control"{_COLON})
        |(?P<hour>ttl"{_COLON}(?!"5m"))
        )""",
    re.VERBOSE | re.IGNORECASE,  # Go reads names so
)
"""All begin with a quotation mark, which is found ten times as fast as one of several signs."""
_ESCAPED = re.compile(r"\\u00(?:4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9A])", re.IGNORECASE)
_BLANKS = re.compile(r'[":][ \t\r\n]{100}')
_OUTPUTS: Mapping[Generation, tuple[str, ...]] = {
    Generation.CHAT: ("max_completion_tokens", "max_tokens"),
    Generation.COMPLETION: ("max_tokens",),
    Generation.RESPONSE: ("max_output_tokens",),
    Generation.MESSAGE: ("max_tokens",),
}
_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_SAYINGS = ("content", "arguments", "output", "encrypted_content", "result", "input", "code", "queries", "action")
"""Fields of an item that hold what was said."""
_ELSEWHERE = (
    *("previous_response_id", "conversation", "prompt_id", "container", "mcp_servers", "web_search_options"),
    *("search_parameters", "enable_search"),  # xAI's, and Alibaba's
)
_OWN_TOOLS = ("function", "custom", "local_shell", "apply_patch")
"""Types of tools that the client runs. Anthropic's have a date at their end."""
_SHELL = "shell"
"""The client's where it says so, else a container of upstream's:
https://platform.openai.com/docs/guides/tools-shell"""
_NAMESPACE = "namespace"
"""Several functions of the client's under one name, as Codex has them."""
_TOOL_SEARCH = "tool_search"
"""Looks among tools that were held back: upstream does, but where it says `"execution": "client"`:
https://platform.openai.com/docs/guides/tools-tool-search"""
_CLIENT_TOOLS = ("computer_", "bash_", "text_editor_", "memory_")
_LARGEST = 1 << 22
"""Characters of a value that is parsed, of those that may be long: more would take too long at once."""
_LARGEST_OTHER = 1 << 16
"""The same for all others."""
_LONGEST_WORD = 100
_NONE = ("", "null", "false", "[]")
_LONGEST_NONE = max(map(len, _NONE))
_DRAWN = "drawn"
_OF_TOOLS = ("cache", "hour")
"""Signs that count in `tools`, too: Anthropic's clients have them cached."""
_SCHEMAS = ("tools", "functions", "response_format", "text", "tool_choice", "metadata")
"""Members that hold no content: names in a schema are the client's own."""
_MARKS = 20_000

_ALWAYS_SEARCHES = re.compile(r"(?:\A|[-/:])(?:search|online|sonar|deep-research)(?:[-:]|\Z)")
"""In the names of models that search whether they are asked to or not: OpenAI's `gpt-4o-search-preview` and
`gpt-5-search-api`, Perplexity's, and OpenRouter's `:online`."""
_SEARCHERS = (Generation.CHAT, Generation.COMPLETION, Generation.RESPONSE, Generation.MESSAGE)
_BY_ADDRESS = ("url", "file_url")
"""Where the audio is, of those that fetch it: Groq's."""
_PICTURES = ("image", "mask")


READ = frozenset(
    (
        *(
            "model",
            "stream",
            "stream_options",
            "n",
            "best_of",
            "tools",
            "prediction",
            "modalities",
            "background",
            "input",
        ),
        *("messages", "prompt", "thinking", "cache_control", "max_tool_calls", *_BOUNDS, *_ELSEWHERE, *ASKED),
    )
)
"""The names that a bound depends on."""
ROUTING = (
    *("models", "preset", "plugins", "fallbacks", "route", "context_window_fallbacks", "content_policy_fallbacks"),
    *("default_fallbacks", "user_config", "providerOptions"),
)
"""Names by which some upstreams choose another model than `model`: OpenRouter's, LiteLLM's and Vercel's."""
_KNOWN = READ | {name.casefold() for name in ROUTING}


def ambiguous(names: Iterable[str]) -> str | None:
    """A name that some parsers take for one that is read here: Go's compare without case."""
    return next((name for name in names if _is_like_another(name, name)), None)


def ambiguous_in_form(names: Iterable[str]) -> str | None:
    """The same, of the fields of a form: PHP and Ruby take `model[]` and `model[0]` for `model`, too."""
    return next((name for name in names if _is_like_another(name, _without_index(name))), None)


def _is_like_another(name: str, read: str) -> bool:
    return name not in READ and name not in ROUTING and read.strip().casefold() in _KNOWN


def _without_index(name: str) -> str:
    return name.partition("[")[0]


class Unreadable(ValueError):
    """A field that the bound depends on is none; the text names it."""


class Claimed(NamedTuple):
    """What a body says of its cost."""

    model: str | None = None
    bound: Bound = Bound()
    """What is used at most, output apart, and but for `unbounded`."""
    output: int | None = 0
    """Tokens of one answer; None where the body sets no bound."""
    answers: int = 1
    unbounded: tuple[str, ...] = ()
    """Names of what the body does not bound."""
    extra_output: int = 0
    """Output beside what is bounded: predicted text that was refused."""
    asked: Mapping[str, str] = FrozenDict()
    """What the price depends on besides the model: `service_tier`, `speed`, `inference_geo`."""
    stream: bool = False
    wants_usage: bool = False
    background: bool = False
    openai_alone: bool = False
    """`output` is set by a field that others than OpenAI may not know: `max_completion_tokens`."""
    routing: str | None = None
    """A field by which some upstreams choose another model than `model`."""
    pictures: int = 0
    """Of which each counts for `tokens_a_picture` in `bound`: see `claimed_by`."""
    tokens_a_picture: int = 0
    drawn_inline: int = 0
    """Bytes of the body that are pictures written in it. Where they are counted as pictures alone, they are no text."""


def claimed(kind: Generation, body: Members, size: int) -> Claimed:
    """`claiming` without a pause."""
    return at_once(claiming(kind, body, size))


def claiming(kind: Generation, body: Members, size: int) -> Sliced[Claimed]:
    """What a JSON body of `size` bytes claims, in slices. Raises Unreadable."""
    signs = yield from _signs(body)
    model = _text(body, "model")
    output = _output(kind, body)
    unbounded = _unbounded(body, signs)
    if kind is Generation.RESPONSE and (yield from _refers(body)):
        unbounded += ("an item by its id",)
    hosted, added = yield from _tools(kind, body)
    unbounded += hosted
    images = signs["image"] + signs["inline"] + max(signs["picture"], signs["base64"])
    drawn = kind is Generation.IMAGE
    transcribed = kind is Generation.TRANSCRIPTION
    spoken = len(_text(body, "input") or "") if kind is Generation.SPEECH else 0
    bound = Bound(
        input=size + images * _image_tokens(model) + added,
        audio=transcribed or bool(signs["audio"]) or "audio" in _texts(body, "modalities"),
        images=drawn or bool(images),
        cache_writes=kind is not Generation.MESSAGE or bool(signs["cache"]) or "cache_control" in body,
        hour_long=bool(signs["hour"]),
        searches=_searches(kind, body, model or "", unbounded),
        milliseconds=_heard(size) if transcribed else 0,
        characters=spoken,
    )
    found = Claimed(
        model,
        bound,
        output,
        answers=(yield from _answers(kind, body)),
        unbounded=unbounded,
        extra_output=(yield from _bytes(body, "prediction")),
        asked={name: value for name in ASKED if _is_of(kind, name) and (value := _word(body, name))},
        stream=_flag(body, "stream"),
        wants_usage=_wants_usage(body),
        # Of a picture it is something else.
        background=_flag(body, "background") if kind is Generation.RESPONSE else False,
        openai_alone=kind is Generation.CHAT and _number(body, "max_tokens") is None,
        routing=next((name for name in ROUTING if name in body.spans), None),
        pictures=images,
        tokens_a_picture=_image_tokens(model),
        drawn_inline=_drawn_inline(kind, body, signs),
    )
    if transcribed:
        return found._replace(output=None, unbounded=unbounded + _fetched(body.spans))
    if drawn:
        return found._replace(output=_PICTURE, extra_output=0)
    if kind is Generation.EMBEDDING:
        return found._replace(output=0)
    if kind is Generation.SPEECH:
        return found._replace(output=max(_SPOKEN_AT_LEAST, _SPOKEN_A_CHARACTER * spoken))
    return found


def claimed_by(model: str, kind: Generation | None, asked: Claimed) -> Claimed:
    """The same claim where another model is asked: pictures count for more in some, and some search by themselves."""
    bound = asked.bound
    more = asked.pictures * (_image_tokens(model) - asked.tokens_a_picture)
    searches = _SEARCHES if kind in _SEARCHERS and always_searches(model) else 0
    return asked._replace(
        model=model,
        bound=bound._replace(input=bound.input + more, searches=max(bound.searches, searches)),
        tokens_a_picture=_image_tokens(model),
    )


def of_form(kind: Generation, form: Form, size: int) -> Claimed:
    """What a multipart form of `size` bytes claims. Raises Unreadable."""
    fields, names = form.fields, {*form.fields, *form.files}
    if (name := next((each for each in form.files if each in READ), None)) is not None:
        raise Unreadable(name)
    count = fields.get("n", "1")
    if not (count.isascii() and count.isdigit() and 0 < int(count[:9]) <= 1000):
        raise Unreadable("n")
    found = Claimed(
        fields.get("model"),
        stream=fields.get("stream") == "true",
        routing=next((name for name in ROUTING if name in map(_without_index, names)), None),
    )
    if kind is Generation.IMAGE:
        text = sum(len(value.encode()) for value in fields.values())
        pictures = len(form.files) + sum(name.startswith(_PICTURES) for name in fields)
        bound = Bound(text + pictures * IMAGE_TOKENS, images=True)
        return found._replace(bound=bound, output=_PICTURE, answers=int(count))
    heard = Bound(size, audio=True, milliseconds=_heard(size))
    return found._replace(bound=heard, output=None, unbounded=_fetched(fields))


def _heard(size: int) -> int:
    """Milliseconds of audio that so many bytes may be."""
    return -(-size * 1000 // _BYTES_A_SECOND)


def _fetched(names: Iterable[str]) -> tuple[str, ...]:
    return ("audio by its address",) if any(name in _BY_ADDRESS for name in names) else ()


def _signs(body: Members) -> Sliced[Counter[str]]:
    found: Counter[str] = Counter()
    for name, (begin, end) in body.spans.items():
        if name in _SCHEMAS and name != "tools":
            continue
        for start in range(begin, end, _SLICE):
            if end - begin > _SLICE:
                yield
            until = min(end, start + _SLICE + _OVERLAP)
            if name != "tools":
                if body.text.find("\\u00", start, until) >= 0 and _ESCAPED.search(body.text, start, until):
                    found["escaped"] += 1
                if _BLANKS.search(body.text, start, until):
                    found["blanks"] += 1
            # What begins in the overlap belongs to the next slice.
            for sign in _SIGNS.finditer(body.text, start, until):
                kind = sign.lastgroup or ""
                if sign.start() < start + _SLICE and (name != "tools" or kind in _OF_TOOLS):
                    found[kind] += 1
                    if kind == "inline":
                        found[_DRAWN] += max(0, body.text.find('"', sign.end(), end) - sign.end())
    return found


def _drawn_inline(kind: Generation, body: Members, signs: Mapping[str, int]) -> int:
    """Characters that are pictures, where what is written as one can be nothing else: what a tool was called with, or
    the environment of a shell that a client has run, may have any names in it, and is read as text."""
    if kind is Generation.CHAT or (kind is Generation.RESPONSE and not body.holds("input", "shell_call")):
        return signs[_DRAWN]
    if kind is not Generation.MESSAGE or not signs["base64"] or body.holds("messages", '"input"'):
        return 0
    begin, end = body.spans.get("messages", (0, 0))
    sources = _SOURCE.finditer(body.text, begin, end)
    return sum(max(0, body.text.find('"', source.end(), end) - source.end()) for source in sources)


_SOURCE = re.compile(
    rf'''"source"{_COLON}\{{{_BLANK}"type"{_COLON}"base64"{_BLANK},{_BLANK}"media_type"{_COLON}"image/[a-z]{{1,10}}"'''
    rf'''{_BLANK},{_BLANK}"data"{_COLON}"'''
)
"""Anthropic's pictures, as its SDKs write them."""


def _bytes(body: Members, name: str) -> Sliced[int]:
    """How many bytes of the body a value is."""
    if name not in body.spans:
        return 0
    start, end = body.spans.get(name, (0, 0))
    if body.text.isascii():
        return end - start
    size = 0
    for at in range(start, end, _SLICE):
        size += len(body.text[at : min(end, at + _SLICE)].encode())
        yield
    return size


def _refers(body: Members) -> Sliced[bool]:
    """Whether an item of a response's input stands for one that upstream has: it has an id, and nothing to say."""
    if not body.holds("input", '"id"'):
        return False
    try:
        items = yield from _reading(body, "input")
    except Unreadable:  # too much to be read
        return True
    return isinstance(items, list) and any(
        isinstance(item, dict) and "id" in item and not any(item.get(name) for name in _SAYINGS) for item in items
    )


def _unbounded(body: Members, signs: Mapping[str, int]) -> tuple[str, ...]:
    there = [name for name in _ELSEWHERE if name in body.spans]
    names = [name for name in there if body.size(name) > _LONGEST_NONE or body.raw(name) not in _NONE]
    if body.begins("prompt", "{"):  # a prompt that is kept upstream
        names.append("prompt.id")
    if signs["address"] or signs["image"]:
        names.append("an image's address")
    if signs["stored"]:
        names.append("a file")
    if signs["escaped"]:
        names.append("letters written as \\u escapes")
    if signs["blanks"]:
        names.append("a hundred blanks in a row")
    return tuple(names)


def _tools(kind: Generation, body: Members) -> Sliced[tuple[tuple[str, ...], int]]:
    """Tools that upstream runs, and tokens that tools add."""
    tools = (yield from _reading(body, "tools")) if "tools" in body.spans else None
    if tools is None:
        return (), 0
    added = _TOOL_PROMPT if kind is Generation.MESSAGE else 0
    if not isinstance(tools, list):
        raise Unreadable("tools")
    hosted = []
    for tool in tools:
        if not isinstance(tool, dict):
            raise Unreadable("tools")
        if not _is_own(tool):
            hosted.append(f"the tool {str(tool.get('type') or next(iter(tool), ''))[:40]}")
    return tuple(dict.fromkeys(hosted)), added


def _is_own(tool: Mapping[str, object]) -> bool:
    """Whether the client runs a tool."""
    type_ = tool.get("type")
    if type_ is None:
        # Anthropic's have a name, and OpenAI's old ones a function; Google's own say nothing but what they are.
        return "name" in tool or "function" in tool
    if type_ == _SHELL:
        where = tool.get("environment")
        return where is None or (isinstance(where, dict) and where.get("type") == "local")
    if type_ == _NAMESPACE:
        inside = tool.get("tools")
        return isinstance(inside, list) and all(isinstance(each, dict) and _is_plain(each) for each in inside)
    if type_ == _TOOL_SEARCH:
        return tool.get("execution") == "client"
    return _is_plain(tool)


def _is_plain(tool: Mapping[str, object]) -> bool:
    """Whether the type alone says that the client runs a tool."""
    type_ = tool.get("type")
    return isinstance(type_, str) and (type_ in _OWN_TOOLS or type_.startswith(_CLIENT_TOOLS))


def always_searches(model: str) -> bool:
    """Whether a model searches the web whether it is asked to or not."""
    return _ALWAYS_SEARCHES.search(model.lower()) is not None


def _searches(kind: Generation, body: Members, model: str, unbounded: Sequence[str]) -> int:
    always = kind in _SEARCHERS and always_searches(model)
    if not always and not any("search" in name for name in unbounded):
        return 0
    # Only the Responses API has this field; others pass over it.
    bound = _number(body, "max_tool_calls") if kind is Generation.RESPONSE and not always else None
    return _SEARCHES if bound is None else bound


def _output(kind: Generation, body: Members) -> int | None:
    if not any(_number(body, name) for name in _OUTPUTS.get(kind, ())):  # none, or 0, which some take for none
        return None
    # An upstream may read another name than the one that is meant.
    bounds = [bound for name in _BOUNDS if (bound := _number(body, name)) is not None]
    if kind is Generation.MESSAGE and bounds and isinstance(thinking := _value(body, "thinking"), dict):
        bounds.append(_whole(thinking.get("budget_tokens"), "thinking") or 0)
    return max(bounds) if bounds else None


def _answers(kind: Generation, body: Members) -> Sliced[int]:
    answers = _number(body, "n") or 1
    if kind is Generation.COMPLETION:
        answers = max(answers, _number(body, "best_of") or 1)
        prompts = (yield from _reading(body, "prompt")) if body.begins("prompt", "[") else ""
        if isinstance(prompts, list) and not all(isinstance(each, int) for each in prompts):
            answers *= max(1, len(prompts))
    return answers


def _wants_usage(body: Members) -> bool:
    if "stream_options" not in body.spans:
        return False
    options = _value(body, "stream_options")
    if options is not None and not isinstance(options, dict):
        raise Unreadable("stream_options")
    return options is not None and options.get("include_usage") is True


def _flag(body: Members, name: str) -> bool:
    """A boolean: some upstreams take 1 and "true" for one, others for none."""
    if name not in body.spans:
        return False
    value = _value(body, name)
    if value is not None and not isinstance(value, bool):
        raise Unreadable(name)
    return value is True


def _texts(body: Members, name: str) -> Sequence[str]:
    if name not in body.spans:
        return ()
    value = _value(body, name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Unreadable(name)
    return value


def _number(body: Members, name: str) -> int | None:
    return _whole(_value(body, name), name) if name in body.spans else None


def _whole(value: object, name: str) -> int | None:
    """A number that is whole, not negative, and within what anybody asks for. Raises Unreadable."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1 << 40:
        raise Unreadable(name)
    return value


def _text(body: Members, name: str) -> str | None:
    value = _value(body, name)
    if value is not None and not isinstance(value, str):
        raise Unreadable(name)
    return value


def _word(body: Members, name: str) -> str | None:
    """A text that names one of a few things."""
    if name not in body.spans:
        return None
    if body.size(name) > _LONGEST_WORD:
        raise Unreadable(name)
    return _text(body, name)


def _value(body: Members, name: str) -> Any:
    if name not in body.spans:
        return None
    if body.size(name) > _LARGEST_OTHER:
        raise Unreadable(name)
    try:
        return body.value(name, marks=_MARKS)
    except ValueError:
        raise Unreadable(name) from None


def _reading(body: Members, name: str) -> Sliced[Any]:
    """A value that may be long, in slices."""
    if body.size(name) <= _LARGEST_OTHER:
        return _value(body, name)
    if body.size(name) > _LARGEST:
        raise Unreadable(name)
    try:
        return (yield from bounded_json.loading(body.raw(name)))
    except ValueError:
        raise Unreadable(name) from None


def _is_of(kind: Generation, name: str) -> bool:
    """Whether a price may depend on a field: `speed` is another one where text is read aloud."""
    return name != "speed" or kind is Generation.MESSAGE


def counts_pictures(model: str) -> bool:
    """Whether OpenAI and Anthropic count an inline picture of this model by its size in pixels, so as no more than
    `IMAGE_TOKENS` or what `_DEAR_IMAGES` says, however many bytes it has.

    https://platform.openai.com/docs/guides/images-vision, https://docs.anthropic.com/en/docs/build-with-claude/vision
    """
    return model.startswith(_SEEING)


_SEEING = ("gpt-4o", "chatgpt-4o", "gpt-4.1", "gpt-4-turbo", "gpt-4.5", "gpt-5", "o1", "o3", "o4-mini", "claude-")


def _image_tokens(model: str | None) -> int:
    return next((count for name, count in _DEAR_IMAGES if name in (model or "")), IMAGE_TOKENS)


_LONGEST_ANSWERS = (
    ("gpt-3.5-turbo", 4096),
    ("gpt-4-turbo", 4096),
    ("gpt-4o-mini-transcribe", 2000),
    ("gpt-4o-transcribe", 2000),
    ("gpt-4o-2024-05-13", 4096),
    ("gpt-4o", 16_384),
    ("gpt-4.1", 32_768),
    ("gpt-5-chat", 16_384),
    ("gpt-5-pro", 272_000),
    ("gpt-5", 128_000),
    ("o1-preview", 32_768),
    ("o1-mini", 65_536),
    ("o1", 100_000),
    ("o3", 100_000),
    ("o4-mini", 100_000),
)
"""Tokens that a model says at most, by the beginning of its name: the first that fits.
https://platform.openai.com/docs/models"""


def longest_answer(model: str, window: int | None) -> int | None:
    """Tokens of one answer of a model, where a request sets no bound; None where that is not known. `window` is its
    context window."""
    known = next((most for name, most in _LONGEST_ANSWERS if model.startswith(name)), None)
    return known if known is not None else window


def estimated_tokens(size: int) -> int:
    """What so many bytes of a request are about: for limits a minute, and where upstream has told nothing."""
    return -(-size // 4)
