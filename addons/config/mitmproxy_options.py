"""What relay needs from mitmproxy: relay.yaml's Settings in, mitmproxy's options out.

Used twice, so that both ways of starting agree: `./run.sh` passes the options on the command line (addons/cli), and
bare `mitmdump -s addons/relay.py` sets the same ones as soon as it runs.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from addons.config.settings import Settings

# relay names the real upstream per flow; this one never resolves (RFC 6761), so without relay's addons nothing leaks.
MODE = "reverse:http://relay.invalid"

DEFAULT_PORT = 8080
"""Where mitmproxy listens when nobody says where."""

SAYS = "RELAY_SAYS"
"""In mitmproxy's environment: what is printed as soon as relay serves."""

# mitmproxy lets these flags win over its own config.yaml; an option that has no flag of its own goes through --set.
_FLAGS = {
    "mode": "--mode",
    "scripts": "-s",
    "listen_host": "--listen-host",
    "listen_port": "--listen-port",
    "web_host": "--web-host",
    "web_port": "--web-port",
}

ONE_PROCESS: dict[str, tuple[str, ...]] = {
    "save_stream_file": ("--save-stream-file", "-w"),
    "hardump": (),
    "rfile": ("--rfile", "-r"),
    "client_replay": ("--client-replay", "-C"),
    "server_replay": ("--server-replay", "-S"),
    "server": ("--no-server", "-n"),
}
"""What one process alone can do: mitmproxy's options, with their flags."""


def options_for(settings: Settings, certificate: Path | None) -> dict[str, object]:
    """The mitmproxy options, name -> value, under which relay works as relay.yaml says.

    `certificate` is a file with the key and the chain of listen.tls (`store.certificate`).
    """
    listen = settings.listen
    return {
        "mode": [MODE],
        "listen_host": listen.host,
        "listen_port": listen.port,
        "certs": [] if certificate is None else [f"*={certificate}"],
        # Nothing is opened upstream before relay has chosen where to, not even to look at a certificate.
        "connection_strategy": "lazy",
        "upstream_cert": False,
        # mitmproxy turns clients with public addresses away by default; a relay is there for them.
        "block_global": False,
        # Silence on a connection; a model may think for a long time before it says the next word.
        "tcp_timeout": max(1, round(settings.limits.idle)),
        "validate_inbound_headers": True,
        # relay names the upstream in Host by itself, and what it answers by itself keeps the client's.
        "keep_host_header": True,
        # The page that helps to install mitmproxy's certificate: nobody needs it here, whatever Host they name.
        "onboarding": False,
        "http3": False,
    }


def given_in(arguments: Sequence[str]) -> dict[str, str]:
    """The mitmproxy options a command line sets, name -> text: any by --set, and those flags that relay has a say in.

    Everything else is mitmproxy's to read. Like mitmproxy's own parser this ends the process if a flag lacks its value.
    """
    parser = argparse.ArgumentParser(
        prog="run.sh", usage="./run.sh [command] [arguments of mitmproxy]", add_help=False, allow_abbrev=False
    )
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--mode", "-m")
    parser.add_argument("--listen-host")
    parser.add_argument("--listen-port", "-p")
    parser.add_argument("--web-host")
    parser.add_argument("--web-port")
    known = vars(parser.parse_known_args(list(arguments))[0])
    given = {name: value for name, _, value in (each.partition("=") for each in known.pop("settings"))}
    return given | {name: value for name, value in known.items() if value is not None}


def one_process(arguments: Sequence[str]) -> str:
    """What a command line asks for that one process alone can do, as it is written there; "" for nothing."""
    parser = argparse.ArgumentParser(prog="run.sh", add_help=False, allow_abbrev=False)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    for name, flags in ONE_PROCESS.items():
        if flags:
            parser.add_argument(*flags, dest=name, action="store_true" if name == "server" else "store")
    known = vars(parser.parse_known_args(list(arguments))[0])
    given = {each.partition("=")[0] for each in known.pop("settings")}
    for name, flags in ONE_PROCESS.items():
        if known.get(name):
            return flags[-1]
        if name in given:
            return f"--set {name}"
    return ""


def as_arguments(options: Mapping[str, object], given: Iterable[str] = ()) -> list[str]:
    """The options as arguments of mitmdump, but for those named in `given`, which the user gives in another way.

    They are left out, not overridden: mitmproxy refuses the same --set twice, and lets a flag beat any --set.
    """
    arguments: list[str] = []
    left_out = set(given)
    for name, value in options.items():
        if name not in left_out:
            for item in value if isinstance(value, list) else [value]:
                text = str(item).lower() if isinstance(item, bool) else str(item)
                arguments += [_FLAGS[name], text] if name in _FLAGS else ["--set", f"{name}={text}"]
    return arguments
