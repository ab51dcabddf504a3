"""Faults on purpose: the same ones each time."""

import json
import random
from collections import Counter

import pytest

from addons.core.faults import EXPECTED, KINDS, Faults, refusal, shares


def test_a_share_is_of_all_kinds_alike() -> None:
    assert shares("0.5") == dict.fromkeys(KINDS, 0.1)
    assert shares("429=0.1, break=0.05") == {"429": 0.1, "break": 0.05}
    assert shares("0") == dict.fromkeys(KINDS, 0.0)


@pytest.mark.parametrize(
    "text", ["", "x", "-0.1", "1.1", "nan", "inf", "429", "429=", "404=0.1", "429=0.1,429=0.1", "="]
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        shares(text)
    assert str(caught.value) == EXPECTED


def test_all_together_are_no_more_than_all() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        shares("429=0.6,500=0.6")


def test_the_same_seed_gives_the_same_faults_and_another_seed_others() -> None:
    def first(seed: int) -> list[str | None]:
        faults = Faults(shares("0.5"), random.Random(seed).random)
        return [faults.next() for _ in range(1000)]

    assert first(1) == first(1) != first(2)
    counted = Counter(first(1))
    assert 400 < counted[None] < 600 and all(60 < counted[kind] < 140 for kind in KINDS)


def test_a_header_asks_for_one_and_changes_nothing_for_the_others() -> None:
    wanted = shares("0.5")
    alone, asked = Faults(wanted, random.Random(7).random), Faults(wanted, random.Random(7).random)
    found = [(alone.next(), asked.next("silence" if n % 2 else None)) for n in range(100)]
    assert all(one == two for n, (one, two) in enumerate(found) if not n % 2)
    assert all(two == "silence" for n, (_, two) in enumerate(found) if n % 2)
    assert Faults(shares("1"), random.Random(1).random).next("none") is None
    assert Faults(shares("0"), random.Random(1).random).next("break") == "break"


@pytest.mark.parametrize("kind", ["429", "500"])
def test_refusals_are_openai_s(kind: str) -> None:
    status, headers, body = refusal(kind)
    assert status == int(kind) and json.loads(body)["error"]["message"]
    assert ("retry-after" in headers) is (kind == "429")
