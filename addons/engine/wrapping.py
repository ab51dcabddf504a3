"""How a method of mitmproxy's is changed: wrapped, with the stock one at hand."""

from collections.abc import Callable, Generator
from typing import Any

Commands = Generator[Any, Any, Any]
"""What mitmproxy's layers are made of: commands out, replies in."""

_STOCK = "relay_wraps"


def wrap(owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replace `owner.name` by `change`, which gets the stock one as its first argument.

    Done again, as a reload of the addons does, it starts from the stock one.
    """
    stock = getattr(owner, name)
    stock = getattr(stock, _STOCK, stock)

    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(stock, *args, **kwargs)

    setattr(changed, _STOCK, stock)
    setattr(owner, name, changed)


def is_wrapped(function: Any) -> bool:
    """Whether `wrap` has been here."""
    return hasattr(function, _STOCK)
