"""UpstreamTls: an upstream with a certificate of a private authority, named in `upstreams[].ca`.

The authority is trusted for that upstream alone, beside the public ones. mitmproxy has one setting for all upstreams,
so its own preparation of the TLS connection (versions, ciphers, SNI, the name to verify) is kept and only what it
trusts is exchanged.
"""

from functools import cache
from pathlib import Path

import certifi
from mitmproxy import connection, ctx, tls
from OpenSSL import SSL

from addons.config.settings import Settings


class UpstreamTls:
    """Prepares TLS with upstreams that have an authority of their own."""

    def __init__(self, settings: Settings) -> None:
        self.authorities = {
            (upstream.host, upstream.port): upstream.ca for upstream in settings.upstreams if upstream.ca is not None
        }

    def tls_start_server(self, data: tls.TlsData) -> None:
        """Exchange the trusted authorities, and speak HTTP/1.1.

        One exchange has one upstream connection: it can be cut off without harm to another, and timed by itself.
        """
        if not isinstance(data.conn, connection.Server) or data.conn.address is None:
            return
        data.conn.alpn_offers = (b"http/1.1",)
        authority = self.authorities.get((data.conn.address[0], data.conn.address[1]))
        if authority is None:
            return
        ctx.master.addons.get("tlsconfig").tls_start_server(data)
        if data.ssl_conn is not None:
            data.ssl_conn.set_context(_context(authority))


@cache
def _context(authority: Path) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_PEER)
    context.load_verify_locations(certifi.where())
    context.load_verify_locations(str(authority))
    return context
