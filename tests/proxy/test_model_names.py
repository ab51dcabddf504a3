"""Which bodies are read whole for an upstream with names of its own, and what becomes of them."""

import asyncio
import gzip
import json
from typing import Any

import pytest
from mitmproxy import http

from addons.core.generations import Generation
from addons.exchange import Exchange
from addons.flow import held_bodies
from addons.flow.held_bodies import HeldBodies, release
from addons.meter.under_way import METERING, Metering
from addons.proxy.model_names import ModelNames
from addons.proxy.streaming import Streaming
from tests.support import flows

JSON = {"Content-Type": "application/json"}
CHAT = "/v1/chat/completions"


def opened(method: str, path: str, headers: flows.Headers = (), body: bytes = b"", **sections: Any) -> http.HTTPFlow:
    """Judged by Routing and by ModelNames, at an upstream with names; /plain has none."""
    mapped = {"name": "mapped", "url": "https://api.test", "models": {"gpt-4o": "deepseek-chat"}}
    plain = {"name": "plain", "url": "https://plain.test"}
    routes = [{"path": "/plain", "upstream": "plain"}]
    flow = flows.opened(method, path, headers, body, upstreams=[mapped, plain], routes=routes, **sections)
    ModelNames(HeldBodies()).requestheaders(flow)
    return flow


@pytest.mark.parametrize(
    ("method", "path", "kind", "held"),
    [
        ("POST", CHAT, "application/json", True),
        ("POST", CHAT, "", True),
        ("POST", "/v1/anything/new", "text/plain", True),
        ("PUT", CHAT, "application/json", True),
        ("POST", "/v1/audio/transcriptions", "multipart/form-data; boundary=x", True),
        ("POST", "/plain" + CHAT, "application/json", False),
        ("GET", "/v1/models", "", False),
        ("POST", "/v1/files", "multipart/form-data; boundary=x", False),
        ("POST", "/v1/uploads/upload_1/parts", "multipart/form-data; boundary=x", False),
        ("POST", "/v1/files", "application/json", True),
        ("POST", "/v1/realtime/calls", "application/sdp", False),
        ("POST", "/v1/x", "Audio/WAV", False),
    ],
)
def test_what_may_name_a_model_is_read_whole_and_all_else_streams(
    method: str, path: str, kind: str, held: bool
) -> None:
    flow = opened(method, path, {"Content-Type": kind, "Content-Length": "20"})
    assert flows.exchange(flow).body.cap == (32 << 20 if held else None)
    Streaming().requestheaders(flow)
    assert bool(flow.request.stream) is not held


def mapped(flow: http.HTTPFlow, held: HeldBodies | None = None) -> http.HTTPFlow:
    async def run() -> None:
        pending = ModelNames(held or HeldBodies()).request(flow)
        assert pending is not None
        await pending

    asyncio.run(run())
    return flow


def test_a_body_goes_up_with_the_other_name_and_its_length() -> None:
    flow = mapped(opened("POST", CHAT, {**JSON, "Content-Length": "21"}, b'{ "model": "gpt-4o" }'))
    assert flow.request.raw_content == b'{ "model": "deepseek-chat" }'
    assert flow.request.headers["content-length"] == str(len(flow.request.raw_content))
    assert flow.metadata["relay.asked_model"] == "gpt-4o"


def test_what_is_true_of_the_old_body_alone_is_dropped() -> None:
    digests = {"Content-MD5": "x", "Content-Digest": "sha-256=:x:"}
    headers = {**JSON, **digests, "Content-Encoding": "identity", "X-Kept": "y"}
    flow = mapped(opened("POST", CHAT, headers, b'{"model":"gpt-4o"}'))
    assert not any(name in flow.request.headers for name in (*digests, "content-encoding"))
    assert flow.request.headers["X-Kept"] == "y"


def test_what_is_not_mapped_keeps_all_of_that() -> None:
    headers = {**JSON, "Content-Encoding": "identity", "Content-MD5": "x"}
    flow = opened("POST", CHAT, headers, b'{"model":"gpt-4"}')
    fields = flow.request.headers.fields
    assert mapped(flow).request.headers.fields == fields
    assert flow.request.raw_content == b'{"model":"gpt-4"}' and "relay.asked_model" not in flow.metadata


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b'{"model":"gpt-4o","model":"x"}', JSON, "duplicate_field"),
        (b'{"model":"gpt-4o"', JSON, "invalid_json"),
        ('{"model":"gpt-4o"}'.encode("utf-16"), JSON, "bad_request"),
        (b"model=gpt-4o", {"Content-Type": "application/x-www-form-urlencoded"}, "model_not_mapped"),
        (b"\x1f\x8b", {**JSON, "Content-Encoding": "gzip"}, "bad_request"),
        (b'{"model":"gpt-4o"}', {**JSON, "Content-Encoding": "compress"}, "bad_request"),
    ],
)
def test_what_can_t_be_mapped_is_refused_in_both_languages(body: bytes, headers: dict[str, str], code: str) -> None:
    flow = mapped(opened("POST", CHAT, headers, body))
    error = flows.json_of(flow)["error"]
    assert (flows.answer_of(flow).status_code, error["code"]) == (400, code)
    assert any(letter > "\u4e00" for letter in error["message"]) and "." in error["message"]


@pytest.mark.parametrize(
    "target",
    ["/v1/models/gpt-4o", "/v1/realtime?model=gpt-4o", "/v1/engines/gpt-4o/completions", "/v1/x?model=gpt%2D4o"],
)
def test_a_mapped_name_in_the_address_is_refused_with_the_name_to_write(target: str) -> None:
    flow = opened("GET", target)
    error = flows.json_of(flow)["error"]
    assert (flows.answer_of(flow).status_code, error["code"], error["param"]) == (400, "model_not_mapped", "model")
    assert error["message"].count("deepseek-chat") == 4
    assert opened("GET", "/plain" + target).response is None


def test_a_declared_length_over_limits_json_is_refused_before_a_byte_is_read() -> None:
    flow = opened("POST", CHAT, {**JSON, "Content-Length": "2000"}, limits={"json": "1k"})
    assert flows.answer_of(flow).status_code == 413
    assert flows.json_of(flow)["error"]["code"] == "request_too_large"


def test_all_together_hold_no_more_than_limits_held() -> None:
    held = HeldBodies()
    flows_ = [opened("POST", CHAT, JSON, limits={"held": "5m"}) for _ in range(3)]
    found: list[Exchange] = [flows.exchange(flow) for flow in flows_]
    for flow, exchange in zip(flows_, found, strict=True):
        exchange.body.cap = None
        held.hold(flow, exchange)
    holding = [exchange.body.holding for exchange in found]
    assert all(each is not None for each in holding)
    first, second, third = (each for each in holding if each is not None)
    assert first(3 << 20) is None and second(1 << 20) is None and held.size == 3 << 20
    assert first(4 << 20) is None and held.size == 4 << 20
    error = third(2 << 20)
    assert error is not None and error.status == 503
    assert held.size == 4 << 20, "what was refused is held no longer"
    release(found[0])
    release(found[0])
    assert held.size == 0 and third(2 << 20) is None


def test_the_model_that_is_counted_is_the_one_that_went_up() -> None:
    flow = opened("POST", CHAT, JSON, b'{"model":"gpt-4o"}')
    metering = Metering(Generation.CHAT, 0.0, "r", "c", "mapped", CHAT)
    METERING.keep(flows.exchange(flow), metering)
    assert json.loads(mapped(flow).request.raw_content or b"")["model"] == metering.model == "deepseek-chat"


def test_what_a_body_unpacks_to_counts() -> None:
    held = HeldBodies()
    packed = gzip.compress(b'{"model":"gpt-4o","x":"' + b"x" * (3 << 20) + b'"}')
    headers = {**JSON, "Content-Encoding": "gzip"}
    refused = []
    for _ in range(2):
        flow = opened("POST", CHAT, headers, packed, limits={"held": "5m"})
        flows.exchange(flow).body.cap = None
        held.hold(flow, flows.exchange(flow))
        mapped(flow, held)
        refused.append(None if flow.response is None else flow.response.status_code)
    assert refused == [None, 503] and 3 << 20 < held.size < 4 << 20


def test_few_are_unpacked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held, at_once, most = HeldBodies(), 0, 0

    async def read_body(_request: object, _limit: int) -> bytes:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        return b""

    async def read_all() -> None:
        found = [opened("POST", CHAT, {**JSON, "Content-Encoding": "zstd"}, b"x") for _ in range(20)]
        await asyncio.gather(*(held.read(flow, flows.exchange(flow)) for flow in found))

    monkeypatch.setattr(held_bodies, "read_body", read_body)
    asyncio.run(read_all())
    assert most == 4
