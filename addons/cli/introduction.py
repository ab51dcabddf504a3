"""What relay says of itself on the terminal: where it listens, where it forwards to, what to try."""

import time
from collections.abc import Mapping, Sequence

from addons import addresses
from addons.config.settings import Settings, Upstream
from addons.core.log_line import message_line
from addons.core.urls import is_address


def introduction(settings: Settings, in_force: Mapping[str, object]) -> list[tuple[str, str]]:
    """Where relay listens and what it forwards to."""
    address = addresses.url("https" if settings.listen.tls else "http", *addresses.listen_address(in_force))
    if settings.listen.tls and settings.listen.tls.plain == "allow":
        address += " (plain http as well)"
    more = f", and by {len(settings.routes)} route(s) elsewhere: see ./run.sh check" if settings.routes else ""
    return [("relay listens at", address), ("forwards to", place(settings.upstreams[0]) + more)]


def place(upstream: Upstream) -> str:
    """The address of an upstream, and how it is reached."""
    address = f"{addresses.url(upstream.scheme, upstream.host, upstream.port)}{upstream.prefix}"
    if upstream.versioned:
        address += " (in place of /v1)"
    if upstream.way is None:
        return address
    scheme, proxy = upstream.way
    return f"{address} by the proxy {addresses.url(scheme, *proxy)}"


def keys_line(upstream: Upstream) -> tuple[str, str] | None:
    """How many keys of relay's own an upstream has, and where their requests go when it fails; None without any."""
    if not upstream.keys:
        return None
    many = "1 key" if len(upstream.keys) == 1 else f"{len(upstream.keys)} keys, a conversation stays with one"
    elsewhere = f"; when it fails: {', '.join(upstream.fallback)}" if upstream.fallback else ""
    return f"{upstream.name} has", f"{many}{elsewhere}"


def advice_on_proxy(upstream: Upstream) -> str | None:
    """What to think about where an upstream is reached by a proxy."""
    if upstream.way is None or str(upstream.way[0]) != "socks5" or is_address(upstream.host):
        return None
    return (
        f"upstream {upstream.name}: with socks5:// its name is looked up here, where networks may lie about it; "
        "socks5h:// leaves that to the proxy, and is usually what is meant"
    )


def web_line(in_force: Mapping[str, object]) -> tuple[str, str]:
    """Where mitmweb is looked at."""
    address = addresses.url("http", *addresses.web_address(in_force))
    return "look inside at", f"{address} (mitmweb prints it with its token)"


def say(lines: Sequence[tuple[str, str]], before: str = "") -> None:
    """Print lines of a name and a text, each behind `before`."""
    print(table(lines, before), flush=True)


def said(lines: Sequence[tuple[str, str]], log: str) -> None:
    """Print lines as `log` in relay.yaml has it."""
    if log == "json":
        print(message_line(time.time(), "info", table(lines)), flush=True)
    else:
        say(lines)


def table(lines: Sequence[tuple[str, str]], before: str = "") -> str:
    """The same as text."""
    return "\n".join(f"{before}{name:<18} {text}".rstrip() for name, text in lines)
