"""Admission: what is held for a request, what is changed in it, and how a refusal says what would fit."""

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from addons import errors
from addons.config.settings import Settings, load_settings
from addons.core.claims import READ
from addons.core.generations import Generation
from addons.core.relay_keys import RelayKey
from addons.exchange import Exchange, Kind
from addons.meter.gate import Admission, Gate, Going, shown
from addons.store import StoreError
from tests.support.metering import PRICES, MemoryLedger, a_gate

CHAT = Generation.CHAT
DOLLAR = 10**9


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    PRICES.load()


def under(tmp_path: Path, url: str = "https://api.openai.com", **settings: Any) -> Settings:
    path = tmp_path / "relay.yaml"
    path.write_text(yaml.safe_dump({"upstreams": [{"name": "u", "url": url, "keys": ["k1", "k2"]}]} | settings))
    return load_settings(path, {})


def key(budget: int | None = DOLLAR, **more: Any) -> RelayKey:
    return RelayKey("id", "alice", budget=budget, **more)


def admit(
    gate: Gate,
    holder: RelayKey,
    body: object,
    kind: Generation | None = CHAT,
    content_type: str = "application/json",
    path: str = "/v1/x",
    asked: Kind = Kind.PASS,
) -> Admission:
    exchange = Exchange(gate.settings, gate.settings.upstreams[0], asked, path)
    text = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return asyncio.run(gate.admit(exchange, holder, kind, text, content_type))


def refused(gate: Gate, holder: RelayKey, body: object, **more: Any) -> errors.RelayError:
    with pytest.raises(errors.RelayError) as caught:
        admit(gate, holder, body, **more)
    assert not gate.ledger.accounts.holds, "nothing is held"  # type: ignore[attr-defined]
    return caught.value


def hello(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], **more}


def test_the_hold_is_the_most_that_it_may_cost(tmp_path: Path) -> None:
    gate = a_gate(under(tmp_path))
    body = hello(max_tokens=100, n=2, service_tier="default")
    size = len(json.dumps(body, ensure_ascii=False))
    assert admit(gate, key(), body).hold == size * 2500 + 200 * 10_000
    # Where no tier is named the dearest may be served: 4.25 and 17 dollars a million.
    body = hello(max_tokens=100)
    assert admit(gate, key(), body).hold == len(json.dumps(body)) * 4250 + 100 * 17_000
    # Without a bound, what the model can say.
    body = hello(service_tier="default")
    assert admit(gate, key(), body).hold == len(json.dumps(body)) * 2500 + 16_384 * 10_000


def test_without_a_budget_nothing_is_held_and_nothing_need_be_priced(tmp_path: Path) -> None:
    gate = a_gate(under(tmp_path))
    found = admit(gate, key(None), {"model": "nobody-knows", "messages": []})
    assert (found.hold, found.model) == (None, "nobody-knows")


def test_a_refusal_says_what_would_fit(tmp_path: Path) -> None:
    gate = a_gate(under(tmp_path))
    body = hello(max_tokens=5000, service_tier="default")
    error = refused(gate, key(DOLLAR // 100), body)
    assert (error.status, error.code, error.headers["x-should-retry"]) == (429, "insufficient_quota", "false")
    hold = len(json.dumps(body)) * 2500 + 5000 * 10_000
    assert f"${shown(hold)}" in error.en and "$0.01 is left" in error.en and "$0.01" in error.zh
    found = re.search(r"max_tokens of (\d+) would fit", error.en)
    assert found is not None and f"max_tokens 设为 {found[1]}" in error.zh
    fits = int(found[1])
    # Bodies of these bounds have as many bytes as the one that was refused.
    assert admit(gate, key(DOLLAR // 100), hello(max_tokens=fits, service_tier="default")).hold
    refused(a_gate(under(tmp_path)), key(DOLLAR // 100), hello(max_tokens=fits + 50, service_tier="default"))


def test_a_refusal_of_a_response_names_its_own_bound(tmp_path: Path) -> None:
    body = {"model": "gpt-4o", "input": "x", "max_output_tokens": 9000}
    error = refused(a_gate(under(tmp_path)), key(DOLLAR // 100), body, kind=Generation.RESPONSE)
    assert re.search(r"max_output_tokens of \d+ would fit", error.en)


def test_a_refusal_names_the_bound_that_there_is(tmp_path: Path) -> None:
    gate = a_gate(under(tmp_path))
    error = refused(gate, key(DOLLAR // 10), hello(model="o1", max_completion_tokens=5000))
    assert "max_completion_tokens of" in error.en
    picture = refused(gate, key(DOLLAR // 1000), {"model": "gpt-image-1", "prompt": "x", "n": 9}, kind=Generation.IMAGE)
    assert picture.code == "insufficient_quota" and "would fit" not in picture.en


def test_a_refusal_names_no_bound_where_none_would_fit_and_says_when_more_comes(tmp_path: Path) -> None:
    error = refused(a_gate(under(tmp_path)), key(1, per="day"), hello(max_tokens=5))
    assert "would fit" not in error.en and "begins anew on 2026-12-01" in error.en and "2026-12-01" in error.zh


def test_models(tmp_path: Path) -> None:
    gate = a_gate(under(tmp_path))
    only = key(models=("gpt-4o*",))
    assert admit(gate, only, hello(model="gpt-4o-mini", max_tokens=5))
    gate = a_gate(under(tmp_path))
    assert refused(gate, only, hello(model="o3")).code == "model_not_allowed"
    assert refused(gate, only, {"messages": []}).status == 400
    assert refused(gate, key(), hello(model="nobody-knows")).code == "model_not_priced"
    assert refused(gate, key(), hello(model="gpt-4.1", service_tier="scale")).code == "model_not_priced"
    assert refused(gate, key(), hello(model="gpt-4o-audio-preview", modalities=["audio"])).code == "model_not_priced"


def test_bodies_that_can_t_be_read(tmp_path: Path) -> None:
    gate = a_gate(under(tmp_path))
    assert refused(gate, key(), b'{"model": "gpt-4o", "model": "o3"}').code == "duplicate_field"
    assert refused(gate, key(None), b'{"model": "gpt-4o", "stream": true, "stream": false}').code == "duplicate_field"
    assert refused(gate, key(), b"[]").code == "invalid_json"
    assert refused(gate, key(), b"model=gpt-4o").code == "invalid_json"
    assert refused(gate, key(), b"\xff\xfe{").status == 400
    assert refused(gate, key(), '{"model": "gpt-4o"}'.encode("utf-16")).status == 400
    assert refused(gate, key(), hello(max_tokens="many")).param == "max_tokens"
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n--b--\r\n'
    assert refused(gate, key(), form, content_type="multipart/form-data; boundary=b").code == "invalid_json"


def test_a_mark_before_the_body_is_no_part_of_it(tmp_path: Path) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(hello(max_tokens=5, stream=True)).encode()
    found = admit(a_gate(under(tmp_path)), key(), body)
    assert found.body is not None and json.loads(found.body)["stream_options"] == {"include_usage": True}


STREAMS: dict[str, tuple[dict[str, Any], Any]] = {
    "no options": ({}, {"include_usage": True}),
    "null": ({"stream_options": None}, {"include_usage": True}),
    "other options": ({"stream_options": {"x": 1}}, {"x": 1, "include_usage": True}),
    "not wanted": ({"stream_options": {"include_usage": False}}, {"include_usage": True}),
}


@pytest.mark.parametrize(("more", "options"), STREAMS.values(), ids=STREAMS)
def test_a_stream_is_asked_for_its_usage(tmp_path: Path, more: dict[str, Any], options: Any) -> None:
    body = hello(stream=True, max_tokens=5, **more)
    found = admit(a_gate(under(tmp_path)), key(), body)
    assert found.strips_usage and found.body is not None
    assert json.loads(found.body) == {**body, "stream_options": options}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (CHAT, {"stream": True, "stream_options": {"include_usage": True}}),
        (CHAT, {"stream": False}),
        (CHAT, {}),
        (Generation.RESPONSE, {"stream": True, "input": "x"}),
        (Generation.MESSAGE, {"stream": True}),
    ],
)
def test_other_bodies_are_not_touched(tmp_path: Path, kind: Generation, more: dict[str, Any]) -> None:
    found = admit(a_gate(under(tmp_path)), key(None), hello(max_tokens=5, **more), kind=kind)
    assert (found.body, found.strips_usage) == (None, False)


def test_a_bound_is_written_where_relay_yaml_says_so(tmp_path: Path) -> None:
    gate = a_gate(under(tmp_path, keys={"reserve_output": 500}))
    body = hello(service_tier="default")
    found = admit(gate, key(), body)
    assert found.body is not None and json.loads(found.body) == {**body, "max_completion_tokens": 500}
    assert found.hold == len(json.dumps(body)) * 2500 + 500 * 10_000
    assert admit(gate, key(), hello(max_tokens=7)).body is None
    asked = {"model": "gpt-4o", "input": "x"}
    response = admit(gate, key(), asked, kind=Generation.RESPONSE)
    assert response.body is not None and json.loads(response.body)["max_output_tokens"] == 500
    other = a_gate(under(tmp_path, "https://api.deepseek.com", keys={"reserve_output": 500}))
    found = admit(other, key(), hello(model="deepseek-chat"))
    assert found.body is not None and json.loads(found.body)["max_tokens"] == 500


def test_what_is_not_in_the_body_holds_the_window_or_is_refused(tmp_path: Path) -> None:
    body = {
        "model": "gpt-4o",
        "input": "x",
        "previous_response_id": "r",
        "max_output_tokens": 1,
        "service_tier": "default",
    }
    found = admit(a_gate(under(tmp_path)), key(), body, kind=Generation.RESPONSE)
    assert found.hold == 128_000 * 2500 + 10_000
    strict = a_gate(under(tmp_path, keys={"unbounded": "refuse"}))
    error = refused(strict, key(), body, kind=Generation.RESPONSE)
    assert error.code == "input_not_bounded" and "previous_response_id" in error.en
    blind = a_gate(under(tmp_path, prices={"mine": {"input": 1, "output": 1}}))
    assert refused(blind, key(), {**body, "model": "mine"}, kind=Generation.RESPONSE).code == "input_not_bounded"
    assert refused(blind, key(), hello(model="mine")).code == "output_not_bounded"
    assert refused(a_gate(under(tmp_path)), key(), {**body, "background": True}, kind=Generation.RESPONSE).param == (
        "background"
    )


def test_forms(tmp_path: Path) -> None:
    def form(*parts: bytes) -> bytes:
        return b"".join(b"--b\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + b"--b--\r\n"

    gate = a_gate(under(tmp_path))
    sound = form(b'name="model"\r\n\r\nwhisper-1', b'name="file"; filename="a.mp3"\r\n\r\n' + b"x" * 50_000)
    found = admit(gate, key(), sound, Generation.TRANSCRIPTION, "multipart/form-data; boundary=b")
    assert found.model == "whisper-1" and found.hold is not None
    assert found.hold == -(-len(sound) * 1000 // 500) * 360_000_000 // 3_600_000
    token = form(b'name="model"\r\n\r\ngpt-4o-transcribe', b'name="file"; filename="a.mp3"\r\n\r\n' + b"x" * 50_000)
    found = admit(gate, key(), token, Generation.TRANSCRIPTION, "multipart/form-data; boundary=b")
    assert found.hold == 16_000 * 6000 + 2000 * 10_000
    twice = form(b'name="model"\r\n\r\nwhisper-1', b'name="model"\r\n\r\ngpt-4o')
    error = refused(
        a_gate(under(tmp_path)), key(), twice, kind=Generation.IMAGE, content_type="multipart/form-data; boundary=b"
    )
    assert error.code == "duplicate_field"


FORM = "multipart/form-data; boundary=b"
IMAGE_FILE = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png'


def picture(*parts: bytes) -> bytes:
    """A form that asks for a picture, and says this, too."""
    named = b'Content-Disposition: form-data; name="model"\r\n\r\ngpt-image-1'
    all_of_it = (named, IMAGE_FILE + b"\r\n\r\nPNG", *parts)
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in all_of_it) + b"--b--\r\n"


def field(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + value


FORMS: dict[str, tuple[bytes, str]] = {
    "a count behind a filename elsewhere": (
        field(b"n", b"10", b"\r\nContent-Type: text/plain\r\nX: a; filename=x\r\nX: b"),
        "invalid_json",
    ),
    "a count in an encoded name": (b"Content-Disposition: form-data; name*=UTF-8''n\r\n\r\n10", "invalid_json"),
    "a count as a file": (field(b"n", b"10", b'; filename="x"'), "bad_request"),
    "a second model as a file": (field(b"model", b"o1-pro", b'; filename="x"'), "bad_request"),
    "a second model": (field(b"model", b"o1-pro"), "duplicate_field"),
    "a list of counts": (field(b"n[]", b"10"), "ambiguous_field"),
    "a model in other letters": (field(b"Model", b"o1-pro"), "ambiguous_field"),
    "a padded count": (field(b"n", b" " * 70_000 + b"10"), "bad_request"),
    "other models": (field(b"models", b"o1-pro"), "routing_not_allowed"),
}


@pytest.mark.parametrize(("part", "code"), FORMS.values(), ids=FORMS)
def test_what_a_form_hides_is_refused(tmp_path: Path, part: bytes, code: str) -> None:
    error = refused(a_gate(under(tmp_path)), key(), picture(part), kind=Generation.IMAGE, content_type=FORM)
    assert (error.status, error.code or "bad_request") == (400, code)


def test_what_a_form_asks_for_is_held(tmp_path: Path) -> None:
    held = []
    for part in ((), (field(b"n", b"2"),), (field(b"n", b"2", b"\r\nContent-Type: text/plain; filename=x"),)):
        found = admit(a_gate(under(tmp_path)), key(100 * DOLLAR), picture(*part), Generation.IMAGE, FORM)
        held.append(found.hold or 0)
    assert held[1] == held[2] > held[0] > 0


def test_audio_that_upstream_fetches_has_no_length(tmp_path: Path) -> None:
    gate = a_gate(under(tmp_path))
    body = {"model": "whisper-1", "url": "https://x.example/a.mp3"}
    assert refused(gate, key(), body, kind=Generation.TRANSCRIPTION).code == "input_not_bounded"
    assert admit(gate, key(), {"model": "whisper-1", "file": "x" * 50_000}, Generation.TRANSCRIPTION).hold


ODD_PATHS = [
    *("/v1/chat/completions;x=1", "/v1/chat/completions%20", "/v1/chat/completions%23/moderations"),
    *("/v1/engines//gpt-4o/completions", "/v1/chat%2Fcompletions", "/v1/chat/completions%3Fx"),
    "/v1/chat\\completions",
]
BOUNDS: list[dict[str, Any]] = [
    *({"budget": DOLLAR}, {"models": ("gpt-4o*",)}, {"requests": 5}, {"tokens": 5}, {"parallel": 1}),
    {"paths": ("/v1/*",)},
]


@pytest.mark.parametrize("path", ODD_PATHS)
def test_a_path_that_may_be_another_one_goes_round_no_bound(tmp_path: Path, path: str) -> None:
    gate = a_gate(under(tmp_path))
    for bound in BOUNDS:
        holder = key(**{"budget": None, **bound})
        assert refused(gate, holder, hello(max_tokens=5), path=path).code == "path_not_allowed", bound
    assert admit(gate, key(None), hello(), path=path), "without a bound it passes"
    assert admit(gate, key(), hello(max_tokens=5), path="/chat/a%2Fengines%2Fo1%2Fcompletions", asked=Kind.CHAT)


def test_the_model_of_a_path_is_the_one_that_is_used(tmp_path: Path) -> None:
    gate = a_gate(under(tmp_path))
    only = key(None, models=("gpt-4o-mini",))
    for path in ("/v1/engines/o1-pro/chat/completions", "/v1/Engines/o1-pro/chat/completions/"):
        assert refused(gate, only, hello(model="gpt-4o-mini"), path=path).status == 403
        assert refused(gate, key(None, models=("o1-pro",)), hello(model="gpt-4o-mini"), path=path).status == 403
        assert refused(gate, only, {"messages": []}, path=path).code == "model_not_allowed"
    azure = "/openai/deployments/prod-4o/chat/completions"
    assert admit(gate, key(None), hello(model="gpt-4o"), path=azure).model == "gpt-4o"
    both = key(None, models=("gpt-4o", "prod-4o"))
    assert admit(gate, both, hello(model="gpt-4o"), path=azure).model == "prod-4o"
    within = "/openai/deployments/gpt-4o-mini/chat/completions"
    assert admit(gate, only, {"messages": []}, path=within).model == "gpt-4o-mini"


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", " multipart/mixed; boundary=b", "application/json; charset=utf-7"]
)
def test_a_body_that_may_be_read_as_a_form_is_none(tmp_path: Path, kind: str) -> None:
    gate = a_gate(under(tmp_path))
    assert refused(gate, key(), hello(max_tokens=5), content_type=kind).code == "invalid_json"
    assert admit(gate, key(None), hello(), content_type=kind), "without a bound it passes"


@pytest.mark.parametrize("kind", ["", "text/plain;charset=UTF-8", "application/json; charset=utf-8"])
def test_a_body_that_says_it_is_something_else_is_still_json(tmp_path: Path, kind: str) -> None:
    assert admit(a_gate(under(tmp_path)), key(), hello(max_tokens=5), content_type=kind)


def test_a_bound_that_others_may_not_know_is_none_there(tmp_path: Path) -> None:
    body = hello(model="gpt-4o-mini", max_completion_tokens=5)
    near = admit(a_gate(under(tmp_path)), key(), body).hold or 0
    far = admit(a_gate(under(tmp_path, "https://reseller.test")), key(), body).hold or 0
    assert far > 100 * near
    both = admit(a_gate(under(tmp_path, "https://reseller.test")), key(), body | {"max_tokens": 5}).hold or 0
    assert both < 2 * near


def test_names_of_models_that_are_none(tmp_path: Path) -> None:
    gate = a_gate(under(tmp_path))
    for holder in (key(), key(None), key(None, models=("*",))):
        error = refused(gate, holder, b'{"model": "gpt-4o-\\ud800", "messages": [], "max_tokens": 5}')
        assert (error.status, error.param) == (400, "model")
    assert refused(gate, key(None, models=("gpt-4o*",)), hello(model="gpt-4o,o1-pro")).param == "model"
    assert admit(gate, key(None), hello(model="a,b")).model == "a,b"


def test_halves_of_characters_elsewhere_stay_what_they_are(tmp_path: Path) -> None:
    gate = a_gate(under(tmp_path))
    text = b'{"model": "gpt-4o", "max_tokens": 5, "stream": true, "stream_options": {"x": "\\ud800"}}'
    gate.release(found := admit(gate, key(), text))
    assert found.body is not None
    assert json.loads(found.body)["stream_options"] == {"x": "\ud800", "include_usage": True}
    again = refused(gate, key(), b'{"\\ud800": 1, "\\ud800": 2}')
    assert again.code == "duplicate_field" and b"stands twice" in again.openai_body()


_ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["gpt-4o", "\ud800"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], deadline=None)
@hypothesis.given(st.sampled_from(Generation), st.dictionaries(st.sampled_from(sorted(READ)), _ANY, max_size=4))
def test_any_body_is_admitted_or_refused(tmp_path: Path, kind: Generation, body: dict[str, Any]) -> None:
    gate = a_gate(under(tmp_path))
    for holder in (key(), key(None)):
        with contextlib.suppress(errors.RelayError):
            admit(gate, holder, json.dumps({"model": "gpt-4o", **body}).encode(), kind)


def test_a_model_that_always_searches_is_held_for_its_searches(tmp_path: Path) -> None:
    body = hello(model="gpt-4o-search-preview", max_tokens=5)
    assert refused(a_gate(under(tmp_path)), key(), body).code == "model_not_priced", "the list has no price of a search"
    price = {"gpt-4o-search-preview": {"input": 2.5, "output": 10, "searches": 50}}
    found = admit(a_gate(under(tmp_path, prices=price)), key(10 * DOLLAR), body)
    assert found.hold is not None and found.hold > DOLLAR
    sonar = a_gate(under(tmp_path, "https://api.perplexity.ai"))
    assert admit(sonar, key(), hello(model="sonar", max_tokens=5)).hold, (
        "the price of a request holds that of its searches"
    )


def test_limits_a_minute_and_at_once(tmp_path: Path) -> None:
    gate = a_gate(under(tmp_path))
    one = key(None, parallel=1)
    first = admit(gate, one, hello())
    with pytest.raises(errors.RateLimited, match="under way") as caught:
        admit(gate, one, hello())
    assert caught.value.code == "rate_limit_exceeded" and caught.value.headers["retry-after"] == "1"
    gate.release(first)
    assert admit(gate, one, hello())
    gate = a_gate(under(tmp_path))
    admit(gate, key(None, requests=1), hello())
    with pytest.raises(errors.RateLimited, match="1 requests a minute") as caught:
        admit(gate, key(None, requests=1), hello())
    assert caught.value.headers["retry-after"] == "60"


def test_where_a_key_leads(tmp_path: Path) -> None:
    path = tmp_path / "relay.yaml"
    upstreams = [
        {"name": "one", "url": "https://one.example", "keys": ["a", "b"], "fallback": ["two"]},
        {"name": "two", "url": "https://two.example", "keys": ["c"]},
    ]
    path.write_text(yaml.safe_dump({"upstreams": upstreams}))
    settings = load_settings(path, {})
    gate = a_gate(settings)
    one, two = settings.upstreams
    plain = Exchange(settings, one, Kind.PASS, "/v1/x")
    routed = Exchange(settings, two, Kind.PASS, "/v1/x", routed=True)
    assert gate.upstream_for(key(), routed) is two and gate.upstream_for(key(upstream="two"), plain) is two
    with pytest.raises(errors.Forbidden):
        gate.upstream_for(key(upstream="one"), routed)
    with pytest.raises(errors.Unavailable):
        gate.upstream_for(key(upstream="gone"), plain)
    assert gate.candidates(one) == [one, two] and gate.candidates(one, elsewhere=False) == [one]
    assert gate.candidates(two) == [two]


def test_what_can_t_be_written_down_does_not_go_up(tmp_path: Path) -> None:
    class Full(MemoryLedger):
        async def reserve(self, claim: object) -> None:
            raise StoreError("the disk is full")

    error = refused(a_gate(under(tmp_path), Full()), key(), hello(max_tokens=5))
    assert error.status == 503 and "disk" not in error.en


def test_whoever_is_cancelled_meanwhile_leaves_nothing_held(tmp_path: Path) -> None:
    class Slow(MemoryLedger):
        async def reserve(self, claim: Any) -> None:
            await super().reserve(claim)
            await asyncio.sleep(10)

    gate = a_gate(under(tmp_path), Slow())

    async def life() -> None:
        exchange = Exchange(gate.settings, gate.settings.upstreams[0], Kind.PASS, "/v1/x")
        asking = asyncio.create_task(gate.admit(exchange, key(), CHAT, json.dumps(hello(max_tokens=5)).encode()))
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(life())
    assert not gate.ledger.accounts.holds  # type: ignore[attr-defined]


def test_a_ledger_that_does_not_answer_lets_nothing_up_and_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Locked(MemoryLedger):
        async def reserve(self, claim: Any) -> None:
            await super().reserve(claim)
            await asyncio.sleep(60)

    monkeypatch.setattr("addons.meter.gate._PATIENCE", 0.05)
    gate = a_gate(under(tmp_path), Locked())
    assert refused(gate, key(), hello(max_tokens=5)).status == 503
    assert not gate.ledger.accounts.holds  # type: ignore[attr-defined]


def test_dollars_are_shown_without_needless_zeros() -> None:
    assert [shown(nano) for nano in (0, 5, DOLLAR, 105_000, 1_500_000_000)] == [
        "0.00", "0.000000005", "1.00", "0.000105", "1.50"
    ]  # fmt: skip


def test_reasoning_models_have_their_own_bound_wherever_they_are(tmp_path: Path) -> None:
    body = hello(model="o3", service_tier="default")
    far = a_gate(under(tmp_path, "https://reseller.test", keys={"reserve_output": 500}))
    for name in ("o3", "openai/o3"):
        found = admit(far, key(None), body | {"model": name})
        assert found.body is not None and json.loads(found.body)["max_completion_tokens"] == 500
        assert "max_tokens" not in json.loads(found.body)
    # Who passes over it says as much as it likes: what the model can say is held.
    assert admit(far, key(10 * DOLLAR), body).output == 100_000
    near = a_gate(under(tmp_path, keys={"reserve_output": 500}))
    assert admit(near, key(), body).output == 500


def test_an_inline_picture_is_held_as_a_picture_where_it_is_counted_so(tmp_path: Path) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    body = hello(model="gpt-4o", max_tokens=10, service_tier="default")
    body["messages"] = [{"role": "user", "content": [part]}]
    found = admit(a_gate(under(tmp_path)), key(), body)
    assert found.hold is not None and 16_384 * 2500 < found.hold < 18_000 * 2500
    assert found.size < 1000, "nor is it text where upstream tells no usage"
    assert admit(a_gate(under(tmp_path)), key(), body | {"model": "gpt-4o-mini"}).hold or 0 > 48_169 * 150
    far = a_gate(under(tmp_path, "https://reseller.test"))
    assert (admit(far, key(9 * DOLLAR), body).hold or 0) > 1_000_000 * 2500, "who knows how that one counts"
    ours = a_gate(under(tmp_path, prices={"ours": {"input": 1, "output": 1}}))
    assert (admit(ours, key(9 * DOLLAR), body | {"model": "ours"}).hold or 0) > 1_000_000 * 1000


def test_a_price_of_each_request_alone_suffices(tmp_path: Path) -> None:
    gate = a_gate(under(tmp_path, prices={"painter": {"request": 0.04}}))
    asked = {"model": "painter", "prompt": "a cat", "n": 3}
    assert admit(gate, key(), asked, kind=Generation.IMAGE).hold == 120_000_000
    assert admit(gate, key(), {"model": "painter", "messages": [], "n": 3}).hold == 40_000_000
    gate = a_gate(gate.settings)
    assert refused(gate, key(), asked | {"n": 26}, kind=Generation.IMAGE).code == "insufficient_quota"


def test_models_that_a_key_may_use(tmp_path: Path) -> None:
    settings = under(tmp_path, prices={"ours": {"input": 1}, "sonar": {"input": 1, "output": 1}})
    gate = a_gate(settings)
    exchange = Exchange(settings, settings.upstreams[0], Kind.PASS, "/v1/models")
    assert [gate.may_use(exchange, key(), name) for name in ("gpt-4o", "ours", "nobody-knows", "sonar", "")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert gate.may_use(exchange, key(None), "nobody-knows")
    assert not gate.may_use(exchange, key(None, models=["gpt-*"]), "ours")


# Elsewhere


def admit_anywhere(gate: Gate, holder: RelayKey, body: object, repeats: int = 0) -> Admission:
    exchange = Exchange(gate.settings, gate.settings.upstreams[0], Kind.PASS, "/v1/x")
    going = Going(gate.settings.upstreams, repeats)
    return asyncio.run(gate.admit(exchange, holder, CHAT, json.dumps(body).encode(), "application/json", going))


def two(tmp_path: Path, url: str = "https://api.openai.com", models: Mapping[str, str] = {}, **more: Any) -> Gate:
    first = {"name": "u", "url": "https://api.openai.com", "keys": ["k"], "fallback": ["v"]}
    return a_gate(
        under(tmp_path, upstreams=[first, {"name": "v", "url": url, "keys": ["l"], "models": dict(models)}], **more)
    )


def test_a_picture_is_held_as_the_model_of_each_upstream_counts_it(tmp_path: Path) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"max_tokens": 1, "service_tier": "default", "messages": [{"role": "user", "content": [part] * 3}]}
    prices = {"small": {"input": 2.5, "output": 10}, "gpt-4o-mini-x": {"input": 2.5, "output": 10}}
    alone = admit(a_gate(under(tmp_path, prices=prices)), key(9 * DOLLAR), {"model": "gpt-4o-mini-x", **body}).hold
    gate = two(tmp_path, models={"small": "gpt-4o-mini-x"}, prices=prices)
    assert (admit_anywhere(gate, key(9 * DOLLAR), {"model": "small", **body}).hold or 0) >= (alone or 0) - 100 * 2500


def test_searches_are_held_that_the_model_of_another_upstream_makes(tmp_path: Path) -> None:
    prices = {"finder-search": {"input": 2.5, "output": 10, "searches": 50}}
    gate = two(tmp_path, models={"gpt-4o": "finder-search"}, prices=prices)
    found = admit_anywhere(gate, key(9 * DOLLAR), hello(max_tokens=5))
    assert found.hold is not None and found.hold > DOLLAR
    # What can't be priced is no candidate.
    none = two(tmp_path, models={"gpt-4o": "finder-search"}, prices={"finder-search": {"input": 2.5, "output": 10}})
    assert (admit_anywhere(none, key(), hello(max_tokens=5)).hold or DOLLAR) < DOLLAR // 100


def test_a_bound_that_relay_writes_counts_where_every_upstream_knows_it(tmp_path: Path) -> None:
    body = hello(model="o3", service_tier="default")
    more: dict[str, Any] = {"keys": {"reserve_output": 500}}
    assert admit_anywhere(two(tmp_path, **more), key(10 * DOLLAR), body).output == 500
    assert admit_anywhere(two(tmp_path, "https://reseller.test", **more), key(10 * DOLLAR), body).output == 100_000
    # Any other model is given the old name there.
    assert admit_anywhere(two(tmp_path, "https://reseller.test", **more), key(), hello()).output == 500


# Models by other names


def named(tmp_path: Path, **models: str) -> Gate:
    upstream = {"name": "u", "url": "https://api.openai.com", "keys": ["k"], "models": dict(models)}
    return a_gate(under(tmp_path, upstreams=[upstream]))


def test_what_is_judged_is_what_goes_up(tmp_path: Path) -> None:
    gate = named(tmp_path, mine="gpt-4o")
    text = b'{ "model":"mine","messages":[], "max_tokens":10,"service_tier":"default" }'
    found = admit(gate, key(), text)
    assert found.body == text.replace(b'"mine"', b'"gpt-4o"') and found.size == len(found.body)
    assert (found.model, found.hold) == ("gpt-4o", found.size * 2500 + 10 * 10_000)
    plain = admit(gate, key(), hello())
    assert (found.asked_model, plain.asked_model, plain.body) == ("mine", None, None)


def test_what_else_is_changed_is_changed_too(tmp_path: Path) -> None:
    gate = named(tmp_path, mine="gpt-4o")
    found = admit(gate, key(), b'{"model": "mine", "stream": true}')
    assert found.body == b'{"model": "gpt-4o", "stream": true, "stream_options": {"include_usage": true}}'
    assert found.strips_usage


def test_a_key_may_use_what_its_caller_writes(tmp_path: Path) -> None:
    gate = named(tmp_path, mine="gpt-4o", other="o3")
    assert admit(gate, key(models=("mine",)), hello(model="mine")).model == "gpt-4o"
    for name in ("gpt-4o", "other"):
        assert refused(named(tmp_path, mine="gpt-4o", other="o3"), key(models=("mine",)), hello(model=name)).code == (
            "model_not_allowed"
        )
    assert refused(named(tmp_path, mine="gpt-4o"), key(models=("gpt-4o",)), hello(model="mine")).code == (
        "model_not_allowed"
    )


def test_a_name_does_not_hide_what_is_dear(tmp_path: Path) -> None:
    """Pictures count for more with gpt-4o-mini, and some models search always: that of the one that is asked counts."""
    gate = named(tmp_path, mine="gpt-4o-mini", finds="gpt-4o-search-preview")
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"max_tokens": 1, "service_tier": "default", "messages": [{"role": "user", "content": [picture]}]}
    assert (
        admit(gate, key(), {"model": "mine", **body}).hold == admit(gate, key(), {"model": "gpt-4o-mini", **body}).hold
    )
    finds = hello(model="gpt-4o-search-preview", max_tokens=1)
    by_name = refused(named(tmp_path, finds="gpt-4o-search-preview"), key(), {**finds, "model": "finds"})
    assert by_name.en == refused(named(tmp_path), key(), finds).en


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b'{"model":"mine","model":"x"}', "application/json", "duplicate_field"),
        (b'{"model":"mine"', "application/json", "invalid_json"),
        (
            b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nmine\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            "model_not_mapped",
        ),
    ],
)
def test_what_can_t_be_mapped_is_not_admitted(tmp_path: Path, body: bytes, content_type: str, code: str) -> None:
    gate = named(tmp_path, mine="gpt-4o")
    error = refused(gate, key(), body, kind=Generation.TRANSCRIPTION, content_type=content_type)
    assert error.code == code
