"""Addresses of upstreams and of proxies: text in, parts or a ValueError that says what was expected out."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

URL_EXPECTED = "expected an address such as https://api.openai.com or http://127.0.0.1:8081/prefix"
PROXY_EXPECTED = "expected a proxy such as http://127.0.0.1:7890 or socks5h://127.0.0.1:1080, or env, or null"
SOCKS_EXPECTED = "relay speaks SOCKS5 to proxies; use socks5h:// (the proxy looks names up) or socks5:// (relay does)"
SOCKS = ("socks5", "socks5h")
DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
ENDPOINTS = ("/chat/completions", "/completions")

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOSTNAME = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_URL_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")


# Zhipu's /api/paas/v4, Volcengine's /api/v3, Google's /v1beta/openai, Cloudflare's /v1/{account}/{gateway}/openai.
_VERSION = re.compile(r"v[0-9]{1,3}(?:\.[0-9]{1,3})?(?:-?(?:alpha|beta|preview)[0-9]{0,3})?", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """Where an upstream is. `prefix` is `""` or like `/proxy`, without a slash at its end and without a final `/v1`.

    `versioned` says that the prefix has a version of its own, which stands in the place of `/v1`.
    """

    scheme: str
    host: str
    port: int
    prefix: str
    versioned: bool = False

    def path(self, path: str) -> str:
        """Where `path` of OpenAI's interface (without its query) lies at this upstream.

        >>> parse_upstream("https://open.bigmodel.cn/api/paas/v4").path("/v1/chat/completions")
        '/api/paas/v4/chat/completions'
        >>> parse_upstream("https://api.openai.com/v1").path("/v1/chat/completions")
        '/v1/chat/completions'
        """
        if self.versioned and (path == "/v1" or path.startswith("/v1/")):
            path = path[3:]
        return self.prefix + path

    @property
    def authority(self) -> str:
        """The Host header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True)
class Proxy:
    """A proxy on the way out: `http`, `socks5` or, where it looks up the names of upstreams, `socks5h`. `auth` is
    `user:pass`."""

    scheme: str
    host: str
    port: int
    auth: str | None = None


def is_host(text: str) -> bool:
    """Whether text is an IP address (IPv6 without brackets) or could be a name in the DNS, in ASCII."""
    # Only digits and dots, and yet no address: 127.0.0 or 1.2.3.456, which resolvers read each in their own way.
    return is_address(text) or (bool(_HOSTNAME.fullmatch(text)) and not re.fullmatch(r"[0-9.]+", text))


def is_address(text: str) -> bool:
    """Whether text is an IP address, IPv6 without brackets."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def parse_upstream(text: str) -> Address:
    """The parts of an upstream's url. Raises ValueError, saying what was expected."""
    parts = _split(text, URL_EXPECTED)
    if parts.scheme not in ("http", "https"):
        raise ValueError(URL_EXPECTED)
    if "@" in parts.netloc:
        raise ValueError("expected an address without user and password; keys come from those who call relay")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("expected an address without ? and #")
    if not _URL_PATH.fullmatch(parts.path) or "//" in parts.path or {".", ".."} & set(parts.path.split("/")):
        raise ValueError(URL_EXPECTED)
    path = parts.path.rstrip("/")
    if path.endswith(ENDPOINTS):
        raise ValueError("expected the address before the endpoint, e.g. https://api.openai.com")
    host, port = _host_and_port(parts, URL_EXPECTED)
    prefix = path.removesuffix("/v1")
    versioned = prefix == path and any(map(_VERSION.fullmatch, path.split("/")))
    return Address(parts.scheme, host, port, prefix, versioned)


def parse_proxy(text: str) -> Proxy:
    """The parts of a proxy's url. Raises ValueError, saying what was expected."""
    if text.lower().startswith("socks") and not text.lower().startswith(tuple(f"{each}://" for each in SOCKS)):
        raise ValueError(SOCKS_EXPECTED)
    parts = _split(text, PROXY_EXPECTED)
    if parts.scheme == "https":
        raise ValueError("relay speaks plain HTTP to proxies (what goes through stays encrypted); use http://")
    if parts.scheme not in ("http", *SOCKS) or parts.path not in ("", "/") or "?" in text or "#" in text:
        raise ValueError(PROXY_EXPECTED)
    host, port = _host_and_port(parts, PROXY_EXPECTED)
    auth = _auth(parts)
    if auth is not None and parts.scheme in SOCKS and not _fits_socks(auth):
        raise ValueError("SOCKS takes a user and a password of 1 to 255 bytes each, or neither")
    return Proxy(parts.scheme, host, port, auth)


def _fits_socks(auth: str) -> bool:
    """RFC 1929: each has a length of one byte."""
    user, _, password = auth.partition(":")
    return all(0 < len(each.encode()) < 256 for each in (user, password))


def proxy_from_environ(upstream: Address, environ: Mapping[str, str]) -> Proxy | None:
    """What `proxy: env` means for an upstream: HTTPS_PROXY or HTTP_PROXY by its scheme, else ALL_PROXY, unless NO_PROXY
    names its host.

    As in curl, the lower-case name goes first, and an address without a scheme is an HTTP proxy.
    Raises ValueError, naming the variable and not its value.
    """
    names = [each for one in (f"{upstream.scheme}_proxy", "all_proxy") for each in (one, one.upper())]
    name = next((each for each in names if environ.get(each, "").strip()), "")
    text = environ.get(name, "").strip()
    if not text or _exempt(upstream, environ.get("no_proxy") or environ.get("NO_PROXY", "")):
        return None
    try:
        return parse_proxy(text if "://" in text else f"http://{text}")
    except ValueError as error:
        raise ValueError(f"{name} of the environment does not do: {error}") from None


def _exempt(upstream: Address, no_proxy: str) -> bool:
    """Whether NO_PROXY covers the upstream: `*`, names with all below them, `host:port`, addresses, networks."""
    return any(_covers(entry.strip().lower(), upstream) for entry in no_proxy.split(",") if entry.strip())


def _covers(entry: str, upstream: Address) -> bool:
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(upstream.host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass  # a name on one side at least
    name, _, port = entry.rpartition(":") if re.search(r":[0-9]{1,5}\Z", entry) else (entry, "", "")
    name = name.strip("[]").removeprefix("*").lstrip(".").rstrip(".")
    if not name or (port and int(port) != upstream.port):
        return False
    host = upstream.host.rstrip(".")
    return host == name or host.endswith(f".{name}")


def _split(text: str, expected: str) -> SplitResult:
    # urlsplit drops tabs and newlines silently, and takes a backslash for a letter; a URL with either is a slip.
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise ValueError(expected)
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        raise ValueError(expected) from None
    if not parts.scheme or not parts.hostname:
        raise ValueError(expected)
    return parts


def _host_and_port(parts: SplitResult, expected: str) -> tuple[str, int]:
    host = parts.hostname or ""
    port = DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
    if not is_host(host) or not 0 < port < 65536 or parts.netloc.endswith(":"):
        raise ValueError(expected)
    return host, port


def _auth(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    return f"{unquote(parts.username)}:{unquote(parts.password or '')}"
