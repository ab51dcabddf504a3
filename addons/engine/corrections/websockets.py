"""Websockets: what mitmproxy loses of one, and what it does without a bound."""

import zlib
from typing import Any

import wsproto
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers import websocket
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason

from addons.engine.wrapping import Commands, pause, wrap
from addons.exchange import forget_message, original_message

MOST = 32 << 20
"""Bytes of a message, or characters: twice what OpenAI takes of audio in one."""
_FEW = 1 << 12
"""Packed bytes that are unpacked at once: to 4 MiB at most."""
_LONG = 1 << 20
"""Bytes of a message from which on it is sent in pieces: packing and masking 28 MB takes a second."""
_LONG_PIECE = 1 << 18
_PARTS = "relay_parts"


def install() -> None:
    """Make the changes of this room."""
    wrap(websocket.WebsocketConnection, "send2", _break)
    wrap(websocket.WebsocketConnection, "events", _bounded)
    wrap(websocket.WebsocketLayer, "relay_messages", _relay)
    wrap(websocket.Fragmentizer, "__call__", _in_pieces)
    wrap(PerMessageDeflate, "frame_inbound_payload_data", _unpack)


def _break(stock: Any, peer: Any, event: Any) -> Any:
    if isinstance(event, wsproto.events.CloseConnection) and event.code == CloseReason.ABNORMAL_CLOSURE:
        return commands.SendData(peer.conn, b"")  # 1006 says that no close frame came: so none is sent
    return stock(peer, event)


def _send_what_came(stock: Any, layer: websocket.WebsocketLayer, event: Any) -> Commands:
    """Send what came where the record of a message has been cleaned."""
    generator = stock(layer, event)
    reply: Any = None
    message: Any = None
    record: Any = None
    while True:
        try:
            command = generator.send(reply)
        except StopIteration as end:
            return end.value
        finally:
            if message is not None:  # stock has read the content by now, and nobody else ran meanwhile
                message.content, message = record, None
        reply = yield command
        if isinstance(command, commands.SendData) and len(command.data) > _LONG_PIECE // 8:
            yield pause()
        if isinstance(command, websocket.WebsocketMessageHook) and layer.flow.websocket is not None:
            newest = layer.flow.websocket.messages[-1]
            if (content := original_message(newest)) is not None:
                message, record = newest, newest.content
                message.content = content
                forget_message(message)


def _in_pieces(stock: Any, fragmentizer: Any, content: bytes) -> Any:
    """The frames of a message. A long one gets more of them, which no receiver may mind (RFC 6455, 5.4), so that others
    have a turn between two.
    """
    if len(content) <= _LONG:
        yield from stock(fragmentizer, content)
        return
    at = 0
    while at < len(content):
        end = min(at + _LONG_PIECE, len(content))
        while fragmentizer.is_text and end < len(content) and content[end] & 0xC0 == 0x80:
            end -= 1  # a character stays whole
        yield fragmentizer.msg(content[at:end], end == len(content))
        at = end


def _relay(stock: Any, layer: websocket.WebsocketLayer, event: Any) -> Commands:
    """A little at a time of what is packed."""
    if not isinstance(event, events.DataReceived) or len(event.data) <= _FEW or not _is_packed(layer):
        return (yield from _send_what_came(stock, layer, event))
    for at in range(0, len(event.data), _FEW):
        if layer.flow.websocket is None or layer.flow.websocket.timestamp_end is not None:
            return None  # one that has ended takes no more
        yield from _send_what_came(stock, layer, events.DataReceived(event.connection, event.data[at : at + _FEW]))
        yield pause()
    return None


def _is_packed(layer: websocket.WebsocketLayer) -> bool:
    return bool(layer.client_ws._proto.extensions)


def _bounded(stock: Any, peer: Any) -> Any:
    """Join the parts of a frame once, and end what has a message without end: mitmproxy adds each part to a copy of all
    before it, for as long as there is memory.
    """
    parts = vars(peer).setdefault(_PARTS, _Parts())
    for event in stock(peer):
        if isinstance(event, wsproto.events.Message):
            parts.size += len(event.data)
            if parts.size > MOST:
                yield wsproto.events.CloseConnection(code=CloseReason.MESSAGE_TOO_BIG, reason="message too big")
                return
            parts.held.append(event.data)
            if not event.frame_finished:
                continue
            event = type(event)(
                data=event.data[:0].join(parts.held), frame_finished=True, message_finished=event.message_finished
            )
            parts.held.clear()
            if event.message_finished:
                parts.size = 0
        yield event


class _Parts:
    """What has come of a message."""

    def __init__(self) -> None:
        self.held: list[Any] = []
        """Parts of the frame that has begun."""
        self.size = 0
        """Bytes or characters of the message."""


def _unpack(stock: Any, packer: Any, proto: Any, data: bytes) -> Any:
    """As stock, but no more than a message may be long."""
    if not packer._inbound_compressed or not packer._inbound_is_compressible:
        return stock(packer, proto, data)
    try:
        unpacked = packer._decompressor.decompress(data, MOST + 1)
    except zlib.error:
        return CloseReason.INVALID_FRAME_PAYLOAD_DATA
    return CloseReason.MESSAGE_TOO_BIG if packer._decompressor.unconsumed_tail else unpacked
