"""How a method of mitmproxy's is changed: wrapped, with the stock one at hand."""

import logging
from collections.abc import Callable, Generator, Iterable
from typing import Any

from mitmproxy.proxy import commands

Commands = Generator[Any, Any, Any]
"""What mitmproxy's layers are made of: commands out, replies in."""

Changes = Iterable[tuple[Any, str, Any]]
"""What is to be replaced by what: an owner, a name, a function."""

_STOCK = "relay_wraps"


def pause() -> commands.Command:
    """A command that does nothing: where a layer yields it, others may have a turn (`serving`)."""
    return commands.Log("", logging.NOTSET)


def wrap(owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replace `owner.name` by `change`, which gets the stock one as its first argument.

    Done again, as a reload of the addons does, it starts from the stock one.
    """
    stock = stock_of(getattr(owner, name))

    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(stock, *args, **kwargs)

    setattr(changed, _STOCK, stock)
    setattr(owner, name, changed)


def wrap_inner(owner: Any, name: str, change: Callable[..., Any]) -> None:
    """As `wrap`, in half the time, for a method with one argument that mitmproxy alone calls, and not by its name."""
    stock = stock_of(getattr(owner, name))

    def changed(this: Any, argument: Any) -> Any:
        return change(stock, this, argument)

    setattr(changed, _STOCK, stock)
    setattr(owner, name, changed)


def replace(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Put `function` in the place of `owner.name`, where calling the stock one is never needed: spares a call."""
    setattr(function, _STOCK, stock_of(getattr(owner, name)))
    setattr(owner, name, function)


def replace_all(changes: Changes) -> None:
    """`replace` each of them."""
    for owner, name, function in changes:
        replace(owner, name, function)


def restore_all(changes: Changes) -> None:
    """`restore` each of them."""
    for owner, name, _ in changes:
        restore(owner, name)


def restore(owner: Any, name: str) -> None:
    """Put back what `wrap` or `replace` found; harmless where neither has been."""
    changed = vars(owner).get(name)
    if not is_wrapped(changed):
        return
    delattr(owner, name)
    if getattr(owner, name, None) is not stock_of(changed):  # else it is inherited
        setattr(owner, name, stock_of(changed))


def stock_of(function: Any) -> Any:
    """What stood in the place of `function` before."""
    return getattr(function, _STOCK, function)


def is_wrapped(function: Any) -> bool:
    """Whether `wrap` or `replace` has been here."""
    return hasattr(function, _STOCK)
