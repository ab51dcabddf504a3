"""Asks a relay for /healthz all the time, on one connection, and prints when each answer came and how long it took.

A process of its own: in a test's own one, the test's upstream would delay it, and not relay.

    python tests/support/probe.py PORT        both in seconds, by the monotonic clock; until it is killed
"""

import http.client
import sys
import time

PAUSE = 0.004
"""Seconds between two questions."""


def main(port: int) -> None:
    """Ask, and print."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while True:
        begun = time.monotonic()
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"/healthz is answered {answer.status}")
        now = time.monotonic()
        print(now, now - begun, flush=True)
        time.sleep(PAUSE)


if __name__ == "__main__":
    main(int(sys.argv[1]))
