"""What an answer says of its own usage, heard while it passes: bytes in, counts out.

1. An event stream is cut into events, and of these only those with a usage object are read. The last one counts, field
   by field: Anthropic tells input at the beginning and output at the end, others say all of it again with each event.
2. JSON is kept up to `_KEPT` bytes and then read; of a longer one, its beginning and its end, where the usage stands.

Time is linear however the chunks are cut, and memory bounded. What can't be read leaves the usage unknown.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from addons.core import bounded_json, upstream_error
from addons.core.claims import ASKED
from addons.core.metered import Metered, metered
from addons.core.sse import Event, Parser

_KEPT = 1 << 16
_TAIL = 1 << 14
_MAX_EVENT = 1 << 20
_SLICE = 1 << 16
_MARKS = 20_000
_LONGEST_NAME = 200
_USAGE = re.compile(rb'(?<!\\)"usage"[ \t\r\n]{0,64}:[ \t\r\n]{0,64}\{')
_MODEL = re.compile(rb'(?<!\\)"model"[ \t\r\n]{0,64}:[ \t\r\n]{0,64}"([^"\\]{1,200})"')
_TIER = re.compile(rb'(?<!\\)"service_tier"[ \t\r\n]{0,64}:[ \t\r\n]{0,64}"([^"\\]{1,40})"')
_DECODER = json.JSONDecoder(parse_int=bounded_json.read_int, parse_float=bounded_json.read_float)
_ENDS = (b"\n\n", b"\n\r\n", b"\r\r")
_INNER = ("response", "message")


@dataclass(frozen=True, slots=True)
class Reported:
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


class AnswerUsage:
    """Hears one answer. With `images` it consists of images."""

    def __init__(self, *, images: bool = False) -> None:
        self._images = images
        self._usage: dict[str, Any] = {}
        self._model: str | None = None
        self._asked: dict[str, str] = {}
        self._failed = False
        self._pieces = 0
        self._size = 0
        self._held = bytearray()
        self._head = b""
        self._dropped = False
        self._stream: bool | None = None

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
        self._held += chunk
        if len(self._held) > _KEPT + _TAIL:
            self._head = self._head or bytes(self._held[:_TAIL])
            del self._held[:-_TAIL]

    def _cut(self, piece: bytes) -> None:
        """Take the events that have ended; of one that is too long its end is kept, where its usage stands."""
        if not self._held and piece.endswith(b"\n\n"):  # nearly all chunks are whole events
            self._take(piece)
            return
        searched = max(0, len(self._held) - 3)
        self._held += piece
        end = max((at + len(each) for each in _ENDS if (at := self._held.rfind(each, searched)) >= 0), default=0)
        if end:
            events = bytes(self._held[:end])
            del self._held[:end]
            self._take(events)
        if len(self._held) > _MAX_EVENT:
            del self._held[:-_TAIL]
            self._dropped = True

    def _take(self, events: bytes) -> None:
        self._pieces += events.count(b"data:")
        if self._dropped:
            self._dropped = False
            self._search(events)
        if b'"usage"' in events and _USAGE.search(events):
            telling = [each for each in Parser(_MAX_EVENT + _SLICE).feed(events) if '"usage"' in each.data]
            # What lies between says less than the last one, and some say it with each event.
            for event in telling if len(telling) < 3 else (telling[0], telling[-1]):
                self._read(event)
        if b"error" in events:
            self._failed = self._failed or _tells_error(events)

    def _read(self, event: Event) -> None:
        try:
            value = bounded_json.loads(event.data, marks=_MARKS)
        except ValueError:
            self._search(event.data.encode())
        else:
            self._add(value)

    def _add(self, value: object) -> None:
        """Take the usage of an event, or of a whole answer."""
        if not isinstance(value, Mapping):
            return
        for each in (value, *(value[name] for name in _INNER if isinstance(value.get(name), Mapping))):
            self._note(each)
        for choice in value.get("choices") or () if isinstance(value.get("choices"), list) else ():
            if isinstance(choice, Mapping) and isinstance(choice.get("usage"), Mapping):
                self._usage |= choice["usage"]  # Moonshot's streams

    def _note(self, said: Mapping[str, Any]) -> None:
        if isinstance(model := said.get("model"), str) and 0 < len(model) <= _LONGEST_NAME:
            self._model = model
        usage = said.get("usage")
        if isinstance(usage, Mapping):
            self._usage |= usage
        for name in ASKED:
            for place in (said, usage if isinstance(usage, Mapping) else {}):
                if isinstance(found := place.get(name), str) and len(found) <= 40:
                    self._asked[name] = found

    def _search(self, text: bytes) -> None:
        """Find the last usage object in text that is no whole JSON, or too much of it."""
        if model := _MODEL.search(text):
            self._model = self._model or model[1].decode("utf-8", "replace")
        if tiers := _TIER.findall(text):
            self._asked["service_tier"] = tiers[-1].decode("utf-8", "replace")
        starts = [found.end() - 1 for found in _USAGE.finditer(text)]
        if not starts:
            return
        written = text[starts[-1] : starts[-1] + _TAIL].decode("utf-8", "replace")
        try:
            value, _ = json.JSONDecoder(
                parse_int=bounded_json.read_int, parse_float=bounded_json.read_float
            ).raw_decode(written)
        except (ValueError, RecursionError):
            return
        if isinstance(value, dict):
            self._usage |= value

    def told(self) -> Reported:
        """What was heard; to be called at the end, or where the answer broke off."""
        if not self._stream and self._held:
            self._read_json()
        usage = metered(self._usage, images=self._images) if self._usage else None
        return Reported(usage, self._model, self._asked, self._failed, self._pieces, self._size)

    def _read_json(self) -> None:
        body, self._held = bytes(self._held), bytearray()
        if self._head:
            self._search(self._head)
            self._search(body)
            return
        try:
            value = bounded_json.loads(body.decode("utf-8").removeprefix("\ufeff"), marks=bounded_json.MAX_MARKS)
        except ValueError:
            self._search(body)
            return
        self._add(value)
        self._failed = isinstance(value, Mapping) and bool(value.get("error"))


def _tells_error(events: bytes) -> bool:
    """Whether one of these events is an error. Words of a model may look like one, so those that could be are read."""
    for event in Parser(_SLICE).feed(events):
        if event.event == "error" or event.data.startswith(('{"error"', '{"type":"error"', '{"type": "error"')):
            return True
    return False
