"""Views: who stands in mitmproxy's registry of the views of a body.

What a wrapper shows is the business of whoever brings it (inspection/bounded_views.py). A room is known here by its
module's name, since a reload makes its classes anew and leaves those of the earlier load in the registry.
"""

from collections.abc import Callable
from typing import Any

from mitmproxy import contentviews
from mitmproxy.contentviews import Contentview


def wrap_all(room: str, wrapped: Callable[[Contentview], Contentview]) -> None:
    """Put `wrapped(view)` in the place of each of mitmproxy's own views. `room` is the module of the wrappers, which
    have the attribute `view`; those of an earlier load are taken off first. Views of other addons are left alone.

    mitmproxy 12.2.3 shows all of a body on the loop that serves the clients, and its registry replaces a view with a
    line in the log for each; so a form of 1 MB holds everybody for ten seconds, and the registry itself is written to.
    Remove when prettify_message takes a limit of bytes, or runs in a thread.
    """
    for name, view in mitmproxys(room).items():
        contentviews.registry._by_name[name] = wrapped(plain(room, view))


def unwrap_all(room: str) -> None:
    """Give the places back that wrappers of `room` have taken."""
    for name, view in mitmproxys(room).items():
        contentviews.registry._by_name[name] = plain(room, view)


def mitmproxys(room: str) -> dict[str, Any]:
    """mitmproxy's own views by their names, as they are or in a wrapper of `room`."""
    found = contentviews.registry._by_name
    return {name: view for name, view in found.items() if type(view).__module__.startswith(("mitmproxy", room))}


def plain(room: str, view: Any) -> Any:
    """The view in a wrapper of `room`; any other as it is."""
    return view.view if type(view).__module__ == room else view


def remove(room: str) -> None:
    """Take out the views that the module `room` has made; nothing happens where there are none.

    mitmproxy 12.2.3 has a way into its registry and none out; so a view would outlive the addon that brought it. Remove
    when contentviews has a counterpart of `add`.
    """
    registered = contentviews.registry._by_name
    for name, view in list(registered.items()):
        if type(view).__module__ == room:
            del registered[name]
