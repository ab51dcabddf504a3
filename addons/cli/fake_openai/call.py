"""What the look-alike upstream's endpoints are given and give back: `Call`, `ApiError`, and answers as OpenAI's."""

import json
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs

from addons.cli.fake_openai.answer import Answer, Pieces
from addons.cli.fake_openai.chat import Json, new_id
from addons.cli.fake_openai.form import Part
from addons.cli.fake_openai.wire import Head, Headers


class ApiError(Exception):
    """An error in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: Headers | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.shape = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.headers = headers or []

    @property
    def answer(self) -> Answer:
        """This error as an answer."""
        return as_json(self.shape, self.status, self.headers)


def bearer(head: Head) -> str:
    """The key that a request carries, or an empty string."""
    scheme, _, key = (head.get("authorization") or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


@dataclass(frozen=True, slots=True)
class File:
    """An uploaded file."""

    id: str
    name: str
    purpose: str
    part: Part

    @property
    def shape(self) -> Json:
        """The file as the API tells of it; `sha256` is an addition of ours."""
        about = {"bytes": self.part.size, "filename": self.name, "purpose": self.purpose, "status": "processed"}
        return {
            "id": self.id,
            "object": "file",
            "created_at": 1700000000,
            **about,
            "sha256": self.part.hash.hexdigest(),
        }


@dataclass(frozen=True, slots=True)
class Call:
    """A request that has come in whole."""

    head: Head
    path: str
    body: bytes
    length: int
    sha256: str
    parts: list[Part]
    files: OrderedDict[str, File]
    delay: float
    """Seconds between the pieces of a streamed answer."""

    @property
    def query(self) -> dict[str, str]:
        """The query's last value per name."""
        query = parse_qs(self.head.target.partition("?")[2], keep_blank_values=True)
        return {name: values[-1] for name, values in query.items()}

    @property
    def key(self) -> str:
        """The bearer, or an empty string."""
        return bearer(self.head)

    def json(self) -> Json:
        """The body as a JSON object. Raises ApiError."""
        try:
            given = json.loads(self.body)
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise ApiError(400, "We could not parse the JSON body of your request. (The API expects a JSON payload.)")
        return given

    def part(self, name: str) -> Part:
        """A part of the multipart body. Raises ApiError."""
        for part in self.parts:
            if part.name == name:
                return part
        raise ApiError(400, f"'{name}' is a required property", param=name)

    def paced(self, given: Json | None = None) -> float:
        """The delay that this request asks for, or the usual one."""
        asked = self.head.get("x-demo-delay-ms") or (given or {}).get("demo_delay_ms")
        try:
            return self.delay if asked is None else min(max(float(asked), 0.0), 600_000.0) / 1000
        except (TypeError, ValueError):
            return self.delay


def as_json(value: Json, status: int = 200, headers: Headers | None = None) -> Answer:
    """A JSON answer with headers like OpenAI's."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Answer(status, _headers("application/json") + (headers or []), body)


def binary(kind: str, body: bytes | Pieces) -> Answer:
    return Answer(200, _headers(kind), body)


def _headers(kind: str) -> Headers:
    return [
        ("content-type", kind),
        ("access-control-expose-headers", "X-Request-ID"),
        ("openai-organization", "user-demo"),
        ("openai-processing-ms", "12"),
        ("openai-version", "2020-10-01"),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-remaining-requests", "9999"),
        ("x-request-id", new_id("req_")),
        ("alt-svc", 'h3=":443"; ma=86400'),
    ]


def streamed(events: Iterable[bytes], delay: float) -> Answer:
    headers = _headers("text/event-stream; charset=utf-8")
    return Answer(200, headers, ((event, delay) for event in events))
