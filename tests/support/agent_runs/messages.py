"""Anthropic messages: system blocks, `cache_control` marks that move on, thinking, tool_use and tool_result."""

from collections.abc import Sequence
from typing import Any

from tests.support.agent_runs.dialect import Prompt, compact, named_events
from tests.support.agent_runs.saying import Item, Said, Usage, pieces
from tests.support.agent_runs.toolbox import Tool

_ERRORS = {
    429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
    500: ("api_error", "Internal server error"),
    503: ("api_error", "Service unavailable"),
    504: ("timeout_error", "The upstream did not answer in time."),
    529: ("overloaded_error", "Overloaded"),
}


def _tool(tool: Tool) -> Item:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}


def _mark(ttl: str) -> Item:
    return {"type": "ephemeral"} if ttl == "5m" else {"type": "ephemeral", "ttl": ttl}


def _marked_message(message: Item, ttl: str) -> Item:
    """The message with a mark at its last block; text that stood alone becomes a block, as Claude Code does it."""
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    blocks[-1] = {**blocks[-1], "cache_control": _mark(ttl)}
    return {**message, "content": blocks}


def _usage(usage: Usage) -> Item:
    return {
        "input_tokens": usage.input - usage.cached - usage.written,
        "cache_creation_input_tokens": usage.written,
        "cache_read_input_tokens": usage.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.written_5m,
            "ephemeral_1h_input_tokens": usage.written_1h,
        },
        "output_tokens": usage.output,
        "service_tier": "standard",
    }


class Messages:
    name, path, answer_id, call_id = "messages", "/v1/messages", "msg_01", "toolu_01"

    def user(self, texts: Sequence[str]) -> Item:
        content = texts[0] if len(texts) == 1 else [{"type": "text", "text": each} for each in texts]
        return {"role": "user", "content": content}

    def said(self, said: Said) -> list[Item]:
        blocks: list[Item] = []
        if said.thinking is not None:
            blocks.append({"type": "thinking", "thinking": said.thinking, "signature": f"sig{said.id[6:]}=="})
        if said.text:
            blocks.append({"type": "text", "text": said.text})
        blocks += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments} for call in said.calls
        ]
        return [{"role": "assistant", "content": blocks}]

    def results(self, outputs: Sequence[tuple[str, str]]) -> list[Item]:
        return [
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": call, "content": text} for call, text in outputs],
            }
        ]

    def body(self, prompt: Prompt) -> dict[str, Any]:
        """Marks stand where Claude Code sets them: at the last two system blocks and the last two messages of the
        user.
        """
        system: list[Item] = [{"type": "text", "text": each} for each in prompt.system]
        messages = list(prompt.items)
        if prompt.marks is not None:
            for at in range(max(0, len(system) - 2), len(system)):
                system[at]["cache_control"] = _mark(prompt.marks)
            for at in [at for at, each in enumerate(messages) if each["role"] == "user"][-2:]:
                messages[at] = _marked_message(messages[at], prompt.marks)
        body: dict[str, Any] = {"model": prompt.model, "messages": messages}
        if system:
            body["system"] = system if prompt.marks is not None else "\n\n".join(prompt.system)
        if prompt.tools:
            body["tools"] = [_tool(each) for each in prompt.tools]
        body |= prompt.settings
        if prompt.stream:
            body["stream"] = True
        return body

    def json_answer(self, said: Said, model: str, usage: Usage) -> dict[str, Any]:
        head = {
            "id": said.id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": self.said(said)[0]["content"],
        }
        stop = "tool_use" if said.calls else "end_turn"
        return {**head, "stop_reason": stop, "stop_sequence": None, "usage": _usage(usage)}

    def events(self, said: Said, model: str, usage: Usage) -> list[bytes]:
        whole = self.json_answer(said, model, usage)
        begun = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
        datas: list[Item] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
        for at, block in enumerate(whole["content"]):
            datas += _block_events(at, block)
        ending = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        datas.append({"type": "message_delta", "delta": ending, "usage": {"output_tokens": usage.output}})
        return named_events([*datas, {"type": "message_stop"}])

    def error(self, status: int) -> dict[str, Any]:
        kind, message = _ERRORS[status]
        return {"type": "error", "error": {"type": kind, "message": message}}


def _block_events(at: int, block: Item) -> list[Item]:
    if block["type"] == "text":
        empty, deltas = {**block, "text": ""}, [{"type": "text_delta", "text": each} for each in pieces(block["text"])]
    elif block["type"] == "thinking":
        empty = {**block, "thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": each} for each in pieces(block["thinking"])]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    else:
        empty = {**block, "input": {}}
        deltas = [
            {"type": "input_json_delta", "partial_json": each} for each in ["", *pieces(compact(block["input"]), 3)]
        ]
    return [
        {"type": "content_block_start", "index": at, "content_block": empty},
        *({"type": "content_block_delta", "index": at, "delta": each} for each in deltas),
        {"type": "content_block_stop", "index": at},
    ]
