"""What an answer says of its own usage, heard while it passes: bytes in, counts out.

1. An event stream is cut into events, and of these only those with a usage object are read. The last one counts, field
   by field: Anthropic tells input at the beginning and output at the end, others say all of it again with each event.
   What has come of a last event counts, though it has not ended.
2. JSON of up to `_KEPT` bytes is read whole; of what is longer the members are caught by their places (json_member.py),
   since what a model has written may look like usage.

Time is linear however the chunks are cut, and memory bounded. What can't be read leaves the usage unknown.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

from addons.core import bounded_json, upstream_error
from addons.core.claims import ASKED
from addons.core.json_member import MemberCatcher
from addons.core.metered import Metered, metered
from addons.core.sse import Event, Parser, end_of_events

_KEPT = 1 << 16
_MAX_EVENT = 1 << 16
_FAILS = re.compile(rb"\s*event:[ ]?(?:error|response\.failed)[\r\n]")
_SLICE = 1 << 16
_MARKS = 20_000
_LONGEST_NAME = 200
_LONGEST_TIER = 40
_LONGEST_ID = 80
_MOST_FIELDS = 100
_USAGE = b'"usage"'
_METADATA = b'"usageMetadata"'
"""Gemini's name for it."""
_OBJECT = re.compile(rb"[ \t\r\n]{0,64}:[ \t\r\n]{0,64}\{")
_TIER = re.compile(rb'(?<!\\)"service_tier"[ \t\r\n]{0,64}:[ \t\r\n]{0,64}"([^"\\]{1,40})"')
_WORDS = re.compile(
    rb'"(?:content|text|delta|arguments|refusal|reasoning[a-z_]{0,20}|thinking|partial_json)"[ \t]{0,8}:[ \t]{0,8}"'
    rb'((?:[^"\\]++|\\.)*+)'
)
_INNER = ("response", "message")
_NAMED = ("usage", "model", "id", "object", "background", *ASKED)
_OF_GEMINI = ("usageMetadata", "modelVersion")
_WANTED = (*((name,) for name in _NAMED), *((inner, name) for inner in _INNER for name in _NAMED))
_WANTED_OF_GEMINI = tuple((name,) for name in _OF_GEMINI)
_ERRORS = ('{"error"', *(f'{{"type":{blank}"{name}"' for blank in ("", " ") for name in ("error", "response.failed")))


class Reported(NamedTuple):
    """What an answer has told."""

    usage: Metered | None
    model: str | None
    asked: Mapping[str, str]
    """What its price depends on besides the model, as served: `service_tier`, `speed`, `inference_geo`."""
    failed: bool
    """It told an error."""
    pieces: int
    """Events with data: a token each, or a few."""
    size: int
    """Bytes, decoded."""
    text: int
    """Bytes that may be words, all of them where it is no stream. A token is at least one of them."""
    background: str | None = None
    """The id of a response that goes on by itself, and may be asked for later."""


class AnswerUsage:
    """Hears one answer. With `images` it consists of images; with `words` those of a stream are counted, too; with
    `gemini` it is of Gemini's own API, and no other is read as such."""

    def __init__(self, *, images: bool = False, words: bool = False, gemini: bool = False) -> None:
        self._images = images
        self._gemini = gemini
        self._sign = _METADATA if gemini else _USAGE
        self._wanted = _WANTED_OF_GEMINI if gemini else _WANTED
        self._usage: dict[str, Any] = {}
        self._model: str | None = None
        self._asked: dict[str, str] = {}
        self._failed = False
        self._pieces = 0
        self._size = 0
        self._held = bytearray()
        self._catcher: MemberCatcher | None = None
        self._words: int | None = 0 if words else None
        self._stream: bool | None = None
        self._background: str | None = None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes, decoded."""
        self._size += len(chunk)
        if self._stream is None:
            self._held += chunk
            if len(self._held.lstrip(b"\xef\xbb\xbf \r\n\t")) < 6 and len(self._held) < 256:
                return
            beginning = bytes(self._held[:256]).decode("utf-8", "replace")
            self._stream = upstream_error.is_event_stream(beginning)
            chunk = bytes(self._held)
            self._held.clear()
        if not self._stream:
            self._keep(chunk)
            return
        for start in range(0, len(chunk), _SLICE):
            self._cut(chunk[start : start + _SLICE])

    def _keep(self, chunk: bytes) -> None:
        """Of what is no stream."""
        if self._catcher is not None:
            self._catcher.feed(chunk)
            return
        self._held += chunk
        if len(self._held) > _KEPT:
            self._catcher = MemberCatcher(self._wanted)
            self._catcher.feed(bytes(self._held))
            self._held.clear()

    def _cut(self, piece: bytes) -> None:
        """Take the events that have ended. Of one that is too long its usage is caught as it comes."""
        if self._catcher is not None:
            piece = self._through_long_event(self._catcher, piece)
        if not self._held and piece.endswith(b"\n\n"):  # nearly all chunks are whole events
            self._take(piece)
            return
        searched = max(0, len(self._held) - 3)
        self._held += piece
        if end := end_of_events(self._held, searched):
            events = bytes(self._held[:end])
            del self._held[:end]
            self._take(events)
        if len(self._held) > _MAX_EVENT:
            self._catcher = MemberCatcher(self._wanted)
            self._failed = self._failed or _FAILS.match(self._held) is not None
            self._count_words(len(self._held))
            begins = self._held.find(b"{")
            self._catcher.feed(bytes(self._held[begins:]) if begins >= 0 else b"")
            self._held.clear()

    def _through_long_event(self, catcher: MemberCatcher, piece: bytes) -> bytes:
        """Feed the rest of an event that is too long; what stands behind it."""
        end = min((at for each in (b"\n", b"\r") if (at := piece.find(each)) >= 0), default=-1)
        catcher.feed(piece if end < 0 else piece[:end])
        self._count_words(len(piece) if end < 0 else end)
        if end < 0:
            return b""
        self._catcher = None
        self._pieces += 1
        self._take_caught(catcher)
        return piece[end:]

    def _count_words(self, size: int) -> None:
        """Of an event that is too long to be looked through: it may be all words."""
        if self._words is not None:
            self._words += size

    def _take(self, events: bytes) -> None:
        count = events.count(b"data:")
        self._pieces += count
        if self._words is not None:
            self._words += sum(map(len, _WORDS.findall(events)))
        if self._sign in events and _has_usage(events, self._sign):
            sign = self._sign.decode()
            telling = [each for each in Parser(_MAX_EVENT + _SLICE).feed(events) if sign in each.data]
            # What lies between says less than the last one, and some say it with each event.
            for event in telling if len(telling) < 3 else (telling[0], telling[-1]):
                self._read(event)
        if "service_tier" not in self._asked and b'"service_tier"' in events and (tier := _TIER.search(events)):
            self._asked["service_tier"] = tier[1].decode("utf-8", "replace")
        if b"error" in events or b"response.failed" in events:
            self._failed = self._failed or _tells_error(events)

    def _read(self, event: Event) -> None:
        try:
            value = bounded_json.loads(event.data, marks=_MARKS)
        except ValueError:
            catcher = MemberCatcher(self._wanted)
            catcher.feed(event.data.encode("utf-8", "replace"))
            self._take_caught(catcher)
        else:
            self._add(value)

    def _take_caught(self, catcher: MemberCatcher) -> None:
        """Read what was caught of an event, or of an answer, as if all of it had been read."""
        value: dict[str, Any] = {}
        for path, found in catcher.found.items():
            place = value if len(path) == 1 else value.setdefault(path[0], {})
            if isinstance(place, dict):
                place[path[-1]] = found
        self._add(value)

    def _add(self, value: object) -> None:
        """Take the usage of an event, or of a whole answer."""
        if self._gemini:
            self._add_gemini(value)
            return
        if not isinstance(value, Mapping):
            return
        self._note(value)
        for name in _INNER:
            if isinstance(inner := value.get(name), Mapping):
                self._note(inner)
        if isinstance(choices := value.get("choices"), list):
            for choice in choices:
                if isinstance(choice, Mapping) and isinstance(choice.get("usage"), Mapping):
                    self._note_usage(choice["usage"])  # Moonshot's streams

    def _add_gemini(self, value: object) -> None:
        """A stream that is no event stream is one array of its pieces, each with all of the usage so far."""
        for piece in value[-1:] if isinstance(value, list) else (value,):
            if not isinstance(piece, Mapping):
                continue
            if _is_name(model := piece.get("modelVersion"), _LONGEST_NAME):
                self._model = model
            if isinstance(usage := piece.get("usageMetadata"), Mapping):
                self._note_usage(usage)

    def _note_usage(self, usage: Mapping[str, Any]) -> None:
        """Of ever new fields no more are kept."""
        for name, value in _said(usage).items():
            if name in self._usage or len(self._usage) < _MOST_FIELDS:
                self._usage[name] = value

    def _note(self, said: Mapping[str, Any]) -> None:
        if _is_name(model := said.get("model"), _LONGEST_NAME):
            self._model = model
        if said.get("background") is True and said.get("object") == "response":
            self._background = name if _is_name(name := said.get("id"), _LONGEST_ID) else None
        usage = said.get("usage")
        if isinstance(usage, Mapping):
            self._note_usage(usage)
        for place in (said, usage) if isinstance(usage, Mapping) else (said,):
            for name in ASKED:
                if name in place and _is_name(found := place[name], _LONGEST_TIER):
                    self._asked[name] = found

    def told(self) -> Reported:
        """What was heard; to be called at the end, or where the answer broke off."""
        if self._stream:
            self._take_rest()
        else:
            self._read_json()
        usage = metered(self._usage, images=self._images) if self._usage else None
        text = max(self._words or 0, self._pieces) if self._stream else self._size
        told = (self._failed, self._pieces, self._size, text, self._background)
        return Reported(usage, self._model, self._asked, *told)

    def _take_rest(self) -> None:
        """Take what has come of an event that no blank line has ended: a parser would drop it, a bill would not."""
        if self._catcher is not None:
            self._take_caught(self._catcher)
            self._catcher = None
        rest, self._held = bytes(self._held), bytearray()
        if rest.strip():
            self._take(rest + b"\n\n")

    def _read_json(self) -> None:
        if self._catcher is not None:
            self._take_caught(self._catcher)
            self._catcher = None
            return
        body, self._held = bytes(self._held), bytearray()
        if not body:
            return
        try:
            value = bounded_json.loads(body.decode("utf-8").removeprefix("\ufeff"), marks=bounded_json.MAX_MARKS)
        except ValueError:
            catcher = MemberCatcher(self._wanted)
            catcher.feed(body)
            self._take_caught(catcher)
            return
        self._add(value)
        if isinstance(value, Mapping):
            self._failed = bool(value.get("error")) or value.get("status") == "failed"


def _is_name(value: object, longest: int) -> TypeGuard[str]:
    """Whether a value is a name that can be written down: JSON can name halves of characters, which nothing can."""
    return isinstance(value, str) and len(value) <= longest and value.isprintable() and value != ""


def _said(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Without the nulls: what an earlier event has told stays."""
    return {name: value for name, value in usage.items() if value is not None}


def _has_usage(events: bytes, sign: bytes) -> bool:
    """Whether one of these events may have a usage object: many say `"usage": null` each time."""
    at = events.find(sign)
    while at >= 0:
        behind = at + len(sign)
        if _OBJECT.match(events, behind) and not events.endswith(b"\\", 0, at):
            return True
        at = events.find(sign, behind)
    return False


def _tells_error(events: bytes) -> bool:
    """Whether one of these events is an error. Words of a model may look like one, so those that could be are read."""
    for event in Parser(_SLICE).feed(events):
        if event.event in ("error", "response.failed") or event.data.startswith(_ERRORS):
            return True
    return False
