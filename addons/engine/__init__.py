"""The only room that changes mitmproxy's own behaviour.

Each change wraps one method of mitmproxy's, says what it is good for, and is made only for the version it was written
for: with another one mitmproxy stays as it is, and one log line says what is then missing. Wrapping twice is harmless,
since a reload of the addons starts from the method that was wrapped first.

answers.py
  1. Errors. What mitmproxy answers as an HTML page with the upstream's address in it becomes relay's JSON.
  2. Early answers. An answer set in `requestheaders` together with `request.stream` goes out at once, while the body is
     dropped as it comes. As it stands mitmproxy raises there, and the client hangs.
  3. Bodies. A body that relay holds is bounded while it is read, not when it has been.
  4. Records and tails. What `flow.response` says once the `response` hook is over may differ from what is sent, so that
     a record can be clean of keys and the answer whole. A streamed answer may say its last words after that hook.

bodies.py
  A client that takes too long over a body that relay holds is answered. Nothing of mitmproxy's is changed for it.

framing.py
  5. Trailers. They are dropped, both ways. As it stands mitmproxy raises, and the exchange hangs.
  6. Requests in HTTP/2 without a length get chunks upstream. As it stands their body goes up without framing, where
     the next request would be.
  7. Interim answers (103, an unasked 100) are passed over. As it stands they are taken for the answer.
  9. Buffers. A head, or the frame of a chunk, that grows without end is cut off, and whoever trickles a head can be
     timed. As it stands mitmproxy holds whatever comes.

websockets.py
  8. Websockets. One that breaks is a break. As it stands the other side sees a clean close with code 1000.
     The record of a message may differ from what is sent, as that of an answer may.
     A message of more than 32 MiB ends its websocket. As it stands mitmproxy holds whatever comes, unpacked at once.

connections.py
  10. Connects. A keep-alive client may ask again after a failed connect. As it stands mitmproxy repeats the first
      failure for as long as the client's connection lives.
  11. Early refusals. An upstream that answers an upload before its end and closes is heard. As it stands its answer is
      lost with the next write.
  12. A client that is gone before it is served ends quietly. As it stands mitmproxy logs a crash.
      Others are served between two reads. As it stands whoever sends much in small pieces holds the loop.

printing.py
  22. What mitmdump prints of a flow steers no terminal. As it stands the controls of C1 and of bidirectional text pass.

dispatch.py, for speed
  13. Each event goes straight to the hooks that want it. As it stands mitmproxy walks all its addons for each, twice,
      those that are switched off among them.

serving.py, for speed
  14. A hook that does not wait needs no task, and its end is taken up in the same turn of the loop. Log records that
      nobody wants are not made.
  15. What one turn says to a peer is written at once.

layers.py, for speed
  16. An event goes straight to the HTTP layer that it is for, and what that says straight on. As it stands both pass
      through a generator for every layer on the way. What is left of an exchange is no work for the garbage collector.

lookups.py, for speed
  17. A header is found by its name without a call for every other name.

trifles.py, for speed
  18. Options, ids, addresses and lengths are not worked out again in the same detours for each request.

lines.py, for speed
  19. mitmdump's two lines for an exchange are put together and written at once.

listening.py
  20. A worker takes the listening sockets of its parent. As it stands mitmproxy binds its own, and a second process
      can't have the same address.
  21. More clients than a hundred may come at once. As it stands the kernel turns the others away, for a second.
  23. Without a file descriptor left, relay says so once a second and waits. As it stands asyncio tries a hundred times
      in a turn, with a traceback for each.

answers.py, with addons/engine/partings.py
  24. Partings. A client that leaves with the last event of a stream has finished: `response` runs in place of `error`,
      and upstream has a moment to come to its end. As it stands most clients' streams are called broken.
"""

import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

import mitmproxy.version
from mitmproxy import http
from mitmproxy.connection import Client
from mitmproxy.proxy.layers.http import HttpStream
from mitmproxy.proxy.server import ConnectionHandler

from addons.engine import (
    answers,
    bodies,
    connections,
    dispatch,
    framing,
    layers,
    lines,
    listening,
    lookups,
    printing,
    serving,
    trifles,
    websockets,
)
from addons.engine.wrapping import is_wrapped
from addons.errors import RelayError

WRITTEN_FOR = "12.2.3"

logger = logging.getLogger(__name__)


def install(
    header_size: int,
    on_head: Callable[[Client], None],
    *,
    fast: bool = True,
    listeners: Sequence[socket.socket] = (),
) -> bool:
    """Make the changes; False, with a log line, where mitmproxy is another version.

    `header_size` bounds a request head in bytes. `on_head` is called with a client whose request head is begun and not
    complete. `fast` makes the changes that are for speed alone, too; without it they are taken back. `listeners` are
    the sockets to listen on, where a parent has passed some.
    """
    if mitmproxy.version.VERSION != WRITTEN_FOR:
        logger.warning(
            f"relay's changes to mitmproxy are written for {WRITTEN_FOR}, this is {mitmproxy.version.VERSION}: "
            "errors will be mitmproxy's HTML pages, and limits.header_size and limits.headers don't hold."
        )
        return False
    answers.install()
    framing.install(header_size, on_head)
    connections.install()
    websockets.install()
    printing.install()
    listening.install(listeners)
    for room in (dispatch, serving, layers, lines, lookups, trifles):
        if fast:
            room.install()
        else:
            room.uninstall()
    return True


async def take_over(master: Any) -> None:
    """Let more clients wait to be accepted by the servers there are, and have them accepted one a turn.

    Does nothing with another version of mitmproxy.
    """
    if mitmproxy.version.VERSION == WRITTEN_FOR:
        await listening.take_over(master)


def body_held(handler: ConnectionHandler, flow: http.HTTPFlow) -> int | None:
    """Bytes that have come of a request body which relay reads whole, or None where none is being read."""
    return bodies.held(handler, flow) if installed() else None


async def give_up_body(handler: ConnectionHandler, flow: http.HTTPFlow, error: RelayError) -> None:
    """Answer with `error` in place of waiting for the rest of such a body; the connection ends with it."""
    if installed():
        await bodies.give_up(handler, flow, error)


def installed() -> bool:
    """Whether early answers work, so that nobody asks for one where mitmproxy would hang on it."""
    return is_wrapped(HttpStream.start_request_stream)
