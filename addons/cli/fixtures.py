"""The commands record and replay: a file that stands for an upstream."""

import os
import socket
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from addons import addresses
from addons.addresses import Refusal
from addons.cli import children
from addons.cli.faults import faults_of, told_faults
from addons.cli.introduction import introduction, place, say
from addons.cli.launch import QUIET, ROOT, become, check_start, checked, mitmproxy, prepare, relay_options
from addons.config.mitmproxy_options import as_arguments, given_in
from addons.config.settings import Settings, load_settings, settings_path

if TYPE_CHECKING:
    from addons.replay.flow_file import FlowFile


def record(own: Namespace, rest: list[str]) -> int:
    """relay in mitmdump, saving what passes to a file that `replay` can answer from."""
    from addons.replay import flow_file

    path = _path(own)
    if {"-w", "--save-stream-file"}.intersection(rest) or "save_stream_file" in given_in(rest):
        raise Refusal(f"{path} is where it is saved, so -w can't be given")
    if path.is_dir():
        raise Refusal(f"{path} is a folder: name a file to record into")
    if path.exists() and not (own.append or own.overwrite):
        raise Refusal(f"{path} is there already: add --append to go on with it, or --overwrite to begin it anew")
    if own.append and path.exists() and flow_file.is_har(path):
        raise Refusal(f"{path} is a HAR, to which nothing can be added: record into another file")
    _claim_file(path)
    named = given_in(rest).get("relay_config", "")
    if not load_settings(settings_path(named, os.environ, ROOT), os.environ).inspect.redact:
        raise Refusal("the recording would hold keys: set inspect.redact to true in relay.yaml")
    file = _stream_file(path, append=own.append)
    become(prepare("mitmdump", rest, {**QUIET, "save_stream_file": file}), [("records into", path.name)])


def replay(own: Namespace, rest: list[str]) -> int:
    """relay before a recording, until it is told to end; with --list only say what is in it."""
    from addons.replay import flow_file, server

    path = _path(own)
    if own.list:
        held = flow_file.read(path, load_settings(settings_path("", os.environ, ROOT), os.environ))
        print("\n".join([*flow_file.table(held.records), *(f"left out: {each}" for each in flow_file.reasons(held))]))
        return 0
    given = checked(rest)
    if "relay_config" in given:
        raise Refusal("replay writes a relay.yaml of its own, so relay_config can't be given: use RELAY_CONFIG")
    settings = load_settings(settings_path("", os.environ, ROOT), os.environ)
    library = server.Library(path, settings)
    wanted = faults_of(own)
    if own.or_forward and flow_file.is_har(path):
        raise Refusal(f"{path} is a HAR, to which nothing can be added: --or-forward needs a file of ./run.sh record")
    with children.family(ROOT, "replay") as family:
        forward = _forwarding(family, path, settings) if own.or_forward else None
        with server.Server(library, fast=own.fast, forward=forward, faults=wanted).running() as url:
            options = _written(family.folder / "relay.yaml", server.front(settings, url, family.folder))
            in_force = options | given
            check_start(in_force, "mitmdump")
            family.relay([*mitmproxy("mitmdump"), *as_arguments(options, given), *rest], addresses.listening(in_force))
            tls = settings.listen.tls is not None
            say([introduction(settings, in_force)[0], ("answers from", _contents(path, library.recording))])
            say([("left out", each) for each in flow_file.reasons(library.recording, flow_file.OWN)])
            if forward is not None:
                say([("else asks", place(settings.upstreams[0]) + ", and records that")])
            say([("try", f"OPENAI_BASE_URL={addresses.origin(in_force, tls=tls)}/v1 OPENAI_API_KEY=any your-app")])
            say([*told_faults(own), ("", "any key works; Ctrl-C ends it")])
            family.wait()
    return 0


def _forwarding(family: children.Family, path: Path, settings: Settings) -> tuple[str, int]:
    """Start the relay that asks the real upstreams and adds to the file; where it listens."""
    from addons.replay import server

    _claim_file(path)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    text = server.behind(settings, port, family.folder)
    options = _written(family.folder / "forwarding.yaml", text)
    options["save_stream_file"] = _stream_file(path, append=True)
    family.relay([*mitmproxy("mitmdump"), *as_arguments(options)], ("127.0.0.1", port), "forwarding relay")
    return "127.0.0.1", port


def _written(path: Path, text: str) -> dict[str, object]:
    """Write a relay.yaml; the options of a mitmdump under it."""
    path.write_text(text, encoding="utf-8")
    settings = load_settings(path, os.environ)
    # Whoever starts a replay may read its first lines and then no more: it must never wait for them.
    quiet = {**QUIET, "flow_detail": 0}
    return relay_options(settings, path, quiet)


def _path(own: Namespace) -> Path:
    return Path(own.file).expanduser().absolute()


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
