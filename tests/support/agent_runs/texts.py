"""Made-up text of a wished length: instructions, talk, code, listings. It means nothing, but looks and weighs as in
real runs.
"""

from tests.support.agent_runs.dice import Dice

_LEXICON = (
    "the of a to and in is for on with as file test module call branch value index server client token cache parser "
    "request answer handler stream buffer schema window thread build error retry commit review before after every "
    "never only first last cannot should returns reads writes keeps checks opens closes merges moves renames"
)
_WORDS = tuple(_LEXICON.split())
_NAMES = (
    "invoice",
    "ledger",
    "router",
    "gateway",
    "session",
    "worker",
    "catalog",
    "billing",
    "search",
    "export",
    "upload",
    "report",
)
_SUFFIXES = ("py", "ts", "rs", "go", "md", "toml")
_CHINESE = (
    "请把这个模块改写得更清楚。",
    "为什么测试在第三步失败了？",
    "先看一下日志，再决定怎么改。",
    "缓存为什么没有命中？",
    "谢谢，请继续。",
)


def _sentences() -> tuple[str, ...]:
    dice = Dice("sentences")
    made = (" ".join(dice.pick(_WORDS) for _ in range(dice.between(6, 18))) for _ in range(300))
    return tuple(each[0].upper() + each[1:] + "." for each in made)


def _code_lines() -> tuple[str, ...]:
    dice = Dice("code")
    forms = (
        "    {0} = {1}({2}, limit={3})\n",
        "def {0}_{1}({2}: str) -> int:\n",
        '    raise ValueError("{0} has no {1} at \\"{2}\\"")\n',
        "    if {0} in {1}.{2}:\n        return {3}\n",
        "# {0} {1} {2}\n",
    )
    return tuple(
        dice.pick(forms).format(dice.pick(_WORDS), dice.pick(_NAMES), dice.pick(_WORDS), dice.between(2, 900))
        for _ in range(300)
    )


_SENTENCES, _LINES = _sentences(), _code_lines()


def prose(dice: Dice, size: int) -> str:
    """About so many bytes of sentences in paragraphs."""
    parts: list[str] = []
    length = 0
    while length < size:
        parts.append(dice.pick(_SENTENCES))
        parts.append("\n\n" if dice.chance(0.12) else " ")
        length += len(parts[-2]) + 1
    return "".join(parts).rstrip()


def code(dice: Dice, size: int) -> str:
    """About so many bytes of something like code, with line numbers as agents' tools print them."""
    parts: list[str] = []
    length = 0
    while length < size:
        parts.append(f"{len(parts) + 1:>6}\t{dice.pick(_LINES)}")
        length += len(parts[-1])
    return "".join(parts)


def file_name(dice: Dice) -> str:
    return f"src/{dice.pick(_NAMES)}/{dice.pick(_NAMES)}_{dice.digits(3)}.{dice.pick(_SUFFIXES)}"


def question(dice: Dice) -> str:
    """What a person asks; no two are the same."""
    opening = dice.pick(_CHINESE) if dice.chance(0.2) else prose(dice, dice.between(20, 300))
    return f"{opening} ({file_name(dice)}, #{dice.digits(8)})"


def tool_output(dice: Dice) -> str:
    """What a tool gives back: mostly a few hundred bytes, now and then a whole file."""
    if dice.chance(0.14):
        return code(dice, dice.between(16_000, 40_000))
    return code(dice, dice.between(200, 5_000)) if dice.chance(0.7) else prose(dice, dice.between(40, 900))
