import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.failures import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Failure, classify


@pytest.mark.parametrize(
    ("message", "failure"),
    [
        (CONNECT_TIMEOUT, Failure.CONNECT_TIMEOUT),
        ("[Errno 110] Connect call failed ('192.0.2.1', 443)", Failure.CONNECT_TIMEOUT),
        ("[Errno 60] Operation timed out", Failure.CONNECT_TIMEOUT),
        (ANSWER_TIMEOUT, Failure.ANSWER_TIMEOUT),
        ("Client disconnected.", Failure.CLIENT_LEFT),
        ("Connection killed.", Failure.CLIENT_LEFT),
        ("stream reset by client (CANCEL)", Failure.CLIENT_LEFT),
        ("HTTP request has no host header, destination unknown.", Failure.CLIENT_FAULT),
        (
            "Received both a Transfer-Encoding and a Content-Length header from client, refusing to prevent request "
            "smuggling attacks.",
            Failure.CLIENT_FAULT,
        ),
        ("[Errno -2] Name or service not known", Failure.NAME),
        ("[Errno -3] Temporary failure in name resolution", Failure.NAME),
        ("[Errno 11001] getaddrinfo failed", Failure.NAME),
        ("[Errno 8] nodename nor servname provided, or not known", Failure.NAME),
        ("[Errno 111] Connect call failed ('127.0.0.1', 9)", Failure.REFUSED),
        ("[Errno 61] Connect call failed ('127.0.0.1', 9)", Failure.REFUSED),
        ("[Errno 24] Too many open files", Failure.EXHAUSTED),
        ("[Errno 23] Too many open files in system", Failure.EXHAUSTED),
        ("[Errno 101] Network is unreachable", Failure.UNREACHABLE),
        ("[Errno 113] No route to host", Failure.UNREACHABLE),
        ("Certificate verify failed: self-signed certificate", Failure.TLS),
        ("The remote server does not speak TLS.", Failure.NOT_TLS),
        ("Server TLS handshake failed. wrong version number", Failure.NOT_TLS),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)", Failure.NOT_TLS),
        (r"unexpected server response: b'\x15\x03\x01\x00\x02\x02\x16'", Failure.NEEDS_TLS),
        ("connection closed early during TLS handshake", Failure.TLS),
        ("Cannot parse HTTP response: expected HTTP/1.1", Failure.UNREADABLE),
        ("HTTP/2 protocol error: Invalid ConnectionInputs.RECV_HEADERS in state", Failure.UNREADABLE),
        ("unexpected server response: b'junk'", Failure.UNREADABLE),
        ("unexpected server response: b'SSH-2.0: TLS certificate timed out, closed'", Failure.UNREADABLE),
        ("Cannot parse HTTP response: Bad HTTP response line: b'certificate'", Failure.UNREADABLE),
        (
            "HTTP/1 protocol error: peer closed connection without sending complete message body "
            "(incomplete chunked read)",
            Failure.CUT,
        ),
        ("HTTP/1 protocol error: illegal chunk header: bytearray(b'TLS')", Failure.UNREADABLE),
        ("server closed connection", Failure.BROKEN),
        ("peer closed connection without sending complete message body", Failure.CUT),
        ("incomplete response body", Failure.CUT),
        ("[Errno 104] Connection reset by peer", Failure.BROKEN),
        ("connection cancelled", Failure.BROKEN),
        ("", Failure.OTHER),
        ("the moon is in the wrong place", Failure.OTHER),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_words_are_understood(message: str, failure: Failure) -> None:
    assert classify(message) is failure


@given(st.text())
def test_any_text_means_something(message: str) -> None:
    assert classify(message) in Failure
    assert classify(message.upper()) in Failure


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_only_the_start_tells_that_a_client_left(before: str) -> None:
    """An upstream that quotes such words must not be taken for a client, which would get no answer then."""
    if before:
        assert classify(f"{before}Client disconnected.") is not Failure.CLIENT_LEFT
