"""A recording: what one run of an agent sent through relay, and what came back.

A file is JSON lines, compressed with xz (what agents send repeats itself, mostly). The first line says of which program
and versions it is, and when it was made. Each other line is an exchange, in the order in which they began.
"""

import base64
import json
import lzma
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

FOLDER = Path(__file__).resolve().parent / "recordings"
_SUFFIX = ".jsonl.xz"
_BODIES = ("body", "answer")

type Headers = tuple[tuple[str, str], ...]
type Message = tuple[float, bool, str]
"""One of a websocket: when it came, in seconds since the first request of its recording, whether from the client, its
text."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer, as relay has kept them: keys are redacted, bodies are not encoded."""

    at: float
    """When the request came: seconds since the first of its recording."""
    took: float
    """Seconds from then to the last byte."""
    first_byte: float | None
    """Seconds from then to the first byte of the answer's body."""
    upstream: str
    """Its name in relay.yaml."""
    method: str
    path: str
    """As the upstream was asked, with the query."""
    headers: Headers
    body: bytes
    status: int | None
    """None: the exchange broke before an answer."""
    answer_headers: Headers
    answer: bytes
    error: str | None
    """What broke it, in mitmproxy's words."""
    messages: tuple[Message, ...] = ()
    """Of a websocket."""

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def content_type(self) -> str:
        """Of the answer."""
        return next((value for key, value in self.answer_headers if key.lower() == "content-type"), "")

    def json(self) -> Any:
        """The request's body."""
        return json.loads(self.body)

    def _line(self) -> str:
        value = asdict(self)
        for name in _BODIES:
            data: bytes = value[name]
            try:
                value[name] = data.decode()
            except UnicodeDecodeError:
                value[name] = {"base64": base64.b64encode(data).decode()}
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def _of(cls, line: str) -> Self:
        value = json.loads(line)
        for name in _BODIES:
            text = value[name]
            value[name] = text.encode() if isinstance(text, str) else base64.b64decode(text["base64"])
        for name in ("headers", "answer_headers"):
            value[name] = tuple((key, each) for key, each in value[name])
        value["messages"] = tuple((at, sent, text) for at, sent, text in value.get("messages", ()))
        return cls(**value)


@dataclass(frozen=True, slots=True)
class Recording:
    name: str
    program: str
    packages: tuple[str, ...]
    recorded: str
    """The day, UTC."""
    exchanges: tuple[Exchange, ...]

    def save(self, folder: Path = FOLDER) -> Path:
        head = {"program": self.program, "packages": self.packages, "recorded": self.recorded}
        lines = [json.dumps(head), *(each._line() for each in self.exchanges)]
        path = folder / f"{self.name}{_SUFFIX}"
        path.write_bytes(lzma.compress("\n".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        head, *lines = lzma.decompress(path.read_bytes()).decode().split("\n")
        about = json.loads(head)
        exchanges = tuple(Exchange._of(line) for line in lines)
        name = path.name.removesuffix(_SUFFIX)
        return cls(name, about["program"], tuple(about["packages"]), about["recorded"], exchanges)


@dataclass(frozen=True, slots=True)
class Label:
    """What is true of one request, as a person has read it."""

    recording: str
    request: int
    """Its number in the recording, from 0."""
    follows: int | None
    """The number of the request that it follows in its thread."""
    reason: str
    part: str | None
    """Of `prefix_changed`: `system`, `tools` or `message`."""
    path: str | None
    """Where the first difference is."""
    why: str


def recordings(folder: Path = FOLDER) -> Sequence[Recording]:
    return [Recording.load(path) for path in sorted(folder.glob(f"*{_SUFFIX}"))]


def labels(folder: Path = FOLDER) -> Sequence[Label]:
    return [Label(**each) for each in json.loads((folder / "labels.json").read_text(encoding="utf-8"))]
