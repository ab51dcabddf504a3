"""Answers of chat completions and of old completions, whole or streamed: the text they amount to."""

from dataclasses import dataclass, field

from addons.core.reading.body import Body, Stream, document
from addons.core.reading.media import placeholder
from addons.core.reading.messages import called, content_text
from addons.core.reading.openai_errors import problem
from addons.core.reading.page import Page
from addons.core.reading.values import objects, text_of, timing, tokens_out, usage

_MOST_CHOICES = 128


@dataclass(slots=True)
class _Call:
    id: str | None = None
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    transcript: list[str] = field(default_factory=list)
    sound: list[str] = field(default_factory=list)
    calls: dict[int, _Call] = field(default_factory=dict)
    role: str = "assistant"
    finish: str | None = None


class Gathered:
    """An answer so far: chunks of a stream, or one whole body."""

    def __init__(self) -> None:
        self.choices: dict[int, _Choice] = {}
        self.model: str | None = None
        self.usage: object = None
        self.error: object = None

    @property
    def finished(self) -> bool:
        """Whether the model said of every choice why it ended."""
        return bool(self.choices) and all(choice.finish for choice in self.choices.values())

    def add(self, chunk: dict[str, object]) -> None:
        """Take a chunk, or a whole answer; what is not understood is passed over."""
        self.model = self.model or text_of(chunk.get("model"))
        self.usage = chunk.get("usage") or self.usage
        self.error = self.error or chunk.get("error")
        for position, item in enumerate(objects(chunk.get("choices"))):
            index = item.get("index")
            number = index if isinstance(index, int) else position
            if number not in self.choices and len(self.choices) >= _MOST_CHOICES:
                continue
            choice = self.choices.setdefault(number, _Choice())
            choice.finish = text_of(item.get("finish_reason")) or choice.finish
            self.usage = item.get("usage") or self.usage  # Moonshot's streams have it here
            _append(choice.text, item.get("text"))
            message = item.get("delta", item.get("message"))
            if isinstance(message, dict):
                _add_message(choice, message)


def _append(pieces: list[str], value: object) -> None:
    text = value if isinstance(value, str) else content_text(value)
    if text:
        pieces.append(text)


def _add_message(choice: _Choice, message: dict[str, object]) -> None:
    # Thousands of times in a long stream, nearly always with content alone.
    for name, value in message.items():
        if not value:
            continue
        if name == "content":
            _append(choice.text, value)
        elif name == "role":
            choice.role = text_of(value) or choice.role
        elif name in ("reasoning_content", "reasoning") and not (
            name == "reasoning" and "reasoning_content" in message
        ):
            _append(choice.reasoning, value)
        elif name == "refusal":
            _append(choice.refusal, value)
        elif name == "audio" and isinstance(value, dict):
            _append(choice.transcript, value.get("transcript"))
            _append(choice.sound, value.get("data"))
        elif name == "tool_calls":
            _add_calls(choice, objects(value))
        elif name == "function_call" and isinstance(value, dict):
            _add_calls(choice, [{"function": value}])


def _add_calls(choice: _Choice, calls: list[dict[str, object]]) -> None:
    for position, item in enumerate(calls):
        index = item.get("index")
        call = choice.calls.setdefault(index if isinstance(index, int) else position, _Call())
        call.id = call.id or text_of(item.get("id"))
        body = item.get("function", item.get("custom"))
        if isinstance(body, dict):
            call.name = call.name or text_of(body.get("name")) or ""
            _append(call.arguments, body.get("arguments", body.get("input")))


def whole(body: Body, page: Page) -> None:
    """Write an answer that came as one JSON body."""
    gathered = Gathered()
    gathered.add(document(body, page))
    _write(body, page, gathered, None)


def stream(body: Body, page: Page) -> None:
    """Write what the events of a stream amount to."""
    gathered, events = Gathered(), Stream(body)
    for _, value in events.values():
        gathered.add(value)
    events.note_end(page, events.done, gathered.finished)
    _write(body, page, gathered, events.count)


def _write(body: Body, page: Page, gathered: Gathered, events: int | None) -> None:
    page.field("model", gathered.model)
    reasons = [gathered.choices[index].finish or "(none)" for index in sorted(gathered.choices)]
    page.field("finish_reason", ", ".join(reasons))
    page.field("usage", usage(gathered.usage))
    page.field("timing", timing(body.about.timing, events, tokens_out(gathered.usage)))
    if gathered.error:
        problem(page, gathered.error)
    choices(page, gathered)


def choices(page: Page, gathered: Gathered) -> None:
    """Write what the choices of an answer amount to."""
    for index in sorted(gathered.choices):
        if len(gathered.choices) > 1:
            page.gap()
            page.comment(f"--- choice {index}")
        _choice(page, gathered.choices[index])


def _choice(page: Page, choice: _Choice) -> None:
    if choice.reasoning:
        page.block(f"{choice.role} thinks", "".join(choice.reasoning))
    if choice.text or not (choice.calls or choice.refusal or choice.transcript or choice.sound):
        page.block(choice.role, "".join(choice.text))
    if choice.refusal:
        page.block(f"{choice.role} refuses", "".join(choice.refusal))
    if choice.transcript or choice.sound:
        sound = placeholder("audio", "".join(choice.sound)) if choice.sound else ""
        page.block(f"{choice.role} speaks", "\n".join(filter(None, ("".join(choice.transcript), sound))))
    for index in sorted(choice.calls):
        call = choice.calls[index]
        called(page, choice.role, call.name or "?", call.id, "".join(call.arguments))
