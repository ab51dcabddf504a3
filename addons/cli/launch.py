"""From relay.yaml and arguments to a mitmdump or mitmweb with relay in it.

Nothing of mitmproxy is imported here: the process that this one becomes imports it again, and that takes as long as all
the rest of a start.
"""

import contextlib
import os
import socket
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from addons import addresses
from addons.addresses import Refusal
from addons.cli.introduction import introduction, said, table
from addons.config.mitmproxy_options import SAYS, as_arguments, given_in, options_for
from addons.config.settings import STORE_FIXED, Settings, StoreSettings, is_fixed, load_settings, settings_path
from addons.core.paths import METRICS
from addons.meter.prices import PriceList, Prices
from addons.store import Store, StoreError, keys_file
from addons.store.absent import AbsentStore
from addons.store.certificate import CertificateError, certificate_of, out_of_date
from addons.store.embedded import EmbeddedStore
from addons.store.folder import check as check_store
from addons.store.folder import make_folder
from addons.store.ledger import Book
from addons.store.shared.opened import check_installed
from addons.workers import parent
from addons.workers.processes import Orders

ROOT = Path(__file__).resolve().parent.parent.parent
_ENTRY = ROOT / "addons" / "relay.py"

MOST_FILES = 65_536
"""Open files that are enough for anyone: the limit is raised so far, and no further."""

_CONF_DIR = "~/.mitmproxy"
"""mitmproxy's default."""

QUIET: dict[str, object] = {"termlog_verbosity": "warn"}
# mitmweb's log stays at info: there it prints its address with the token.
WEB: dict[str, object] = {
    "web_host": "127.0.0.1",
    "web_port": 8081,
    "web_open_browser": False,
    # The comment is where relay says what an exchange was about; mitmweb does not show it by itself.
    "web_columns": ["method", "comment", "path", "status", "size"],
}

# A worker has no server until it is told what to listen on.
WORKER: dict[str, object] = {"server": False}

# Questions that mitmproxy answers and ends: they need no port, and no words before the answer.
_QUESTIONS = {"--version", "--options", "--commands"}

_ONLY_LOOPBACK = (
    "mitmweb shows every key and conversation, so it is opened to other machines only with a password of your own: add "
    "`--set web_password=...`, or leave --web-host at 127.0.0.1 and reach it through ssh -L"
)
_NO_MODE = "relay needs a mode of its own, so --mode can't be given; for another proxy start another mitmdump"


class Plan(NamedTuple):
    """A mitmdump or mitmweb with relay in it, before its start."""

    program: str
    arguments: list[str]
    given: dict[str, str]
    settings: Settings
    options: dict[str, object]

    @property
    def in_force(self) -> dict[str, object]:
        """What of mitmproxy's options is in force: relay's, and the user's over them."""
        return self.options | self.given

    @property
    def command(self) -> list[str]:
        """How to start it."""
        return [*mitmproxy(self.program), *as_arguments(self.options, self.given), *self.arguments]


def prepare(program: str, arguments: list[str], extra: Mapping[str, object]) -> Plan:
    """Read relay.yaml and the arguments. A question becomes mitmproxy's at once."""
    if _QUESTIONS.intersection(arguments):
        execute([*mitmproxy(program), *arguments])
    given = checked(arguments)
    path = settings_path(given.get("relay_config", ""), os.environ, ROOT)
    settings = load_settings(path, os.environ)
    return Plan(program, arguments, given, settings, relay_options(settings, path, extra))


def become(plan: Plan, more: Sequence[tuple[str, str]] = ()) -> NoReturn:
    """Replace this process by mitmdump or mitmweb with relay in it, which says what it is as soon as it serves."""
    check_start(plan.in_force, plan.program)
    if (metrics := metrics_address(plan.settings)) is not None:
        for sock in addresses.listen_at(metrics, addresses.METRICS_HINT):
            sock.close()
    _try_store(plan.settings)
    allow_many_files()
    execute(plan.command, {SAYS: table(introduced(plan, plan.in_force, more))})


def metrics_address(settings: Settings) -> str | None:
    """Where `/metrics` is served by itself, if that is wanted."""
    return settings.metrics.listen if settings.metrics.enabled else None


def check_start(in_force: Mapping[str, object], program: str) -> None:
    """Raise Refusal for what would keep a mitmdump or mitmweb with these options from starting."""
    addresses.check(in_force, program)
    _try_confdir(str(in_force.get("confdir", _CONF_DIR)))


def allow_many_files() -> None:
    """Raise the soft limit of open files as far as this system lets us: each exchange under way takes two of them, and
    shells give 256 to 1024."""
    if sys.platform == "win32":
        return
    import resource  # which Windows has not

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a limit of its own below the hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def lead(plan: Plan, count: int) -> int:
    """Be the parent of so many mitmdumps; the exit code."""
    if sys.platform == "win32":
        raise Refusal("several workers need sockets that are passed on, which Windows has not: set workers to 1")

    metrics: list[socket.socket] = []
    begun_with: list[StoreSettings] = []

    def orders() -> Orders:
        again = prepare(plan.program, plan.arguments, {**QUIET, **WORKER})
        begun_with.append(again.settings.store)
        if is_fixed(begun_with[0], begun_with[-1]):
            raise Refusal(STORE_FIXED)
        return Orders(again.settings, again.command, metrics)

    first = orders()
    _try_confdir(str(plan.in_force.get("confdir", _CONF_DIR)))
    allow_many_files()
    with contextlib.ExitStack() as stack:
        if (address := metrics_address(first.settings)) is not None:
            metrics += [stack.enter_context(sock) for sock in addresses.listen_at(address, addresses.METRICS_HINT)]
        listeners = [stack.enter_context(sock) for sock in addresses.listen(plan.in_force)]
        try:
            store, book = _open_store(first.settings)
        except StoreError as error:
            raise Refusal(str(error)) from error
        stack.callback(store.close)
        if book is not None:
            stack.callback(book.close)
        in_force = plan.in_force | {"listen_port": listeners[0].getsockname()[1]}
        lines = introduced(plan, in_force, [("workers", str(count))])
        announce = lambda: said(lines, plan.settings.log)  # noqa: E731
        return parent.run(count, first, orders, listeners, store, announce, book)


def _open_store(settings: Settings) -> tuple[Store, Book | None]:
    """What the parent has of it: all, or nothing where workers share one with other relays. Raises StoreError."""
    kept = settings.store
    if kept.kind == "redis":
        return AbsentStore(), None
    store = EmbeddedStore(kept.path, kept.max_sessions, kept.max_sessions_per_key, time.time)
    try:
        prices = Prices(settings, PriceList())
        return store, Book(kept.path, time.time, settings.balance.window_days, prices.cost_once_loaded)
    except StoreError:
        store.close()
        raise


def _try_store(settings: Settings) -> None:
    """Raise Refusal where mitmproxy's process could not open the store: it would say so in the midst of its start."""
    try:
        if settings.store.kind == "redis":
            make_folder(settings.store.path)
            check_installed(settings)
        else:
            check_store(settings.store.path)
    except StoreError as error:
        raise Refusal(str(error)) from error


def _try_confdir(folder: str) -> None:
    """Raise Refusal where mitmproxy can't keep its certificates and its config.yaml: it would end in a traceback."""
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is no home folder"
        raise Refusal(
            f"mitmproxy can't write to its folder {folder} ({reason}): set HOME to a folder that can be written, or "
            "add --set confdir=FOLDER"
        ) from None


def introduced(plan: Plan, in_force: Mapping[str, object], more: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """What is said of a relay that serves."""
    tls = plan.settings.listen.tls is not None
    key = f'-H "Authorization: Bearer {"rk-..." if _takes_relay_keys_alone(plan.settings) else "$OPENAI_API_KEY"}"'
    curl = f"curl {'-k ' if tls else ''}--noproxy '*' {addresses.origin(in_force, tls=tls)}/v1/models {key}"
    stale = out_of_date(plan.settings.listen.tls, time.time()) if plan.settings.listen.tls else ""
    warnings = [("certificate", stale)] if stale else []
    metrics = metrics_address(plan.settings)
    served = [("metrics at", f"http://{metrics}{METRICS}")] if metrics is not None else []
    return [*introduction(plan.settings, in_force), *warnings, *more, *served, ("try", curl)]


def _takes_relay_keys_alone(settings: Settings) -> bool:
    kept = settings.store
    handed_out = settings.keys.list or (kept.kind == "shelve" and keys_file.state(kept.path) is not None)
    return not settings.keys.open if settings.keys.open is not None else bool(handed_out)


def checked(arguments: Sequence[str]) -> dict[str, str]:
    """The options given by the user, or Refusal for those that relay can't be given."""
    given = given_in(arguments)
    if "mode" in given:
        raise Refusal(_NO_MODE)
    if not addresses.is_loopback(given.get("web_host", "127.0.0.1")) and not given.get("web_password"):
        raise Refusal(_ONLY_LOOPBACK)
    return given


def relay_options(settings: Settings, path: Path | str, extra: Mapping[str, object]) -> dict[str, object]:
    """mitmproxy's options for the relay that the file at `path` describes. Raises Refusal."""
    try:
        options = options_for(settings, certificate_of(settings))
    except CertificateError as error:
        raise Refusal(str(error)) from error
    return {"scripts": [str(_ENTRY)], **options, "relay_config": str(path), **extra}


def mitmproxy(program: str) -> list[str]:
    """How to start this environment's mitmdump or mitmweb: optimised, and blind to modules in the current folder."""
    return [sys.executable, "-P", "-O", str(Path(sysconfig.get_path("scripts")) / program)]


def execute(command: list[str], more: Mapping[str, str] | None = None) -> NoReturn:
    """Become `command`, with `more` in its environment."""
    sys.stdout.flush()
    # run.sh sets it so that this file is found; it is nobody else's business.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    os.execve(command[0], command, {**environ, **(more or {})})
