"""The commands of run.sh: read relay.yaml, say in a few lines what comes, then become mitmdump or mitmweb.

1. start and web replace this process by mitmproxy's, so signals, the terminal and the exit code are mitmproxy's own.
   What relay says of itself goes with it, to be said when relay serves. With more than one worker start stays as their
   parent (addons/workers/).
2. demo stays as the parent of a small upstream and of a relay before it (addons/cli/children.py).
3. record is start with a flow file; replay is like demo, with a recording for its upstream (addons/replay/server.py).
4. Whatever is wrong is said before mitmproxy starts, in a line or two that end with what to do. The exit code is 2 for
   a mistake in relay.yaml, else 1.

Nothing of mitmproxy is imported for start and web, which import it again in the process that they become: it takes as
long as all the rest of a start. Further arguments go to mitmproxy as they are. Those that change what relay says here
are read, too (options.given_in).
"""

import contextlib
import os
import socket
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from addons import addresses as ports
from addons import workers
from addons.addresses import Refusal
from addons.cli import children as demo
from addons.config import settings as config
from addons.config.mitmproxy_options import (
    SAYS,
    as_arguments,
    given_in,
    one_process,
    options_for,
)
from addons.config.settings import ConfigError, Settings, Upstream
from addons.store.certificate import Unfit, certificate_of, check_pair, out_of_date
from addons.store.shelf import SessionStore, StoreError
from addons.store.shelf import check as check_store
from addons.workers import parent
from addons.workers.processes import Orders

if TYPE_CHECKING:
    from addons.replay.flow_file import FlowFile

ROOT = Path(__file__).resolve().parent.parent.parent
ENTRY = ROOT / "addons" / "relay.py"

_FILES = 65_536
"""Open files that are enough for anyone: the limit is raised so far, and no further."""

_QUIET: dict[str, object] = {"termlog_verbosity": "warn"}
# mitmweb's log stays at info: there it prints its address with the token.
_WEB: dict[str, object] = {
    "web_host": "127.0.0.1",
    "web_port": 8081,
    "web_open_browser": False,
    # The comment is where relay says what an exchange was about; mitmweb does not show it by itself.
    "web_columns": ["method", "path", "comment", "status", "size", "time"],
}

# A worker has no server until it is told what to listen on.
_WORKER: dict[str, object] = {"server": False}

# Questions that mitmproxy answers and ends: they need no port, and no words before the answer.
_QUESTIONS = {"-h", "--help", "--version", "--options", "--commands"}

_ONLY_LOOPBACK = (
    "mitmweb shows every key and conversation, so it is opened to other machines only with a password of your own: add "
    "`--set web_password=...`, or leave --web-host at 127.0.0.1 and reach it through ssh -L"
)
_NO_MODE = "relay needs a mode of its own, so --mode can't be given; for another proxy start another mitmdump"
_NO_CONFIG = "the demo writes a relay.yaml of its own, so relay_config can't be given; ./run.sh takes it"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. start and web don't return where all is well."""
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or [""]
    try:
        if command not in _COMMANDS:
            raise Refusal(f"no such command: {command!r}; there are {', '.join(_COMMANDS)}")
        return _COMMANDS[command](rest)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except Refusal as refusal:
        print(f"relay: {refusal}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # ./run.sh check | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def start(arguments: list[str]) -> int:
    """relay in mitmdump, or in as many of them as relay.yaml has workers."""
    plan = _plan("mitmdump", arguments, _QUIET)
    count = workers.count(plan.settings.workers)
    if count == 1:
        _become(plan)
    if alone := one_process(arguments):
        _become(plan, [("workers", f"1 and not {count}: {alone} is for one process")])
    return _lead(plan, count)


def web(arguments: list[str]) -> int:
    """relay in mitmweb."""
    plan = _plan("mitmweb", arguments, _WEB)
    _become(plan, [_web_line(plan.words)])


def check(arguments: list[str]) -> int:
    """Print what relay.yaml (or the file named) means: in words, as comments, and then all of it as YAML."""
    named = (
        arguments[0] if arguments and not arguments[0].startswith("-") else given_in(arguments).get("relay_config", "")
    )
    settings = config.load(config.locate(named, os.environ, ROOT), os.environ)
    if settings.listen.tls is not None:
        try:
            check_pair(settings.listen.tls)
        except Unfit as error:
            raise Refusal(str(error)) from error
    lines = [("relay.yaml", str(settings.source or "none, every default"))]
    lines += _introduction(settings, {"listen_host": settings.listen.host, "listen_port": settings.listen.port})
    upstreams = {upstream.name: upstream for upstream in settings.upstreams}
    lines += [(f"{route.path}/...", f"goes to {_place(upstreams[route.upstream])}") for route in settings.routes]
    if (count := workers.count(settings.workers)) > 1:
        lines.append(("workers", str(count)))
    _say(lines, before="# ")
    print(config.describe(settings).rstrip())
    return 0


def run_demo(arguments: list[str]) -> int:
    """The demo: relay before an upstream of its own, until it is told to end. `demo web` has it in mitmweb."""
    program, extra = "mitmdump", _QUIET
    if arguments[:1] == ["web"]:
        program, extra, arguments = "mitmweb", _WEB, arguments[1:]
    given = _checked(arguments)
    if "relay_config" in given:
        raise Refusal(_NO_CONFIG)
    listen = config.load(config.locate("", os.environ, ROOT), os.environ).listen
    with demo.family(ROOT) as family:
        path = family.upstream(listen.host, listen.port)
        settings = config.load(path, {})
        options = {"scripts": [str(ENTRY)], **_options(settings), "relay_config": str(path), **extra}
        words = options | given
        ports.check(words, program)
        family.relay([*_mitmproxy(program), *as_arguments(options, given), *arguments], ports.listening(words))
        _say(_introduction(settings, words))
        if program == "mitmweb":
            _say([_web_line(words)])
        _say([("try", command) for command in demo.commands(ports.origin(words, tls=False))])
        _say([("", "any key works; Ctrl-C ends it")])
        family.wait()
    return 0


def record(arguments: list[str]) -> int:
    """relay in mitmdump, saving what passes to a file that `replay` can answer from."""
    from addons.replay import flow_file as tape

    path, flags, rest = _file_of("record", arguments, "--append", "--overwrite")
    if {"-w", "--save-stream-file"}.intersection(rest) or "save_stream_file" in given_in(rest):
        raise Refusal(f"{path} is where it is saved, so -w can't be given")
    if path.is_dir():
        raise Refusal(f"{path} is a folder: name a file to record into")
    if path.exists() and not flags:
        raise Refusal(f"{path} is there already: add --append to go on with it, or --overwrite to begin it anew")
    if "--append" in flags and path.exists() and tape.is_har(path):
        raise Refusal(f"{path} is a HAR, to which nothing can be added: record into another file")
    _claim_file(path)
    named = given_in(rest).get("relay_config", "")
    if not config.load(config.locate(named, os.environ, ROOT), os.environ).inspect.redact:
        raise Refusal("the recording would hold keys: set inspect.redact to true in relay.yaml")
    file = _stream_file(path, append="--append" in flags)
    _become(_plan("mitmdump", rest, {**_QUIET, "save_stream_file": file}), [("records into", path.name)])


def replay(arguments: list[str]) -> int:
    """relay before a recording, until it is told to end; with --list only say what is in it."""
    from addons.replay import flow_file as tape
    from addons.replay import server as replaying

    path, flags, rest = _file_of("replay", arguments, "--fast", "--list", "--or-forward")
    if "--list" in flags:
        held = tape.read(path, config.load(config.locate("", os.environ, ROOT), os.environ))
        print("\n".join([*tape.table(held.records), *(f"left out: {each}" for each in tape.reasons(held))]))
        return 0
    given = _checked(rest)
    if "relay_config" in given:
        raise Refusal("replay writes a relay.yaml of its own, so relay_config can't be given: use RELAY_CONFIG")
    settings = config.load(config.locate("", os.environ, ROOT), os.environ)
    library = replaying.Library(path, settings)
    if "--or-forward" in flags and tape.is_har(path):
        raise Refusal(f"{path} is a HAR, to which nothing can be added: --or-forward needs a file of ./run.sh record")
    with demo.family(ROOT, "replay") as family:
        forward = _forwarding(family, path, settings) if "--or-forward" in flags else None
        with replaying.Server(library, fast="--fast" in flags, forward=forward).running() as url:
            options = _written(family.folder / "relay.yaml", replaying.front(settings, url, family.folder))
            words = options | given
            ports.check(words, "mitmdump")
            family.relay([*_mitmproxy("mitmdump"), *as_arguments(options, given), *rest], ports.listening(words))
            tls = settings.listen.tls is not None
            _say([_introduction(settings, words)[0], ("answers from", _contents(path, library.tape))])
            _say([("left out", each) for each in tape.reasons(library.tape, tape.OWN)])
            if forward is not None:
                _say([("else asks", _place(settings.upstreams[0]) + ", and records that")])
            _say([("try", f"OPENAI_BASE_URL={ports.origin(words, tls=tls)}/v1 OPENAI_API_KEY=any your-app")])
            _say([("", "any key works; Ctrl-C ends it")])
            family.wait()
    return 0


def _forwarding(family: demo.Family, path: Path, settings: Settings) -> tuple[str, int]:
    """Start the relay that asks the real upstreams and adds to the file; where it listens."""
    from addons.replay import server as replaying

    _claim_file(path)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    text = replaying.behind(settings, port, family.folder)
    options = _written(family.folder / "forwarding.yaml", text)
    options["save_stream_file"] = _stream_file(path, append=True)
    family.relay([*_mitmproxy("mitmdump"), *as_arguments(options)], ("127.0.0.1", port), "forwarding relay")
    return "127.0.0.1", port


def _written(path: Path, text: str) -> dict[str, object]:
    """Write a relay.yaml; the options of a mitmdump under it."""
    path.write_text(text, encoding="utf-8")
    settings = config.load(path, os.environ)
    # Whoever starts a replay may read its first lines and then no more: it must never wait for them.
    quiet = {**_QUIET, "flow_detail": 0}
    return {"scripts": [str(ENTRY)], **_options(settings), "relay_config": str(path), **quiet}


def _file_of(command: str, arguments: list[str], *flags: str) -> tuple[Path, set[str], list[str]]:
    """The file that a command names first, its own flags, and what is for mitmproxy."""
    given = {each for each in arguments if each in flags}
    file, *rest = [each for each in arguments if each not in flags] or [""]
    if not file or file.startswith("-"):
        raise Refusal(f"{command} needs a file: ./run.sh {command} FILE [{'] ['.join(flags)}]")
    return Path(file).expanduser().absolute(), given, rest


def _claim_file(path: Path) -> None:
    """Raise Refusal where nothing can be written to it; mitmproxy would say so in its own way, and later."""
    there = path.exists()
    try:
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise Refusal(f"{path} can't be written: {error.strerror}") from None


def _stream_file(path: Path, *, append: bool) -> str:
    """The file as mitmproxy's option: it takes a + for append, and % for times."""
    return ("+" if append else "") + str(path).replace("%", "%%")


def _contents(path: Path, held: "FlowFile") -> str:
    streams = sum(record.streamed for record in held.records)
    return f"{path.name}: {len(held.records)} exchange(s), {streams} of them streamed"


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "start": start,
    "web": web,
    "demo": run_demo,
    "check": check,
    "record": record,
    "replay": replay,
}


class _Plan(NamedTuple):
    """A mitmdump or mitmweb with relay in it, before its start."""

    program: str
    arguments: list[str]
    given: dict[str, str]
    settings: Settings
    options: dict[str, object]

    @property
    def words(self) -> dict[str, object]:
        """What of mitmproxy's options is in force: relay's, and the user's over them."""
        return self.options | self.given

    @property
    def command(self) -> list[str]:
        """How to start it."""
        return [*_mitmproxy(self.program), *as_arguments(self.options, self.given), *self.arguments]


def _plan(program: str, arguments: list[str], extra: Mapping[str, object]) -> _Plan:
    """Read relay.yaml and the arguments. A question becomes mitmproxy's at once."""
    if _QUESTIONS.intersection(arguments):
        _execute([*_mitmproxy(program), *arguments])
    given = _checked(arguments)
    path = config.locate(given.get("relay_config", ""), os.environ, ROOT)
    settings = config.load(path, os.environ)
    options = {"scripts": [str(ENTRY)], **_options(settings), "relay_config": str(path), **extra}
    return _Plan(program, arguments, given, settings, options)


def _become(plan: _Plan, more: Sequence[tuple[str, str]] = ()) -> NoReturn:
    """Replace this process by mitmdump or mitmweb with relay in it, which says what it is as soon as it serves."""
    ports.check(plan.words, plan.program)
    _try_store(plan.settings)
    allow_many_files()
    _execute(plan.command, {SAYS: _table(_introduced(plan, plan.words, more))})


def allow_many_files() -> None:
    """Raise the soft limit of open files as far as this system lets us: each exchange under way takes two of them, and
    shells give 256 to 1024."""
    if sys.platform == "win32":
        return
    import resource  # which Windows has not

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a limit of its own below the hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _lead(plan: _Plan, count: int) -> int:
    """Be the parent of so many mitmdumps; the exit code."""
    if sys.platform == "win32":
        raise Refusal("several workers need sockets that are passed on, which Windows has not: set workers to 1")

    def orders() -> Orders:
        again = _plan(plan.program, plan.arguments, {**_QUIET, **_WORKER})
        return Orders(again.settings, again.command)

    first = orders()
    allow_many_files()
    kept = first.settings.store
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(sock) for sock in ports.listen(plan.words)]
        try:
            store = SessionStore(kept.path, kept.max_sessions, kept.max_sessions_per_key, time.time)
        except StoreError as error:
            raise Refusal(str(error)) from error
        stack.callback(store.close)
        words = plan.words | {"listen_port": listeners[0].getsockname()[1]}
        lines = _introduced(plan, words, [("workers", str(count))])
        return parent.run(count, first, orders, listeners, store, lambda: _say(lines))


def _try_store(settings: Settings) -> None:
    """Raise Refusal where mitmproxy's process could not open the store: it would say so in the midst of its start."""
    try:
        check_store(settings.store.path)
    except StoreError as error:
        raise Refusal(str(error)) from error


def _introduced(plan: _Plan, words: Mapping[str, object], more: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """What is said of a relay that serves."""
    tls = plan.settings.listen.tls is not None
    key = '-H "Authorization: Bearer $OPENAI_API_KEY"'
    curl = f"curl {'-k ' if tls else ''}--noproxy '*' {ports.origin(words, tls=tls)}/v1/models {key}"
    stale = out_of_date(plan.settings.listen.tls, time.time()) if plan.settings.listen.tls else ""
    warnings = [("certificate", stale)] if stale else []
    return [*_introduction(plan.settings, words), *warnings, *more, ("try", curl)]


def _checked(arguments: Sequence[str]) -> dict[str, str]:
    """The options given by the user, or Refusal for those that relay can't be given."""
    given = given_in(arguments)
    if "mode" in given:
        raise Refusal(_NO_MODE)
    if not ports.is_loopback(given.get("web_host", "127.0.0.1")) and not given.get("web_password"):
        raise Refusal(_ONLY_LOOPBACK)
    return given


def _options(settings: Settings) -> dict[str, object]:
    try:
        return options_for(settings, certificate_of(settings))
    except Unfit as error:
        raise Refusal(str(error)) from error


def _introduction(settings: Settings, words: Mapping[str, object]) -> list[tuple[str, str]]:
    """Where relay listens and what it forwards to."""
    address = ports.url("https" if settings.listen.tls else "http", *ports.listen_address(words))
    if settings.listen.tls and settings.listen.tls.plain == "allow":
        address += " (plain http as well)"
    more = f", and by {len(settings.routes)} route(s) elsewhere: see ./run.sh check" if settings.routes else ""
    return [("relay listens at", address), ("forwards to", _place(settings.upstreams[0]) + more)]


def _place(upstream: Upstream) -> str:
    address = f"{ports.url(upstream.scheme, upstream.host, upstream.port)}{upstream.prefix}"
    if upstream.versioned:
        address += " (in place of /v1)"
    return f"{address} by the proxy {ports.url('http', *upstream.via)}" if upstream.via else address


def _web_line(words: Mapping[str, object]) -> tuple[str, str]:
    return "look inside at", f"{ports.url('http', *ports.web_address(words))} (mitmweb prints it with its token)"


def _say(lines: Sequence[tuple[str, str]], before: str = "") -> None:
    print(_table(lines, before), flush=True)


def _table(lines: Sequence[tuple[str, str]], before: str = "") -> str:
    return "\n".join(f"{before}{name:<18} {text}".rstrip() for name, text in lines)


def _mitmproxy(program: str) -> list[str]:
    """How to start this environment's mitmdump or mitmweb: optimised, and blind to modules in the current folder."""
    return [sys.executable, "-P", "-O", str(Path(sysconfig.get_path("scripts")) / program)]


def _execute(command: list[str], more: Mapping[str, str] | None = None) -> NoReturn:
    sys.stdout.flush()
    # run.sh sets it so that this file is found; it is nobody else's business.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    os.execve(command[0], command, {**environ, **(more or {})})


if __name__ == "__main__":
    sys.exit(main())
