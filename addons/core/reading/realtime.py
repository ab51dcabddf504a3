"""Websockets of the Realtime API: the conversation that their events amount to, and each event in a line.

Sounds are placeholders with their length. Both generations of names are read (`response.audio.delta`,
`response.output_audio.delta`). Events: https://platform.openai.com/docs/api-reference/realtime-client-events and
.../realtime-server-events.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from addons.core.reading import response_items, responses, tools
from addons.core.reading.body import MAX_EVENT_MARKS, MAX_READ, Body, loaded, marks
from addons.core.reading.media import decoded_size
from addons.core.reading.messages import content_text
from addons.core.reading.openai_errors import problem
from addons.core.reading.page import LONG, Page, count, one_line, size
from addons.core.reading.values import brief, objects, parameters, text_of, usage, written

type Event = dict[str, object]

MOST = 10_000
"""Messages that are read for a conversation, the newest ones."""
_PCM, _G711 = 48_000, 8_000
"""Bytes of a second: 24,000 samples of 16 bits, and 8,000 of 8."""
_SOUNDS = ("response.audio.delta", "response.output_audio.delta")
_TEXTS = {
    "response.text.delta": "says",
    "response.output_text.delta": "says",
    "response.audio_transcript.delta": "speaks",
    "response.output_audio_transcript.delta": "speaks",
    "response.function_call_arguments.delta": "calls",
    "response.mcp_call_arguments.delta": "calls",
}
_CONTENT = frozenset(("type", "event_id", "tools", "instructions", "object", "audio", "id", "expires_at"))
_MOST_ANSWERS = 256


@dataclass(slots=True)
class _Answer:
    """What has come of an answer that is not done."""

    sound: int = 0
    pieces: dict[str, list[str]] = field(default_factory=dict)


class _Talk:
    """A conversation so far."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.heard = 0
        """Bytes of sound that the client has sent since the last turn."""
        self.rates = {"input": _PCM, "output": _PCM}
        self.settings: str = ""
        self.said: dict[str, list[str]] = {}
        """What was transcribed of the user's words, by item."""
        self.answers: dict[str, _Answer] = {}

    def add(self, from_client: bool, event: Event) -> None:
        """Take an event."""
        kind = text_of(event.get("type")) or ""
        if from_client:
            self._asked(kind, event)
        else:
            self._told(kind, event)

    def _asked(self, kind: str, event: Event) -> None:
        if kind == "input_audio_buffer.append":
            self.heard += _sound(event.get("audio"))
        elif kind == "input_audio_buffer.commit":
            self._hear()
        elif kind == "session.update":
            self._settle(event.get("session"), "session, as the client wants it")
        elif kind == "conversation.item.create" and isinstance(item := event.get("item"), dict):
            _item(self.page, item, "user", self.rates["input"])
        elif kind == "response.create":
            self._hear()
            wanted = event.get("response")
            if isinstance(wanted, dict) and wanted:
                self._settle(wanted, "answer, as the client wants it")
        elif kind in ("response.cancel", "conversation.item.truncate", "conversation.item.delete"):
            self.page.gap()
            self.page.comment(f"client: {_line(event)}")

    def _told(self, kind: str, event: Event) -> None:
        answer = self._answer(event)
        if kind in _SOUNDS:
            answer.sound += _sound(event.get("delta"))
        elif (does := _TEXTS.get(kind)) is not None:
            if isinstance(piece := event.get("delta"), str):
                answer.pieces.setdefault(does, []).append(piece)
        elif kind in ("session.created", "session.updated"):
            self._settle(event.get("session"), "session")
        elif kind in ("input_audio_buffer.committed", "input_audio_buffer.speech_stopped"):
            self._hear()
        elif kind == "conversation.item.input_audio_transcription.completed":
            self.page.block("user, as heard", text_of(event.get("transcript")) or "")
        elif kind == "response.done" and isinstance(response := event.get("response"), dict):
            self._done(response, answer)
        elif kind == "error":
            self.page.gap()
            problem(self.page, event.get("error"))

    def _answer(self, event: Event) -> _Answer:
        response = event.get("response")
        name = event.get("response_id") or (response.get("id") if isinstance(response, dict) else None)
        key = name if isinstance(name, str) else ""
        if key not in self.answers and len(self.answers) >= _MOST_ANSWERS:
            key = ""
        return self.answers.setdefault(key, _Answer())

    def _hear(self) -> None:
        if self.heard:
            self.page.block("user speaks", _length(self.heard, self.rates["input"]))
            self.heard = 0

    def _settle(self, session: object, title: str) -> None:
        """Write settings where they differ from those that were written last."""
        if not isinstance(session, dict):
            return
        audio = session.get("audio")
        for side in ("input", "output"):
            inner = audio.get(side) if isinstance(audio, dict) else None
            said = inner.get("format") if isinstance(inner, dict) else session.get(f"{side}_audio_format")
            self.rates[side] = _rate(said, self.rates[side])
        before, self.settings = self.settings, repr({name: session[name] for name in session if name not in _CONTENT})
        if before == self.settings:
            return
        self.page.gap()
        self.page.comment(f"--- {title}")
        parameters(self.page, session, _CONTENT)
        tools.offered(self.page, session.get("tools"))
        if instructions := text_of(session.get("instructions")):
            self.page.block("instructions", instructions, LONG)

    def _done(self, response: Event, answer: _Answer) -> None:
        self.answers = {name: each for name, each in self.answers.items() if each is not answer}
        items = objects(response.get("output"))
        for item in items:
            _item(self.page, item, "assistant", self.rates["output"], answer.sound)
        if not items:
            self._pieces(answer)
        self.page.gap()
        details = response.get("status_details")
        why = text_of(details.get("reason")) if isinstance(details, dict) else None
        status = brief(response.get("status")) or ""
        self.page.field("status", f"{status}: {why}" if why else status)
        self.page.field("usage", usage(response.get("usage")))
        if isinstance(details, dict) and details.get("error"):
            problem(self.page, details["error"])

    def _pieces(self, answer: _Answer) -> None:
        for does, pieces in answer.pieces.items():
            self.page.block(f"assistant {does}", "".join(pieces))
        if answer.sound:
            self.page.block("assistant speaks", _length(answer.sound, self.rates["output"]))

    def end(self) -> None:
        """Write what has come and is not done."""
        self._hear()
        for answer in self.answers.values():
            if answer.pieces or answer.sound:
                self.page.gap()
                self.page.comment("--- an answer that has not come to its end")
                self._pieces(answer)


def conversation(page: Page, messages: Sequence[tuple[bool, bytes]], dropped: int = 0) -> None:
    """Write what messages amount to, each with whether the client sent it; `dropped` older ones are not kept."""
    first, room = len(messages), 2 * MAX_READ
    while first and room > 0 and len(messages) - first < MOST:
        first -= 1
        room -= len(messages[first][1])
    if dropped or first:
        page.note(f"{count(dropped + first, 'older message')} left out")
    page.comment("the conversation so far; its events stand below, one by one")
    talk = _Talk(page)
    for from_client, data in messages[first:]:
        if isinstance(event := _event(data), dict):
            talk.add(from_client, event)
    talk.end()


def _event(data: bytes) -> object:
    text = data[:MAX_READ].decode("utf-8", "replace")
    if len(text) > MAX_EVENT_MARKS and marks(text) > MAX_EVENT_MARKS:
        return None
    return loaded(text)


def message(body: Body, page: Page) -> None:
    """Write one event: most in a line, the others with what they hold. Also those of the Responses API's websockets."""
    event = _event(body.data)
    if not isinstance(event, dict):
        page.block("message", body.data.decode("utf-8", "replace"), LONG)
        return
    kind = text_of(event.get("type")) or "event"
    response = event.get("response")
    if kind == "response.create" and not isinstance(response, dict) and len(event) > 2:
        page.comment(kind)
        responses.write(body, page, event)
    elif kind in responses.ENDINGS and isinstance(response, dict):
        page.comment(kind)
        responses.answered(body, page, response, None)
    elif kind == "conversation.item.create" and isinstance(item := event.get("item"), dict):
        page.comment(kind)
        _item(page, item, "user", _PCM)
    elif kind == "error":
        page.comment(kind)
        problem(page, event.get("error"))
    else:
        page.comment(_line(event))


def _line(event: Event) -> str:
    """An event in a line: its name, and what is particular to it."""
    kind = text_of(event.get("type")) or "event"
    encoded = event.get("audio", event.get("delta") if kind in _SOUNDS else None)
    if isinstance(encoded, str):
        return f"{kind}: {_length(_sound(encoded), _PCM)}"
    rest = {name: value for name, value in event.items() if name not in ("type", "event_id")}
    for name in ("delta", "transcript", "text"):
        if isinstance(said := event.get(name), str):
            return f"{kind}: {one_line(said, 300)}"
    return f"{kind}: {brief(rest)}" if rest else kind


def _item(page: Page, item: Event, speaker: str, rate: int, sound: int = 0) -> None:
    """Write an item of the conversation; what of it is sound has so many bytes, where it is not in the item."""
    if text_of(item.get("type")) not in (None, "message"):
        response_items.item(page, item, speaker)
        return
    role = text_of(item.get("role")) or speaker
    words = []
    for part in objects(item.get("content")):
        if isinstance(text := part.get("text"), str):
            words.append(text)
        elif "audio" in str(part.get("type")):
            length = _sound(part.get("audio")) or sound
            words.append(" ".join(each for each in (text_of(part.get("transcript")), _length(length, rate)) if each))
        else:
            words.append(content_text([part]) or "")
    if words:
        page.block(role, "\n".join(words))
    elif not objects(item.get("content")):
        written(page, role, item.get("content"))


def _sound(encoded: object) -> int:
    """Bytes of what is encoded in base64."""
    return decoded_size(encoded) if isinstance(encoded, str) else 0


def _length(bytes_: int, rate: int) -> str:
    """`[audio: 2.3 s, 108 kB]`"""
    return f"[audio: {bytes_ / rate:,.1f} s, {size(bytes_)}]" if bytes_ else "[audio]"


def _rate(said: object, otherwise: int) -> int:
    """Bytes of a second, by a format: `pcm16`, `g711_ulaw`, `{"type": "audio/pcm", "rate": 24000}`."""
    name = said.get("type") if isinstance(said, dict) else said
    if not isinstance(name, str):
        return otherwise
    if "pcmu" in name or "pcma" in name or name.startswith("g711"):
        return _G711
    rate = said.get("rate") if isinstance(said, dict) else None
    return rate * 2 if isinstance(rate, int) and 1000 <= rate <= 400_000 else _PCM
