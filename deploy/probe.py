"""Asks a relay on this machine how it is: `python probe.py /healthz`; exit code 0 where it says 200.

For images without curl. It says first whose connection it is, by a preamble of the PROXY protocol, where the relay asks
for one: `python probe.py /readyz --proxy-protocol`. `--port 8443 --tls` for a relay with a certificate, which is not
looked at: nobody is in between.
"""

import argparse
import socket
import ssl
import sys

LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
"""Version 2 of the PROXY protocol: I speak for myself."""


def status(path: str, host: str, port: int, timeout: float, *, tls: bool, proxy_protocol: bool) -> int:
    """What a GET is answered with. Raises OSError, and ValueError for what is no answer."""
    with socket.create_connection((host, port), timeout=timeout) as connection:
        if proxy_protocol:
            connection.sendall(LOCAL)
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = context.wrap_socket(connection)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n" not in head and len(head) < 1024:
            if not (data := connection.recv(1024)):
                break
            head += data
    return int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.") else 0


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Ask a relay how it is.")
    parser.add_argument("path", nargs="?", default="/healthz")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--timeout", type=float, default=2.0)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--proxy-protocol", action="store_true")
    given = parser.parse_args()
    try:
        said = status(
            given.path, given.host, given.port, given.timeout, tls=given.tls, proxy_protocol=given.proxy_protocol
        )
    except (OSError, ValueError, IndexError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(said)
    return 0 if said == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
