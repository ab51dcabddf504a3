"""Rates of models: genai-prices' own, its traps avoided, and relay.yaml's over them."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from addons.config.settings import Settings, load_settings
from addons.core.claims import ASKED
from addons.core.metered import Metered
from addons.core.rates import Bound, worst
from addons.meter.prices import LONGEST_ASKED, PriceList, Prices, _is_hourly
from tests.support.metering import PRICES

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
DAY = datetime(2026, 11, 30, tzinfo=UTC).timestamp()
USED = Metered(1_000_000, 1_000_000)


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    PRICES.load()


def under(tmp_path: Path, **settings: Any) -> Settings:
    path = tmp_path / "relay.yaml"
    path.write_text(yaml.safe_dump(settings))
    return load_settings(path, {})


@pytest.fixture
def prices() -> Prices:
    return Prices(Settings(), PRICES)


def dollars(
    prices: Prices, model: str, usage: Metered = USED, upstream: str = "openai", **asked: str
) -> Decimal | None:
    amount = prices.cost(usage, upstream, model, asked, NOW)
    return None if amount is None else Decimal(amount) / 10**9


KNOWN = {
    "gpt-4o": "12.5",
    "gpt-4o-2024-08-06": "12.5",
    "gpt-4o-2024-05-13": "20",
    "gpt-4.1": "10",
    "gpt-4.1-2025-04-14": "10",
    "gpt-3.5-turbo": "2",
    "o3": "10",
}


@pytest.mark.parametrize(("model", "price"), KNOWN.items())
def test_models_that_are_known(prices: Prices, model: str, price: str) -> None:
    assert dollars(prices, model) == Decimal(price)


def test_a_dated_name_that_is_not_listed_is_its_model(prices: Prices) -> None:
    assert dollars(prices, "gpt-4.1-2031-01-01") == dollars(prices, "gpt-4.1-20310101") == Decimal(10)


@pytest.mark.parametrize("model", ["", "nobody-knows", "gpt-99", "ft:gpt-4.1-2025-04-14:me::x", "x" * 5000, "gpt-4o\n"])
def test_models_that_nobody_knows_have_no_price(prices: Prices, model: str) -> None:
    assert dollars(prices, model) is None


def test_a_tier_is_priced_as_it_was_served(prices: Prices) -> None:
    plain, fast = dollars(prices, "gpt-4.1"), dollars(prices, "gpt-4.1", service_tier="priority")
    assert fast == Decimal("17.5") and plain == Decimal(10)
    for tier in ("default", "auto", "standard", "on_demand"):
        assert dollars(prices, "gpt-4.1", service_tier=tier) == plain


@pytest.mark.parametrize("asked", [{"service_tier": "xyz"}, {"service_tier": "scale"}, {"speed": "warp"}])
def test_a_tier_that_the_list_does_not_know_has_no_price(prices: Prices, asked: dict[str, str]) -> None:
    """genai-prices itself gives list price."""
    amount = prices.cost(USED, "openai", "gpt-4.1", asked, NOW)
    assert amount is None
    assert set(asked) <= set(ASKED)


def test_batches_are_cheaper(prices: Prices) -> None:
    assert dollars(prices, "gpt-4o-mini", service_tier="batch") == Decimal("0.375")


def test_long_contexts_cost_more(prices: Prices) -> None:
    short, long = Metered(272_000, 0), Metered(272_001, 0)
    assert dollars(prices, "gpt-5.4", short) == Decimal("2.5") * 272_000 / 10**6
    assert dollars(prices, "gpt-5.4", long) == Decimal(5) * 272_001 / 10**6


def test_traps_of_the_list(prices: Prices) -> None:
    assert dollars(prices, "whisper-1", Metered(100, 5)) is None, "by tokens it comes out as 0.00 there"
    assert dollars(prices, "whisper-1", Metered(milliseconds=3_600_000)) == Decimal("0.36")
    assert dollars(prices, "gpt-4o-audio-preview", Metered(100, 10, output_audio=10)) is None, "as text there"
    assert dollars(prices, "gpt-audio", Metered(0, 1_000_000, output_audio=1_000_000)) == Decimal(64)
    assert dollars(prices, "tts-1", Metered(characters=1_000_000)) == Decimal(15)
    assert dollars(prices, "text-embedding-3-small", Metered(1_000_000)) == Decimal("0.02")
    assert dollars(prices, "gpt-image-1", Metered(0, 1_000_000, output_image=1_000_000)) == Decimal(40)


def test_an_upstream_is_known_by_its_address(tmp_path: Path) -> None:
    settings = under(
        tmp_path,
        upstreams=[
            {"name": "deepseek", "url": "https://api.deepseek.com"},
            {"name": "claude", "url": "https://api.anthropic.com", "price": 0.5},
            {"name": "reseller", "url": "https://api.example.com", "price": 7.2},
        ],
    )
    prices = Prices(settings, PRICES)
    assert dollars(prices, "gpt-4o", upstream="deepseek") is None, "it does not sell that"
    assert dollars(prices, "gpt-4o", upstream="reseller") == Decimal("12.5") * Decimal("7.2")
    full = dollars(prices, "claude-sonnet-4-5", upstream="reseller")
    half = dollars(prices, "claude-sonnet-4-5", upstream="claude")
    assert full is not None and half is not None and full / Decimal("7.2") == half * 2


def test_off_peak_hours_are_in_the_dearest(tmp_path: Path) -> None:
    prices = Prices(under(tmp_path, upstreams=[{"name": "d", "url": "https://api.deepseek.com"}]), PRICES)
    found = [
        worst(Bound(input=1000, output=1000), prices.choices("d", "deepseek-chat", {}, NOW + hour * 3600))
        for hour in range(24)
    ]
    assert len(set(found)) == 1 and found[0]


def test_relay_yaml_goes_before_the_list(tmp_path: Path) -> None:
    settings = under(
        tmp_path,
        prices={
            "my-model": {"input": 1, "output": 2, "context": 1000, "max_output": 10},
            "gpt-4o": {"output": 20},
            "half": {"input": 1},
        },
    )
    prices = Prices(settings, PRICES)
    assert dollars(prices, "my-model") == 3
    assert dollars(prices, "gpt-4o") == Decimal("22.5"), "the rest stays the list's"
    assert dollars(prices, "half") is None, "what it says for an answer is not known"
    assert (prices.window("openai", "my-model"), prices.longest_answer("my-model")) == (1000, 10)
    assert prices.window("openai", "gpt-4o") == 128_000 and prices.longest_answer("gpt-4o") is None


def test_what_may_be_billed_where_no_tier_is_named(prices: Prices) -> None:
    bound = Bound(input=1_000_000, output=0)
    most = {
        name: worst(bound, prices.choices("openai", "gpt-4.1", asked, NOW))
        for name, asked in {
            "none": {},
            "auto": {"service_tier": "auto"},
            "default": {"service_tier": "default"},
            "priority": {"service_tier": "priority"},
        }.items()
    }
    assert most["none"] == most["auto"] == most["priority"] == 3_500_000_000
    assert most["default"] == 2_000_000_000
    assert prices.choices("openai", "gpt-4.1", {"service_tier": "xyz"}, NOW) == []


def test_nothing_is_loaded_before_somebody_asks() -> None:
    fresh = PriceList()
    prices = Prices(Settings(), fresh)
    assert not prices.loaded and prices.window("openai", "gpt-4o") is None

    assert dollars(prices, "gpt-4o") is None

    async def life() -> None:
        await asyncio.gather(*(prices.ready() for _ in range(3)))

    asyncio.run(life())
    assert dollars(prices, "gpt-4o") == Decimal("12.5")


def test_strangers_can_t_fill_the_memory(prices: Prices) -> None:
    for number in range(2100):
        prices.rates("openai", f"model-{number}", {}, NOW)
        prices.choices("openai", f"model-{number}", {}, NOW)
        prices.cost_of_sum(USED, "openai", f"model-{number}", {}, NOW, 2, 0)
    for kept in (prices._kept_rates, prices._kept_choices, prices._kept_flat, prices.price_list._kept):
        assert kept.cache_info().currsize == kept.cache_info().maxsize == 2000


@pytest.mark.parametrize("name", ASKED)
def test_a_tier_that_is_too_long_to_be_one_has_no_price_and_is_not_kept(prices: Prices, name: str) -> None:
    asked = {name: "x" * (LONGEST_ASKED + 1)}
    assert prices.rates("openai", "gpt-4.1", asked, NOW) is None
    assert prices.cost(USED, "openai", "gpt-4.1", asked, NOW) is None
    assert prices.cost_of_sum(USED, "openai", "gpt-4.1", asked, NOW, 2, 0) is None
    assert prices.choices("openai", "gpt-4.1", asked, NOW) == []
    for kept in (prices._kept_rates, prices._kept_choices, prices._kept_flat):
        assert kept.cache_info().currsize == 0


def test_the_names_of_all_tiers_are_shorter() -> None:
    models = [model for provider in PRICES._providers or () for model in provider.models]
    said = [value for model in models for each in model.price_variants or () for value in each.when.values()]
    assert said and max(map(len, said)) <= LONGEST_ASKED


def test_rates_are_kept_for_the_day_unless_they_change_with_the_hour(tmp_path: Path) -> None:
    upstreams = [
        {"name": "openai", "url": "https://api.openai.com"},
        {"name": "d", "url": "https://api.deepseek.com"},
    ]
    prices = Prices(under(tmp_path, upstreams=upstreams), PRICES)
    assert [prices.hourly(*each) for each in (("openai", "gpt-4o"), ("d", "deepseek-chat"), ("d", "nobody-knows"))] == [
        False,
        True,
        False,
    ]
    for number in range(288):
        prices.rates("openai", "gpt-4o", {}, DAY + number * 300)
    assert prices._kept_rates.cache_info().currsize == 1
    hourly = {prices.cost(USED, "d", "deepseek-chat", {}, DAY + number * 300) for number in range(288)}
    assert len(hourly) == 2 and prices._kept_rates.cache_info().currsize == 289


def test_a_new_price_begins_at_midnight() -> None:
    """A price that is kept for a day is the one that the list has at each hour of it."""
    models = [model for provider in PRICES._providers or () for model in provider.models if not _is_hourly(model)]
    dated = [(model, model.prices) for model in models if isinstance(model.prices, list)]
    assert dated
    for model, prices_since in dated:
        for each in prices_since:
            start = getattr(each.constraint, "start_date", None)
            if start is None:
                continue
            midnight = datetime(start.year, start.month, start.day, tzinfo=UTC)
            for hours in (-24, -1, 0, 1, 23):
                at = midnight + timedelta(hours=hours)
                day = at.replace(hour=0)
                assert model.get_prices(at) == model.get_prices(day), model.id


def test_a_step_is_passed_by_all_of_a_sum(prices: Prices) -> None:
    model: tuple[str, str, dict[str, str], float] = ("anthropic", "claude-sonnet-4-5", {}, NOW)
    [below, at, above] = [prices.cost(Metered(given, 10), *model) for given in (1, 200_000, 200_001)]
    assert 200_000 in prices.steps and below and at and above
    assert prices.cost_of_sum(Metered(200_001, 20), *model, 2, 0) == below + at
    assert prices.cost_of_sum(Metered(400_002, 20), *model, 2, 200_000) == 2 * above
