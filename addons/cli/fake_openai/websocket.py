"""`/v1/realtime` of the look-alike upstream: a websocket that sends back what it gets.

Text and binary messages come back whole, pings are answered. Four texts are orders: `/ping` sends a ping,
`/close 4001 why` closes with that code and reason, `/drop` ends the connection without a closing frame, `/fragments`
sends "one two" in two frames. The key is the bearer or, as browsers send it, a subprotocol
`openai-insecure-api-key.KEY`.
"""

import contextlib
import string
from urllib.parse import quote

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate
from wsproto.utilities import LocalProtocolError, ProtocolError, RemoteProtocolError

from addons.cli.fake_openai.api import refuse
from addons.cli.fake_openai.call import ApiError, bearer
from addons.cli.fake_openai.wire import LIMIT, Connection, Cut, Head, Left

_KEY = "openai-insecure-api-key."


class Websocket:
    """One websocket, from its handshake on. Raises ApiError where the handshake or the key is no good."""

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self._ws = WSConnection(ConnectionType.SERVER)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers]
        try:
            self._ws.initiate_upgrade_connection(headers, quote(head.target, safe=string.printable))
            self._asked = next(event for event in self._ws.events() if isinstance(event, Request))
        except (ProtocolError, StopIteration) as error:
            raise ApiError(400, f"No websocket handshake: {error}") from None
        offered = [name.removeprefix(_KEY) for name in self._asked.subprotocols if name.startswith(_KEY)]
        refuse(bearer(head) or "".join(offered))
        self._text: list[str] = []
        self._bytes: list[bytes] = []

    @staticmethod
    def wanted(head: Head, path: str) -> bool:
        """Whether this request asks for a websocket where there is one."""
        return path == "/v1/realtime" and (head.get("upgrade") or "").lower() == "websocket"

    async def echo(self) -> None:
        """Accept, then send back until either side closes. Raises Left, Cut."""
        chosen = "realtime" if "realtime" in self._asked.subprotocols else None
        await self._send(AcceptConnection(subprotocol=chosen, extensions=[PerMessageDeflate()]))
        while True:
            data = await self._connection.reader.read(LIMIT)
            try:
                self._ws.receive_data(data or None)
                for event in self._ws.events():
                    if await self._closes(event):
                        return
            except ProtocolError as error:
                if isinstance(error, RemoteProtocolError) and error.event_hint:
                    await self._send(error.event_hint)
                return

    async def _send(self, event: Event) -> None:
        with contextlib.suppress(LocalProtocolError):  # it has been closed meanwhile
            await self._connection.write(self._ws.send(event))

    async def _closes(self, event: Event) -> bool:
        match event:
            case CloseConnection():
                if event.code == 1006:
                    raise Left
                await self._send(event.response())
                return True
            case Ping():
                await self._send(event.response())
            case TextMessage():
                self._text.append(event.data)
                if event.message_finished:
                    text, self._text = "".join(self._text), []
                    return await self._said(text)
            case BytesMessage():
                self._bytes.append(bytes(event.data))
                if event.message_finished:
                    data, self._bytes = b"".join(self._bytes), []
                    await self._send(BytesMessage(data))
        return False

    async def _said(self, text: str) -> bool:
        order, _, rest = text.partition(" ")
        match order:
            case "/ping":
                await self._send(Ping(b"upstream"))
            case "/close":
                code, _, reason = rest.partition(" ")
                await self._send(CloseConnection(int(code) if code.isdigit() else 1000, reason or None))
            case "/drop":
                await self._connection.cut(reset=False)
                raise Cut
            case "/fragments":
                await self._send(Message("one ", message_finished=False))
                await self._send(Message("two", message_finished=True))
            case _:
                await self._send(TextMessage(text))
        return False
