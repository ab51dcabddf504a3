"""What usage costs, to a billionth of a dollar, and the most that it may cost."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.metered import Metered
from addons.core.rates import Bound, Rate, Rates, cost, dollars, flat, nano, overridden, worst

D = Decimal
GPT = Rates(input=flat(D("2.5")), output=flat(D(10)), cached=flat(D("1.25")))
LONG = Rates(
    input=Rate(((0, D(3)), (200_000, D(6)))), output=Rate(((0, D(15)), (200_000, D("22.5")))), cached=flat(D("0.3"))
)
CLAUDE = Rates(
    input=flat(D(3)), output=flat(D(15)), cached=flat(D("0.3")), cache_write=flat(D("3.75")), cache_write_1h=flat(D(6))
)
VOICE = Rates(
    input=flat(D(4)),
    output=flat(D(16)),
    cached=flat(D("0.4")),
    input_audio=flat(D(32)),
    output_audio=flat(D(64)),
    cached_audio=flat(D("0.5")),
)

COSTS = {
    "text": (Metered(1000, 100), GPT, 2_500_000 + 1_000_000),
    "what was cached": (Metered(1000, 0, cached=400), GPT, 600 * 2500 + 400 * 1250),
    "below a long context": (Metered(200_000, 10), LONG, 200_000 * 3000 + 10 * 15_000),
    "a long context, of which all tokens cost more": (Metered(200_001, 10), LONG, 200_001 * 6000 + 10 * 22_500),
    "cache writes of both kinds": (
        Metered(1000, 1, cached=100, cache_write=200, cache_write_1h=300),
        CLAUDE,
        400 * 3000 + 100 * 300 + 200 * 3750 + 300 * 6000 + 15_000,
    ),
    "voice": (
        Metered(120, 60, cached=30, input_audio=100, cached_audio=20, output_audio=50),
        VOICE,
        # 10 of text new, 10 of text cached, 80 of audio new, 20 of audio cached
        10 * 4000 + 10 * 400 + 80 * 32_000 + 20 * 500 + 10 * 16_000 + 50 * 64_000,
    ),
    "audio without a rate is not priced as text": (Metered(100, 10, input_audio=50), GPT, None),
    "spoken output without a rate, too": (Metered(100, 10, output_audio=5), GPT, None),
    "images cost what text does, where nobody says otherwise": (Metered(10, 100, output_image=100), GPT, 1_025_000),
    "cached tokens without a rate of their own": (Metered(10, 0, cached=10), Rates(input=flat(D(2))), 20_000),
    "an hour of the cache has no substitute": (Metered(10, 0, cache_write_1h=10), GPT, None),
    "searches": (Metered(0, 0, searches=3), Rates(searches=flat(D(10))), 30_000_000),
    "searches that are a part of a request": (Metered(0, 0, searches=3), Rates(request=flat(D("0.012"))), 12_000_000),
    "the most that is counted, at the dearest price there is": (
        Metered(1 << 32, 1 << 32),
        Rates(input=flat(D(150)), output=flat(D(600))),
        (1 << 32) * 750_000,
    ),
    "more than a database's integer": (Metered(1 << 32, 0), Rates(input=flat(D(10**7))), None),
    "searches without a rate": (Metered(1, 1, searches=1), GPT, None),
    "an hour of audio": (Metered(milliseconds=1_800_000), Rates(hours=flat(D("0.36"))), 180_000_000),
    "whisper by tokens is not free": (Metered(10, 5), Rates(hours=flat(D("0.36"))), None),
    "characters": (Metered(characters=1000), Rates(characters=flat(D(15))), 15_000_000),
    "each request": (Metered(0, 0), Rates(request=flat(D("0.001"))), 1_000_000),
    "nothing at all": (Metered(), Rates(), 0),
    "less than a billionth, rounded half up": (Metered(1, 0), Rates(input=flat(D("0.0005"))), 1),
    "reasoning by itself": (
        Metered(0, 10, reasoning=4),
        Rates(output=flat(D(10)), reasoning=flat(D(20))),
        6 * 10_000 + 4 * 20_000,
    ),
}


@pytest.mark.parametrize(("usage", "rates", "amount"), COSTS.values(), ids=COSTS)
def test_usage_costs(usage: Metered, rates: Rates, amount: int | None) -> None:
    assert cost(usage, rates) == amount


def test_an_upstream_may_multiply() -> None:
    assert cost(Metered(1000, 0), GPT, D("0.8")) == 2_000_000
    assert cost(Metered(1000, 0), GPT, D("7.2")) == 18_000_000


def test_relay_yaml_goes_first() -> None:
    rates = overridden(GPT, {"output": D(20), "searches": D(5)})
    assert cost(Metered(1000, 100), rates) == 2_500_000 + 2_000_000
    assert cost(Metered(searches=1), rates) == 5_000_000


def test_the_most_is_that_of_the_dearest_choice() -> None:
    fast = overridden(GPT, {"input": D(5), "output": D(20)})
    assert worst(Bound(input=100, output=10), [GPT]) == 100 * 2500 + 10 * 10_000
    assert worst(Bound(input=100, output=10), [GPT, fast]) == 100 * 5000 + 10 * 20_000
    assert worst(Bound(input=200_001, output=10), [LONG]) == 200_001 * 6000 + 10 * 22_500
    assert worst(Bound(input=200_000, output=10), [LONG]) == 200_000 * 3000 + 10 * 15_000
    assert worst(Bound(input=100), [CLAUDE]) == 100 * 3750, "all of it may be written to the cache"
    assert worst(Bound(input=100, hour_long=True), [CLAUDE]) == 100 * 6000
    assert worst(Bound(input=100, cache_writes=False), [CLAUDE]) == 100 * 3000


def test_what_has_no_rate_has_no_bound() -> None:
    assert worst(Bound(input=1), []) is None
    assert worst(Bound(input=1), [GPT, Rates()]) is None
    assert worst(Bound(input=1, audio=True), [GPT]) is None
    assert worst(Bound(input=1, searches=1), [GPT]) is None
    assert worst(Bound(milliseconds=1), [GPT]) is None


_COUNT = st.integers(0, 5000)
_PRICE = st.decimals(0, 100, places=3).map(flat)


@given(
    st.builds(
        lambda text, cached, written, audio, said, spoken: Metered(
            input=text + cached + written + audio,
            output=said + spoken,
            cached=cached,
            cache_write=written,
            input_audio=audio,
            output_audio=spoken,
        ),
        *[_COUNT] * 6,
    ),
    st.builds(
        Rates,
        **{name: _PRICE for name in ("input", "output", "cached", "cache_write", "input_audio", "output_audio")},
    ),
    st.integers(0, 1000),
)
def test_nothing_costs_more_than_its_bound(usage: Metered, rates: Rates, more: int) -> None:
    """Whatever is used of what a bound allows."""
    bound = Bound(input=usage.input + more, output=usage.output + more, audio=True)
    found, most = cost(usage, rates), worst(bound, [rates])
    assert found is not None and most is not None
    assert found <= most


def test_dollars_are_exact() -> None:
    assert nano(D("0.1")) == 100_000_000
    assert dollars(1) == D("0.000000001")
    assert nano(dollars(123_456_789_012_345)) == 123_456_789_012_345


def test_a_price_of_each_request_alone_is_a_price_of_each_picture() -> None:
    painter = Rates(request=flat(D("0.04")))
    assert painter.flat and not GPT.flat and not Rates().flat
    assert cost(Metered(pictures=3), painter) == 120_000_000
    assert cost(Metered(50, 60), painter) == 40_000_000, "its tokens cost nothing more"
    assert worst(Bound(input=10**6, output=10**6, images=True, audio=True, requests=3), [painter]) == 120_000_000
    assert worst(Bound(input=10), [painter], D("1.5")) == 60_000_000
    both = Rates(input=flat(D(1)), output=flat(D(1)), request=flat(D("0.04")))
    assert cost(Metered(1000, 0, pictures=2), both) == 81_000_000
    assert worst(Bound(input=1000, requests=2), [both]) == 81_000_000
