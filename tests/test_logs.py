import io
import logging
import re
from collections.abc import Iterator

import pytest
from mitmproxy.log import MitmFormatter

from addons import logs
from addons.core.known_secrets import KnownSecrets
from addons.core.secrets import fingerprint

pytestmark = pytest.mark.alone

KEY = "sk-0123456789abcdefghij"


def known(*secrets: str) -> KnownSecrets:
    found = KnownSecrets(b"0")
    for secret in secrets:
        found.add(secret.encode())
    return found


@pytest.fixture
def lines() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger whose records are safe ones, and what its handler writes."""
    factory, written = logging.getLogRecordFactory(), io.StringIO()
    logger = logging.getLogger("tests.safe")
    handler = logging.StreamHandler(written)
    logger.addHandler(handler)
    logger.propagate = False
    logs.install()
    try:
        yield logger, written
    finally:
        logging.setLogRecordFactory(factory)
        logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        pytest.param(f"key {KEY}", (), id="in the message"),
        pytest.param("key %s", (KEY,), id="in an argument"),
        pytest.param("%s", (ValueError(f"bad key {KEY}"),), id="in an exception for an argument"),
        pytest.param("%(key)s", ({"key": KEY},), id="in a mapping"),
        pytest.param(f"100%% of %s: {KEY}", ("us",), id="beside a percent sign"),
    ],
)
def test_a_key_is_cut(message: str, arguments: tuple[object, ...], lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = lines
    logger.error(message, *arguments)
    assert "0123456789" not in written.getvalue()
    assert "***" in written.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "Client closed connection before completing request headers: {}",
        "127.0.0.1:1: Bad HTTP request line: {}",
        "Received WebSocket ping from client (payload: {})",
        ">> DataReceived(client, {:.30}…",
    ],
)
@pytest.mark.parametrize("key", [b"Authorization: a-key-like-any-text", b'it\'s "quoted" a-key-like-any-text'])
def test_bytes_that_mitmproxy_quotes_are_left_out(
    text: str, key: bytes, lines: tuple[logging.Logger, io.StringIO]
) -> None:
    logger, written = lines
    logger.warning(text.format(_Quoted(key)))
    assert "any-text" not in written.getvalue() and "quoted" not in written.getvalue()
    assert "b'...'" in written.getvalue()


class _Quoted(bytes):
    def __format__(self, spec: str) -> str:
        return format(repr(bytes(self)), spec)


def test_a_key_of_an_exchange_under_way_is_cut_whatever_it_looks_like(
    lines: tuple[logging.Logger, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, written = lines
    monkeypatch.setattr(logs, "known_secrets", logs._Known())
    logs.known_secrets.put("req_1", known("a-key-like-any-text"))
    try:
        raise ValueError("bad: a-key-like-any-text")
    except ValueError:
        logger.exception("it failed, a%2Dkey%2Dlike%2Dany%2Dtext")
    assert "any-text" not in written.getvalue()
    assert written.getvalue().count(fingerprint("a-key-like-any-text", b"0")) >= 2


def test_the_secrets_of_old_exchanges_are_forgotten() -> None:
    kept = logs._Known()
    for number in range(600):
        kept.put(str(number), known(f"secret-number-{number}"))
    assert len(kept) == 512 and "599" in kept


@pytest.mark.parametrize("size", [8, 2000], ids=["many", "long ones"])
def test_who_names_many_secrets_makes_no_line_slow(size: int) -> None:
    kept = logs._Known()
    for number in range(100):
        kept.put(str(number), known(*(f"{number:03}-{each:03}".ljust(size, "x") for each in range(100))))
    assert len(kept.secrets) <= 1024
    assert sum(map(len, kept.secrets)) <= 1 << 18
    assert "99" in kept


def test_an_exchange_that_is_noted_again_counts_once() -> None:
    kept = logs._Known()
    for _ in range(5000):
        kept.put("1", known("a-key-like-any-text"))
    kept.put("2", known("another-key-like-any-text"))
    assert "1" in kept and "2" in kept


def test_a_key_of_many_exchanges_is_looked_for_once_and_as_long_as_one_of_them_is_kept() -> None:
    kept = logs._Known()
    kept.put("first", known("only-in-the-first-one"))
    for number in range(511):
        kept.put(str(number), known("a-key-like-any-text"))
    assert kept.mask("only-in-the-first-one") != "only-in-the-first-one"
    for number in range(511, 2000):
        kept.put(str(number), known("a-key-like-any-text"))
    assert list(kept.secrets) == [b"a-key-like-any-text"]
    assert kept.mask("only-in-the-first-one a-key-like-any-text").startswith("only-in-the-first-one a-k***")


@pytest.mark.parametrize(
    "text", ["\x1b[31mred", "\x07", "\x08", "\x7f", "\x9b31m", "a\u2028b", "a\u202eb", "\u2066x", "\ud800", "a\rb"]
)
def test_what_steers_a_terminal_is_escaped(text: str, lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = lines
    logger.error("%s", text)
    left = written.getvalue().removesuffix("\n")
    assert left.encode().decode("unicode_escape") == text
    assert left.isprintable()


def test_a_record_has_an_end(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = lines
    logger.error("begin %s end", "x " * 500_000)
    text = written.getvalue()
    assert 16_000 < len(text) < 20_000 and text.startswith("begin x x") and text.endswith("x x  end\n")
    assert "983626 characters left out" in text


@pytest.mark.parametrize("size", [20, 300, 7000, 40_000])
@pytest.mark.parametrize("place", ["message", "traceback"])
def test_no_half_of_a_key_stays_at_a_cut(
    size: int, place: str, lines: tuple[logging.Logger, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, written = lines
    monkeypatch.setattr(logs, "known_secrets", logs._Known())
    key = "".join(f"Zq{number:04}!" for number in range(size))[:size]
    logs.known_secrets.put("1", known(key))
    # The key stands across either cut, with other text or with itself around it.
    for shift in (0, 1, 9, size // 2, size - 9, size - 1, size):
        room = max(0, (1 << 13) - shift)
        for spelt in (key, "".join(f"%{ord(one):02x}" for one in key) if size <= 300 else key):
            whole = (key + " ") * (room // (size + 1))
            for keys in ("", whole):
                rest = "a" * (room - len(keys))
                text = f"{keys}{rest}{spelt} {'b ' * 20_000} {spelt}{rest}{keys}"
                if place == "message":
                    logger.error("%s", text)
                else:
                    try:
                        raise ValueError(text)
                    except ValueError:
                        logger.exception("it failed")
    assert "left out" in written.getvalue()
    assert re.search(r"[0-9]{3}!|%5a%71|%30%30%30", written.getvalue()) is None


@pytest.mark.parametrize("size", [30, 5000, 30_000])
def test_no_half_of_what_looks_like_a_key_stays_at_a_cut(size: int, lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = lines
    for start in ("sk-", "Bearer  "):
        key = start + "Mark0" * (size // 5)
        for shift in (3, 12, len(key) // 2, len(key) - 3):
            half = 1 << 13
            logger.error("%s", "a " * ((half - shift) // 2) + key + " b" * 20_000)
            logger.error("%s", "a " * 20_000 + key + " b" * ((half - shift) // 2))
    assert "ark0M" not in written.getvalue()


def test_no_quoted_bytes_stay_behind_a_cut(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = lines
    logger.error("Bad HTTP request line: %r", b"any-text " * 10_000)
    assert written.getvalue() == "Bad HTTP request line: b'...'\n"


def many(client: int, exchange: int, count: int) -> KnownSecrets:
    return known(*(f"secret-{client}-{exchange}-{each}-of-many" for each in range(count)))


def test_nobody_can_drive_out_what_others_have_named() -> None:
    kept = logs._Known()
    for number in range(40):
        kept.put(f"mine {number}", known(f"my-own-key-{number}-xyz"), "mine")
    for number in range(3000):
        kept.put(f"greedy {number}", many(1, number, 250), "greedy")
        if number % 3 == 0:
            kept.over(f"greedy {number}")
    assert all(f"mine {number}" in kept for number in range(40))
    assert all(kept.mask(f"my-own-key-{number}-xyz").startswith("my-***") for number in range(40))
    assert len(kept.secrets) <= 1024 and len(kept) <= 512
    # Nor is the newest of the greedy one's left out.
    assert "greedy 2999" in kept and kept.mask("secret-1-2999-0-of-many").startswith("sec***")


def test_what_an_exchange_names_beyond_its_share_goes_first() -> None:
    kept = logs._Known()
    for number in range(30):
        kept.put(str(number), many(0, number, 60))
    assert len(kept) == 30 and len(kept.secrets) <= 1024
    assert all(
        f"secret-0-{number}-{each}-of-many".encode() in kept.secrets for number in range(30) for each in range(16)
    )


def test_exchanges_that_are_over_go_before_those_under_way() -> None:
    kept = logs._Known()
    kept.put("long", known("the-key-of-a-long-stream"), "a")
    for number in range(2000):
        kept.put(str(number), known(f"another-key-{number}"), "a")
        kept.over(str(number))
    assert "long" in kept and "1999" in kept and len(kept) == 512
    assert kept.mask("the-key-of-a-long-stream") != "the-key-of-a-long-stream"


def test_nothing_is_left_of_what_was_dropped() -> None:
    kept = logs._Known()
    for number in range(1500):
        kept.put(str(number % 700), many(number % 5, number, number % 40), str(number % 5))
        if number % 4:
            kept.over(str(number % 700))
    for name in list(kept._kept):
        kept.put(name, known())
    assert not kept.secrets and not kept._uses and not kept._bytes
    assert not kept._of_client and not kept._greedy and not kept._over


def test_mitmproxy_s_formatter_writes_no_key_of_a_traceback(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = lines
    logger.handlers[0].setFormatter(MitmFormatter(colorize=False))
    try:
        raise ValueError(f"refused: {KEY}")
    except ValueError:
        logger.exception("it failed")
    assert "Traceback" in written.getvalue() and "0123456789" not in written.getvalue()


def test_a_key_in_a_traceback_is_cut(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = lines
    try:
        try:
            raise ValueError(f"refused: {KEY}")
        except ValueError as error:
            raise RuntimeError(f"Bearer {KEY}") from error
    except RuntimeError:
        logger.exception("it failed")
    text = written.getvalue()
    assert "0123456789" not in text
    assert "Traceback" in text and "RuntimeError" in text and "refused: sk-***" in text


@pytest.mark.parametrize(
    ("message", "arguments", "text"),
    [
        ("plain", (), "plain\n"),
        ("100%", (), "100%\n"),
        ("%d of %s, 100%%", (3, "four"), "3 of four, 100%\n"),
        ("你好 %s", ("小明",), "你好 小明\n"),
    ],
    ids=repr,
)
def test_other_text_stays(
    message: str, arguments: tuple[object, ...], text: str, lines: tuple[logging.Logger, io.StringIO]
) -> None:
    logger, written = lines
    logger.warning(message, *arguments)
    assert written.getvalue() == text


def test_a_malformed_call_shows_none_of_its_arguments() -> None:
    record = logs.SafeRecord("x", logging.ERROR, __file__, 1, "%d", ("sk-abcdefghijklmnop",), None)
    assert record.getMessage() == "a malformed log call"
    assert record.args is None
