"""Rows of the growth tests that wait for other changes. Each list is to be emptied, then this file goes."""

REDACTION = frozenset(
    {
        "redact: query",
        "redact: a line",
        "redact: subprotocols",
        "redact: any header",
        "redact: request",
        "redact: form",
        "redact: upload",
        "redact: answer",
        "redact: events",
        "redact: websocket",
        "secrets: scrub",
        "log: mitmproxy's",
        "log: relay's",
        "keys in a query of /healthz",
        "keys in a query that passes",
        "cookies",
        "cookies in one header",
        "subprotocols",
        "apikey= in a message",
        "apikey: and blanks in a message",
        "apikey and line ends in a message",
        "blanks in any body",
        "escapes in any body",
        "a long key that is echoed",
        "apikey: and blanks in an answer",
        "keys in an answer",
        "pieces in a stream",
        "deltas in a stream",
        "a wide body",
        "a packed message",
    }
)
ANSWERS = frozenset(
    {
        "a bomb",
        "a bomb in a stream",
        "a bomb of wide JSON",
        "a bomb that refuses",
        "a bomb for the balance",
        "wide JSON",
        "wide JSON for the balance",
        "a wide event",
        "a refusal of many words",
        "a wide refusal",
        "empty events",
        "balance",
    }
)
ONE_TURN = frozenset({"small chunks", "small pieces"})
"""One read of 64 KB in chunks of one byte is one turn of 0.1 to 0.15 s."""
PENDING = REDACTION | ANSWERS | ONE_TURN
