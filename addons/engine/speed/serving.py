"""Serving: what mitmproxy does for every event of a connection, without what nobody needs.

mitmproxy's proxy core is one loop: an event goes into the layers, commands come out, one of them starts a hook, and the
hook's end is an event again. Each of these steps is kept; what is spared is

- a task for a hook that does not wait: it runs where its event has come to, in a context of its own as a task's would
  be. Two things look different to it: `asyncio.current_task()`, and what it sets in a context variable ends with the
  event;
- waiting for a lock that the very same task holds: an event that comes while its own turn is on, such as the end of a
  hook that did not have to wait, is taken up in that turn, before what other tasks have brought since;
- names and time stamps for tasks that are over before anybody could list them;
- a system call for every piece of what is said to a peer in one turn: it goes out at the turn's end, or when the
  connection is closed, so that a hook that runs in the middle of a turn finds it not yet written;
- log records that no handler wants.

What is added: a turn that has been long enough pauses, and goes on when others have been served, since one read may
bring a thousand requests, resets or websocket messages. The connection's own events wait meanwhile, so nothing changes
places.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any

from mitmproxy import flow
from mitmproxy.connection import ConnectionState
from mitmproxy.log import LegacyLogEvents
from mitmproxy.proxy import commands, events, mode_servers, server
from mitmproxy.utils import asyncio_utils

from addons.engine.corrections import chatter
from addons.engine.speed import dispatch, layers
from addons.engine.wrapping import replace_all, restore_all, stock_of

_TURN = "relay_turn"
_SHARE = "relay_share"
_LONG = 0.02
"""Seconds after which a connection lets others have a turn."""
_SOME = 0.005
"""From here on it matters in which round of the loop the time was taken."""
_WRITABLE = (ConnectionState.OPEN, ConnectionState.CAN_WRITE)

Said = dict[Any, list[bytes]]
"""What is to be written when the turn is over, in the order in which it was said, by its writer."""


def install() -> None:
    """Make the changes of this room."""
    replace_all(_CHANGES)


def uninstall() -> None:
    """Take them back."""
    restore_all(_CHANGES)


class _Share:
    """What a connection has taken of the present round of the event loop, in seconds."""

    __slots__ = ("_begun", "_fresh", "_taken")

    def __init__(self) -> None:
        self._taken = self._begun = 0.0
        self._fresh = False
        """Whether the next round will find it at zero."""

    def begin(self) -> None:
        """A turn begins, or goes on."""
        self._begun = time.monotonic()

    def end(self) -> None:
        """A turn ends, or pauses."""
        self._taken += time.monotonic() - self._begun
        if self._taken > _SOME and not self._fresh:
            self._fresh = True
            asyncio.get_running_loop().call_soon(self._renew)

    @property
    def is_used_up(self) -> bool:
        """Whether others have to be served before this turn goes on."""
        return self._taken + time.monotonic() - self._begun > _LONG

    async def wait(self) -> None:
        """Let others have a turn. A cancellation is put off until the turn is over: half of one fits no protocol."""
        self.end()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            assert task is not None
            task.cancel(*cancelled.args)
        self._taken = 0.0
        self.begin()

    def _renew(self) -> None:
        self._taken, self._fresh = 0.0, False


async def _server_event(handler: Any, event: events.Event) -> None:
    """mitmproxy 12.2.3 makes a task for each hook, which waits for this lock and brings its end as an event of its own,
    and writes each piece of what is said by a system call; so a short request takes many tasks and writes, and a turn
    of a thousand requests never pauses. What is done instead stands at the head of this file. Remove when server_event
    runs a hook that does not wait in its own turn, writes once a turn, and pauses one that is long.
    """
    turn: deque[events.Event] | None = getattr(handler, _TURN, None)
    if turn is not None:
        turn.append(event)  # from a task that this turn has started
        return
    await _wait_for_turn(handler._server_event_lock)
    try:
        turn = deque((event,))
        said: Said = {}
        do = partial(_carry_out, handler, turn, said)
        share = getattr(handler, _SHARE, None)
        if share is None:
            share = _Share()
            setattr(handler, _SHARE, share)
        share.begin()
        setattr(handler, _TURN, turn)
        handler.timeout_watchdog.register_activity()
        try:
            # No `await` beyond this point but in `_pause`: whoever brings an event meanwhile waits for the lock.
            while turn:
                if share.is_used_up:
                    await _pause(handler, share, turn, said)
                try:
                    for _ in layers.enter(handler, turn.popleft(), do):
                        if share.is_used_up:
                            await _pause(handler, share, turn, said)
                except Exception:
                    _log_crash(handler)
        finally:
            setattr(handler, _TURN, None)
            _write_all(handler, said)
            share.end()
    finally:
        handler._server_event_lock.release()


async def _wait_for_turn(lock: asyncio.Lock) -> None:
    """Have the lock. A cancellation is put off until the turn is over: else whoever reads a connection would end
    without closing it, and without a word to the layers."""
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            await lock.acquire()
            break
        except asyncio.CancelledError as error:
            cancelled = error
    task = asyncio.current_task()
    if cancelled is not None and task is not None:
        task.uncancel()
        task.cancel(*cancelled.args)


async def _pause(handler: Any, share: _Share, turn: deque[events.Event], said: Said) -> None:
    _write_all(handler, said)
    setattr(handler, _TURN, None)
    try:
        await share.wait()
    finally:
        setattr(handler, _TURN, turn)


def _write_all(handler: Any, said: Said) -> None:
    for writer, data in said.items():
        try:
            _write(writer, data)
        except Exception:
            _log_crash(handler)
    said.clear()


def _log_crash(handler: Any) -> None:
    handler.log("mitmproxy has crashed!", logging.ERROR, exc_info=True)


def _say(handler: Any, command: commands.SendData, said: Said) -> None:
    connection = command.connection
    io = handler.transports.get(connection)
    if io is None:
        return  # it has been closed already
    writer = io.writer
    if writer in said:
        said[writer].append(command.data)
    elif not writer.is_closing():
        if connection.transport_protocol == "tcp" and connection.state in _WRITABLE:
            said[writer] = [command.data]
        else:
            writer.write(command.data)  # a datagram is a unit; and whether a closed one takes it, the writer knows


def _write(writer: Any, data: list[bytes] | None) -> None:
    if data and not writer.is_closing():
        writer.write(data[0] if len(data) == 1 else b"".join(data))


def _close(handler: Any, command: commands.CloseConnection, said: Said) -> None:
    writer = handler.transports[command.connection].writer
    _write(writer, said.pop(writer, None))
    half_close = isinstance(command, commands.CloseTcpConnection) and command.half_close
    handler.close_connection(command.connection, half_close)


def _carry_out(handler: Any, turn: deque[events.Event], said: Said, command: commands.Command) -> None:
    if isinstance(command, commands.SendData):
        _say(handler, command, said)
    elif isinstance(command, commands.StartHook):
        _start_hook(handler, turn, command)
    elif isinstance(command, commands.Log):
        handler.log(command.message, command.level)
    elif isinstance(command, commands.OpenConnection):
        task = asyncio_utils.create_task(
            handler.open_connection(command),
            name=f"server connection handler {command.connection.address}",
            keep_ref=False,
            client=handler.client.peername,
        )
        handler.transports[command.connection] = server.ConnectionIO(handler=task)
    elif isinstance(command, commands.RequestWakeup):
        task = asyncio_utils.create_task(
            handler.wakeup(command),
            name=f"wakeup timer ({command.delay:.1f}s)",
            keep_ref=False,
            client=handler.client.peername,
        )
        handler.wakeup_timer.add(task)
    elif isinstance(command, commands.ConnectionCommand) and command.connection not in handler.transports:
        pass  # it has been closed already
    elif isinstance(command, commands.CloseConnection):
        _close(handler, command, said)
    else:
        raise RuntimeError(f"Unexpected command: {command}")


def _start_hook(handler: Any, turn: deque[events.Event], hook: commands.StartHook) -> None:
    if type(handler).handle_hook is not _handle_hook:
        rest = handler.hook_task(hook)  # of a handler with hooks of its own, as replays have
        context = None
    else:
        context = copy_context()
        try:
            rest = context.run(_run_hook, handler, hook)
        except BaseException as error:
            rest = _raise(error)  # where a task of its own would have kept it
        else:
            if rest is None:
                if not hook.blocking:
                    return
                turn.append(events.HookCompleted(hook))
                return
            rest = _finish_hook(handler, hook, rest)
    task = asyncio.create_task(rest, context=context)  # what hooks have set so far is seen by those that come behind
    if not task.done():
        asyncio_utils.set_task_debug_info(task, name=f"handle_hook({hook.name})", client=handler.client.peername)
        asyncio_utils._KEEP_ALIVE.add(task)
        task.add_done_callback(asyncio_utils._KEEP_ALIVE.discard)


def _run_hook(handler: Any, hook: commands.StartHook) -> Coroutine[Any, Any, None] | None:
    """Run a hook as far as it does not wait; what is then left to await."""
    (data,) = args = hook.args()
    if (rest := dispatch.begin(handler.master.addons, hook, args)) is not None:
        return _held(rest, data)
    if isinstance(data, flow.Flow) and data.intercepted:
        return data.wait_for_resume()
    if handler.timeout_watchdog.blocker == 0:
        handler.timeout_watchdog.register_activity()
    return None


async def _held(rest: Coroutine[Any, Any, None], data: Any) -> None:
    await rest
    if isinstance(data, flow.Flow) and data.intercepted:
        await data.wait_for_resume()


async def _finish_hook(handler: Any, hook: commands.StartHook, rest: Coroutine[Any, Any, None]) -> None:
    with handler.timeout_watchdog.disarm():
        await rest
    if hook.blocking:
        await handler.server_event(events.HookCompleted(hook))


async def _raise(error: BaseException) -> None:
    raise error


async def _handle_hook(handler: Any, hook: commands.StartHook) -> None:
    """mitmproxy 12.2.3 awaits the hooks of an event, and a flow that nobody holds, in a task each time; so what does
    not wait costs as much as what does. As stock, without that. Remove when `_server_event` is removed.
    """
    if (rest := _run_hook(handler, hook)) is not None:
        with handler.timeout_watchdog.disarm():
            await rest


def _log(handler: Any, message: str, level: int = logging.INFO, exc_info: Any = None) -> None:
    """mitmproxy 12.2.3 sets the root logger to DEBUG and makes a record of each connect and each command that logs; so
    with a quiet log most are made for nobody. Here the handlers are asked first. Remove when the root logger's level is
    the lowest that a handler wants.
    """
    if chatter.goes_without_saying(message, level):
        return
    if level >= logging.WARNING or _is_heard(server.logger, level):
        stock_of(server.ConnectionHandler.log)(handler, message, level, exc_info)


def _is_heard(logger: logging.Logger | None, level: int) -> bool:
    while logger is not None:
        if logger.filters:
            return True
        for each in logger.handlers:
            if _listens(each, level):
                return True
        logger = logger.parent if logger.propagate else None
    return False


def _listens(handler: logging.Handler, level: int) -> bool:
    if isinstance(handler, LegacyLogEvents):
        return dispatch.wanted(handler.master.addons, "add_log")
    return level >= handler.level


_CHANGES = (
    (server.ConnectionHandler, "server_event", _server_event),
    (server.ConnectionHandler, "log", _log),
    (mode_servers.ProxyConnectionHandler, "handle_hook", _handle_hook),
)
