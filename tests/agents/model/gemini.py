"""Google's generateContent."""

import json
from collections.abc import Iterator
from typing import Any

from tests.agents.model.plan import Asked, Heard, Said, pieces
from tests.agents.model.usage import output_tokens
from tests.support.agent_runs.cache import Served


def read(model: str, streamed: bool, body: dict[str, Any]) -> Asked:
    heard = [_heard(each) for each in body["contents"]]
    declared = (each.get("functionDeclarations") or () for each in body.get("tools") or ())
    tools = frozenset(str(each["name"]) for some in declared for each in some)
    config = body.get("generationConfig") or {}
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    thinks = bool((config.get("thinkingConfig") or {}).get("includeThoughts"))
    return Asked("gemini", model, heard, tools, body, streamed, schema, thinks)


def _heard(content: dict[str, Any]) -> Heard:
    parts = content.get("parts") or []
    text = "\n".join(str(each["text"]) for each in parts if "text" in each)
    if content.get("role") == "model":
        return Heard("model", text)
    return Heard("tool" if any("functionResponse" in each for each in parts) else "user", text)


def usage(served: Served, said: Said) -> dict[str, Any]:
    output, thought = output_tokens(said), len(said.thought.encode()) // 4
    return {
        "promptTokenCount": served.input,
        "cachedContentTokenCount": served.cached,
        "candidatesTokenCount": output - thought,
        "thoughtsTokenCount": thought,
        "totalTokenCount": served.input + output,
    }


def _piece(asked: Asked, number: int, parts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    candidate = {"content": {"parts": parts, "role": "model"}, "index": 0, **more}
    return {"candidates": [candidate], "modelVersion": asked.model, "responseId": f"resp{number:06}"}


def _calls(said: Said, number: int) -> list[dict[str, Any]]:
    signed = f"CpYplayed{number:06}" + "QUJD" * 8
    return [
        {"functionCall": {"name": call.name, "args": dict(call.arguments)}, "thoughtSignature": signed}
        for call in said.calls
    ]


def whole(asked: Asked, said: Said, served: Served, number: int) -> dict[str, Any]:
    parts = [{"text": said.text}] if said.text else _calls(said, number)
    return {**_piece(asked, number, parts, finishReason="STOP"), "usageMetadata": usage(served, said)}


def stream(asked: Asked, said: Said, served: Served, number: int) -> Iterator[bytes]:
    told = [[{"text": said.thought, "thought": True}]] if said.thought else []
    told += [[{"text": piece}] for piece in pieces(said.text, 48)] if said.text else [_calls(said, number)]
    early = {name: value for name, value in usage(served, said).items() if name != "candidatesTokenCount"}
    for parts in told[:-1]:
        yield _event({**_piece(asked, number, parts), "usageMetadata": early})
    last = _piece(asked, number, told[-1], finishReason="STOP")
    yield _event({**last, "usageMetadata": usage(served, said)})


def _event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\r\n\r\n"


def refused(status: int) -> dict[str, Any]:
    return {"error": {"code": status, "message": "An internal error has occurred.", "status": "INTERNAL"}}
