"""The agents: how each is installed, and how it is told where relay is. docs/apps.md tells people the same."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

KEY, OTHER_KEY = "sk-MARKED-4f1c9a7be20d4c55b3a0one", "sk-MARKED-a82e6d017f9b4e21c6d4two"
"""What the agents send as their keys."""
MARK = "MARKED"
"""Stands in both, and may stand nowhere in a recording."""
SCRIPTS = Path(__file__).resolve().parent / "scripts"
_PYTHONS = ("python3.12", "python3.11", "python3.10", "python3")
_OLDER = "import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run takes place: nothing of the machine's user is in it."""

    home: Path
    project: Path
    relay: str
    """Its address, without a slash at the end."""


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    packages: tuple[str, ...]
    """npm's, or PyPI's; with their versions."""
    executable: str
    command: Callable[[Sequence[str], bool], Sequence[str]]
    """What follows the executable: for the user's messages, and whether the conversation goes on."""
    environment: Callable[[Place], Mapping[str, str]]
    prepare: Callable[[Place], None] = field(default=lambda _: None)
    """Writes what the program reads at its start."""
    older: bool = False
    """It wants an older Python than relay."""

    @property
    def node(self) -> bool:
        return "==" not in self.packages[0]

    def installed(self, cache: Path) -> Path:
        """The folder with its executables, filled where need be. Raises CalledProcessError."""
        folder = cache / "-".join(self.packages).replace("/", "_").replace("=", "")
        binaries = folder / ("node_modules/.bin" if self.node else "bin")
        if (folder / "complete").exists():
            return binaries
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if self.node:
            command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), *self.packages]
        else:
            subprocess.run([_python(self.older), "-m", "venv", str(folder)], check=True)
            command = [str(binaries / "pip"), "install", "--quiet", *self.packages]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (folder / "complete").touch()
        return binaries


def _python(older: bool) -> str:
    if not older:
        return sys.executable
    for name in _PYTHONS:
        path = shutil.which(name)
        if path and not subprocess.run([path, "-c", _OLDER], capture_output=True).returncode:
            return path
    raise FileNotFoundError("a Python from 3.10 to 3.12 is needed")


def _written(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


CODEX_CONFIG = """\
model = "gpt-5.5"
model_provider = "relay"

[model_providers.relay]
name = "relay"
base_url = "{relay}/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"""


def _prepare_codex(place: Place) -> None:
    _written(place.home / ".codex" / "config.toml", CODEX_CONFIG.replace("{relay}", place.relay))


def _codex(prompts: Sequence[str], again: bool) -> Sequence[str]:
    return ("exec", *(("resume", "--last") if again else ()), "--skip-git-repo-check", *prompts)


CODEX = Program(
    "codex",
    ("@openai/codex@0.171.0",),
    "codex",
    _codex,
    lambda _: {"OPENAI_API_KEY": KEY},
    _prepare_codex,
)


BUILT_IN_CONFIG = """\
model = "gpt-5.5"
openai_base_url = "{relay}/v1"
"""


def _prepare_built_in(place: Place) -> None:
    _written(place.home / ".codex" / "config.toml", BUILT_IN_CONFIG.replace("{relay}", place.relay))
    # As `codex login --with-api-key` leaves it.
    _written(place.home / ".codex" / "auth.json", json.dumps({"auth_mode": "apikey", "OPENAI_API_KEY": KEY}))


CODEX_BUILT_IN = replace(CODEX, environment=lambda _: {}, prepare=_prepare_built_in)
"""With its own provider: it asks over a websocket."""


def _claude(prompts: Sequence[str], again: bool) -> Sequence[str]:
    return ("-p", *prompts, *(("--continue",) if again else ()), "--allowedTools=Read,Glob,Grep,Agent")


CLAUDE = Program(
    "claude",
    ("@anthropic-ai/claude-code@2.1.332",),
    "claude",
    _claude,
    lambda place: {
        "ANTHROPIC_BASE_URL": f"{place.relay}/anthropic",
        "ANTHROPIC_API_KEY": KEY,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    },
)

OPENCODE_CONFIG = """\
{
  "$schema": "https://opencode.ai/config.json",
  "autoupdate": false,
  "share": "disabled",
  "model": "relay/gpt-4.1",
  "provider": {
    "relay": {
      "npm": "@ai-sdk/openai-compatible",
      "name": "relay",
      "options": {"baseURL": "{relay}/v1", "apiKey": "{env:OPENAI_API_KEY}"},
      "models": {
        "gpt-4.1": {"name": "GPT-4.1", "limit": {"context": 1047576, "output": 32768}},
        "gpt-5-mini": {"name": "GPT-5 mini", "limit": {"context": 400000, "output": 128000}}
      }
    }
  }
}
"""


def _prepare_opencode(place: Place) -> None:
    _written(place.project / "opencode.json", OPENCODE_CONFIG.replace("{relay}", place.relay))


def _opencode(prompts: Sequence[str], again: bool) -> Sequence[str]:
    return ("run", *(("--continue",) if again else ()), *prompts)


OPENCODE = Program(
    "opencode",
    ("opencode-ai@1.18.33",),
    "opencode",
    _opencode,
    lambda _: {"OPENAI_API_KEY": KEY, "OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"},
    _prepare_opencode,
)


GEMINI_SETTINGS = """\
{"security": {"auth": {"selectedType": "gemini-api-key"}}, "privacy": {"usageStatisticsEnabled": false}}
"""
GEMINI_SHORT = GEMINI_SETTINGS.replace('{"security"', '{"model": {"compressionThreshold": 0.012}, "security"')


def _prepare_gemini(place: Place) -> None:
    _written(place.home / ".gemini" / "settings.json", GEMINI_SETTINGS)


def _gemini(prompts: Sequence[str], again: bool) -> Sequence[str]:
    return (*(("--resume", "latest") if again else ()), "--skip-trust", "-p", *prompts)


GEMINI = Program(
    "gemini",
    ("@google/gemini-cli@0.61.0",),
    "gemini",
    _gemini,
    lambda place: {"GOOGLE_GEMINI_BASE_URL": f"{place.relay}/gemini", "GEMINI_API_KEY": KEY},
    _prepare_gemini,
)


def _aider(prompts: Sequence[str], again: bool) -> Sequence[str]:
    quiet = ("--yes-always", "--no-show-model-warnings", "--no-check-update", "--analytics-disable", "--no-pretty")
    restored = ("--restore-chat-history",) if again else ()
    return ("--model", "openai/gpt-4.1", *quiet, *restored, *(part for each in prompts for part in ("-m", each)))


AIDER = Program(
    "aider",
    ("aider-chat==0.86.2",),
    "aider",
    _aider,
    lambda place: {"OPENAI_API_BASE": f"{place.relay}/v1", "OPENAI_API_KEY": KEY},
    older=True,
)


def _of_python(name: str, *packages: str) -> Program:
    script = SCRIPTS / f"{name.replace('-', '_')}.py"
    return Program(
        name,
        packages,
        "python",
        lambda prompts, _: ("-P", "-W", "ignore", str(script), *prompts),
        lambda place: {"OPENAI_BASE_URL": f"{place.relay}/v1", "OPENAI_API_KEY": KEY},
    )


OPENAI_AGENTS = _of_python("openai-agents", "openai-agents==0.24.0")
PYDANTIC_AI = _of_python("pydantic-ai", "pydantic-ai-slim[openai]==2.68.0")
LANGGRAPH = _of_python("langgraph", "langgraph==1.2.24", "langchain-openai==1.7.4")
