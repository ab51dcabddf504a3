"""Websockets: what mitmproxy loses of one, and what it does without a bound."""

import dataclasses
import zlib
from typing import Any

import wsproto
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers import websocket
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason

from addons.core.key_mask import without_key
from addons.engine.wrapping import Commands, pause, wrap
from addons.exchange import REAL_KEY, forget_message, of, original_message

MOST = 32 << 20
"""Bytes of a message, or characters: twice what OpenAI takes of audio in one."""
_FEW = 1 << 12
"""Packed bytes that are unpacked at once: to 4 MiB at most."""
_LONG = 1 << 20
"""Bytes of a message from which on it is sent in pieces: packing and masking 28 MB takes a second."""
_LONG_PIECE = 1 << 18
_PARTS = "relay_parts"
_KEY = "relay_key"


def install() -> None:
    """Make the changes of this room."""
    wrap(websocket.WebsocketConnection, "send2", _break)
    wrap(websocket.WebsocketConnection, "events", _bounded)
    wrap(websocket.WebsocketLayer, "relay_messages", _relay)
    wrap(websocket.Fragmentizer, "__call__", _in_pieces)
    wrap(PerMessageDeflate, "frame_inbound_payload_data", _unpack)


def _break(stock: Any, peer: Any, event: Any) -> Any:
    """mitmproxy 12.2.3 passes a connection that broke (1006) on as a close frame, which wsproto writes with code 1000;
    so the other side takes the break for a clean end. 1006 says that no close frame came, and none is sent here. Remove
    when WebsocketLayer closes without a frame on ABNORMAL_CLOSURE.
    """
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
    """mitmproxy 12.2.3 sends a message in the frames in which it came; so packing and masking one of 28 MB holds the
    loop for a second. Here a long one gets more frames, which no receiver may mind (RFC 6455, 5.4), so that others have
    a turn between two. Remove when Fragmentizer bounds the length of a frame.
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
    """mitmproxy 12.2.3 unpacks at once all that one read brought, and sends a message as the record has it; so 64 KiB
    can become 64 MiB in one turn, and a record can't be cleaned of keys. Here what is packed is taken a little at a
    time, and what came is sent (`_send_what_came`). Remove when WebsocketLayer bounds what it unpacks in a turn, and a
    message's record is no longer what is sent.
    """
    exchange = of(layer.flow)
    setattr(layer.server_ws, _KEY, (REAL_KEY.of(exchange) if exchange is not None else None) or b"")
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
    """mitmproxy 12.2.3 adds each part of a frame to a copy of all before it, for as long as there is memory; so a
    message without end takes that and the loop. Here the parts are joined once, and a message over MOST ends its
    websocket. Remove when WebsocketLayer has a limit for messages and keeps their parts in a list.
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
        yield _without_key(event, getattr(peer, _KEY, b""))


def _without_key(event: Any, key: bytes) -> Any:
    """mitmproxy 12.2.3 calls no hook for a close, a ping or a pong before it is passed on; so what an upstream says in
    one could not be changed, and it may say relay's own key. Remove when there is a hook for control frames.
    """
    if not key:
        return event
    if isinstance(event, wsproto.events.CloseConnection) and event.reason:
        return dataclasses.replace(event, reason=without_key(event.reason, key.decode("utf-8", "surrogateescape")))
    if isinstance(event, wsproto.events.Ping | wsproto.events.Pong):
        return dataclasses.replace(event, payload=without_key(bytes(event.payload), key))
    return event


class _Parts:
    """What has come of a message."""

    def __init__(self) -> None:
        self.held: list[Any] = []
        """Parts of the frame that has begun."""
        self.size = 0
        """Bytes or characters of the message."""


def _unpack(stock: Any, packer: Any, proto: Any, data: bytes) -> Any:
    """mitmproxy 12.2.3 has wsproto unpack a frame as far as it goes; so 1 MiB of zeros that were packed become 1 GiB
    before anybody could look at their size. As stock, but no more than a message may be long. Remove when wsproto's
    PerMessageDeflate takes a limit and mitmproxy gives it one.
    """
    if not packer._inbound_compressed or not packer._inbound_is_compressible:
        return stock(packer, proto, data)
    try:
        unpacked = packer._decompressor.decompress(data, MOST + 1)
    except zlib.error:
        return CloseReason.INVALID_FRAME_PAYLOAD_DATA
    return CloseReason.MESSAGE_TOO_BIG if packer._decompressor.unconsumed_tail else unpacked
