"""Responses: items, `instructions`, and chains by `previous_response_id`."""

from collections.abc import Sequence
from typing import Any

from tests.support.agent_runs.dialect import Prompt, compact, named_events, openai_error
from tests.support.agent_runs.saying import Item, Said, Usage, pieces
from tests.support.agent_runs.toolbox import Tool


def _tool(tool: Tool) -> Item:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "strict": False,
        "parameters": tool.parameters,
    }


def _usage(usage: Usage) -> Item:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input + usage.output,
    }


class Responses:
    name, path, answer_id, call_id = "responses", "/v1/responses", "resp_", "call_"

    def user(self, texts: Sequence[str]) -> Item:
        return self.message("user", texts)

    def message(self, role: str, texts: Sequence[str]) -> Item:
        return {"type": "message", "role": role, "content": [{"type": "input_text", "text": each} for each in texts]}

    def said(self, said: Said) -> list[Item]:
        items: list[Item] = []
        if said.thinking is not None:
            summary = [{"type": "summary_text", "text": said.thinking[:80]}]
            items.append({"type": "reasoning", "summary": summary, "encrypted_content": said.thinking})
        if said.text:
            items.append(
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": said.text}]}
            )
        for call in said.calls:
            given = compact(call.arguments)
            items.append({"type": "function_call", "name": call.name, "arguments": given, "call_id": call.id})
        return items

    def results(self, outputs: Sequence[tuple[str, str]]) -> list[Item]:
        return [{"type": "function_call_output", "call_id": call, "output": text} for call, text in outputs]

    def body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {"model": prompt.model}
        if prompt.system:
            body["instructions"] = "\n\n".join(prompt.system)
        body["input"] = list(prompt.items[prompt.sent :])
        if prompt.tools:
            body["tools"] = [_tool(each) for each in prompt.tools]
        body |= prompt.settings
        if prompt.previous_response_id is not None:
            body["previous_response_id"] = prompt.previous_response_id
        if prompt.stream:
            body["stream"] = True
        return body

    def json_answer(self, said: Said, model: str, usage: Usage) -> dict[str, Any]:
        head = {"id": said.id, "object": "response", "created_at": said.created, "status": "completed", "error": None}
        return {**head, "model": model, "output": _output(self.said(said), said.id), "usage": _usage(usage)}

    def events(self, said: Said, model: str, usage: Usage) -> list[bytes]:
        whole = self.json_answer(said, model, usage)
        begun = {**whole, "status": "in_progress", "output": [], "usage": None}
        datas: list[Item] = [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
        ]
        for at, item in enumerate(whole["output"]):
            datas += _item_events(at, item)
        datas.append({"type": "response.completed", "response": whole})
        return named_events({"sequence_number": number, **data} for number, data in enumerate(datas))

    def error(self, status: int) -> dict[str, Any]:
        return openai_error(status)


def _output(items: list[Item], answer: str) -> list[Item]:
    """The items of an answer: as in the history, with an id and a status of their own."""
    short = {"reasoning": "rs", "message": "msg", "function_call": "fc"}
    made = []
    for at, item in enumerate(items):
        whole = {"id": f"{short[item['type']]}_{answer[5:]}{at}", **item}
        if item["type"] != "reasoning":
            whole["status"] = "completed"
        if item["type"] == "message":
            whole["content"] = [{**part, "annotations": [], "logprobs": []} for part in item["content"]]
        made.append(whole)
    return made


def _item_events(at: int, item: Item) -> list[Item]:
    place = {"output_index": at, "item_id": item["id"]}
    empty = (
        {**item, "content": []}
        if item["type"] == "message"
        else {**item, "arguments": ""}
        if "arguments" in item
        else item
    )
    datas: list[Item] = [{"type": "response.output_item.added", "output_index": at, "item": empty}]
    if item["type"] == "message":
        part, place = item["content"][0], {**place, "content_index": 0}
        datas.append({"type": "response.content_part.added", **place, "part": {**part, "text": ""}})
        datas += [{"type": "response.output_text.delta", **place, "delta": each} for each in pieces(part["text"])]
        datas.append({"type": "response.output_text.done", **place, "text": part["text"]})
        datas.append({"type": "response.content_part.done", **place, "part": part})
    elif item["type"] == "function_call":
        given = item["arguments"]
        datas += [
            {"type": "response.function_call_arguments.delta", **place, "delta": each} for each in pieces(given, 3)
        ]
        datas.append({"type": "response.function_call_arguments.done", **place, "arguments": given})
    return [*datas, {"type": "response.output_item.done", "output_index": at, "item": item}]
