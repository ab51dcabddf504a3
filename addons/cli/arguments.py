"""The command line of run.sh: what of it is relay's, and what goes on to mitmproxy.

argparse alone can't tell them apart: it does not know which of mitmproxy's options take a value, and would take
`9000` in `record -p 9000 out.flow` for the file. So a command's own flags are taken wherever they stand, a word of its
own only before anything that is mitmproxy's, and argparse reads what was taken.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from addons.addresses import Refusal
from addons.core.faults import EXPECTED
from addons.core.relay_keys import PERIODS

_REST = (
    "Further arguments go to mitmproxy, such as -p 9000, -w FILE or --set NAME=VALUE: ./run.sh --options lists its "
    "options. The settings of relay are in relay.yaml, or in the file that RELAY_CONFIG names."
)


_FILE = "The settings are those of relay.yaml, or of the file that RELAY_CONFIG names."


class CommandLine(NamedTuple):
    """A command line that was read."""

    command: str
    own: argparse.Namespace
    """What the command's parser knows."""
    rest: list[str]
    """For mitmproxy."""


class _Parser(argparse.ArgumentParser):
    """One that refuses in relay's way, and knows what was added to it."""

    def __init__(self, **more: Any) -> None:
        self.added: list[argparse.Action] = []
        super().__init__(allow_abbrev=False, **more)

    def add_argument(self, *names: str, **more: Any) -> argparse.Action:
        """As argparse's."""
        action = super().add_argument(*names, **more)
        self.added.append(action)
        return action

    def error(self, message: str) -> NoReturn:
        """Raise Refusal, which names the help."""
        raise Refusal(f"{message}; see {self.prog} --help")


def read(arguments: Sequence[str]) -> CommandLine:
    """Raises Refusal for what can't be meant. `--help` prints it and ends the process, as argparse does."""
    parser, commands = _parsers()
    command, *rest = arguments or [""]
    own: list[str] = []
    if command in commands:
        own, rest = _divide(commands[command], rest)
    return CommandLine(command, parser.parse_args([command, *own]), rest)


def _divide(parser: _Parser, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What `parser` is to read, and the rest."""
    flags = {name for action in parser.added for name in action.option_strings}
    words = [action for action in parser.added if not action.option_strings]
    valued = {name for action in parser.added for name in action.option_strings if action.nargs != 0}
    own, rest = list[str](), list[str]()
    given = iter(arguments)
    for each in given:
        if each in flags or each.partition("=")[0] in valued:
            own.append(each)
            if each in valued and (value := next(given, None)) is not None:
                own.append(value)
        elif words and not rest and not each.startswith("-") and (words[0].nargs is None or _fits(words[0], each)):
            words.pop(0)
            own.append(each)
        else:
            rest.append(each)
    return own, rest


def _fits(action: argparse.Action, word: str) -> bool:
    """Whether a word can be what an action that may be left out takes."""
    return action.choices is None or word in action.choices


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of a whole command line, and that of each command."""
    whole = _Parser(prog="./run.sh", description="relay: an OpenAI API relay you can see through.", epilog=_REST)
    added = whole.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    found: dict[str, _Parser] = {}

    def command(name: str, does: str, epilog: str = _REST) -> _Parser:
        found[name] = added.add_parser(name, help=does, description=does, epilog=epilog)
        return found[name]

    command("start", "relay in mitmdump, or in as many of them as relay.yaml has workers")
    command("web", "relay in mitmweb, to look inside")
    demo = command("demo", "relay before a small upstream of its own: no key, no network")
    demo.add_argument("program", nargs="?", choices=["web"], help="in mitmweb rather than mitmdump")
    _faults(demo)
    check = command("check", "say what relay.yaml means, or what is wrong with it", "")
    check.add_argument("file", metavar="FILE", nargs="?", help="the file to check in place of relay.yaml")
    record = command("record", "relay in mitmdump that saves what passes to a file, without keys")
    record.add_argument("file", metavar="FILE", help="where it is saved; before anything that is for mitmproxy")
    record.add_argument("--append", action="store_true", help="go on with a file that is there")
    record.add_argument("--overwrite", action="store_true", help="begin it anew")
    replay = command("replay", "answer apps from such a file, without upstream or key")
    replay.add_argument("file", metavar="FILE", help="of ./run.sh record, mitmdump -w or a HAR")
    replay.add_argument("--fast", action="store_true", help="at once, not in the rhythm that was recorded")
    replay.add_argument("--list", action="store_true", help="only say what is in it")
    replay.add_argument("--or-forward", action="store_true", help="ask the real upstream for the rest, and record it")
    _faults(replay)
    _keys(command)
    usage = command("usage", "what was used and what it has cost, from the ledger", _FILE)
    usage.add_argument("--by", choices=["key", "model", "day"], default="key", help="what is summed up (key)")
    usage.add_argument("--since", metavar="SPAN", default="30d", help="7d, or a day such as 2026-11-01 (30d)")
    usage.add_argument("--json", action="store_true", help="as JSON")
    usage.add_argument("--csv", action="store_true", help="as CSV")
    export = command("export", "what a flow file holds, as JSONL, an HTML page or spans (OTLP), without keys", _FILE)
    export.add_argument("file", metavar="FILE", help="of ./run.sh record, mitmdump -w, mitmweb's save or a HAR")
    export.add_argument("--to", choices=["jsonl", "html", "otlp"], required=True, help="the format")
    export.add_argument("--out", metavar="FILE", help="where it is written; without it, to standard output")
    export.add_argument("--thread", metavar="HASH", help="that thread alone")
    export.add_argument("--overwrite", action="store_true", help="also where that file is there already")
    return whole, found


def _faults(parser: _Parser) -> None:
    """Of answers that go wrong on purpose."""
    parser.add_argument("--faults", metavar="SHARES", help=f"what goes wrong on purpose: {EXPECTED}")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="of the faults: the same ones each time (1)")


def _keys(command: Callable[..., _Parser]) -> None:
    """Of keys that relay hands out."""
    keys = command("keys", "hand out keys of relay's own: new NAME, list, revoke NAME, rotate NAME", _FILE)
    keys.add_argument("action", choices=["new", "list", "revoke", "rotate"], help="what to do")
    keys.add_argument("name", metavar="NAME", nargs="?", help="of the key; for all but list")
    keys.add_argument("--budget", metavar="DOLLARS", help="what it may spend; without it, anything")
    keys.add_argument("--per", choices=PERIODS, help="the span that the budget is for (total)")
    keys.add_argument("--upstream", metavar="NAME", help="where its requests go; without it, where the path leads")
    keys.add_argument("--models", metavar="NAMES", help="those it may use, with commas between, * and ? allowed")
    keys.add_argument("--paths", metavar="PATHS", help="those it may use, with commas between")
    keys.add_argument("--requests", metavar="N", type=int, help="a minute")
    keys.add_argument("--tokens", metavar="N", type=int, help="a minute")
    keys.add_argument("--parallel", metavar="N", type=int, help="requests at the same time")
    keys.add_argument("--expires", metavar="DAY", help="the last day on which it works, such as 2027-01-31")
