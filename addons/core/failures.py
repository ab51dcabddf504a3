"""What mitmproxy's words for a failure mean to the client.

mitmproxy tells a failed exchange by text alone; this is the one place that reads it. The texts are those of mitmproxy
12.2 and of the operating system (`[Errno 111] Connect call failed`); what is not recognised is an upstream that failed,
in general words.
"""

import enum
import re

CONNECT_TIMEOUT = "relay: connect timed out"
"""relay's own word for a connect it has given up, handed to mitmproxy as the reason."""
ANSWER_TIMEOUT = "relay: upstream was too slow"


class Failure(enum.Enum):
    """Why an exchange has failed."""

    CLIENT_LEFT = "the client left"
    CLIENT_FAULT = "the client's request is malformed"
    CONNECT_TIMEOUT = "connect timed out"
    ANSWER_TIMEOUT = "answer timed out"
    NAME = "the name does not resolve"
    REFUSED = "nobody listens there"
    UNREACHABLE = "no way there"
    TLS = "TLS failed"
    NOT_TLS = "a plain port was asked in TLS"
    NEEDS_TLS = "a TLS port was asked in plain HTTP"
    PROXY = "the proxy on the way out failed"
    BROKEN = "the connection broke"
    KEPT = "a kept connection by the proxy had been closed"
    CUT = "the answer broke off"
    EXHAUSTED = "no file descriptor is left"
    UNREADABLE = "the answer is not HTTP"
    OTHER = "something else"


PASSING = frozenset(
    (Failure.CONNECT_TIMEOUT, Failure.NAME, Failure.REFUSED, Failure.UNREACHABLE, Failure.EXHAUSTED),
)
"""Those that come before upstream has heard of a request, and may be over in a moment."""

_SIGNS: tuple[tuple[Failure, str], ...] = (
    # These quote the upstream, whose words say nothing of the failure. 15 03 begins an alert of TLS.
    (
        Failure.NEEDS_TLS,
        r"^unexpected server response: b['\"]\\x15\\x03",
    ),
    (Failure.CUT, r"^HTTP/1 protocol error: peer |without sending complete message body|^incomplete response body"),
    (Failure.UNREADABLE, r"^unexpected server response|^Cannot parse HTTP response|^HTTP/\d protocol error"),
    (Failure.CONNECT_TIMEOUT, re.escape(CONNECT_TIMEOUT) + r"|\[Errno (?:60|110)\]|\[WinError 10060\]|timed? ?out"),
    (Failure.ANSWER_TIMEOUT, re.escape(ANSWER_TIMEOUT)),
    (Failure.CLIENT_LEFT, r"^Client disconnected|^killed$|^Connection killed|^stream reset by client|^StreamReset"),
    (Failure.PROXY, r"^SOCKS proxy |^Upstream proxy |^Error connecting to "),
    (Failure.CLIENT_FAULT, r" from client, refusing|^Invalid request scheme|^HTTP request has no host|CONNECT request"),
    (
        Failure.NAME,
        r"\[Errno -\d+\]|getaddrinfo|name resolution|nodename nor servname|Name or service not known|No address",
    ),
    (Failure.NOT_TLS, r"does not speak TLS|wrong[ _]version[ _]number|packet length too long|record layer failure"),
    (Failure.TLS, r"certificate|TLS|SSL|handshake"),
    (Failure.EXHAUSTED, r"\[Errno (?:23|24)\]|\[WinError 10024\]|Too many open files"),
    (Failure.UNREACHABLE, r"\[Errno (?:51|65|101|113)\]|\[WinError 1005[01]\]|\[WinError 10065\]|unreachable|No route"),
    (Failure.REFUSED, r"\[Errno (?:61|111)\]|\[WinError 10061\]|Connect call failed|refused"),
    (Failure.UNREADABLE, r"protocol error| from server, refusing"),
    (Failure.BROKEN, r"closed|reset|EOF|cancelled|\[Errno (?:32|54|104)\]|incomplete|peer"),
)
_COMPILED = tuple((failure, re.compile(pattern, re.IGNORECASE)) for failure, pattern in _SIGNS)


def classify(message: str) -> Failure:
    """The failure that mitmproxy's `flow.error.msg` tells of."""
    for failure, pattern in _COMPILED:
        if pattern.search(message):
            return failure
    return Failure.OTHER
