"""Chat completions."""

from collections.abc import Sequence
from typing import Any

from tests.support.agent_runs.dialect import Prompt, compact, event, openai_error
from tests.support.agent_runs.saying import Item, Said, Usage, pieces
from tests.support.agent_runs.toolbox import Tool


def _tool(tool: Tool) -> Item:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _calls(said: Said) -> list[Item]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": compact(call.arguments)}}
        for call in said.calls
    ]


def _usage(usage: Usage) -> Item:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


class Chat:
    name, path, answer_id, call_id = "chat", "/v1/chat/completions", "chatcmpl-", "call_"

    def user(self, texts: Sequence[str]) -> Item:
        content = texts[0] if len(texts) == 1 else [{"type": "text", "text": each} for each in texts]
        return {"role": "user", "content": content}

    def said(self, said: Said) -> list[Item]:
        message: Item = {"role": "assistant", "content": said.text or None}
        if said.calls:
            message["tool_calls"] = _calls(said)
        return [message]

    def results(self, outputs: Sequence[tuple[str, str]]) -> list[Item]:
        return [{"role": "tool", "tool_call_id": call, "content": text} for call, text in outputs]

    def body(self, prompt: Prompt) -> dict[str, Any]:
        system = [{"role": "system", "content": each} for each in prompt.system]
        body: dict[str, Any] = {"model": prompt.model, **prompt.settings, "messages": [*system, *prompt.items]}
        if prompt.tools:
            body["tools"] = [_tool(each) for each in prompt.tools]
        if prompt.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def json_answer(self, said: Said, model: str, usage: Usage) -> dict[str, Any]:
        message = {**self.said(said)[0], "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": "tool_calls" if said.calls else "stop",
        }
        head = {"id": said.id, "object": "chat.completion", "created": said.created, "model": model}
        return {**head, "choices": [choice], "usage": _usage(usage)}

    def events(self, said: Said, model: str, usage: Usage) -> list[bytes]:
        deltas: list[Item] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in pieces(said.text)]
        for at, call in enumerate(_calls(said)):
            function = call["function"]
            deltas.append({"tool_calls": [{**call, "index": at, "function": {**function, "arguments": ""}}]})
            deltas += [
                {"tool_calls": [{"index": at, "function": {"arguments": each}}]}
                for each in pieces(function["arguments"], 3)
            ]
        head = {"id": said.id, "object": "chat.completion.chunk", "created": said.created, "model": model}
        chunks = [
            event({**head, "choices": [{"index": 0, "delta": each, "finish_reason": None}], "usage": None})
            for each in deltas
        ]
        finish = "tool_calls" if said.calls else "stop"
        chunks.append(event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}], "usage": None}))
        return [*chunks, event({**head, "choices": [], "usage": _usage(usage)}), b"data: [DONE]\n\n"]

    def error(self, status: int) -> dict[str, Any]:
        return openai_error(status)
