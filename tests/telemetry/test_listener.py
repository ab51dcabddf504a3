"""The address where /metrics alone is served."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from addons import errors
from addons.addresses import Refusal
from addons.config.settings import MetricsSettings
from addons.telemetry import listener
from addons.telemetry.listener import MetricsListener

TOKEN = "metrics-token-0123456789"
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"


class Scraper:
    """Tells the same each time."""

    def __init__(self) -> None:
        self.fails: Exception | None = None

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        if self.fails is not None:
            raise self.fails
        return b"numbers\n", f"text/plain; for={accept}"


def talk(*sent: bytes, token: str | None = None, scraper: Scraper | None = None, wait: float = 3.0) -> bytes:
    """What comes for these bytes until the listener closes, or for a moment."""

    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for each in sent:
            writer.write(each)
            await asyncio.sleep(0.01)
        found = b""
        try:
            async with asyncio.timeout(wait):
                while chunk := await reader.read(65536):
                    found += chunk
        except (TimeoutError, ConnectionResetError):
            pass
        writer.close()
        return found

    return serving(ask, token=token, scraper=scraper)


def serving[T](ask: Callable[[int], Awaitable[T]], *, token: str | None = None, scraper: Scraper | None = None) -> T:
    async def life() -> T:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            made = MetricsListener(scraper or Scraper(), lambda: MetricsSettings(token=token))  # type: ignore[arg-type]
            await made.open("", [sock])
            try:
                return await ask(sock.getsockname()[1])
            finally:
                made.close()

    return asyncio.run(life())


def test_scrapes_follow_one_another_on_a_connection() -> None:
    found = talk(GET + b"Accept: a\r\n\r\n", GET + b"Connection: close\r\n\r\n")
    assert found.count(b"HTTP/1.1 200") == 2 and found.count(b"numbers\n") == 2 and b"for=a" in found


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", 404),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\nHost: x\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n", 405),
        (b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n", 200),
        (b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n", 200),
    ],
)
def test_nothing_else_is_served(request_: bytes, status: int) -> None:
    found = talk(request_ + b"Connection: close\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 %d" % status)
    assert found.endswith(b"\r\n\r\n") == request_.startswith(b"HEAD")


def test_a_token_is_asked_for_here_too() -> None:
    close = b"Connection: close\r\n\r\n"
    assert talk(GET + close, token=TOKEN).startswith(b"HTTP/1.1 401")
    assert talk(GET + b"Authorization: Bearer " + TOKEN.encode() + b"\r\n" + close, token=TOKEN).endswith(b"numbers\n")


@pytest.mark.parametrize(
    "said",
    [
        pytest.param([b"\x16\x03\x01\x00\xa5\x01"], id="TLS"),
        pytest.param([b"GET /metrics HTTP/1.1\r\n", b"X: " + b"y" * 40_000], id="a head without an end"),
        pytest.param([b"GET /metrics\r\n\r\n"], id="no version"),
    ],
)
def test_who_does_not_speak_http_has_no_answer(said: list[bytes]) -> None:
    assert talk(*said, wait=1.0) == b""


def test_who_is_slow_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_IDLE_SECONDS", 0.2)
    assert talk(b"GET /met") == b""


def test_only_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_MOST_CLIENTS", 2)

    async def ask(port: int) -> list[bytes]:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        first = await reader.read()
        for _, each in (*held, (reader, writer)):
            each.close()
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + b"Connection: close\r\n\r\n")
        second = await reader.read()
        writer.close()
        return [first, second]

    first, second = serving(ask)
    assert first == b"" and second.endswith(b"numbers\n")


def test_a_scrape_that_fails_says_so() -> None:
    scraper = Scraper()
    scraper.fails = errors.Unavailable("否。", "Away.")
    assert talk(GET + b"Connection: close\r\n\r\n", scraper=scraper).startswith(b"HTTP/1.1 503")


def test_an_address_that_is_taken_is_told() -> None:
    async def life(address: str) -> None:
        await MetricsListener(Scraper(), MetricsSettings).open(address)  # type: ignore[arg-type]

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with pytest.raises(Refusal, match=r"in use already.*metrics\.listen"):
            asyncio.run(life(f"127.0.0.1:{sock.getsockname()[1]}"))
