"""Addresses on this machine: how they are written, and whether they can be had, said in words that help if not.

`options` are those of mitmproxy by name, as relay sets them or as the command line gives them (so a port may be text).
"""

import errno
import ipaddress
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any

BACKLOG = 4096
"""Connections that may wait to be taken; the system may have a lower bound of its own."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LISTEN_HINT = "stop what listens there, or choose another port: listen.port in relay.yaml, or ./run.sh -p {port}"
METRICS_HINT = "stop what listens there, or choose another port: metrics.listen in relay.yaml"
_WEB_HINT = "stop what listens there, or choose another port for mitmweb: ./run.sh web --web-port {port}"


class Refusal(Exception):
    """A reason not to start; its text is for the person at the terminal."""


def check(options: Mapping[str, object], program: str) -> None:
    """Raise Refusal unless relay, and mitmweb if that is the program, can listen where they shall."""
    host, port = listen_address(options)
    claim(host, port, _LISTEN_HINT)
    if program == "mitmweb":
        web_host, web_port = web_address(options)
        if web_port == port:
            raise Refusal(f"relay and mitmweb can't both have port {port}: choose another by -p or --web-port")
        claim(web_host, web_port, _WEB_HINT)


def claim(host: str, port: int, hint: str) -> None:
    """Have the address for a moment, as asyncio's servers do; raise Refusal where that fails. Port 0 is always free."""
    if port:
        for sock in _bound(host, port, hint):
            sock.close()


def check_listening(host: str, port: int, taken: int) -> None:
    """Raise Refusal where relay can't listen there; `taken` is a port that this process has and will give up."""
    for sock in _bound(host, 0 if port == taken else port, _LISTEN_HINT):
        sock.close()


def listen(options: Mapping[str, object]) -> list[socket.socket]:
    """Sockets that listen where relay shall, one for each address of the host. Raises Refusal.

    Port 0 is any free one, the same for all of them.
    """
    host, port = listen_address(options)
    sockets = _bound(host, port, _LISTEN_HINT)
    try:
        for sock in sockets:
            sock.listen(BACKLOG)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise Refusal(_failure(error, host, port, _LISTEN_HINT)) from error
    return sockets


def listen_at(address: str, hint: str) -> list[socket.socket]:
    """Sockets that listen at `host:port`, an IPv6 address in brackets. Raises Refusal, which ends with `hint`."""
    host, _, port = address.rpartition(":")
    sockets = _bound(host.removeprefix("[").removesuffix("]"), int(port), hint)
    for sock in sockets:
        sock.listen(BACKLOG)
    return sockets


def _bound(host: str, port: int, hint: str) -> list[socket.socket]:
    other = "choose another by --web-host" if hint == _WEB_HINT else "change listen.host in relay.yaml"
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise Refusal(f"{host} is no address to listen on ({error.strerror}): {other}") from error
    bound: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            taken = bound[0].getsockname()[1] if bound else port
            bound.append(_bind(family, kind, protocol, (address[0], taken, *address[2:])))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for sock in bound:
                    sock.close()
                raise Refusal(_failure(error, host, port, hint)) from error
    if not bound:
        raise Refusal(f"{host} is no address of this machine: {other}")
    return bound


def _bind(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _failure(error: OSError, host: str, port: int, hint: str) -> str:
    where = netloc(host or "*", port)
    if error.errno == errno.EADDRINUSE:
        who = " (by another relay, it seems)" if _is_relay(host, port) else ""
        return f"{where} is in use already{who}: {hint.format(port=port + 2)}"
    if error.errno == errno.EACCES:
        return f"{where} is not ours to take (ports below 1024 need rights): {hint.format(port=8080)}"
    return f"{where} can't be had ({error.strerror}): {hint.format(port=port + 2)}"


def _is_relay(host: str, port: int) -> bool:
    """Whether what listens there answers like a relay."""
    connection = HTTPConnection(_reachable(host), port, timeout=0.5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().getheader("x-relay-request-id") is not None
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def listen_address(options: Mapping[str, object]) -> tuple[str, int]:
    """Where relay listens."""
    return str(options["listen_host"]), _number(options["listen_port"], "--listen-port")


def web_address(options: Mapping[str, object]) -> tuple[str, int]:
    """Where mitmweb listens."""
    return str(options["web_host"]), _number(options["web_port"], "--web-port")


def listening(options: Mapping[str, object]) -> tuple[str, int]:
    """Where relay is reached from this machine."""
    host, port = listen_address(options)
    return _reachable(host), port


def origin(options: Mapping[str, object], *, tls: bool) -> str:
    """The URL by which relay is reached from this machine."""
    return url("https" if tls else "http", *listening(options))


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def url(scheme: str, host: str, port: int) -> str:
    """scheme://host[:port], the port only where it is not the scheme's own."""
    return f"{scheme}://{netloc(host, port).removesuffix(f':{_DEFAULT_PORTS.get(scheme, 0)}')}"


def netloc(host: str, port: int) -> str:
    """host:port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reachable(host: str) -> str:
    """An address to connect to for one to listen on: "every interface" is none."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _number(value: object, flag: str) -> int:
    text = str(value)
    if not (text.isdecimal() and int(text) < 65536):
        raise Refusal(f"{flag} {text}: expected a port, 0 to 65535")
    return int(text)
