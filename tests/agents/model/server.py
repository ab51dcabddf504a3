"""The played model's HTTP: several ports are several upstreams, each with a cache of its own.

with Model.running(rules, upstreams=("openai", "anthropic")) as model:
    model.urls["openai"]
"""

import contextlib
import gzip
import itertools
import json
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import zstandard

from tests.agents.model import chat, gemini, messages, responses
from tests.agents.model.plan import Asked, Plan, Rule, Said, shaped
from tests.agents.model.socket import Socket
from tests.agents.model.usage import Counter
from tests.support.agent_runs.cache import Served

PAUSE = 0.01
"""Seconds between streamed pieces."""

_GEMINI = re.compile(r"/v1beta/models/([\w.-]+):(generateContent|streamGenerateContent|countTokens)$")
_MODELS = ("gpt-5.2", "gpt-5-mini", "gpt-4.1", "claude-sonnet-4-5", "claude-haiku-4-5")
_SPOKEN: dict[str, Any] = {"chat": chat, "responses": responses, "messages": messages, "gemini": gemini}
_KEYS = ("authorization", "x-api-key", "x-goog-api-key")


class Model:
    """The model, and what it was asked for that it does not know."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.plan = Plan(rules)
        self.counter = Counter()
        self.urls: dict[str, str] = {}
        """Per upstream, where it listens."""
        self.unknown: list[str] = []
        """Method and path of requests that no API here has."""
        self.numbers = itertools.count(1)

    @classmethod
    @contextlib.contextmanager
    def running(cls, rules: Sequence[Rule], upstreams: Sequence[str]) -> Iterator[Self]:
        model = cls(rules)
        with contextlib.ExitStack() as stack:
            for name in upstreams:
                server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(model, name))
                server.daemon_threads = True
                model.urls[name] = f"http://127.0.0.1:{server.server_port}"
                threading.Thread(target=server.serve_forever, daemon=True).start()
                stack.callback(server.server_close)
                stack.callback(server.shutdown)
            yield model


def _handler(model: Model, upstream: str) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"model": model, "upstream": upstream})


class _Handler(BaseHTTPRequestHandler):
    model: Model
    upstream: str
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a run's own output is what counts."""

    def do_HEAD(self) -> None:
        self._send(200, {})

    def do_GET(self) -> None:
        if (self.headers["upgrade"] or "").lower() == "websocket" and self.path.endswith("/responses"):
            self._socket()
            return
        if self.path.partition("?")[0].endswith("/models"):
            listed = [{"id": each, "object": "model", "created": 1760000000, "owned_by": "played"} for each in _MODELS]
            self._send(200, {"object": "list", "data": listed})
        else:
            self._unknown()

    def do_POST(self) -> None:
        body = json.loads(self._body() or b"{}")
        path = self.path.partition("?")[0]
        found = _GEMINI.search(path)
        if path.endswith("/count_tokens"):
            self._send(200, {"input_tokens": len(json.dumps(body)) // 4})
        elif found and found[2] == "countTokens":
            self._send(200, {"totalTokens": len(json.dumps(body)) // 4})
        elif found:
            self._answer(gemini.read(found[1], found[2].startswith("stream"), body))
        else:
            reading = _reader(path)
            self._answer(reading(body)) if reading is not None else self._unknown()

    def _answer(self, asked: Asked) -> None:
        status = self.model.plan.refusal(asked)
        speaks = _SPOKEN[asked.dialect]
        if status is not None:
            self._send(status, getattr(speaks, "refused", chat.refused)(status))
            return
        said, served, number = self._play(asked)
        if asked.streamed:
            self._stream(speaks.stream(asked, said, served, number))
        else:
            self._send(200, speaks.whole(asked, said, served, number))

    def _play(self, asked: Asked) -> tuple[Said, Served, int]:
        key = next((self.headers[name] for name in _KEYS if self.headers[name]), "")
        served = self.model.counter.serve(f"{self.upstream} {key}", asked)
        return _said(self.model.plan, asked), served, next(self.model.numbers)

    def _socket(self) -> None:
        """Until the client leaves. What refuses a rule's first requests is passed over here."""

        def send(data: bytes) -> None:
            self.wfile.write(data)
            self.wfile.flush()

        def answers(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
            asked = responses.read(body)
            said, served, number = self._play(asked)
            if body.get("generate") is False:  # the client warms the cache, and wants no answer
                said = Said()
            for event in responses.events(asked, said, served, number):
                time.sleep(PAUSE)
                yield event

        self.close_connection = True
        lines = [self.requestline, *(f"{name}: {value}" for name, value in self.headers.items())]
        data = "\r\n".join((*lines, "", "")).encode("latin-1")
        socket = Socket(send, answers)
        while data and socket.feed(data):
            data = self.connection.recv(65536)

    def _body(self) -> bytes:
        if "chunked" in (self.headers["transfer-encoding"] or ""):
            raw = b"".join(self._chunks())
        else:
            raw = self.rfile.read(int(self.headers["content-length"] or 0))
        match (self.headers["content-encoding"] or "").lower():
            case "gzip":
                return gzip.decompress(raw)
            case "deflate":
                return zlib.decompress(raw)
            case "zstd":
                return zstandard.ZstdDecompressor().decompressobj().decompress(raw)
        return raw

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _unknown(self) -> None:
        self.model.unknown.append(f"{self.command} {self.path}")
        self._send(404, {"error": {"message": f"no such path: {self.path}", "type": "invalid_request_error"}})

    def _send(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _stream(self, events: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            time.sleep(PAUSE)
        self.wfile.write(b"0\r\n\r\n")


def _reader(path: str) -> Callable[[dict[str, Any]], Asked] | None:
    for end, read in (
        ("/chat/completions", chat.read),
        ("/responses", responses.read),
        ("/messages", messages.read),
    ):
        if path.endswith(end):
            return read
    return None


def _said(plan: Plan, asked: Asked) -> Said:
    said = plan.answer(asked)
    if asked.schema is not None and not said.calls:
        return Said(json.dumps(shaped(asked.schema)))
    return said
