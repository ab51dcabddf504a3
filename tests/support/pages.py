"""The pages of documentation as tests read them: from README.md, docs/ and the rest, as if from one page."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.live import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}
README = "\n".join(TEXTS.values())
PAGE = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text without the indentation of a list it may stand in, its line."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Shown:
    """A command of a console block and the output under it; `before` is the block of code before that, if any."""

    command: str
    output: str
    before: Block | None
    line: int


def _blocks() -> list[Block]:
    pattern = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    found = []
    for match in pattern.finditer(README):
        indent, language, text = match.groups()
        line = README.count("\n", 0, match.start()) + 1
        found.append(Block(language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE), line))
    return found


BLOCKS = _blocks()


def prose(text: str) -> str:
    """A text without its fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)


PROSE = prose(README)


def _shown() -> Iterator[Shown]:
    code = None
    for block in BLOCKS:
        if block.language != "console":
            code = block
            continue
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield Shown(command, output.rstrip("\n"), code, block.line)


SHOWN = list(_shown())


def commands(start: str) -> list[Shown]:
    """What the pages show of commands that begin so."""
    found = [shown for shown in SHOWN if shown.command.startswith(start)]
    assert found, f"no page shows the output of {start}"
    return found
