"""What relay needs from mitmproxy: relay.yaml's Settings in, mitmproxy's options out.

Used twice, so that both ways of starting agree: `./run.sh` passes the options on the command line (addons/cli/__main__.py), and
bare `mitmdump -s addons/relay.py` sets the same ones as soon as it runs.
"""

import argparse
import os
import ssl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from addons.config.settings import Settings, Tls
from addons.store import shelf as store

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


def options_for(settings: Settings) -> dict[str, object]:
    """The mitmproxy options, name -> value, under which relay works as relay.yaml says.

    A certificate whose key is in another file is joined with it in the store's folder, since mitmproxy reads one file.
    Without listen.tls no file is touched. Raises Unfit where these files do not do.
    """
    listen = settings.listen
    return {
        "mode": [MODE],
        "listen_host": listen.host,
        "listen_port": listen.port,
        "certs": [] if listen.tls is None else [f"*={certificate(listen.tls, settings.store.path)}"],
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


class Unfit(Exception):
    """What relay.yaml names can't be used; the text names the key and what to do."""


def certificate(tls: Tls, folder: Path) -> Path:
    """The PEM file with key and chain; two files are joined into one in `folder`, readable by the owner only.

    Raises Unfit.
    """
    check_pair(tls)
    if tls.cert == tls.key:
        return tls.cert
    try:
        pem = tls.key.read_bytes().rstrip() + b"\n" + tls.cert.read_bytes()
    except OSError as error:
        raise Unfit(f"listen.tls: {error.filename} can't be read ({error.strerror})") from error
    try:
        store.make_folder(folder)
        joined = folder / "listen.pem"
        fresh = folder / f"listen.pem.{os.getpid()}"
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        fresh.replace(joined)
    except store.StoreError as error:
        raise Unfit(str(error)) from error
    except OSError as error:
        raise Unfit(str(store.unfit(folder, error))) from error
    return joined


def check_pair(tls: Tls) -> None:
    """Raise Unfit where certificate and key are none, or not of each other: mitmproxy would say so in its own way."""
    for key, path in (("cert", tls.cert), ("key", tls.key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise Unfit(f"listen.tls.{key}: {path} can't be read ({error.strerror}): name a file that can") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert, tls.key, password=_no_password)
    except _Encrypted:
        raise Unfit(
            f"listen.tls.key: {tls.key} is encrypted, and relay asks for no password: name a key without one "
            "(openssl pkey -in KEY -out PLAIN makes it)"
        ) from None
    except ssl.SSLError as error:
        raise Unfit(_misfit(tls, error)) from error


class _Encrypted(Exception):
    """A key that needs a password."""


def _no_password() -> str:
    raise _Encrypted


def _misfit(tls: Tls, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH" or error.reason == "KEY_TYPE_MISMATCH":
        return f"listen.tls: {tls.key} is not the key of the certificate {tls.cert}: name the two that belong together"
    if b"CERTIFICATE-----" not in tls.cert.read_bytes():
        return f"listen.tls.cert: {tls.cert} is no certificate in PEM (it begins with -----BEGIN CERTIFICATE-----)"
    if b"PRIVATE KEY-----" not in tls.key.read_bytes():
        return f"listen.tls.key: {tls.key} is no private key in PEM (it begins with -----BEGIN PRIVATE KEY-----)"
    return f"listen.tls: {tls.cert} and {tls.key} can't be used as certificate and key ({error.reason or error})"


def out_of_date(tls: Tls, now: float) -> str:
    """What to say of a certificate whose time, at `now` in seconds since the epoch, is not; "" where all is well.

    It is no mistake in relay.yaml, and relay serves with it: some clients look, others don't.
    """
    from mitmproxy.certs import Cert  # who has no certificate need not wait for it

    try:
        shown = Cert.from_pem(tls.cert.read_bytes())
    except (OSError, ValueError):
        return ""
    if now > shown.notafter.timestamp():
        return (
            f"{tls.cert} has expired ({shown.notafter:%Y-%m-%d}): clients refuse it; renew it, then start relay again"
        )
    if now < shown.notbefore.timestamp():
        return f"{tls.cert} is not valid before {shown.notbefore:%Y-%m-%d}: clients refuse it; is the clock right?"
    return ""


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
