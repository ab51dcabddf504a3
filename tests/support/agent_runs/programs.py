"""The programs whose runs are made up: what each sends besides its prompt, as the real ones do."""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from tests.support.agent_runs.chat import Chat
from tests.support.agent_runs.dialect import Dialect
from tests.support.agent_runs.dice import Dice
from tests.support.agent_runs.messages import Messages
from tests.support.agent_runs.responses import Responses
from tests.support.agent_runs.texts import prose
from tests.support.agent_runs.toolbox import TASK, TOOLS, Tool

CHAT, RESPONSES, MESSAGES = Chat(), Responses(), Messages()

KEYS = tuple(
    f"sk-made-up-{name}-{blake2b(name.encode(), digest_size=10).hexdigest()}" for name in ("ann", "ben", "cem", "dai")
)
UPSTREAMS = {
    "chat": ("openai", "openai-spare"),
    "responses": ("openai", "openai-spare"),
    "messages": ("anthropic", "anthropic-spare"),
}
"""Per dialect the usual upstream, and one that is asked now and then, under a path of its own:
`/openai-spare/v1/...`.
"""


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    dialect: Dialect
    user_agent: str
    models: tuple[str, ...]
    tool_names: tuple[str, ...]
    system_sizes: tuple[int, ...]
    """Bytes of each block of its own system prompt; () where it has none."""
    headers: tuple[tuple[str, str], ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    ids: str | None = None
    """How it names its session, when it does: `codex`, `claude`, `opencode`; `constant`: one `prompt_cache_key` for
    all its runs.
    """
    stream: bool = True
    marks: bool = False
    thinks: bool = False

    @property
    def tools(self) -> tuple[Tool, ...]:
        return tuple(TOOLS[name] for name in self.tool_names)

    @property
    def system(self) -> tuple[str, ...]:
        dice = Dice(f"program:{self.name}")
        return tuple(f"You are {self.name}. {prose(dice, size)}" for size in self.system_sizes)

    def session_parts(self, session: str | None) -> tuple[tuple[tuple[str, str], ...], dict[str, Any]]:
        """The headers and the members of the body that name a session; nothing where it is None."""
        if self.ids == "constant":
            return (), {"prompt_cache_key": f"{self.name}-v3"}
        if session is None:
            return (), {}
        if self.ids == "codex":
            return (("session_id", session), ("conversation_id", session)), {"prompt_cache_key": session}
        if self.ids == "claude":
            user = blake2b(self.name.encode(), digest_size=32).hexdigest()
            return (("x-claude-code-session-id", session),), {
                "metadata": {"user_id": f"user_{user}_account__session_{session}"}
            }
        if self.ids == "opencode":
            return (("x-session-affinity", session),), {"prompt_cache_key": session}
        return (), {}


_CODE = ("read_file", "write_file", "edit_file", "shell", "grep", "glob", "list_dir", "web_fetch", "todo_write")
_ANTHROPIC = (("anthropic-version", "2023-06-01"),)
_PYTHON = (("x-stainless-lang", "python"), ("x-stainless-runtime", "CPython"), ("x-stainless-async", "async:asyncio"))
_BETA = (("anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14"), ("x-app", "cli"))

PROGRAMS = (
    Program(
        "Codex",
        RESPONSES,
        "codex_cli_rs/0.98.0 (Ubuntu 24.4.0; x86_64) xterm-256color",
        ("gpt-5.1-codex", "gpt-5.2"),
        ("shell", "apply_patch", "view_image", "web_search", "todo_write", TASK),
        (9_000,),
        (("originator", "codex_cli_rs"), ("openai-beta", "responses=experimental")),
        {
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "reasoning": {"effort": "medium", "summary": "auto"},
            "store": False,
        },
        "codex",
        thinks=True,
    ),
    Program(
        "openai-agents",
        RESPONSES,
        "Agents/Python 0.6.4",
        ("gpt-5.2", "gpt-4.1"),
        ("read_file", "grep", "web_fetch", "shell", TASK),
        (5_000,),
        _PYTHON,
        {"temperature": 0.3},
        None,
        stream=False,
    ),
    Program(
        "support-desk",
        RESPONSES,
        "OpenAI/Python 2.14.0",
        ("gpt-5-mini", "gpt-4.1"),
        ("mcp__tickets__search", "mcp__tickets__create", "mcp__docs__lookup", TASK),
        (3_500,),
        _PYTHON,
        {"temperature": 0.2},
        "constant",
    ),
    Program(
        "Claude Code",
        MESSAGES,
        "claude-cli/2.1.20 (external, cli)",
        ("claude-opus-4-5-20251101", "claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001"),
        (TASK, *_CODE, "notebook_edit", "web_search"),
        (60, 11_000),
        (*_ANTHROPIC, *_BETA),
        {"max_tokens": 32_000, "temperature": 1, "thinking": {"type": "enabled", "budget_tokens": 31_999}},
        "claude",
        marks=True,
        thinks=True,
    ),
    Program(
        "cline",
        MESSAGES,
        "Anthropic/JS 0.71.2",
        ("claude-sonnet-4-5-20250929", "claude-opus-4-5-20251101"),
        ("read_file", "write_file", "shell", "grep", "list_dir", TASK),
        (7_000,),
        (*_ANTHROPIC, ("x-stainless-lang", "js")),
        {"max_tokens": 8_192, "temperature": 0},
        marks=True,
    ),
    Program(
        "pydantic-ai",
        MESSAGES,
        "pydantic-ai/1.39.0",
        ("claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929"),
        ("read_file", "mcp__docs__lookup", "web_fetch", TASK),
        (2_500,),
        _ANTHROPIC,
        {"max_tokens": 4_096, "temperature": 0.1},
        stream=False,
    ),
    Program(
        "aider",
        CHAT,
        "OpenAI/Python 1.99.1",
        ("gpt-4.1", "gpt-4o"),
        ("read_file", "edit_file", "shell", TASK),
        (6_000,),
        (("http-referer", "https://aider.chat"), ("x-title", "Aider"), *_PYTHON),
        {"temperature": 0},
    ),
    Program(
        "opencode",
        CHAT,
        "opencode/1.1.8 ai-sdk/provider-utils/3.0.20 runtime/bun/1.3.5",
        ("gpt-5.2", "gpt-5-mini"),
        (*_CODE, TASK),
        (8_000,),
        (),
        {"reasoning_effort": "medium", "tool_choice": "auto"},
        "opencode",
    ),
    Program(
        "langgraph",
        CHAT,
        "OpenAI/Python 2.14.0",
        ("gpt-4.1", "gpt-5-mini"),
        ("web_search", "web_fetch", "mcp__docs__lookup", "shell", TASK),
        (4_200,),
        _PYTHON,
        {"temperature": 0.7},
        stream=False,
    ),
)


def of_dialect(name: str) -> tuple[Program, ...]:
    return tuple(each for each in PROGRAMS if each.dialect.name == name)


def named_program(name: str) -> Program:
    return next(each for each in PROGRAMS if each.name == name)


SESSION_PROGRAMS = {"responses": "Codex", "chat": "opencode", "messages": "Claude Code"}
"""Per dialect a program that names its sessions."""
