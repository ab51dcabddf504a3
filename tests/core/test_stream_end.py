import json
from typing import Any

import pytest

from addons.core.stream_end import StreamEnd


def chunk(finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {}, "finish_reason": finish}], **more}


def heard(*events: Any) -> StreamEnd:
    end = StreamEnd()
    for event in events:
        name, value = event if isinstance(event, tuple) else ("message", event)
        data = value if isinstance(value, str) else json.dumps(value)
        end.hear(data, None if isinstance(value, str) else value, name)
    return end


USAGE = {"prompt_tokens": 1, "completion_tokens": 1}


@pytest.mark.parametrize(
    ("events", "over", "whole", "failed"),
    [
        pytest.param((), False, False, False, id="nothing"),
        pytest.param((chunk(),), False, False, False, id="a piece"),
        pytest.param((chunk("stop"),), False, True, False, id="a finish reason"),
        pytest.param((chunk(), "[DONE]"), True, True, False, id="DONE"),
        pytest.param((" [DONE] ",), True, True, False, id="DONE with blanks"),
        pytest.param(("nonsense", ["x"]), False, False, False, id="nonsense"),
        pytest.param((chunk("stop"), chunk(None, 1)), False, False, False, id="one of two choices"),
        pytest.param((chunk("stop"), chunk("length", 1)), False, True, False, id="both choices"),
        pytest.param((chunk("stop", 1),), False, False, False, id="the second choice alone"),
        pytest.param((chunk("stop", 2), chunk("stop", 0)), False, False, False, id="two of three choices"),
        pytest.param((("error", "on fire"),), True, False, True, id="an error in words"),
        pytest.param((("message_stop", {"type": "message_stop"}),), True, True, False, id="Anthropic"),
        pytest.param(
            ({"candidates": [{"content": {}}], "usageMetadata": {}},), False, False, False, id="Gemini's piece"
        ),
        pytest.param(({"candidates": [{"finishReason": "STOP"}]},), False, True, False, id="Gemini's last piece"),
        pytest.param(({"type": "response.completed", "response": {"error": None}},), True, True, False, id="Responses"),
        pytest.param(({"type": "response.incomplete"},), True, True, False, id="Responses, incomplete"),
        pytest.param(({"type": "response.failed"},), True, False, True, id="Responses, failed"),
        pytest.param(({"error": {"message": "x"}},), True, False, True, id="an error"),
        pytest.param((("error", {"message": "x"}),), True, False, True, id="an error by its name"),
        pytest.param(({"object": "error", "message": "x"},), True, False, True, id="vLLM's error"),
        pytest.param(("[DONE]", {"error": {"message": "x"}}), True, True, False, id="an error behind the end"),
    ],
)
def test_a_stream_ends_where_it_says_so(events: tuple[Any, ...], over: bool, whole: bool, failed: bool) -> None:
    end = heard(*events)
    assert (end.over, end.whole, end.failed) == (over, whole, failed)


def test_usage_behind_the_finish_reason_is_noted() -> None:
    assert not heard(chunk(usage=USAGE)).counted
    assert heard(chunk("stop", usage=USAGE)).counted
    assert heard(chunk("stop"), {"choices": [], "usage": USAGE}).counted
    assert not heard(chunk("stop"), {"choices": [], "usage": None}).counted
    assert heard({"choices": [{"index": 0, "finish_reason": "stop", "usage": USAGE}]}).counted


def test_what_was_told_is_all_there_is() -> None:
    assert not heard(chunk("stop")).nothing_follows
    assert not heard(chunk("stop"), chunk(None, 1), chunk(None, usage=USAGE)).nothing_follows
    assert heard(chunk("stop", usage=USAGE)).nothing_follows
    assert heard("[DONE]").nothing_follows


def test_gemini_s_last_piece_is_the_end() -> None:
    last = {"candidates": [{"content": {}, "finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 1}}
    assert heard(last).nothing_follows
    assert not heard({**last, "candidates": [{"content": {}}]}).nothing_follows
    assert not heard({"candidates": [{"index": 1, "finishReason": "STOP"}], "usageMetadata": {}}).nothing_follows
