"""The commands of run.sh: read relay.yaml, say in a few lines what comes, then become mitmdump or mitmweb.

1. start and web replace this process by mitmproxy's, so signals, the terminal and the exit code are mitmproxy's own.
   What relay says of itself goes with it, to be said when relay serves. With more than one worker start stays as their
   parent (addons/workers/).
2. demo stays as the parent of a small upstream and of a relay before it (children.py).
3. record is start with a flow file; replay is like demo, with a recording for its upstream (fixtures.py).
4. keys and usage read and write files in the store's folder, while a relay may be running on it (keys.py, usage.py);
   export reads a flow file (export.py).
5. Whatever is wrong is said before mitmproxy starts, in a line or two that end with what to do. The exit code is 2 for
   a mistake in relay.yaml, else 1.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

from addons import addresses, workers
from addons.addresses import Refusal
from addons.cli import arguments, children
from addons.cli.faults import as_options, faults_of, told_faults
from addons.cli.fixtures import record, replay
from addons.cli.introduction import advice_on_proxy, introduction, keys_line, place, say, web_line
from addons.cli.launch import QUIET, ROOT, WEB, become, check_start, checked, lead, mitmproxy, prepare, relay_options
from addons.config.mitmproxy_options import as_arguments, given_in, one_process
from addons.config.settings import ConfigError, describe_settings, load_settings, settings_path
from addons.store.certificate import CertificateError, check_pair

_NO_CONFIG = "the demo writes a relay.yaml of its own, so relay_config can't be given; ./run.sh takes it"


def main(given: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. start and web don't return where all is well."""
    try:
        line = arguments.read(sys.argv[1:] if given is None else given)
        return _COMMANDS[line.command](line.own, line.rest)
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


def start(_own: Namespace, rest: list[str]) -> int:
    """relay in mitmdump, or in as many of them as relay.yaml has workers."""
    plan = prepare("mitmdump", rest, QUIET)
    count = workers.count(plan.settings.workers)
    if count == 1:
        become(plan)
    if alone := one_process(rest):
        become(plan, [("workers", f"1 and not {count}: {alone} is for one process")])
    return lead(plan, count)


def web(_own: Namespace, rest: list[str]) -> int:
    """relay in mitmweb."""
    plan = prepare("mitmweb", rest, WEB)
    become(plan, [web_line(plan.in_force)])


def check(own: Namespace, rest: list[str]) -> int:
    """Print what relay.yaml (or the file named) means: in words, as comments, and then all of it as YAML."""
    named = own.file or given_in(rest).get("relay_config", "")
    settings = load_settings(settings_path(named, os.environ, ROOT), os.environ)
    if settings.listen.tls is not None:
        try:
            check_pair(settings.listen.tls)
        except CertificateError as error:
            raise Refusal(str(error)) from error
    lines = [("relay.yaml", str(settings.source or "none, every default"))]
    lines += introduction(settings, {"listen_host": settings.listen.host, "listen_port": settings.listen.port})
    upstreams = {upstream.name: upstream for upstream in settings.upstreams}
    lines += [(f"{route.path}/...", f"goes to {place(upstreams[route.upstream])}") for route in settings.routes]
    if (count := workers.count(settings.workers)) > 1:
        lines.append(("workers", str(count)))
    lines += [line for upstream in settings.upstreams if (line := keys_line(upstream)) is not None]
    lines += [("", advice) for upstream in settings.upstreams if (advice := advice_on_proxy(upstream)) is not None]
    say(lines, before="# ")
    print(describe_settings(settings).rstrip())
    return 0


def demo(own: Namespace, rest: list[str]) -> int:
    """The demo: relay before an upstream of its own, until it is told to end. `demo web` has it in mitmweb."""
    program, extra = ("mitmweb", WEB) if own.program == "web" else ("mitmdump", QUIET)
    given = checked(rest)
    if "relay_config" in given:
        raise Refusal(_NO_CONFIG)
    listen = load_settings(settings_path("", os.environ, ROOT), os.environ).listen
    with children.family(ROOT) as family:
        wanted = faults_of(own)
        path = family.upstream(listen.host, listen.port, as_options(own) if wanted is not None else ())
        settings = load_settings(path, {})
        options = relay_options(settings, path, extra)
        in_force = options | given
        check_start(in_force, program)
        family.relay([*mitmproxy(program), *as_arguments(options, given), *rest], addresses.listening(in_force))
        say(introduction(settings, in_force))
        if program == "mitmweb":
            say([web_line(in_force)])
        say([("try", command) for command in children.commands(addresses.origin(in_force, tls=False))])
        say([*told_faults(own), ("", "any key works; Ctrl-C ends it")])
        family.wait()
    return 0


def keys(own: Namespace, rest: list[str]) -> int:
    """As addons/cli/keys.py has it."""
    from addons.cli.keys import keys  # what it takes to read would only delay other commands

    return keys(own, rest)


def usage(own: Namespace, rest: list[str]) -> int:
    """As addons/cli/usage.py has it."""
    from addons.cli.usage import usage

    return usage(own, rest)


def export(own: Namespace, rest: list[str]) -> int:
    """As addons/cli/export.py has it."""
    from addons.cli.export import export

    return export(own, rest)


_COMMANDS: dict[str, Callable[[Namespace, list[str]], int]] = {
    "start": start,
    "web": web,
    "demo": demo,
    "check": check,
    "record": record,
    "replay": replay,
    "keys": keys,
    "usage": usage,
    "export": export,
}


if __name__ == "__main__":
    sys.exit(main())
