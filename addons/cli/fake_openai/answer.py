"""How the look-alike upstream says something.

1. `Answer` is what an endpoint says; `Behaviour` is how a test wants it said: late, cut, misframed, or not at all.
2. `send` writes one under the other. One piece is one write, and one HTTP chunk where the framing is chunked.
"""

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from http import HTTPStatus
from typing import Any, Literal, Self

from addons.cli.fake_openai.wire import Connection, Cut, Head, Headers, header
from addons.core import faults

type Pieces = Iterable[tuple[bytes, float]]
type Framing = Literal["chunked", "length", "close"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint says. A body in pieces is sent in chunks, each followed by its pause in seconds."""

    status: int = 200
    headers: Headers = field(default_factory=list)
    body: bytes | Pieces = b""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How to answer one request. By default: as the endpoint would.

    `status`, `body` and `chunks` replace what the endpoint says, and then `headers` are all there are, save the one
    that frames the body; without them `headers` are added to the endpoint's. The rest bends either.
    """

    status: int | None = None
    reason: str | None = None
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    chunks: Sequence[tuple[bytes, float]] | None = None
    """Pieces, each with the pause in seconds after it."""
    framing: Framing | None = None
    """Default: a length for a body, chunked for chunks."""
    trailers: Sequence[tuple[str, str]] = ()
    gzip: bool = False
    """Compress piece by piece, flushing after each."""
    delay_read: float = 0
    """Seconds before reading the request's body."""
    delay_headers: float = 0
    delay_body: float = 0
    """Seconds between the head and the body of the answer."""
    break_after: int | None = None
    """End the connection after so many bytes of the body, chunk sizes not counted: inside a chunk or between two."""
    reset: bool = False
    """Where we end the connection, do so with RST."""
    wrong_content_length: int | None = None
    garbage: bytes | None = None
    """These bytes in place of an HTTP answer, then the end of the connection."""
    never: bool = False
    early_answer: bool = False
    """Answer as soon as the head has come; the body is read meanwhile, and to its end unless `close` is set."""
    close_without_answer: bool = False
    close: bool = False
    """End the connection after the answer without having announced it."""

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The fields as a JSON object. Bytes are strings, or {"base64": "..."}. Raises ValueError."""
        given = json.loads(text)
        if not isinstance(given, dict):
            raise ValueError("not an object")
        if unknown := given.keys() - {one.name for one in fields(cls)}:
            raise ValueError(f"not fields of Behaviour: {sorted(unknown)}")
        for name in ("body", "garbage"):
            if given.get(name) is not None:
                given[name] = _as_bytes(given[name])
        if given.get("chunks") is not None:
            given["chunks"] = [(_as_bytes(data), float(pause)) for data, pause in given["chunks"]]
        for name in ("headers", "trailers"):
            if name in given:
                given[name] = [(str(key), str(value)) for key, value in given[name]]
        return cls(**given)

    @property
    def speaks(self) -> bool:
        """Whether the endpoint need not be asked."""
        return self.status is not None or self.body is not None or self.chunks is not None

    def over(self, answer: Answer) -> Answer:
        """The endpoint's answer with what this behaviour replaces or adds."""
        if self.speaks:
            body = self.chunks if self.chunks is not None else self.body or b""
            answer = Answer(self.status or 200, list(self.headers), body)
        elif self.headers:
            answer = replace(answer, headers=[*answer.headers, *self.headers])
        if self.gzip:
            answer = _gzipped(answer)
        return answer


def of_fault(kind: str | None) -> Behaviour:
    """How a fault on purpose is answered."""
    if kind in ("429", "500"):
        status, headers, body = faults.refusal(kind)
        return Behaviour(status=status, headers=[*headers.items()], body=body)
    return Behaviour(
        break_after=faults.BREAKS_AFTER if kind == "break" else None,
        never=kind == "silence",
        delay_headers=faults.LATE if kind == "slow" else 0,
    )


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"])
    return str(value).encode()


def _gzipped(answer: Answer) -> Answer:
    headers = [*answer.headers, ("content-encoding", "gzip")]
    if isinstance(answer.body, bytes):
        return replace(answer, headers=headers, body=b"".join(data for data, _ in _deflated([(answer.body, 0)])))
    return replace(answer, headers=headers, body=_deflated(answer.body))


def _deflated(pieces: Pieces) -> Iterator[tuple[bytes, float]]:
    packer = zlib.compressobj(wbits=31)
    for data, pause in pieces:
        yield packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH), pause
    yield packer.flush(), 0


async def send(connection: Connection, head: Head, answer: Answer, behaviour: Behaviour) -> bool:
    """Write the answer to this request; True where the connection goes on. Raises Left, Cut."""
    await connection.pause(behaviour.delay_headers)
    answer = behaviour.over(answer)
    bodiless = head.method == "HEAD" or answer.status in (204, 304)
    framing = _framing(head, answer, behaviour)
    keep = head.keeps_alive and (framing != "close" or bodiless)
    await connection.write(_head(answer, behaviour, framing, keep))
    if not bodiless:
        await connection.pause(behaviour.delay_body)
        pieces = [(answer.body, 0.0)] if isinstance(answer.body, bytes) else answer.body
        await _send_body(connection, pieces, framing, behaviour)
    said = (header(answer.headers, "connection") or "").lower()
    return keep and said != "close" and not behaviour.close and behaviour.wrong_content_length is None


def _framing(head: Head, answer: Answer, behaviour: Behaviour) -> Framing:
    framing = behaviour.framing or ("length" if isinstance(answer.body, bytes) else "chunked")
    if behaviour.wrong_content_length is not None:
        return "length"
    return "close" if framing == "chunked" and head.version == "HTTP/1.0" else framing


def _head(answer: Answer, behaviour: Behaviour, framing: Framing, keep: bool) -> bytes:
    reason = behaviour.reason
    if reason is None:
        reason = HTTPStatus(answer.status).phrase if answer.status in set(HTTPStatus) else ""
    headers = list(answer.headers)
    framed = header(headers, "content-length") is not None or header(headers, "transfer-encoding") is not None
    if not framed and answer.status not in (204, 304):
        headers += _framing_headers(answer, behaviour, framing)
    if not keep and header(headers, "connection") is None:
        headers.append(("connection", "close"))
    lines = [f"HTTP/1.1 {answer.status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _framing_headers(answer: Answer, behaviour: Behaviour, framing: Framing) -> Headers:
    if framing == "close":
        return []
    if framing == "chunked":
        names = ", ".join(name for name, _ in behaviour.trailers)
        return [("transfer-encoding", "chunked"), *([("trailer", names)] if names else [])]
    if behaviour.wrong_content_length is not None:
        return [("content-length", str(behaviour.wrong_content_length))]
    body = answer.body if isinstance(answer.body, bytes) else b"".join(data for data, _ in answer.body)
    return [("content-length", str(len(body)))]


async def _send_body(connection: Connection, pieces: Pieces, framing: Framing, behaviour: Behaviour) -> None:
    left = behaviour.break_after
    for data, pause in pieces:
        before, after = (f"{len(data):x}\r\n".encode(), b"\r\n") if framing == "chunked" and data else (b"", b"")
        if left is not None and left < len(data):
            await connection.write(before + data[:left] if left else b"")
            left = 0
        else:
            await connection.write(before + data + after)
            left = None if left is None else left - len(data)
        if left == 0:
            await connection.cut(behaviour.reset)
            raise Cut
        await connection.pause(pause)
    if framing == "chunked":
        trailers = "".join(f"{name}: {value}\r\n" for name, value in behaviour.trailers)
        await connection.write(f"0\r\n{trailers}\r\n".encode("latin-1"))
