"""An HTTP client in a loop, for many requests at once, some of which leave before their end."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Heard:
    """What came of one request."""

    status: int = 0
    request: str = ""
    """relay's id of it."""
    body: bytes = b""
    whole: bool = False
    """It came to its end."""
    left: bool = False
    """We left before."""
    fields: dict[str, str] = field(default_factory=dict)
    """The answer's headers."""
    broke: str = ""
    """Why it did not come to its end."""

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


async def ask(
    port: int,
    path: str,
    key: str,
    body: object,
    *,
    leave_after: int | None = None,
    timeout: float = 30,
    headers: Mapping[str, str] | None = None,
) -> Heard:
    """POST, or GET where there is no body; with `leave_after`, leave after so many bytes of the answer's body, what
    frames it included, or at its end (0: once the request is sent)."""
    heard = Heard()
    try:
        async with asyncio.timeout(timeout):
            data = b"" if body is None else json.dumps(body).encode()
            more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
            head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            await _ask(heard, port, f"{head}{more}Content-Type: application/json\r\n", data, leave_after)
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        heard.broke = type(error).__name__
    return heard


async def _ask(heard: Heard, port: int, head: str, body: bytes, leave_after: int | None) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        if leave_after == 0:
            await asyncio.sleep(0.02)
            heard.left = True
            return
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        heard.status = int(lines[0].split(" ")[1])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        heard.fields = fields
        heard.request = fields.get("x-relay-request-id", "")
        if leave_after is not None and heard.status == 200:
            while len(heard.body) < leave_after and (piece := await reader.read(leave_after - len(heard.body))):
                heard.body += piece
            heard.left = True
            return
        if fields.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                heard.body += await reader.readexactly(size)
                await reader.readexactly(2)
            heard.whole = True
        else:
            heard.body = await reader.readexactly(int(fields.get("content-length", "0")))
            heard.whole = True
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
