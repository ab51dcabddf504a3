"""Bodies as agents send them and upstreams answer, a set for each dialect, written after the public references.

Each takes the words that a tool was asked with, so that a mark may go through all of them, and `WHO`: ids that tell
whose the request is.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

type Object = dict[str, Any]

PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x02\x80\x00\x00\x01\xe0\x08\x06" + bytes(range(256)) * 12
).decode()
"""640 by 480, and no picture behind its head."""
SOUND = base64.b64encode(bytes(range(256)) * 375).decode()
"""96,000 bytes: two seconds of 24 kHz."""
PROMPT = "You are a careful agent.\n" + "Follow the rules of the house, and say what you did.\n" * 200
LISTING = "".join(f"src/module_{number}.py: {number * 37} lines\n" for number in range(900))


@dataclass(frozen=True)
class Who:
    """Whose a request is."""

    organization: str = "org-Ab0Cd1Ef2Gh3Ij4Kl5Mn6Op7"
    project: str = "proj_Ab0Cd1Ef2Gh3Ij4Kl5Mn6Op7"
    account: str = "2f9d0c1e-5a77-4b1c-9d2e-00aa11bb22cc"
    device: str = "8f0e" * 16
    installation: str = "77aa0c1e-5a77-4b1c-9d2e-00aa11bb22cc"
    session: str = "5e6b0f7a-9c41-4f0e-8a55-1234567890ab"

    def all(self) -> tuple[str, ...]:
        """Each of them."""
        return (self.organization, self.project, self.account, self.device, self.installation, self.session)

    def headers(self) -> dict[str, str]:
        """As agents send them."""
        return {
            "OpenAI-Organization": self.organization,
            "OpenAI-Project": self.project,
            "chatgpt-account-id": self.account,
            "session_id": self.session,
            "X-Claude-Code-Session-Id": self.session,
            "x-codex-turn-metadata": json.dumps({"session_id": self.session, "installation_id": self.installation}),
        }

    def joined(self) -> str:
        """As Claude Code sends them in one."""
        return f"user_{self.device}_account_{self.account}_session_{self.session}"

    def nested(self) -> str:
        """As its newer versions do."""
        ids = {"device_id": self.device, "account_uuid": self.account, "session_id": self.session}
        return json.dumps(ids, separators=(",", ":"))


WHO = Who()


def schema(*names: str) -> Object:
    """Of a tool's parameters."""
    described = {name: {"type": "string", "description": f"What {name} is for, at some length."} for name in names}
    return {"type": "object", "properties": described, "required": list(names), "additionalProperties": False}


def sse(events: Iterable[Object], *, named: bool = False, done: bool = False) -> bytes:
    """Events as they go over the wire; `named` by their type."""
    lines = [f"event: {each.get('type')}\n" * named + f"data: {json.dumps(each)}\n\n" for each in events]
    return ("".join(lines) + "data: [DONE]\n\n" * done).encode()


# Anthropic

MESSAGES = "/v1/messages"


def messages_request(words: str = "ls src", who: Who = WHO) -> Object:
    """A coding agent's, with a picture, a call and its result."""
    cached = {"cache_control": {"type": "ephemeral"}}
    return {
        "model": "claude-sonnet-4-5-20250929",
        "max_tokens": 32000,
        "stream": True,
        "thinking": {"type": "enabled", "budget_tokens": 10000},
        "metadata": {"user_id": who.joined()},
        "system": [
            {"type": "text", "text": "You are an agent for the terminal."},
            {"type": "text", "text": PROMPT, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ],
        "tools": [
            {"name": "Bash", "description": "Runs a command.\nBe careful.", "input_schema": schema("command", "why")},
            {"name": "Read", "description": "Reads a file.", "input_schema": schema("file_path"), **cached},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
        ],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is in src?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "I should look first.", "signature": "EqQB" * 40},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "toolu_01A", "name": "Bash", "input": {"command": words}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_01A", "content": LISTING, "is_error": False},
                    {"type": "text", "text": f"And count them: {words}", **cached},
                ],
            },
        ],
    }


def messages_events(words: str = "ls src") -> list[Object]:
    """An answer of a thought, some text and a call whose arguments come in pieces."""
    arguments = json.dumps({"command": words, "why": "to count"})
    pieces = [arguments[at : at + 7] for at in range(0, len(arguments), 7)]
    counted = {"input_tokens": 9, "cache_creation_input_tokens": 250, "cache_read_input_tokens": 18000}
    started = {"id": "msg_01", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929"}
    delta = "content_block_delta"
    return [
        {"type": "message_start", "message": {**started, "content": [], "usage": {**counted, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": delta, "index": 0, "delta": {"type": "thinking_delta", "thinking": "Counting "}},
        {"type": delta, "index": 0, "delta": {"type": "thinking_delta", "thinking": "is easy."}},
        {"type": delta, "index": 0, "delta": {"type": "signature_delta", "signature": "EqQB" * 40}},
        {"type": "content_block_stop", "index": 0},
        {"type": "ping"},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": delta, "index": 1, "delta": {"type": "text_delta", "text": "I count "}},
        {"type": delta, "index": 1, "delta": {"type": "text_delta", "text": "them."}},
        {"type": "content_block_stop", "index": 1},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "toolu_01B", "name": "Bash", "input": {}},
        },
        *(
            {"type": delta, "index": 2, "delta": {"type": "input_json_delta", "partial_json": piece}}
            for piece in ["", *pieces]
        ),
        {"type": "content_block_stop", "index": 2},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"output_tokens": 87},
        },
        {"type": "message_stop"},
    ]


def messages_answer(words: str = "ls src") -> Object:
    """The same whole."""
    return {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [
            {"type": "thinking", "thinking": "Counting is easy.", "signature": "EqQB" * 40},
            {"type": "text", "text": "I count them."},
            {"type": "tool_use", "id": "toolu_01B", "name": "Bash", "input": {"command": words, "why": "to count"}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 9,
            "cache_creation_input_tokens": 250,
            "cache_read_input_tokens": 18000,
            "output_tokens": 87,
        },
    }


# Responses

RESPONSES = "/v1/responses"
RESPONSE_TOOLS: list[Object] = [
    {
        "type": "function",
        "name": "shell",
        "description": "Runs a command.",
        "strict": False,
        "parameters": schema("command", "workdir"),
    },
    {
        "type": "custom",
        "name": "apply_patch",
        "description": "Edits files.",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: begin_patch hunk+ end_patch\n" * 30},
    },
    {"type": "web_search", "external_web_access": False},
    {
        "type": "namespace",
        "name": "multi_agent_v1",
        "description": "Other agents.",
        "tools": [
            {
                "type": "function",
                "name": "spawn_agent",
                "description": "Starts an agent. " + "It works by itself. " * 60,
                "parameters": schema("message", "agent_type"),
            },
            {"type": "function", "name": "wait_agent", "description": "Waits for agents.", "parameters": schema("ids")},
        ],
    },
]


def responses_request(words: str = "ls src", who: Who = WHO) -> Object:
    """A coding agent's, with a thought, a call and its result."""
    return {
        "model": "gpt-5-codex",
        "instructions": PROMPT,
        "previous_response_id": "resp_0a1b2c3d4e5f60718293a4b5c6d7e8f9",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": PROMPT}]},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is in src?"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
                ],
            },
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "**Looking** first"}],
                "encrypted_content": "gAAAA" * 200,
            },
            {
                "type": "function_call",
                "name": "shell",
                "call_id": "call_0a1b2c3d4e5f60718293a4b5",
                "arguments": json.dumps({"command": words}),
            },
            {"type": "function_call_output", "call_id": "call_0a1b2c3d4e5f60718293a4b5", "output": LISTING},
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": f"And count them: {words}"}],
            },
        ],
        "tools": RESPONSE_TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199aa00-1111-7222-8333-444455556666",
        "client_metadata": {"x-codex-installation-id": who.installation},
    }


def responses_events(words: str = "ls src") -> list[Object]:
    """An answer whose events repeat instructions and tools, with all that items there are."""
    arguments = json.dumps({"command": words})
    output: list[Object] = [
        {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "**Counting** the lines"}]},
        {
            "type": "web_search_call",
            "id": "ws_1",
            "status": "completed",
            "action": {"type": "search", "query": "how to count"},
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I count them.", "annotations": []}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "namespace": "multi_agent_v1",
            "name": "spawn_agent",
            "arguments": arguments,
            "status": "completed",
        },
    ]
    answer = {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-5-codex",
        "status": "in_progress",
        "instructions": PROMPT,
        "tools": RESPONSE_TOOLS * 3,
        "previous_response_id": "resp_0a1b2c3d4e5f60718293a4b5c6d7e8f9",
        "output": [],
    }
    usage = {
        "input_tokens": 12000,
        "input_tokens_details": {"cached_tokens": 11000},
        "output_tokens": 90,
        "output_tokens_details": {"reasoning_tokens": 40},
        "total_tokens": 12090,
    }
    added = [{"type": "response.output_item.added", "output_index": at, "item": each} for at, each in enumerate(output)]
    done = [{"type": "response.output_item.done", "output_index": at, "item": each} for at, each in enumerate(output)]
    pieces = [arguments[at : at + 5] for at in range(0, len(arguments), 5)]
    return [
        {"type": "response.created", "response": answer},
        {"type": "response.in_progress", "response": answer},
        *added,
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "**Counting** the lines"},
        {"type": "response.output_text.delta", "output_index": 2, "delta": "I count them."},
        *({"type": "response.function_call_arguments.delta", "output_index": 3, "delta": piece} for piece in pieces),
        *done,
        {"type": "response.completed", "response": {**answer, "status": "completed", "output": output, "usage": usage}},
    ]


# Gemini

GEMINI = "/v1beta/models/gemini-2.5-pro:streamGenerateContent"


def gemini_request(words: str = "ls src", who: Who = WHO) -> Object:
    """A coding agent's, with a picture, a call and its result."""
    declared = [
        {"name": "run_shell_command", "description": "Runs a command.", "parametersJsonSchema": schema("command")},
        {"name": "read_file", "description": "Reads a file.", "parameters": schema("path")},
    ]
    return {
        "systemInstruction": {"role": "user", "parts": [{"text": PROMPT}]},
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "What is in src?"}, {"inlineData": {"mimeType": "image/png", "data": PNG}}],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "I should look first.", "thought": True},
                    {"text": "I look through all of src first, and then I count what there is, line by line."},
                    {
                        "functionCall": {"name": "run_shell_command", "args": {"command": words}},
                        "thoughtSignature": "CpcB",
                    },
                ],
            },
            {
                "role": "user",
                "parts": [{"functionResponse": {"name": "run_shell_command", "response": {"output": LISTING}}}],
            },
            {"role": "user", "parts": [{"text": f"And count them: {words}"}]},
        ],
        "tools": [{"functionDeclarations": declared}, {"googleSearch": {}}],
        "generationConfig": {"temperature": 0, "thinkingConfig": {"includeThoughts": True}},
        "labels": {"installation_id": who.installation},
    }


def gemini_pieces(words: str = "ls src") -> list[Object]:
    """An answer of a thought, some text and a call."""

    def piece(parts: list[Object], **more: Any) -> Object:
        usage = {
            "promptTokenCount": 12000,
            "candidatesTokenCount": 40,
            "thoughtsTokenCount": 60,
            "cachedContentTokenCount": 9000,
            "totalTokenCount": 12100,
        }
        said = {"content": {"role": "model", "parts": parts}, "index": 0, **more}
        return {"candidates": [said], "usageMetadata": usage, "modelVersion": "gemini-2.5-pro"}

    return [
        piece([{"text": "Counting ", "thought": True}]),
        piece([{"text": "is easy.", "thought": True}]),
        piece([{"text": "I count "}]),
        piece([{"text": "them."}]),
        piece([{"functionCall": {"name": "run_shell_command", "args": {"command": words}}}], finishReason="STOP"),
    ]


# Realtime

REALTIME = "/v1/realtime?model=gpt-realtime"


def realtime_events(words: str = "ls src") -> list[tuple[bool, Object]]:
    """A spoken question and a spoken answer; True is from the client."""
    session = {
        "type": "realtime",
        "voice": "marin",
        "instructions": "Be brief.",
        "tools": [{"type": "function", "name": "shell", "parameters": schema("command")}],
    }
    answered = {
        "id": "resp_1",
        "status": "completed",
        "output": [
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_audio", "transcript": "There are nine."}],
            },
            {
                "type": "function_call",
                "name": "shell",
                "call_id": "call_1",
                "arguments": json.dumps({"command": words}),
            },
        ],
        "usage": {"input_tokens": 30, "output_tokens": 20, "total_tokens": 50},
    }
    pieces = [words[at : at + 4] for at in range(0, len(words), 4)]
    return [
        (True, {"type": "session.update", "session": session}),
        (False, {"type": "session.updated", "session": session}),
        (True, {"type": "input_audio_buffer.append", "audio": SOUND}),
        (True, {"type": "input_audio_buffer.commit"}),
        (
            False,
            {
                "type": "conversation.item.input_audio_transcription.completed",
                "item_id": "i",
                "transcript": "How many?",
            },
        ),
        (True, {"type": "response.create"}),
        (False, {"type": "response.output_audio.delta", "response_id": "resp_1", "delta": SOUND}),
        *(
            (False, {"type": "response.function_call_arguments.delta", "response_id": "resp_1", "delta": piece})
            for piece in pieces
        ),
        (
            False,
            {"type": "response.output_audio_transcript.delta", "response_id": "resp_1", "delta": "There are nine."},
        ),
        (False, {"type": "response.done", "response": answered}),
    ]


# Batches


def batch_lines(words: str = "ls src") -> bytes:
    """The file of a batch for OpenAI."""
    asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": words}]}
    lines = [
        {"custom_id": f"a-{number}", "method": "POST", "url": "/v1/chat/completions", "body": asked}
        for number in range(3)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def batch_results(words: str = "ls src") -> bytes:
    """What became of it."""
    said = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": words}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    }
    lines: list[Object] = [
        {"id": "batch_req_1", "custom_id": "a-0", "response": {"status_code": 200, "body": said}, "error": None},
        {
            "id": "batch_req_2",
            "custom_id": "a-1",
            "response": None,
            "error": {"code": "expired", "message": "too late"},
        },
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)
