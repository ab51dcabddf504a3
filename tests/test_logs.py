import io
import logging
from collections.abc import Iterator

import pytest

from addons import logs

KEY = "sk-0123456789abcdefghij"


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
        pytest.param("%r", (f"Authorization: Bearer {KEY}".encode(),), id="in bytes"),
        pytest.param(f"100%% of %s: {KEY}", ("us",), id="beside a percent sign"),
    ],
)
def test_a_key_is_cut(message: str, arguments: tuple[object, ...], lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = lines
    logger.error(message, *arguments)
    assert "0123456789" not in written.getvalue()
    assert "***" in written.getvalue()


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
