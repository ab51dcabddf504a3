"""Lines of mitmproxy's log that say the same of each exchange are left out, and no others."""

import logging

import pytest

from addons.engine.corrections import chatter


@pytest.mark.parametrize(
    ("message", "level", "lent", "left_out"),
    [
        ("", logging.NOTSET, False, True),
        ("Streaming request to api.openai.com.", logging.INFO, False, True),
        ("Streaming response from api.openai.com.", logging.INFO, False, True),
        ("server connect api.openai.com:443", logging.INFO, True, True),
        ("server disconnect api.openai.com:443", logging.INFO, True, True),
        ("server connect api.openai.com:443", logging.INFO, False, False),
        ("client connect", logging.INFO, True, False),
        ("Streaming request to api.openai.com.", logging.WARNING, False, False),
        ("error establishing server connection: refused", logging.INFO, True, False),
        ("a detail", logging.DEBUG, True, False),
    ],
)
def test_what_goes_without_saying(message: str, level: int, lent: bool, left_out: bool) -> None:
    token = chatter.lent.set(lent)
    try:
        assert chatter.goes_without_saying(message, level) is left_out
    finally:
        chatter.lent.reset(token)
