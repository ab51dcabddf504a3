"""TLS with upstreams, below mitmproxy's layers, so that a connection can outlive the client it was made for.

mitmproxy 12.2.3 keeps the state of TLS in the layers of one client. Here asyncio does it, by the same options of
mitmproxy's (`ssl_insecure`, `client_certs`, versions, ciphers, trusted authorities) and SSLKEYLOGFILE, and what a
person wants to see of it is told to the connection that a flow shows. Sessions are resumed (RFC 8446, 2.2): asyncio
hands none on.
"""

import asyncio
import os
import socket
import ssl
import time
from asyncio import sslproto
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import certifi
from mitmproxy import certs
from mitmproxy.connection import Server
from mitmproxy.net.tls import INSECURE_TLS_MIN_VERSIONS, Version

from addons.engine.pool.places import Place

ALPN = b"http/1.1"
"""One exchange has one upstream connection: it can be cut off without harm to another, and timed by itself."""
_LONGEST = 600
"""Seconds: `limits.connect` ends a handshake long before."""
_MOST_SESSIONS = 256
_READ = 1 << 15
"""Bytes that are read at a time, and held for it as long as the connection lasts; asyncio's own is eight times that."""
_NOT_TLS = frozenset(
    ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")
)
_VERSIONS = {
    Version.UNBOUNDED: (ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.MAXIMUM_SUPPORTED),
    Version.SSL3: (ssl.TLSVersion.SSLv3,) * 2,
    Version.TLS1: (ssl.TLSVersion.TLSv1,) * 2,
    Version.TLS1_1: (ssl.TLSVersion.TLSv1_1,) * 2,
    Version.TLS1_2: (ssl.TLSVersion.TLSv1_2,) * 2,
    Version.TLS1_3: (ssl.TLSVersion.TLSv1_3,) * 2,
}


@dataclass(frozen=True)
class TlsOptions:
    """mitmproxy's options for TLS with servers, under their own names."""

    ssl_insecure: bool = False
    client_certs: str | None = None
    tls_version_server_min: str = "TLS1_2"
    tls_version_server_max: str = "UNBOUNDED"
    ciphers_server: str | None = None
    tls_ecdh_curve_server: str | None = None
    ssl_verify_upstream_trusted_ca: str | None = None
    ssl_verify_upstream_trusted_confdir: str | None = None

    @classmethod
    def of(cls, options: Any) -> "TlsOptions":
        """As they stand now."""
        return cls(**{name: getattr(options, name) for name in cls.__dataclass_fields__})

    def certificate_for(self, name: str) -> str | None:
        """The file with relay's own certificate for that server, if there is one."""
        if not self.client_certs:
            return None
        named = os.path.expanduser(self.client_certs)
        files = (named, os.path.join(named, f"{name}.pem"))
        return next((each for each in files if os.path.isfile(each)), None)


@lru_cache(64)
def context_for(options: TlsOptions, ca: Path | None, certificate: str | None) -> ssl.SSLContext:
    """What a handshake goes by. `ca` is a private authority, trusted beside the public ones.

    Raises OSError where a file can't be read, or an option names what OpenSSL does not have.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if options.ssl_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)
    try:
        least, most = Version[options.tls_version_server_min], Version[options.tls_version_server_max]
        context.minimum_version, context.maximum_version = _VERSIONS[least][0], _VERSIONS[most][1]
        if options.ciphers_server:
            context.set_ciphers(options.ciphers_server)
        elif least in INSECURE_TLS_MIN_VERSIONS:
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
        if options.tls_ecdh_curve_server:
            context.set_ecdh_curve(options.tls_ecdh_curve_server)
    except ValueError as error:
        raise OSError(f"TLS: {error}") from None
    context.set_alpn_protocols([ALPN.decode()])
    trusted, folder = options.ssl_verify_upstream_trusted_ca, options.ssl_verify_upstream_trusted_confdir
    if trusted or folder:
        context.load_verify_locations(_expanded(trusted), _expanded(folder))
    if ca is not None or not (trusted or folder):
        context.load_verify_locations(certifi.where())
    if ca is not None:
        context.load_verify_locations(str(ca))
    if certificate is not None:
        context.load_cert_chain(certificate)
        context.post_handshake_auth = True
    if keylog := os.getenv("MITMPROXY_SSLKEYLOGFILE") or os.getenv("SSLKEYLOGFILE"):
        context.keylog_filename = os.path.expanduser(keylog)
    return context


def _expanded(path: str | None) -> str | None:
    return os.path.expanduser(path) if path else None


class Sessions:
    """The last session of each place, so that the next handshake is short."""

    def __init__(self) -> None:
        self._kept: dict[tuple[ssl.SSLContext, Place], ssl.SSLSession] = {}

    def find(self, context: ssl.SSLContext, place: Place) -> ssl.SSLSession | None:
        """The one to resume, if there is one."""
        return self._kept.get((context, place))

    def learn(self, context: ssl.SSLContext, place: Place, found: ssl.SSLObject) -> None:
        """Keep the session of a connection that has read something: TLS 1.3 hands its tickets out behind the
        handshake."""
        session = found.session
        if session is None or not (session.has_ticket or session.id):
            return
        if len(self._kept) >= _MOST_SESSIONS:
            self._kept.clear()
        self._kept[context, place] = session

    def forget(self, context: ssl.SSLContext, place: Place) -> None:
        """The next handshake is a whole one: this session has led to nothing."""
        self._kept.pop((context, place), None)


sessions = Sessions()


class _Resuming:
    """In the place of a context, for asyncio: it hands a session on."""

    def __init__(self, context: ssl.SSLContext, session: ssl.SSLSession | None) -> None:
        self._context = context
        self._session = session

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """As SSLContext's."""
        return self._context.wrap_bio(*args, **{**kwargs, "session": self._session})


class TlsProtocol(sslproto.SSLProtocol):
    """asyncio's, but: it holds less memory; it closes at once, with a word of farewell; and what a peer has said before
    the connection broke under a write is still read."""

    max_size = _READ
    on_lost: Callable[[], None] | None = None
    """Called while the socket is still there."""

    def _start_shutdown(self) -> None:
        super()._start_shutdown()
        if self._transport is not None:
            self._transport.close()  # asyncio waits up to 30 s for the peer's own farewell

    def connection_lost(self, exc: BaseException | None) -> None:
        """Read what is left, then tell."""
        if isinstance(exc, ConnectionError) and self._state is sslproto.SSLProtocolState.WRAPPED:  # type: ignore[attr-defined]
            exc = None if self._read_rest() else exc
        if self.on_lost is not None:
            self.on_lost()
        super().connection_lost(exc)

    def _read_rest(self) -> bool:
        found = False
        try:
            number = self._transport.get_extra_info("socket").fileno()  # type: ignore[union-attr]
            while data := os.read(number, _READ):
                self.get_buffer(len(data))[: len(data)] = data
                self.buffer_updated(len(data))
                found = True
        except OSError:
            pass
        return found


async def secure(
    sock: socket.socket, place: Place, options: TlsOptions, inner: asyncio.Protocol, on_lost: Callable[[], None]
) -> asyncio.Transport:
    """Begin TLS on `sock`; what is said inside goes to `inner`. Raises OSError, in mitmproxy's words."""
    try:
        context = context_for(options, place.ca, options.certificate_for(place.server_name))
    except OSError as error:
        sock.close()
        raise OSError(f"TLS can't be set up: {error}") from None
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    resuming: Any = _Resuming(context, sessions.find(context, place))
    try:
        outer = TlsProtocol(
            loop, inner, resuming, done, server_hostname=place.server_name, ssl_handshake_timeout=_LONGEST
        )
    except ValueError as error:  # a name that is none
        sock.close()
        raise OSError(f"TLS can't be set up: {error}") from None
    outer.on_lost = on_lost
    transport = outer._get_app_transport()  # type: ignore[attr-defined]
    try:
        await loop.create_connection(lambda: outer, sock=sock)
        await done
    except BaseException as error:
        transport.abort()
        sessions.forget(context, place)
        if isinstance(error, OSError):
            raise OSError(_words(error)) from None
        raise
    transport.set_write_buffer_limits(1 << 16)
    return transport  # type: ignore[no-any-return]


def _words(error: OSError) -> str:
    """What mitmproxy says of the same failure: addons/core/failures.py reads it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"Certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        if error.reason in _NOT_TLS:
            return "The remote server does not speak TLS."
        return f"TLS handshake failed: {error.reason or error}"
    if isinstance(error, ConnectionResetError):
        return "TLS handshake failed: connection closed"
    return f"TLS handshake failed: {error}"


def holds_something(transport: Any) -> bool:
    """Whether TLS has bytes in hand: read and not yet given, as behind a pause of the reader, or not yet sent."""
    outer = getattr(transport, "_ssl_protocol", None)
    if outer is None or outer._sslobj is None or outer._transport is None:
        return False
    unread = outer._incoming.pending or outer._sslobj.pending()
    return bool(unread or outer._transport.get_write_buffer_size())


def learn_session(transport: asyncio.BaseTransport, place: Place) -> None:
    """Remember the session of a connection that has been used."""
    found, context = transport.get_extra_info("ssl_object"), transport.get_extra_info("sslcontext")
    if isinstance(found, ssl.SSLObject) and isinstance(context, _Resuming):
        sessions.learn(context._context, place, found)


@dataclass(frozen=True)
class Seen:
    """What people are shown of a connection's TLS."""

    certificates: tuple[certs.Cert, ...]
    cipher: str | None
    version: Any
    alpn: bytes
    done_at: float
    """Seconds since 1970."""

    def tell(self, server: Server, name: str) -> None:
        """Show it on `server`."""
        server.certificate_list = self.certificates
        server.cipher = self.cipher
        server.tls_version = self.version
        server.alpn = self.alpn
        server.alpn_offers = (ALPN,)
        server.sni = name
        server.timestamp_tls_setup = self.done_at


def look(transport: asyncio.BaseTransport) -> Seen | None:
    """What there is to be seen of it; None without TLS."""
    found = transport.get_extra_info("ssl_object")
    if not isinstance(found, ssl.SSLObject):
        return None
    cipher = found.cipher()
    chain = found.get_unverified_chain() or [der for der in (found.getpeercert(True),) if der]
    alpn = (found.selected_alpn_protocol() or "").encode()
    return Seen(_parsed(tuple(chain)), cipher[0] if cipher else None, found.version(), alpn, time.time())


@lru_cache(64)
def _parsed(chain: tuple[bytes, ...]) -> tuple[certs.Cert, ...]:
    parsed = []
    for der in chain:
        try:
            parsed.append(certs.Cert.from_pem(ssl.DER_cert_to_PEM_cert(der).encode()))
        except ValueError:
            continue  # a strange certificate (mitmproxy's issue #6968): the others are shown
    return tuple(parsed)
