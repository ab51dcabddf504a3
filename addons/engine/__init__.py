"""The room that changes mitmproxy itself: corrections/ of what goes over the wire, pool/ of connections, and speed/.

Each change wraps one method of mitmproxy 12.2.3, the version it was written for. With another one relay does not start
(addons/mitmproxy_version.py): without the corrections strangers would read HTML pages with the upstream's address, and
no limit would hold. Wrapping twice is harmless, since a reload of the addons starts from the method that was wrapped
first.

This is the list. At each change stands what mitmproxy does, why that hurts, and when it can go ("Remove when").

corrections/answers.py
  1. Errors. What mitmproxy answers as an HTML page with the upstream's address in it becomes relay's JSON.
  2. Early answers. An answer set in `requestheaders` together with `request.stream` goes out at once, while the body is
     dropped as it comes. mitmproxy raises there, and the client hangs. The preface of HTTP/2 on a connection that
     speaks HTTP/1 has such an answer, too, where mitmproxy closes.
  3. Bodies. A body that relay holds is bounded while it is read. mitmproxy looks at its size when it has been.
  4. Records and tails. What `flow.response` says once the `response` hook is over may differ from what is sent, so that
     a record can be clean of keys and the answer whole. A streamed answer may say its last words after that hook.
  5. Partings (with corrections/partings.py). A client that leaves with the last event of a stream has finished:
     `response` runs in place of `error`, and upstream has a moment to come to its end. mitmproxy calls most clients'
     streams broken.

corrections/bodies.py
  6. A client that takes too long over a body that relay holds is answered. No method is wrapped for it.

corrections/framing.py
  7. Trailers are dropped, both ways. mitmproxy raises, and the exchange hangs.
  8. Requests in HTTP/2 without a length get chunks upstream. mitmproxy sends their body without framing, where the next
     request would be.
  9. Interim answers (103, an unasked 100) are passed over. mitmproxy takes them for the answer.
  10. Buffers. A head, or the frame of a chunk, that grows without end is cut off, and whoever trickles a head can be
      timed. mitmproxy holds whatever comes.

corrections/websockets.py
  11. A websocket that breaks is a break. mitmproxy shows the other side a clean close with code 1000.
  12. The record of a message may differ from what is sent, as that of an answer may.
  13. A message of more than 32 MiB ends its websocket. mitmproxy holds whatever comes, unpacked at once.
  14. A message of more than 1 MiB is sent in more frames. mitmproxy packs and masks all of it in one piece.
      And what upstream says in a close, a ping or a pong passes without relay's own key. mitmproxy calls no hook.

corrections/connections.py
  15. A client may have a thousand connections to an upstream. mitmproxy allows five, and the sixth stream of an HTTP/2
      client waits.
  16. Early refusals. An upstream that answers an upload before its end and closes is heard. mitmproxy loses its answer
      with the next write.
  17. A client that is gone before it is served ends quietly. mitmproxy logs a crash.

corrections/reading.py
  18. Others are served between two reads, and what looks like much work is read a little at a time. mitmproxy takes
      64 KiB at a time, and whoever sends much in small pieces holds the loop.

corrections/farewell.py
  19. A client of HTTP/2 hears that relay is about to end (GOAWAY). mitmproxy closes its connection without a word.

pool/lending.py
  20. Connections to upstreams are shared by all clients of a process: each rests when an exchange is over, and serves
      the next one, whoever asks. With mitmproxy every new client pays for TCP and TLS.
  21. They are made by pool/dialing.py: the addresses of an upstream's name are tried 250 ms apart, names are looked up
      one by one, and SOCKS proxies are known. With mitmproxy an address that leads nowhere, or a resolver that hangs,
      takes all of `limits.connect`. TLS is asyncio's, below mitmproxy's layers, since a connection outlives its client.

pool/repeats.py
  22. A request that is sent on a kept connection while upstream closes it is asked once more, where upstream can't have
      had it. mitmproxy answers 502. No method is wrapped for it: the files beside it ask.

corrections/attempts.py
  23. A request that fails upstream before anything of an answer went to its client may be asked again, there or
      elsewhere: addons/upstreams decides. mitmproxy gives up at once.

corrections/printing.py
  24. What mitmdump prints of a flow steers no terminal. mitmproxy lets the controls of C1 and of bidirectional text
      pass, and whatever a websocket's path and close say.

corrections/listening.py
  25. A worker takes the listening sockets of its parent. mitmproxy binds its own, and a second process can't have the
      same address.
  26. More clients than a hundred may come at once. With mitmproxy the kernel turns the others away, for a second.
  27. Without a file descriptor left, relay says so once a second and waits. asyncio tries a hundred times in a turn,
      with a traceback for each.

corrections/output.py
  28. A worker prints in whole blocks. mitmproxy prints line by line, and the lines of several processes get mixed.
  29. While a worker starts it prints errors alone. mitmproxy says in each process what it loads and where it listens.

corrections/saving.py
  30. A flow of many megabytes is written by a thread. mitmproxy writes it on the loop, and the disk takes its time.

corrections/web.py
  31. mitmweb remembers the hash of a body. mitmproxy works out the SHA-256 of all there are each
      time the page is opened.
  32. mitmweb's list has room for comments (inspection/mitmweb_style.py). mitmproxy gives them 150 pixels.

corrections/views.py
  33. mitmproxy's views get the beginning of a large body (inspection/bounded_views.py). mitmproxy shows all of it, on
      the loop.
  34. A view of relay's can be taken out again. mitmproxy lets views in only.

speed/dispatch.py
  35. Each event goes straight to the hooks that want it. mitmproxy walks all its addons for each, twice, those that are
      switched off among them.

speed/serving.py
  36. A hook that does not wait needs no task, and its end is taken up in the same turn of the loop. Log records that
      nobody wants are not made.
  37. What one turn says to a peer is written at once. A turn that is long pauses, so that others have theirs.

speed/layers.py
  38. An event goes straight to the HTTP layer that it is for, and what that says straight on. mitmproxy leads both
      through a generator for every layer on the way. What is left of an exchange is no work for the garbage collector.

speed/lookups.py
  39. A header is found by its name without a call for every other name.

speed/trifles.py
  40. Options, ids, addresses and lengths are not worked out again in the same detours for each request.

speed/lines.py
  41. mitmdump's two lines for an exchange are put together and written at once.

corrections/preambles.py
  42. A client's address is the one that a proxy announces in the PROXY protocol, where relay.yaml asks for that.
      mitmproxy takes the proxy's own, and its preamble for a broken request.

corrections/silence.py
  43. A client is not closed over an upstream that is silent for too long: it is answered (proxy/timeouts.py).
      mitmproxy closes it without a word.

corrections/farewell.py
  44. A request whose client resets its stream of HTTP/2 waits for nothing any more. mitmproxy tells no hook.

corrections/web.py
  45. mitmweb serves pages of relay's behind its token (inspection/thread_page.py). mitmproxy lets addons add none.

corrections/saving.py
  46. A record is saved though a half of a character stands in its comment or metadata. mitmproxy loses it.

corrections/chatter.py
  47. The log does not say of each exchange that it is streamed, and that a connection of the pool is made and closed.
      mitmproxy fills mitmweb's event log with that.

corrections/web.py
  48. A list is told of exchanges under way every 20 ms. mitmproxy tells it of each after each of its hooks.

Views and pages are brought by inspection/, which calls corrections/views.py and corrections/web.py itself.

Beside them stands transports.py, which reaches mitmproxy's live connections and changes nothing.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from mitmproxy import http
from mitmproxy.connection import Client
from mitmproxy.proxy.layers.http import HttpStream
from mitmproxy.proxy.server import ConnectionHandler

from addons.config.settings import Settings
from addons.engine.corrections import (
    answers,
    attempts,
    bodies,
    chatter,
    connections,
    farewell,
    framing,
    listening,
    output,
    preambles,
    printing,
    reading,
    saving,
    silence,
    web,
    websockets,
)
from addons.engine.pool import lending
from addons.engine.speed import dispatch, layers, lines, lookups, serving, trifles
from addons.engine.transports import handler_of
from addons.engine.wrapping import is_wrapped
from addons.errors import RelayError
from addons.mitmproxy_version import check_version


def install(
    header_size: int,
    on_head: Callable[[Client], None],
    is_seen_to: Callable[[Client], bool],
    *,
    fast: bool = True,
    listeners: Sequence[socket.socket] = (),
    settings: Settings,
) -> None:
    """Make the changes.

    `header_size` bounds a request head in bytes. `on_head` is called with a client whose request head is begun and not
    complete. `is_seen_to` says of a client that is silent whether what it waits for is given up in time. `fast` makes
    the changes that are for speed alone, too; without it they are taken back. `listeners` are the sockets to listen on,
    where a parent has passed some. `settings` name the upstreams, and how long their connections rest, and say how
    proxies announce whose a connection is.
    Raises WrongVersion, and then nothing is changed.
    """
    check_version()
    answers.install()
    attempts.install()
    framing.install(header_size, on_head)
    connections.install()
    silence.install(is_seen_to)
    reading.install()
    farewell.install()
    lending.install(settings)
    websockets.install()
    printing.install()
    saving.install()
    web.install()
    preambles.install(settings.listen.client_address)
    listening.install(listeners)
    for room in (dispatch, serving, layers, lines, lookups, trifles):
        if fast:
            room.install()
        else:
            room.uninstall()
    if not fast:  # else it is in `serving`
        chatter.install()


def print_in_blocks(master: object) -> None:
    """Have the log and the list of exchanges of a mitmdump printed in blocks, as several processes need it."""
    output.install(master)


def print_with(master: object, formatter: logging.Formatter) -> TextIO | None:
    """As `output.print_with`."""
    return output.print_with(master, formatter)


def allow_upstreams(handler: ConnectionHandler, count: int) -> None:
    """Let one client have so many connections to each upstream at a time."""
    connections.allow_upstreams(handler, count)


async def take_over(master: Any) -> None:
    """Let more clients wait to be accepted by the servers there are, and have them accepted one a turn. Begin to keep
    connections to upstreams ready."""
    if installed():
        lending.pool.start()
        await listening.take_over(master)


def say_farewell(client: Client) -> None:
    """Tell a client of HTTP/2 that no more streams are wanted. Others have no word for that."""
    if client.alpn == b"h2" and (handler := handler_of(client)) is not None:
        _farewells.add(task := asyncio.get_running_loop().create_task(handler.server_event(farewell.Farewell())))
        task.add_done_callback(_farewells.discard)


_farewells: set[asyncio.Task[None]] = set()


def close() -> None:
    """Close what rests with nobody, and keep no connection ready any more: this code goes."""
    lending.pool.close()


def body_held(handler: ConnectionHandler, flow: http.HTTPFlow) -> int | None:
    """Bytes that have come of a request body which relay reads whole, or None where none is being read."""
    return bodies.held(handler, flow) if installed() else None


async def give_up_body(handler: ConnectionHandler, flow: http.HTTPFlow, error: RelayError) -> None:
    """Answer with `error` in place of waiting for the rest of such a body; the connection ends with it."""
    if installed():
        await bodies.give_up(handler, flow, error)


def came_before(client: Client) -> bool:
    """Whether a client was accepted before its proxy's preamble could be read, where one is asked for."""
    return installed() and (handler := handler_of(client)) is not None and preambles.came_before(handler)


def installed() -> bool:
    """Whether early answers work, so that nobody asks for one where mitmproxy would hang on it."""
    return is_wrapped(HttpStream.start_request_stream)
