"""Dispatch: each event goes straight to the hooks that want it.

mitmproxy 12.2.3 walks all of its 31 addons for every event, and once more for the `update` event that follows
each flow's, with a context manager per addon; looking for hooks takes some 40% of its time on short requests. Here a
table holds the bound hooks by the event's name. What a hook may do, raise or await is as before:

- hooks run in the order of the addons, nested ones after their parent, each awaited;
- one that raises is logged, and ends the turn of its top-level addon with all that is nested there;
- AddonHalt ends the event.

1. The table is built when an event first comes, and thrown away whenever an addon is registered or removed, when
   options change and when mitmproxy is up, and when an addon is found to have other children than it had.
2. If that happens while an event is on its way, the rest of its way is stock's: what comes next is looked up when its
   turn has come.
3. Built-in addons that are switched off are left out.
4. What cannot be known beforehand (an attribute that is computed, or that raises) is left to stock each time.

So one thing only is seen later than stock sees it: a hook, or a first child, that an addon gets by plain assignment
long after it was registered.
"""

import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import fields
from functools import cache
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

from mitmproxy import addonmanager, ctx, exceptions, flow, hooks
from mitmproxy.addonmanager import AddonManager, cut_traceback, safecall, traverse
from mitmproxy.addons.view import View

from addons.engine.corrections import web
from addons.engine.wrapping import replace_all, restore, restore_all, wrap

# Built-in addons that have nothing to do as long as an option is not set, and the hooks in which they would find that
# out for each flow. What says whether they have work changes with options alone, and so does the table.
_WORK: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "AntiCache": ("request", lambda _: ctx.options.anticache),
    "AntiComp": ("request", lambda _: ctx.options.anticomp),
    "BlockList": ("request", attrgetter("items")),
    "MapLocal": ("request", attrgetter("replacements")),
    "MapRemote": ("request", attrgetter("replacements")),
    "ModifyBody": ("request response", attrgetter("replacements")),
    "ModifyHeaders": ("requestheaders responseheaders", attrgetter("replacements")),
    "Onboarding": ("request", lambda _: ctx.options.onboarding),
    "ProxyAuth": ("requestheaders", attrgetter("validator")),
    "Save": ("request response error", attrgetter("stream")),
    "SaveHar": ("response error", lambda _: ctx.options.hardump),
    "StickyAuth": ("request", attrgetter("flt")),
    "StickyCookie": ("request response", attrgetter("flt")),
    "UpstreamAuth": ("requestheaders", attrgetter("auth")),
}

_PLAIN = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, staticmethod, classmethod)
_ORDINARY: tuple[Any, ...] = (object.__getattribute__, types.ModuleType.__getattribute__, type.__getattribute__)
_LIFE = (hooks.ConfigureHook, hooks.RunningHook, hooks.DoneHook)
"""Events in which addons set themselves up; they are rare, and stock's."""

_TABLE = "relay_hooks"
_stamp = object()
"""Of the latest `install`: a table with another one may have missed a change."""

Trail = tuple[tuple[Sequence[Any], int], ...]
"""How an addon is reached from its top-level one: each time a list of children, and the place in it."""


class Call(NamedTuple):
    """A hook to call, or None: the whole top-level addon is to be walked as stock does. `addon` has the hook."""

    hook: Callable[..., Any] | None
    addon: Any
    trail: Trail


class Turn(NamedTuple):
    """The calls of one top-level addon, which stands at `position`; `nested` if it has children."""

    position: int
    nested: bool
    calls: tuple[Call, ...]


class Table:
    """Who wants what, for as long as the addons stay as they are; `alive` until something else is known."""

    __slots__ = ("alive", "chain", "odd", "parents", "size", "stamp", "turns")

    def __init__(self, manager: AddonManager) -> None:
        self.alive = True
        self.stamp = _stamp
        self.chain = manager.chain
        self.size = len(self.chain)
        self.turns: dict[str, tuple[Turn, ...]] = {}
        self.parents: list[tuple[Any, Sequence[Any]]] = []
        self.odd: set[int] = set()
        for position, addon in enumerate(self.chain):
            try:
                self.parents += [(each, _copy(each.addons)) for each in traverse([addon]) if hasattr(each, "addons")]
            except Exception:
                self.odd.add(position)

    def holds(self, manager: AddonManager) -> bool:
        """Whether the addons are those they were, children included."""
        chain = manager.chain
        if not self.alive or self.stamp is not _stamp or chain is not self.chain or len(chain) != self.size:
            return False
        try:
            for parent, children in self.parents:
                if parent.addons != children:
                    return False
        except Exception:
            return False
        return True

    def find(self, name: str) -> tuple[Turn, ...]:
        """The hooks for the event `name`, looked up and kept."""
        nested = {id(parent) for parent, _ in self.parents}
        found = (Turn(at, id(top) in nested, tuple(self._calls(at, name))) for at, top in enumerate(self.chain))
        turns = self.turns[name] = tuple(turn for turn in found if turn.calls)
        return turns

    def _calls(self, position: int, name: str) -> list[Call]:
        top = self.chain[position]
        walked = [Call(None, top, ())]
        if position in self.odd:
            return walked
        calls = []
        try:
            for addon, trail in _places(top, ()):
                hook = getattr(addon, name, None)
                if not _is_plain(addon, name):
                    return walked
                if hook and callable(hook):
                    if not _is_idle(addon, name):
                        calls.append(Call(hook, addon, trail))
                elif hook and not isinstance(hook, types.ModuleType):
                    return walked  # which complains each time
        except Exception:
            return walked
        return calls


def install() -> None:
    """Make the changes of this room."""
    global _stamp
    _stamp = object()
    replace_all(_REPLACED)
    for name, change in _WRAPPED.items():
        wrap(AddonManager, name, change)


def uninstall() -> None:
    """Take them back."""
    restore_all(_REPLACED)
    for name in _WRAPPED:
        restore(AddonManager, name)


def forget(manager: AddonManager) -> None:
    """Throw the table away: what hooks there are may have changed."""
    table = vars(manager).pop(_TABLE, None)
    if table is not None:
        table.alive = False  # events on their way have it in hand


def _copy(children: Any) -> Sequence[Any]:
    if not isinstance(children, list | tuple):
        raise TypeError("children that cannot be compared with what they were")
    return children[:]


def _forget_table(stock: Any, manager: AddonManager, *args: Any, **kwargs: Any) -> Any:
    """mitmproxy 12.2.3 changes its list of addons here (register, remove, clear, add) and tells nobody; so the table of
    hooks would go on naming who was there before. As stock, and the table is thrown away. Remove when `_trigger_event`
    is removed.
    """
    forget(manager)
    try:
        return stock(manager, *args, **kwargs)
    finally:
        forget(manager)  # a hook may have run in between, and built one


def _table(manager: AddonManager) -> Table:
    table = vars(manager).get(_TABLE)
    if type(table) is not Table or not table.holds(manager):
        table = Table(manager)
        setattr(manager, _TABLE, table)
    return table


def wanted(manager: AddonManager, name: str) -> bool:
    """Whether any addon may have a hook for the event `name`."""
    table = _table(manager)
    turns = table.turns.get(name)
    return bool(table.find(name) if turns is None else turns)


def _places(addon: Any, trail: Trail) -> Iterator[tuple[Any, Trail]]:
    """`addon` and all below it, in stock's order, with their trails."""
    yield addon, trail
    if hasattr(addon, "addons"):
        children = addon.addons
        for index, child in enumerate(children):
            yield from _places(child, (*trail, (children, index)))


def _is_plain(addon: Any, name: str) -> bool:
    """Whether asking `addon` for the hook `name` again would give the same answer."""
    kind: Any = type(addon)
    if kind.__getattribute__ not in _ORDINARY or hasattr(kind, "__getattr__"):
        return False
    if kind is types.ModuleType and "__getattr__" in vars(addon):
        return False
    static = inspect.getattr_static(addon, name, None)
    return static is None or isinstance(static, _PLAIN) or not hasattr(type(static), "__get__")


def _is_idle(addon: Any, name: str) -> bool:
    kind = type(addon)
    names, has_work = _WORK.get(kind.__name__, ("", bool))
    return name in names.split() and kind.__module__.startswith("mitmproxy.addons.") and not has_work(addon)


async def _trigger_event(manager: AddonManager, event: hooks.Hook) -> None:
    """mitmproxy 12.2.3 walks all its addons and their children for each event, and looks for the hook in each; so that
    takes some 40% of the time of a short request. Here the table is asked. Remove when AddonManager keeps a table of
    hooks by the event's name.
    """
    if isinstance(event, _LIFE):
        await _forget_and_walk(manager, event)
    elif (rest := _begin(manager, event, event.args())) is not None:
        await rest


def _begin(manager: AddonManager, event: hooks.Hook, args: Sequence[Any]) -> Coroutine[Any, Any, None] | None:
    """Run the hooks of `event` until one of them waits; what is then left to await."""
    table = _table(manager)
    turns = table.turns.get(event.name)
    if turns is None:
        turns = table.find(event.name)
    return _Way(manager, event, args, table, turns).go(0, 0) if turns else None


class _Way:
    """The way of one event through the hooks that want it. A place on it is a turn, and a call in that turn."""

    __slots__ = ("args", "event", "manager", "table", "turns")

    def __init__(
        self, manager: AddonManager, event: hooks.Hook, args: Sequence[Any], table: Table, turns: tuple[Turn, ...]
    ) -> None:
        self.manager = manager
        self.event = event
        self.args = args
        self.table = table
        self.turns = turns

    def go(self, at: int, first: int) -> Coroutine[Any, Any, None] | None:
        """Go on from a place, a turn and a call in it; what is left to await, if it isn't the end that was reached."""
        table, args = self.table, self.args
        for turn in range(at, len(self.turns)):
            _, nested, calls = self.turns[turn]
            try:
                for call in range(first, len(calls)):
                    hook, addon, _ = calls[call]
                    if hook is None:
                        return self._wait(self.manager.invoke_addon(addon, self.event), turn, call)
                    result = hook(*args)
                    if result is not None and inspect.isawaitable(result):
                        return self._wait(result, turn, call)
                    if not (table.holds(self.manager) if nested else table.alive):
                        return self._wait(self._beyond(turn, call), turn, None)
            except exceptions.OptionsError:
                raise
            except Exception as error:
                if self._ends_with(error):
                    self._look_again()
                    return None
                if not table.holds(self.manager):
                    return self._leave(turn)
            first = 0
        return None

    async def _wait(self, pending: Awaitable[Any], turn: int, call: int | None) -> None:
        """Go on behind what waits; with no `call` the rest of the way is stock's."""
        sure = call is not None
        try:
            await pending
            if call is not None and not self.table.holds(self.manager):
                sure = False
                await self._beyond(turn, call)
        except exceptions.OptionsError:
            raise
        except Exception as error:
            if self._ends_with(error):
                self._look_again()
                return
            sure, call = self.table.holds(self.manager), None
        place = (turn, call + 1) if call is not None else (turn + 1, 0)
        if (rest := self.go(*place) if sure else self._leave(turn)) is not None:
            await rest

    async def _beyond(self, turn: int, call: int) -> None:
        """What stock would still walk in this turn."""
        hook, addon, trail = self.turns[turn].calls[call]
        if hook is not None:
            await self.manager.invoke_addon(_Rest(_beyond(addon, trail)), self.event)

    async def _leave(self, turn: int) -> None:
        """Leave all that comes behind this turn to stock."""
        await _walk(self.manager, islice(self.table.chain, self.turns[turn].position + 1, None), self.event)

    def _look_again(self) -> None:
        """Whoever ends the event may have adopted a child first, who hears the next one."""
        if not self.table.holds(self.manager):
            forget(self.manager)

    @staticmethod
    def _ends_with(error: Exception) -> bool:
        """Whether the event ends with what a hook has raised."""
        if isinstance(error, exceptions.AddonHalt):
            return True
        _log_as_stock_does(error)
        return False


class _Rest:
    """Addons to walk, seen by stock's code as the children of one that has no hooks."""

    def __init__(self, addons: Iterator[Any]) -> None:
        self.addons = addons


def _beyond(addon: Any, trail: Trail) -> Iterator[Any]:
    """What stock would still walk in the turn of a top-level addon once it has been at `addon`."""
    if hasattr(addon, "addons"):
        yield from addon.addons
    for children, index in reversed(trail):
        yield from islice(children, index + 1, None)


async def _walk(manager: AddonManager, addons: Iterator[Any], event: hooks.Hook) -> None:
    for addon in addons:
        try:
            with safecall():
                await manager.invoke_addon(addon, event)
        except exceptions.AddonHalt:
            return


async def _forget_and_walk(manager: AddonManager, event: hooks.Hook) -> None:
    forget(manager)
    try:
        await _walk(manager, iter(manager.chain), event)
    finally:
        forget(manager)


def _trigger(stock: Any, manager: AddonManager, event: hooks.Hook) -> None:
    """mitmproxy 12.2.3 walks all its addons here, too, which logging does for each record (`add_log`); so each line
    costs a walk. As stock where anybody listens. Remove when `_trigger_event` is removed.
    """
    if isinstance(event, _LIFE):
        _forget_table(stock, manager, event)
    elif wanted(manager, event.name):
        stock(manager, event)


def _log_as_stock_does(error: Exception) -> None:
    trace = error.__traceback__.tb_next if error.__traceback__ else None  # from the hook on
    trace = cut_traceback(cut_traceback(trace, "invoke_addon_sync"), "invoke_addon")
    addonmanager.logger.error(f"Addon error: {error}", exc_info=(type(error), error, trace))


async def _handle_lifecycle(manager: AddonManager, event: hooks.Hook) -> None:
    """mitmproxy 12.2.3 walks all its addons once more for the `update` event behind each flow's; so it takes twice the
    time, mostly for nobody. Here it is skipped where nobody has that hook. Remove when `_trigger_event` is removed.
    """
    if (rest := begin(manager, event, event.args())) is not None:
        await rest


def begin(manager: AddonManager, event: hooks.Hook, args: Sequence[Any]) -> Coroutine[Any, Any, None] | None:
    """As `AddonManager.handle_lifecycle`, but what does not wait is done already; the rest is left to await.

    `args` are those of the event.
    """
    message = args[0]
    rest = _forget_and_walk(manager, event) if isinstance(event, _LIFE) else _begin(manager, event, args)
    if rest is not None:
        return _update_behind(rest, manager, message)
    table = vars(manager).get(_TABLE)
    if table is not None and table.alive and table.turns.get("update") == ():
        return None  # the table has been looked at in this very turn
    if not isinstance(message, flow.Flow):
        return None
    if message in web.waiting and table is not None and table.alive and _is_for_lists(table.turns.get("update")):
        return None
    return _update(manager, message)


def _is_for_lists(turns: tuple[Turn, ...] | None) -> bool:
    """Whether nobody but mitmproxy's list of flows wants an event."""
    return turns is not None and all(type(call.addon) is View for turn in turns for call in turn.calls)


def _update(manager: AddonManager, message: Any) -> Coroutine[Any, Any, None] | None:
    if isinstance(message, flow.Flow) and wanted(manager, "update"):
        return _begin(manager, hooks.UpdateHook([message]), ([message],))
    return None


async def _update_behind(rest: Coroutine[Any, Any, None], manager: AddonManager, message: Any) -> None:
    await rest
    if (update := _update(manager, message)) is not None:
        await update


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _args(hook: Any) -> list[Any]:
    """mitmproxy 12.2.3 asks dataclasses for the names of a hook's fields at each event; so each costs a few
    microseconds for what never changes. Here they are kept by class. Remove when Hook.args keeps them.
    """
    kind: Any = type(hook)
    return [getattr(hook, name) for name in _names(kind)]


_REPLACED: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (AddonManager, "trigger_event", _trigger_event),
    (AddonManager, "handle_lifecycle", _handle_lifecycle),
    (hooks.Hook, "args", _args),
)
_WRAPPED: dict[str, Callable[..., Any]] = {
    "trigger": _trigger,
    "register": _forget_table,
    "remove": _forget_table,
    "clear": _forget_table,
    "add": _forget_table,
}
