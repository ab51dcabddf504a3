"""What each agent is asked, and what happens meanwhile."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.agents import programs
from tests.agents.model.plan import Call, Rule
from tests.agents.programs import OTHER_KEY, Program


@dataclass(frozen=True, slots=True)
class Say:
    """The agent is started with messages of its user."""

    prompts: tuple[str, ...]
    again: bool = False
    """The conversation goes on."""
    more: tuple[str, ...] = ()
    """Further arguments."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Write:
    """A file of the project, or of the home, becomes another."""

    file: str
    text: str
    home: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


type Does = Say | Write | Wait | tuple[Say, ...]
"""Several `Say` run side by side."""


@dataclass(frozen=True, slots=True)
class Run:
    name: str
    program: Program
    rules: tuple[Rule, ...]
    steps: tuple[Does, ...]


def say(*prompts: str, more: tuple[str, ...] = (), **environment: str) -> Say:
    return Say(prompts, False, more, environment)


def go_on(*prompts: str, more: tuple[str, ...] = (), **environment: str) -> Say:
    return Say(prompts, True, more, environment)


ASKED = (
    "What stands in notes.txt?",
    "And what is in todo.md?",
    "Which of these should be done first?",
    "Write that in one word.",
)
TOLD = (
    "It lists bread, cheese and tea.",
    "Two things to do: call Ada, and water the fern.",
    "Call Ada: she may not be there later, and the fern waits.",
    "Ada.",
)


def talk(*reads: Call) -> tuple[Rule, ...]:
    """What is said to ASKED: a file is looked at before each of the first answers."""
    steps = tuple(((read,), text) for read, text in zip(reads, TOLD, strict=False))
    told = (*steps, *((text,) for text in TOLD[len(reads) :]))
    return tuple(Rule(words, said) for words, said in zip(ASKED, told, strict=True))


def codex_runs(command: str) -> Call:
    return Call("exec_command", {"cmd": command})


LONG = "".join(f"{at:03}: the fern was watered, and nobody called.\n" for at in range(400))
LONG_ASKED, LONG_TOLD = "What does long.txt say?", "The fern was watered four hundred times."
FILES = ("notes.txt", "todo.md")
_SUMMED_UP = "The user asked what the files say. " + " ".join(TOLD[:2])
_SNAPSHOT = f"<state_snapshot><overall_goal>{_SUMMED_UP}</overall_goal></state_snapshot>"
SUMMARIES = (
    Rule("CONTEXT CHECKPOINT COMPACTION", (_SUMMED_UP,)),
    Rule(
        "Your task is to create a detailed summary", (f"<analysis>Short.</analysis>\n<summary>{_SUMMED_UP}</summary>",)
    ),
    Rule("Generate a new <state_snapshot>", (_SNAPSHOT,)),
    Rule("Critically evaluate the <state_snapshot>", (_SNAPSHOT,)),
    Rule("Here is the conversation so far", (_SUMMED_UP,)),
    Rule("\n# ASSISTANT\n", (f"I asked you what the files say. {_SUMMED_UP}",)),
    Rule("Continue if you have next steps", (LONG_TOLD,)),
    Rule("Another language model started to solve", (LONG_TOLD,)),
)
"""What agents that make room say to the model, and before what they go on."""
_CODEX = talk(*(codex_runs(f"cat {each}") for each in FILES))
_CLAUDE = talk(*(Call("Read", {"file_path": each}) for each in FILES))
_OPENCODE = talk(*(Call("read", {"filePath": each}) for each in FILES))
_GEMINI = talk(*(Call("read_file", {"file_path": each}) for each in FILES))
_SCRIPTS = talk(*(Call("read_file", {"path": each}) for each in FILES))
_CODEX_SHORT = ("-c", "model_auto_compact_token_limit=12500")
_AGENT_DOES = "List the folder and name the two files."

RUNS: tuple[Run, ...] = (
    Run(
        "codex-talk",
        programs.CODEX,
        (*SUMMARIES, *_CODEX),
        (
            say(ASKED[0]),
            go_on(ASKED[1]),
            Write("AGENTS.md", "Answer in one sentence. Never name a file.\n"),
            go_on(ASKED[2]),
            go_on(ASKED[3], more=("-m", "gpt-5.6-luna")),
        ),
    ),
    Run(
        "codex-subagent",
        programs.CODEX,
        (
            Rule(_AGENT_DOES, ((codex_runs("ls"),), "There are notes.txt and todo.md.")),
            Rule(
                "Let a helper look",
                (
                    (Call("multi_agent_v1.spawn_agent", {"message": _AGENT_DOES, "agent_type": "default"}),),
                    (codex_runs("sleep 3; echo looked"),),
                    "A helper found notes.txt and todo.md.",
                ),
            ),
        ),
        (say("Let a helper look through this folder.", more=("-m", "gpt-5.2")),),
    ),
    Run(
        "codex-compaction",
        programs.CODEX,
        (*SUMMARIES, Rule(LONG_ASKED, ((codex_runs("cat long.txt"),), LONG_TOLD)), *_CODEX),
        (
            Write("long.txt", LONG),
            say(LONG_ASKED, more=_CODEX_SHORT),
            go_on(ASKED[1], more=_CODEX_SHORT),
            go_on(ASKED[2], more=_CODEX_SHORT),
        ),
    ),
    Run(
        "codex-retry",
        programs.CODEX,
        (Rule(ASKED[0], ((codex_runs("cat notes.txt"),), TOLD[0]), (500, 503)), *_CODEX[1:]),
        (
            say(ASKED[0], more=("-c", "model_providers.relay.request_max_retries=4")),
            go_on(ASKED[1], OPENAI_API_KEY=OTHER_KEY),
            go_on(ASKED[2], more=("-c", 'model_reasoning_effort="high"'), OPENAI_API_KEY=OTHER_KEY),
        ),
    ),
    Run(
        "codex-socket",
        programs.CODEX_BUILT_IN,
        _CODEX,
        (say(ASKED[0]), go_on(ASKED[1])),
    ),
    Run(
        "claude-talk",
        programs.CLAUDE,
        _CLAUDE,
        (
            say(ASKED[0]),
            go_on(ASKED[1]),
            Write("CLAUDE.md", "Answer in one sentence. Never name a file.\n"),
            go_on(ASKED[2]),
            go_on(ASKED[3], more=("--model", "claude-haiku-4-5-20251001")),
        ),
    ),
    Run(
        "claude-system",
        programs.CLAUDE,
        _CLAUDE,
        (
            say(ASKED[0], more=("--system-prompt-snapshot", "off")),
            go_on(ASKED[1], more=("--system-prompt-snapshot", "off", "--append-system-prompt", "Be brief.")),
            go_on(
                ASKED[2],
                more=(
                    *("--system-prompt-snapshot", "off", "--append-system-prompt", "Be brief."),
                    *("--disallowedTools", "Write", "Edit"),
                ),
            ),
        ),
    ),
    Run(
        "claude-subagent",
        programs.CLAUDE,
        (
            Rule(_AGENT_DOES, ((Call("Glob", {"pattern": "*"}),), "There are notes.txt and todo.md.")),
            Rule(
                "Let two helpers look",
                (
                    tuple(
                        Call("Agent", {"description": "Look around", "prompt": each, "subagent_type": kind})
                        for each, kind in (
                            (_AGENT_DOES, "general-purpose"),
                            (f"Be quick. {_AGENT_DOES}", "Explore"),
                        )
                    ),
                    "Both found notes.txt and todo.md.",
                ),
            ),
            *_CLAUDE,
        ),
        (say("Let two helpers look through this folder."), go_on(ASKED[2])),
    ),
    Run(
        "claude-compaction",
        programs.CLAUDE,
        (*SUMMARIES, *_CLAUDE),
        (say(ASKED[0]), go_on(ASKED[1]), go_on("/compact"), go_on(ASKED[2])),
    ),
    Run(
        "claude-retry",
        programs.CLAUDE,
        (Rule(ASKED[0], _CLAUDE[0].steps, (529, 500)), *_CLAUDE[1:]),
        (
            say(ASKED[0]),
            go_on(ASKED[1], ANTHROPIC_API_KEY=OTHER_KEY),
            go_on(ASKED[2], ANTHROPIC_API_KEY=OTHER_KEY, ANTHROPIC_BASE_URL="{relay}/elsewhere"),
        ),
    ),
    Run(
        "claude-idle",
        programs.CLAUDE,
        _CLAUDE,
        (say(ASKED[0]), Wait(320), go_on(ASKED[1])),
    ),
    Run(
        "claude-two",
        programs.CLAUDE,
        _CLAUDE,
        ((say(ASKED[0]), say(ASKED[1])),),
    ),
    Run(
        "opencode-talk",
        programs.OPENCODE,
        _OPENCODE,
        (
            say(ASKED[0]),
            go_on(ASKED[1]),
            Write("AGENTS.md", "Answer in one sentence. Never name a file.\n"),
            go_on(ASKED[2]),
            go_on(ASKED[3], more=("-m", "relay/gpt-5-mini")),
        ),
    ),
    Run(
        "opencode-subagent",
        programs.OPENCODE,
        (
            Rule(_AGENT_DOES, ((Call("read", {"filePath": "."}),), "There are notes.txt and todo.md.")),
            Rule(
                "Let a helper look",
                (
                    (Call("task", {"description": "Look", "prompt": _AGENT_DOES, "subagent_type": "explore"}),),
                    "A helper found notes.txt and todo.md.",
                ),
                (500,),
            ),
            *_OPENCODE,
        ),
        (
            say("Let a helper look through this folder."),
            go_on(ASKED[2], more=("--agent", "plan")),
        ),
    ),
    Run(
        "gemini-talk",
        programs.GEMINI,
        _GEMINI,
        (
            say(ASKED[0]),
            go_on(ASKED[1]),
            Write("GEMINI.md", "Answer in one sentence. Never name a file.\n"),
            go_on(ASKED[2]),
            go_on(ASKED[3], more=("-m", "gemini-2.5-flash")),
        ),
    ),
    Run(
        "gemini-subagent",
        programs.GEMINI,
        (
            Rule(
                _AGENT_DOES,
                (
                    (Call("list_directory", {"dir_path": "."}),),
                    (Call("complete_task", {"result": {"response": "There are notes.txt and todo.md."}}),),
                ),
            ),
            Rule(
                "Let a helper look",
                (
                    (Call("invoke_agent", {"agent_name": "generalist", "prompt": _AGENT_DOES}),),
                    "A helper found notes.txt and todo.md.",
                ),
                (503,),
            ),
        ),
        (say("Let a helper look through this folder."),),
    ),
    Run(
        "aider-talk",
        programs.AIDER,
        (
            *SUMMARIES,
            Rule(
                "Add milk to notes.txt",
                ("notes.txt\n```\n<<<<<<< SEARCH\nTea\n=======\nTea\nMilk\n>>>>>>> REPLACE\n```\n",),
            ),
            *(Rule(words, (text,)) for words, text in zip(ASKED, TOLD, strict=True)),
        ),
        (
            say(ASKED[0], more=("--file", "notes.txt")),
            go_on("Add milk to notes.txt, please.", more=("--file", "notes.txt")),
            go_on(ASKED[2], more=("--file", "notes.txt", "--max-chat-history-tokens", "64")),
        ),
    ),
    Run(
        "openai-agents-talk",
        programs.OPENAI_AGENTS,
        (
            Rule("Say bonjour", ("Du pain, du fromage et du thé.",)),
            Rule(ASKED[0], _SCRIPTS[0].steps, (500,)),
            Rule(
                "Say it in French",
                ((Call("translate", {"input": "Say bonjour to bread, cheese and tea"}),), "Du pain."),
            ),
            *_SCRIPTS[1:],
        ),
        (say(ASKED[0], ASKED[1], "Say it in French, please."),),
    ),
    Run(
        "pydantic-ai-talk",
        programs.PYDANTIC_AI,
        _SCRIPTS,
        (say(*ASKED[:3]),),
    ),
    Run(
        "langgraph-talk",
        programs.LANGGRAPH,
        _SCRIPTS,
        (say(*ASKED[:3], AGENT_WARMS="1"),),
    ),
    Run(
        "langgraph-edited",
        programs.LANGGRAPH,
        _SCRIPTS,
        (say(*ASKED[:3], AGENT_EDITS="1"),),
    ),
    Run(
        "langgraph-window",
        programs.LANGGRAPH,
        _SCRIPTS,
        (say(*ASKED[:3], AGENT_TRIMS="1"),),
    ),
    Run(
        "codex-idle",
        programs.CODEX,
        _CODEX,
        (say(ASKED[0]), Wait(630), go_on(ASKED[1])),
    ),
    Run(
        "opencode-idle",
        programs.OPENCODE,
        _OPENCODE,
        (say(ASKED[0]), Wait(630), go_on(ASKED[1])),
    ),
    Run(
        "opencode-compaction",
        programs.OPENCODE,
        (
            *SUMMARIES,
            Rule(LONG_ASKED, ((Call("read", {"filePath": "long.txt"}),), LONG_TOLD)),
            *_OPENCODE,
        ),
        (
            Write("long.txt", LONG),
            Write("opencode.json", programs.OPENCODE_CONFIG.replace("1047576", "13000").replace("32768", "2000")),
            say(LONG_ASKED),
            go_on(ASKED[1]),
            go_on(ASKED[2]),
        ),
    ),
    Run(
        "gemini-compaction",
        programs.GEMINI,
        (
            *SUMMARIES,
            Rule(LONG_ASKED, ((Call("read_file", {"file_path": "long.txt"}),), LONG_TOLD)),
            *_GEMINI,
        ),
        (
            Write("long.txt", LONG),
            Write(".gemini/settings.json", programs.GEMINI_SHORT, home=True),
            say(LONG_ASKED),
            go_on(ASKED[1]),
            go_on(ASKED[2], GEMINI_API_KEY=OTHER_KEY),
        ),
    ),
)
