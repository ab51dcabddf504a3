"""Work in the background: what it used is heard once it is over, however long its answer is."""

import json
from typing import Any

import pytest

from addons.core.metered import Metered
from addons.meter.later import Later

USED = Metered(input=1000, output=100)
BATCH: dict[str, Any] = {
    "id": "batch_1",
    "object": "batch",
    "model": "gpt-4o-mini",
    "status": "completed",
    "usage": {"input_tokens": 1000, "output_tokens": 100},
}
RESPONSE: dict[str, Any] = {
    **BATCH,
    "id": "resp_1",
    "object": "response",
    "background": True,
    "service_tier": "flex",
    "output": [{"content": [{"text": 'of "usage": {"input_tokens": 5}', "usage": {"input_tokens": 6}}]}],
}


def told(said: object, size: int = 1 << 16) -> tuple[str, str, Metered, dict[str, str]] | None:
    later, body = Later(), said if isinstance(said, bytes) else json.dumps(said).encode()
    for start in range(0, len(body), size):
        later.hear(body[start : start + size])
    return later.told()


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_what_is_over_is_told(size: int) -> None:
    assert told(BATCH, size) == ("batch_1", "gpt-4o-mini", USED, {"service_tier": "batch"})
    assert told(RESPONSE, size) == ("resp_1", "gpt-4o-mini", USED, {"service_tier": "flex"})


def test_a_long_answer_is_told_as_well_and_not_kept() -> None:
    output = [{"content": [{"text": "a, b: [c] " * 10_000, "logprobs": [{"bytes": [97], "top": []}] * 1000}]}] * 20
    usage = {"usage": RESPONSE["usage"]}
    body = json.dumps({"id": "resp_1", "status": "completed", "background": True, "output": output, **usage}).encode()
    assert len(body) > 2 << 20
    later = Later()
    for start in range(0, len(body), 1 << 16):
        later.hear(body[start : start + (1 << 16)])
    assert later.told() == ("resp_1", "", USED, {})
    kept = [value for value in vars(later._catcher).values() if isinstance(value, bytes | bytearray)]
    assert sum(map(len, kept)) < 1 << 15


NOTHING: dict[str, object] = {
    "work that goes on": {**BATCH, "status": "in_progress"},
    "a response that was waited for": {**RESPONSE, "background": False},
    "no usage": {**BATCH, "usage": None},
    "no id": {**BATCH, "id": 5},
    "a status that is none": {**BATCH, "status": ["completed"]},
    "below something else": {"data": BATCH},
    "a list": [BATCH],
    "an event stream": b"data: " + json.dumps(BATCH).encode() + b"\n\n",
    "compressed": b"\x1f\x8b" + json.dumps(BATCH).encode(),
    "nothing": b"",
}


@pytest.mark.parametrize("said", NOTHING.values(), ids=NOTHING)
def test_anything_else_is_not(said: object) -> None:
    assert told(said) is None


def test_blanks_before_it_are_none_of_it() -> None:
    assert told(b" \r\n" + json.dumps(BATCH).encode(), 1) is not None


def streamed(*said: tuple[str, object]) -> bytes:
    return b"".join(
        f"event: {kind}\ndata: {json.dumps({'type': kind, 'response': of})}\n\n".encode() for kind, of in said
    )


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_a_response_that_is_followed_to_its_end_is_told(size: int) -> None:
    begins = {**RESPONSE, "status": "in_progress", "usage": None}
    whole = streamed(("response.created", begins), ("response.completed", RESPONSE))
    assert told(whole, size) == ("resp_1", "gpt-4o-mini", USED, {"service_tier": "flex"})
    assert told(streamed(("response.created", begins)), size) is None
    at_once = {**RESPONSE, "background": False}
    assert told(streamed(("response.completed", at_once)), size) is None, "it was counted when it was asked for"
