"""Which mitmproxy relay is written for, known before anything of mitmproxy's that another version may not have.

addons/relay.py asks this file first. So it imports nothing else of relay's, and of mitmproxy what all versions have.
"""

import logging

import mitmproxy.version
from mitmproxy import connection, ctx, http

WRITTEN_FOR = "12.2.3"

logger = logging.getLogger(__name__)


class WrongVersion(Exception):
    """This is not the mitmproxy that the changes are written for; the text says which one is."""


def check_version() -> None:
    """Raise WrongVersion where relay must not start."""
    if mitmproxy.version.VERSION != WRITTEN_FOR:
        raise WrongVersion(
            f"relay is written for mitmproxy {WRITTEN_FOR}, and this is {mitmproxy.version.VERSION}: start it with "
            f"./run.sh, which has that one, or install it (pip install mitmproxy=={WRITTEN_FOR})"
        )


def end_with_another() -> None:
    """End this process where relay must not start, with a line in the log that says why.

    mitmproxy logs an exception in a script and serves without it, so this raises SystemExit; and since mitmproxy may be
    about to listen while it ends, nobody is served from here on.
    """
    try:
        check_version()
    except WrongVersion as error:
        if (master := getattr(ctx, "master", None)) is not None:
            master.addons.add(Refusal())
        logger.error(str(error))
        raise SystemExit(1) from None


class Refusal:
    """Turns everyone away."""

    name = "relay_refusal"

    def client_connected(self, client: connection.Client) -> None:
        """mitmproxy closes the connection of a client with an error."""
        client.error = "relay does not start"

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """A client may have been connected before."""
        if flow.killable:
            flow.kill()
