"""The upstream of `./run.sh replay`: a small server on the loopback that answers from a recording.

It stands behind a relay like any upstream, since what an addon answers by itself can't be a stream. It speaks HTTP/1.1
through h11, which comes with mitmproxy, and runs in a thread of its own.

The path of a request begins with the name of the upstream that relay means (`/upstream/openai/v1/...`), so that two
upstreams of one relay.yaml are told apart. What is not recorded is refused, or handed on to a second relay that asks
the real upstream and records it; its recordings are read as soon as they are there.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import h11

from addons.config.settings import Settings
from addons.core import matching
from addons.core.faults import BREAKS_AFTER, HEADER, LATE, Faults, refusal
from addons.core.matching import Ask, RecordedAnswers
from addons.errors import NotFound
from addons.flow.decoding import decode
from addons.flow.upstream_errors import NOT_RECORDED
from addons.replay import flow_file
from addons.replay.flow_file import MOST_BODY, FlowFile, Record

_READ = 1 << 16
_MOST_HEAD = 1 << 18
_SHOWN_DIFFERENCES = 4
_PREFIX = "/upstream/"


class _Gone(Exception):
    """The peer has left."""


class Library:
    """A recording as it is answered from; it grows while another relay adds to its file."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.settings = settings
        self.recording: FlowFile = flow_file.read(path, settings)
        self.answers: RecordedAnswers[Record] = RecordedAnswers()
        self._put(self.recording.records)

    def _put(self, records: list[Record]) -> None:
        for record in records:
            self.answers.add(record.upstream, record.asked, record)

    def find(self, upstream: str, asked: Ask) -> Record | None:
        """The record whose turn it is."""
        return self.answers.find(upstream, asked)

    def reread(self) -> None:
        """Take in what was added to the file."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_size > self.recording.end:
                self._put(flow_file.extend(self.recording, self.path, self.settings))

    def refusal(self, upstream: str, asked: Ask) -> NotFound:
        """The error for a request that is not recorded: the nearest one, and what differs."""
        nearest = self.answers.nearest(upstream, asked)
        en = f"This request is not in the recording: {asked.method} {asked.path}."
        if nearest is not None:
            record, found = nearest
            known = f"{record.asked.method} {record.asked.path}"
            shown = "; ".join(map(str, found[:_SHOWN_DIFFERENCES]))
            more = f"; and {len(found) - _SHOWN_DIFFERENCES} more" if len(found) > _SHOWN_DIFFERENCES else ""
            en += f" The nearest is number {record.number}, {known}; what differs: {shown}{more}."
        en += " Record it anew, or replay with --or-forward."
        return NotFound("录制文件中没有匹配的请求。", en, code=NOT_RECORDED)


class Server:
    """Answers from a library."""

    def __init__(
        self,
        library: Library,
        *,
        fast: bool = False,
        forward: tuple[str, int] | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.library = library
        self.fast = fast
        self.faults = faults
        """What POST requests meet on purpose."""
        self.forward = forward
        """Where a relay listens that asks the real upstreams; None refuses what is not recorded."""
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Serve in a thread until the block ends; the URL."""
        ready: threading.Event = threading.Event()
        state: dict[str, Any] = {}

        async def serve() -> None:
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
            state.update(port=server.sockets[0].getsockname()[1], loop=asyncio.get_running_loop(), end=asyncio.Event())
            ready.set()
            await state["end"].wait()
            server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        def run() -> None:
            try:
                asyncio.run(serve())
            finally:
                ready.set()

        thread = threading.Thread(target=run, name="recording", daemon=True)
        thread.start()
        ready.wait()
        if "port" not in state:
            raise OSError("the loopback upstream could not start")
        try:
            yield f"http://127.0.0.1:{state['port']}"
        finally:
            state["loop"].call_soon_threadsafe(state["end"].set)
            thread.join(5)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        peer = _Peer(h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEAD), reader, writer)
        with contextlib.suppress(_Gone, OSError, h11.ProtocolError, asyncio.CancelledError):
            while await self._exchange(peer):
                peer.connection.start_next_cycle()
        writer.close()

    async def _exchange(self, peer: "_Peer") -> bool:
        """One request and its answer; whether the connection can go on."""
        request = await peer.next_event()
        if not isinstance(request, h11.Request):
            return False
        if peer.connection.they_are_waiting_for_100_continue:
            await peer.send(h11.InformationalResponse(status_code=100, headers=[]))
        body, whole = await peer.body()
        fault = None
        if self.faults is not None and request.method == b"POST":
            fault = self.faults.next(_header(request, HEADER.encode()) or None)
        if fault in ("429", "500"):
            await _say(peer, *refusal(fault))
            return peer.reusable
        if fault == "silence":
            while await peer.reader.read(_READ):
                pass
            raise _Gone
        if fault == "slow":
            await asyncio.sleep(LATE)
        target = request.target.decode("latin-1")
        upstream, asked = self._asked(request, target, body)
        record = self.library.find(upstream, asked) if whole else None
        if record is None and self.forward is not None:
            self.library.reread()
            record = self.library.find(upstream, asked) if whole else None
        if record is not None:
            return await self._replay(peer, request, record, BREAKS_AFTER if fault == "break" else None)
        if self.forward is not None and whole:
            return await self._hand_on(peer, request, body, self.forward)
        await _refuse(peer, self.library.refusal(upstream, asked))
        return peer.reusable

    def _asked(self, request: h11.Request, target: str, body: bytes) -> tuple[str, Ask]:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        name, _, rest = target.removeprefix(_PREFIX).partition("/")
        with contextlib.suppress(ValueError):
            body = decode(body, headers.get("content-encoding", ""), MOST_BODY)
        path = matching.service_path("/" + rest)
        if not path.startswith("/v1/") and self._is_versioned(unquote(name)):
            # What such an upstream has beside /v1 lies behind the same prefix: a recording can't tell them apart.
            path = "/v1" + path
        ignore = self.library.settings.replay.ignore
        method = request.method.decode("latin-1")
        return unquote(name), matching.ask(method, path, headers.get("content-type", ""), body, ignore)

    def _is_versioned(self, name: str) -> bool:
        return any(known.versioned and known.name == name for known in self.library.settings.upstreams)

    async def _replay(
        self, peer: "_Peer", request: h11.Request, record: Record, breaks_after: int | None = None
    ) -> bool:
        if not record.status:
            raise _Gone
        accepted = _header(request, b"accept-encoding").lower()
        decoded = bool(record.encoding) and not all(
            part.strip() in accepted for part in record.encoding.split(",") if part.strip() != "identity"
        )
        headers = [field for field in record.headers if not (decoded and field[0].lower() == b"content-encoding")]
        length = len(record.content() if decoded else record.body)
        if record.declared or not record.streamed:
            headers.append((b"content-length", str(length).encode()))
        loop = asyncio.get_running_loop()
        paced = record.streamed and not self.fast
        began = loop.time() + (record.wait if paced else 0.0)
        await _until(began)
        await peer.send(h11.Response(status_code=record.status, reason=record.reason, headers=headers))
        if request.method != b"HEAD" and record.status not in (204, 304):
            whole = record.content() if decoded else record.body
            for at, piece in record.pieces(decoded=decoded) if record.streamed else [(0.0, whole)]:
                if paced:
                    await _until(began + at)
                if breaks_after is not None and len(piece) >= breaks_after:
                    await peer.send(h11.Data(data=piece[:breaks_after]))
                    raise _Gone
                await peer.send(h11.Data(data=piece))
                breaks_after = None if breaks_after is None else breaks_after - len(piece)
            if breaks_after is not None:
                raise _Gone
        if record.broken:
            raise _Gone
        await peer.send(h11.EndOfMessage())
        return peer.reusable

    async def _hand_on(self, peer: "_Peer", request: h11.Request, body: bytes, address: tuple[str, int]) -> bool:
        """Let the other relay ask, and pass its answer on as it comes."""
        reader, writer = await asyncio.open_connection(*address)
        other = _Peer(h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEAD), reader, writer)
        try:
            fields = [field for field in request.headers if field[0] not in (b"transfer-encoding", b"content-length")]
            if body or request.method in (b"POST", b"PUT", b"PATCH"):
                fields.append((b"content-length", str(len(body)).encode()))
            await other.send(h11.Request(method=request.method, target=request.target, headers=fields))
            await other.send(h11.Data(data=body))
            await other.send(h11.EndOfMessage())
            async for event in other.answer():
                if isinstance(event, h11.Response):
                    fields = [field for field in event.headers if field[0] != b"x-relay-request-id"]
                    event = h11.Response(status_code=event.status_code, reason=event.reason, headers=fields)
                await peer.send(event)
        finally:
            writer.close()
        return peer.reusable


class _Peer:
    """One connection: h11's state with the streams it belongs to."""

    def __init__(self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connection = connection
        self.reader = reader
        self.writer = writer

    @property
    def reusable(self) -> bool:
        """Whether another exchange can follow."""
        return bool(self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE)

    async def next_event(self) -> Any:
        """What comes next. Raises _Gone where nothing does."""
        while (event := self.connection.next_event()) is h11.NEED_DATA:
            data = await self.reader.read(_READ)
            self.connection.receive_data(data)
        if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            raise _Gone
        return event

    async def body(self) -> tuple[bytes, bool]:
        """A request's body, and whether that is all of it: what is over the limit is read and dropped."""
        held, whole = bytearray(), True
        while not isinstance(event := await self.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                whole = whole and len(held) + len(event.data) <= MOST_BODY
                if whole:
                    held += event.data
        return bytes(held), whole

    async def answer(self) -> AsyncIterator[Any]:
        """An answer's events, interim ones left out."""
        while True:
            event = await self.next_event()
            if not isinstance(event, h11.InformationalResponse):
                yield event
            if isinstance(event, h11.EndOfMessage):
                return

    async def send(self, event: Any) -> None:
        """Raises OSError where the peer has left."""
        data = self.connection.send(event)
        if data:
            self.writer.write(data)
            await self.writer.drain()


async def _until(moment: float) -> None:
    delay = moment - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)


async def _refuse(peer: _Peer, error: NotFound) -> None:
    await _say(peer, error.status, {"content-type": "application/json; charset=utf-8"}, error.openai_body())


async def _say(peer: _Peer, status: int, headers: Mapping[str, str], body: bytes) -> None:
    fields = [*headers.items(), ("content-length", str(len(body)))]
    reason = HTTPStatus(status).phrase.encode()
    await peer.send(h11.Response(status_code=status, reason=reason, headers=fields))
    await peer.send(h11.Data(data=body))
    await peer.send(h11.EndOfMessage())


def _header(request: h11.Request, name: bytes) -> str:
    return next((value.decode("latin-1") for known, value in request.headers if known == name), "")


# -- the settings of the relays before and behind it


def front(settings: Settings, url: str, folder: Path) -> str:
    """relay.yaml for the relay that apps talk to: as `settings`, with every upstream at `url`, and new sessions."""
    tree = _tree(settings, folder / "sessions")
    for upstream in tree["upstreams"]:
        # With the /v1 it is no version of its own, whatever the upstream is called.
        upstream |= {"url": f"{url}{_PREFIX}{quote(upstream['name'], safe='')}/v1", "proxy": None, "ca": None}
    return json.dumps(tree)


def behind(settings: Settings, port: int, folder: Path) -> str:
    """relay.yaml for the relay that asks the real upstreams what is not recorded: each below a path of its own."""
    tree = _tree(settings, folder / "forwarding")
    tree["listen"] = {"host": "127.0.0.1", "port": port}
    tree["routes"] = [
        {"path": f"{_PREFIX}{upstream.name}", "upstream": upstream.name} for upstream in settings.upstreams
    ]
    tree["chat"]["paths"] = tree["balance"]["paths"] = []
    tree["inspect"]["redact"] = True
    return json.dumps(tree)


def _tree(settings: Settings, store: Path) -> dict[str, Any]:
    tree: dict[str, Any] = _literal(settings.model_dump(mode="json"))
    tree["store"]["path"] = str(store)
    # Any key works before a recording, and none belongs into a file.
    tree["keys"] = {}
    for upstream in tree["upstreams"]:
        upstream["keys"] = []
    return tree


def _literal(value: Any) -> Any:
    """The settings as relay.yaml would have to say them: nothing in them is a reference to the environment."""
    if isinstance(value, Mapping):
        return {key: _literal(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_literal(each) for each in value]
    return value.replace("${", "$${") if isinstance(value, str) else value
