"""Reading recordings: flow files of relay's and of mitmweb's "save", and HAR exports, as records that can be replayed.

The files may come from others. mitmproxy reads them into plain values (no pickles); what is bounded here is their size,
and what can't be replayed is left out and counted, with the reason.
"""

import io
import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mitmproxy import exceptions, flow, http
from mitmproxy.io import FlowReader

from addons.addresses import Refusal
from addons.config.mitmproxy_options import MODE
from addons.config.settings import Settings
from addons.core import matching
from addons.core.failures import Failure, classify
from addons.flow.capture import MOST_CHUNKS
from addons.flow.decoding import content_of, decode
from addons.flow.display_path import upstream_path

MOST_BYTES = 512 << 20
"""Of a file."""
MOST_RECORDS = 100_000
MOST_BODY = 64 << 20
"""Of one body, once decoded."""
LONGEST_WAIT = 600.0
"""Seconds between two chunks; no file can make an answer wait longer."""

OWN = "answered by relay itself, which will do so again"

_NOWHERE = MODE.rpartition("/")[2]
_EVENT_END = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)|(?<=\r\r)")
_LAST_EVENT = re.compile(
    rb"^(?:data: ?\[DONE\]|event: ?(?:message_stop|response\.(?:completed|incomplete|failed)))\s", re.MULTILINE
)
_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"upgrade", b"trailer", b"te"}
_RELAYS = {b"x-relay-request-id", b"access-control-allow-origin", b"access-control-expose-headers", b"alt-svc"}
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class Record:
    """One recorded exchange."""

    number: int
    """Its place in the file, from 1."""
    asked: matching.Ask
    upstream: str | None
    """The name of the upstream of relay.yaml that was asked; None where it is none of them."""
    status: int
    """0: the upstream broke off before it answered."""
    reason: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    """As it was on the wire."""
    encoding: str
    declared: bool
    """It came with its length; else in chunks."""
    wait: float
    """Seconds until the head."""
    chunks: tuple[tuple[float, int], ...]
    """Seconds since the head, and bytes; empty where that is not known."""
    duration: float
    broken: bool
    """The answer broke off behind what there is of it."""

    @property
    def content_type(self) -> str:
        """The media type, in lower case."""
        values = [value for name, value in self.headers if name.lower() == b"content-type"]
        return values[0].decode("latin-1").partition(";")[0].strip().lower() if values else ""

    @property
    def streamed(self) -> bool:
        """Whether it came piece by piece, as its reader expects: events, or sound. JSON is read whole."""
        return self.content_type == "text/event-stream" or (
            len(self.chunks) > 1 and self.content_type != "application/json"
        )

    @property
    def model(self) -> str:
        """The model that was asked for."""
        model = self.asked.body.get("model") if isinstance(self.asked.body, dict) else None
        return model if isinstance(model, str) else ""

    def content(self) -> bytes:
        """The body, decoded. Raises ValueError."""
        return decode(self.body, self.encoding, MOST_BODY)

    def pieces(self, *, decoded: bool = False) -> Iterator[tuple[float, bytes]]:
        """The body as it came: seconds since the head, and bytes. Raises ValueError where it can't be decoded."""
        body = self.content() if decoded and self.encoding else self.body
        chunks = self.chunks if body is self.body and sum(size for _, size in self.chunks) == len(body) else ()
        if not chunks:
            yield from self._evenly(body)
            return
        begin = 0
        for at, size in chunks:
            yield at, body[begin : begin + size]
            begin += size

    def _evenly(self, body: bytes) -> Iterator[tuple[float, bytes]]:
        """Where no times are known: events, evenly over the time that the whole answer took."""
        events = [body]
        if self.content_type == "text/event-stream":
            events = [event for event in _EVENT_END.split(body) if event]
        first = self.chunks[0][0] if self.chunks else 0.0
        last = self.chunks[-1][0] if self.chunks else max(0.0, self.duration - self.wait)
        step = (last - first) / max(1, len(events) - 1)
        for number, event in enumerate(events):
            yield first + number * step, event


@dataclass
class FlowFile:
    """What a file holds."""

    records: list[Record] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """What can't be replayed: the reason, and how often."""
    end: int = 0
    """Bytes of the file that are read."""
    broken: str | None = None
    """Why the rest of the file could not be read."""
    seen: int = 0
    """Flows, with those left out."""


def read(path: Path, settings: Settings) -> FlowFile:
    """The records of a file. Raises Refusal for one that is not there, is too large or holds none."""
    _check(path)
    recording = FlowFile()
    extend(recording, path, settings)
    if recording.records:
        return recording
    if recording.broken:
        raise Refusal(f"{path} is no flow file and no HAR: {recording.broken}")
    left_out = "; ".join(reasons(recording)) or "it is empty"
    raise Refusal(f"{path} holds nothing to replay: {left_out}. Record it first: ./run.sh record {path}")


def _check(path: Path) -> None:
    try:
        size = path.stat().st_size
        if path.is_dir() or not os.access(path, os.R_OK):
            raise Refusal(f"{path} can't be read: a file that ./run.sh record, mitmweb or a browser (HAR) has saved?")
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}. Record it first: ./run.sh record {path}") from None
    if size > MOST_BYTES:
        raise Refusal(f"{path} has {size >> 20} MB; at most {MOST_BYTES >> 20} are read: record less into one file")


def flows_of(path: Path) -> tuple[list[http.HTTPFlow], list[str]]:
    """The HTTP flows of a file as they are, and in words what is left out. Raises Refusal as `read` does."""
    _check(path)
    found: list[http.HTTPFlow] = []
    left_out: Counter[str] = Counter()
    broken = None
    try:
        with path.open("rb") as file:
            for each in _flows(file):
                if isinstance(each, http.HTTPFlow):
                    found.append(each)
                else:
                    left_out["not readable" if isinstance(each, _Unreadable) else "not HTTP"] += 1
                if len(found) >= MOST_RECORDS:
                    broken = f"it has more than {MOST_RECORDS} exchanges"
                    break
    except (OSError, exceptions.FlowReadException) as error:
        broken = str(error)
    except Exception as error:  # as in `extend`
        broken = f"{type(error).__name__}: {error}"[:200]
    if broken and not found:
        raise Refusal(f"{path} is no flow file and no HAR: {broken}")
    told = [f"{count} {reason}" for reason, count in left_out.items()]
    return found, [*told, f"the rest of the file is broken: {broken}"] if broken else told


def reasons(recording: FlowFile, *but: str) -> list[str]:
    """What is left out, in words, but for some reasons."""
    texts = [f"{count} {reason}" for reason, count in recording.left_out.items() if reason not in but]
    return [*texts, f"the rest of the file is broken: {recording.broken}"] if recording.broken else texts


def is_har(path: Path) -> bool:
    """Whether a file is JSON, to which nothing can be added."""
    with path.open("rb") as file:
        return file.read(4).removeprefix(b"\xef\xbb\xbf")[:1] == b"{"


def extend(recording: FlowFile, path: Path, settings: Settings) -> list[Record]:
    """Read on where the recording ends; the records that are new. What can't be read is noted in the recording."""
    new: list[Record] = []
    recording.broken = None
    try:
        with path.open("rb") as file:
            file.seek(recording.end)
            for each in _flows(file):
                recording.seen += 1
                record = _record(each, recording.seen, settings)
                if isinstance(record, Record):
                    new.append(record)
                else:
                    recording.left_out[record] += 1
                recording.end = file.tell()
                if recording.seen >= MOST_RECORDS:
                    recording.broken = f"it has more than {MOST_RECORDS} exchanges"
                    break
    except (OSError, exceptions.FlowReadException) as error:
        recording.broken = str(error)
    except Exception as error:  # a file from elsewhere may hold anything, and mitmproxy's reader trusts what it finds
        recording.broken = f"{type(error).__name__}: {error}"[:200]
    recording.records += new
    return new


def _flows(file: io.BufferedReader) -> Iterable[flow.Flow]:
    if file.peek(4).removeprefix(b"\xef\xbb\xbf")[:1] == b"{" and file.tell() == 0:
        return _har(file)
    return FlowReader(file).stream()


def _har(file: io.BufferedReader) -> Iterator[flow.Flow]:
    """The entries of a HAR one by one, so that one which mitmproxy can't read costs itself alone."""
    value = json.loads(file.read().decode("utf-8-sig"))
    entries = value.get("log", {}).get("entries") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise exceptions.FlowReadException("it is JSON, but no HAR")
    for entry in entries:
        one = io.BytesIO(json.dumps({"log": {"entries": [_mended(entry)]}}).encode())
        try:
            yield from FlowReader(one).stream()
        except exceptions.FlowReadException:
            yield _Unreadable()


class _Unreadable(flow.Flow):
    def __init__(self) -> None:
        pass


def _mended(entry: Any) -> Any:
    """What exporters leave out: the times of an entry, the text of a form."""
    if isinstance(entry, dict):
        entry.setdefault("time", 0)
        post = entry.get("request", {}).get("postData")
        if isinstance(post, dict):
            post.setdefault("text", "")
    return entry


# -- a flow as a record


def _record(each: flow.Flow, number: int, settings: Settings) -> Record | str:
    """The record of a flow, or why there is none."""
    if isinstance(each, _Unreadable):
        return "not readable"
    if not isinstance(each, http.HTTPFlow):
        return "not HTTP"
    meta, heard = each.metadata, each.metadata.get("relay.heard")
    if each.websocket is not None or (each.response is not None and each.response.status_code == 101):
        return "of a websocket: these are not replayed"
    if meta.get("relay.own") or each.request.host == _NOWHERE:
        return OWN
    if "relay.upload_bytes" in meta or "relay.answer_bytes" in meta:
        return "not whole: a body was over inspect.max_body"
    if each.error is None and each.response is None:
        return "without an answer"
    response = each.response if heard is None else _heard(heard)
    if each.error is not None and classify(each.error.msg) is Failure.CLIENT_LEFT and not _events(response):
        return "broken off by the app"
    if heard is not None:
        return _made(each, number, settings, response, heard.get("chunks"))
    if "relay.chat" in meta and each.error is None:
        return "of /chat, without what the upstream said"
    if response is not None and response.raw_content is None:
        return "without the body of its answer"
    return _made(each, number, settings, response, meta.get("relay.chunks"))


def _events(response: http.Response | None) -> bool:
    """Whether a stream has come as far as its app has read. Many leave with its last event, before its end."""
    kind = response.headers.get("content-type", "").lower() if response is not None else ""
    return response is not None and kind.startswith("text/event-stream") and bool(response.raw_content)


def _finished(response: http.Response) -> bool:
    """Whether a stream has told its last event."""
    return _LAST_EVENT.search(content_of(response, MOST_BODY)[-4096:]) is not None


def _heard(heard: dict[str, Any]) -> http.Response:
    """What upstream said to `/chat` (addons/replay/recording.py)."""
    fields = tuple((bytes(name), bytes(value)) for name, value in heard["headers"])
    response = http.Response.make(int(heard["status"]), b"", http.Headers(fields))
    response.raw_content = bytes(heard["body"])
    return response


def _made(
    each: http.HTTPFlow, number: int, settings: Settings, response: http.Response | None, chunks: object
) -> Record:
    request = each.request
    upstream = next((known for known in settings.upstreams if (known.host, known.port) == _place(request)), None)
    owners = settings.upstreams if upstream is None else [upstream]
    versions = [known.prefix for known in owners if known.versioned]
    path = upstream_path(each) or request.path
    target = matching.service_path(path, [known.prefix for known in owners], versions)
    body = content_of(request, MOST_BODY)
    kind = request.headers.get("content-type", "")
    asked = matching.ask(request.method, target, kind, body, settings.replay.ignore)
    name = upstream.name if upstream else None
    began = request.timestamp_end or request.timestamp_start or 0.0
    if response is None:
        return Record(number, asked, name, 0, b"", (), b"", "", False, 0.0, (), _seconds(0.0), True)
    answered = each.response if each.response is not None else response
    times = _times(chunks)
    head, end = answered.timestamp_start or began, answered.timestamp_end or answered.timestamp_start or began
    return Record(
        number,
        asked,
        name,
        response.status_code if 200 <= response.status_code <= 599 else 502,
        response.data.reason if response.data.reason.isascii() and response.data.reason.isalpha() else b"",
        tuple(_fields(response.headers.fields)),
        response.raw_content or b"",
        response.headers.get("content-encoding", "").strip().lower(),
        "content-length" in response.headers,
        _seconds(head - began),
        times,
        _seconds(max(end, head + times[-1][0] if times else head) - (request.timestamp_start or began)),
        each.error is not None and not (_events(response) and _finished(response)),
    )


def _place(request: http.Request) -> tuple[str, int]:
    return request.host, request.port


def _fields(fields: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """The headers that are upstream's own, and can be sent."""
    for name, value in fields:
        low = name.lower()
        if low in _HOP or low in _RELAYS or low.startswith(b":"):
            continue
        if _TOKEN.fullmatch(name) and not any(sign in value for sign in (b"\r", b"\n", b"\0")):
            yield name, value.strip()


def _seconds(value: float) -> float:
    return min(max(0.0, value), LONGEST_WAIT) if math.isfinite(value) else 0.0


_PAIRS = re.compile(r"([0-9]{1,12}) ([0-9]{1,12})(?:, |$)")


def _pair(found: re.Match[str]) -> tuple[int, int]:
    return int(found[1]), int(found[2])


def _times(chunks: object) -> tuple[tuple[float, int], ...]:
    """`relay.chunks`, in order and within bounds; nothing where it is something else.

    It is a text (`Copy.times`); until version 0.2.0 it was a list of pairs.
    """
    if isinstance(chunks, str):
        chunks = [_pair(each) for each in itertools.islice(_PAIRS.finditer(chunks), MOST_CHUNKS)]
    if not isinstance(chunks, Sequence) or isinstance(chunks, str | bytes):
        return ()
    times: list[tuple[float, int]] = []
    at = 0.0
    for each in chunks:
        if not (isinstance(each, Sequence) and len(each) == 2 and all(isinstance(part, int | float) for part in each)):
            return ()
        at = max(at, min(_seconds(each[0] / 1000), at + LONGEST_WAIT))
        times.append((at, max(0, int(each[1]))))
    return tuple(times)


# -- for people


def table(records: Sequence[Record]) -> list[str]:
    """What is in a file, one line an exchange, under a heading."""
    rows = [("", "method", "path", "model", "status", "bytes", "chunks", "took")]
    for record in records:
        query = "".join(f"&{name}={value}" for name, value in record.asked.query)
        rows.append(
            (
                str(record.number),
                record.asked.method,
                record.asked.path + ("?" + query[1:] if query else ""),
                record.model or "-",
                ("broken" if record.broken and not record.status else str(record.status)),
                str(len(record.body)),
                str(len(list(record.pieces())) if record.streamed else 1 if record.body else 0),
                f"{record.duration:.2f} s",
            )
        )
    rows = [tuple(_printable(cell) for cell in row) for row in rows]  # type: ignore[misc]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = {0, 4, 5, 6, 7}
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _printable(text: str) -> str:
    """Text of a stranger's file for a terminal: no escape sequences, and not too much."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 100 else text[:99] + "…"
