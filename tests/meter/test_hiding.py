"""What is taken out of an answer on its way."""

from hypothesis import given
from hypothesis import strategies as st

from addons.config.settings import Settings
from addons.core.key_mask import KeyMask
from addons.core.usage_chunk import UsageChunk
from addons.exchange import REAL_KEY, Exchange, Kind
from addons.meter.hiding import masking_without_usage

KEY = b"sk-real-0123456789"
PIECES = [
    b'data: {"choices":[{"delta":{"content":"x"}}],"usage":null}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":3}}\n\n',
    b'data: {"choices":[{"delta":{"content":"' + KEY + b'"}}]}\n\n',
    *(b"sk-real-0123", b"456789", b"\n\n", b"data: {", b'"usage"', b"data: [DONE]\n\n", b"x", b"\r\n\r\n"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.sampled_from([KEY, b"short", None]))
def test_a_stream_is_masked_and_then_loses_its_usage(chunks: list[bytes], key: bytes | None) -> None:
    settings = Settings()
    exchange = Exchange(settings, settings.upstreams[0], Kind.PASS, "/v1/chat/completions")
    if key is not None:
        REAL_KEY.keep(exchange, key)
    edit, mask, usage = masking_without_usage(exchange), KeyMask(key or b""), UsageChunk()
    for chunk in chunks:
        masked = mask.feed(chunk)
        assert edit(chunk) == (usage.feed(masked) if masked else b"")
    masked = mask.feed(b"")
    assert edit(b"") == (usage.feed(masked) if masked else b"") + usage.feed(b"")
