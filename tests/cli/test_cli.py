"""What becomes of relay.yaml and of a command line, up to mitmproxy's start."""

import asyncio
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mitmproxy.net.server_spec import parse as parse_server
from mitmproxy.options import Options
from mitmproxy.proxy import mode_specs
from mitmproxy.tools.dump import DumpMaster

from addons import addresses
from addons.cli import __main__ as cli
from addons.cli import launch
from addons.cli.arguments import read
from addons.config import mitmproxy_options
from addons.config.settings import Settings, Tls, describe_settings, load_settings
from addons.store import certificate
from addons.workers import parent
from addons.workers.processes import Orders
from tests.support.certificates import self_signed

ROOT = Path(__file__).resolve().parent.parent.parent


class Became(Exception):
    """The process would be another one now."""


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The command that start or web ends in."""
    command: list[str] = []

    def execve(path: str, arguments: list[str], environ: dict[str, str]) -> NoReturn:
        assert "PYTHONPATH" not in environ
        print(environ.get(mitmproxy_options.SAYS, ""))
        command.extend(arguments)
        raise Became

    monkeypatch.setattr(os, "execve", execve)
    yield command


@pytest.fixture
def free() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int) -> Path:
    path = tmp_path / "relay.yaml"
    path.write_text(f"listen: {{port: {free}}}\n")
    monkeypatch.setenv("RELAY_CONFIG", str(path))
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    return path


def settings(text: str, file: Path) -> Settings:
    file.write_text(text)
    return load_settings(file, {})


# -- options


async def _options_of(arguments: list[str]) -> Options:
    opts = Options()
    DumpMaster(opts, with_termlog=False, with_dumper=False)
    opts.set(*arguments)
    return opts


def test_every_option_is_one_that_mitmproxy_knows_with_a_value_it_takes(file: Path) -> None:
    chosen = mitmproxy_options.options_for(settings("limits: {idle: 90s}", file), None)
    opts = asyncio.run(_options_of([]))
    opts.update(**chosen)
    assert opts.tcp_timeout == 90
    assert opts.connection_strategy == "lazy"
    assert not opts.block_global
    assert opts.certs == []
    assert parse_server(mode_specs.ReverseMode.parse(opts.mode[0]).data, "http")[1][0].endswith(".invalid")


def test_as_arguments_they_are_what_the_command_line_takes() -> None:
    chosen = {"mode": ["reverse:http://x"], "listen_port": 1, "http3": False, "certs": ["*=a b"], "none": [], "s": "x"}
    assert mitmproxy_options.as_arguments(chosen, given=["s"]) == [
        *("--mode", "reverse:http://x", "--listen-port", "1"),
        *("--set", "http3=false", "--set", "certs=*=a b"),
    ]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], {}),
        (["-p", "1", "-w", "out", "~d x"], {"listen_port": "1"}),
        (["--listen-port=2", "--listen-host", "::"], {"listen_port": "2", "listen_host": "::"}),
        (["--set", "listen_port=3", "--set=a=b=c", "--set", "flag"], {"listen_port": "3", "a": "b=c", "flag": ""}),
        (["--set", "listen_port=3", "-p4"], {"listen_port": "4"}),
        (["-m", "regular"], {"mode": "regular"}),
    ],
)
def test_what_a_command_line_gives(arguments: list[str], given: dict[str, str]) -> None:
    assert mitmproxy_options.given_in(arguments) == given


@pytest.mark.parametrize(
    ("arguments", "alone"),
    [
        ([], ""),
        (["-p", "1", "-q", "--set", "flow_detail=2", "~d x"], ""),
        (["-w", "out.flow"], "-w"),
        (["-wout.flow"], "-w"),
        (["--save-stream-file=out.flow"], "-w"),
        (["--set", "save_stream_file=out.flow"], "--set save_stream_file"),
        (["--set", "hardump=out.har"], "--set hardump"),
        (["-r", "in.flow"], "-r"),
        (["-C", "in.flow"], "-C"),
        (["--server-replay", "in.flow"], "-S"),
        (["-n"], "-n"),
    ],
)
def test_what_one_process_alone_can_do(arguments: list[str], alone: str) -> None:
    assert mitmproxy_options.one_process(arguments) == alone


def test_a_certificate_and_its_key_are_joined_for_the_owner_alone(tmp_path: Path) -> None:
    pair = self_signed(tmp_path)
    tls = Tls(cert=pair.cert, key=pair.key)
    for _ in range(2):  # a second start finds the first one's file
        joined = certificate.certificate(tls, tmp_path / "store")
    assert joined.read_text() == pair.key.read_text() + pair.cert.read_text()
    assert stat.S_IMODE(joined.stat().st_mode) == 0o600
    assert [path.name for path in joined.parent.iterdir()] == ["listen.pem"]


def test_a_certificate_with_its_key_in_it_stays_where_it_is(tmp_path: Path) -> None:
    pair = self_signed(tmp_path)
    path = tmp_path / "both.pem"
    path.write_text(pair.key.read_text() + pair.cert.read_text())
    assert certificate.certificate(Tls(cert=path, key=path), tmp_path / "store") == path
    assert not (tmp_path / "store").exists()


def _encrypted(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x"))
    path = folder / "encrypted.pem"
    path.write_bytes(key.private_bytes(*form))
    return path


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("localhost.cert.pem", "other.test.key.pem", r"listen\.tls: .*other.* is not the key of .*localhost"),
        ("text", "localhost.key.pem", r"listen\.tls\.cert: .*text is no certificate in PEM"),
        ("empty", "localhost.key.pem", r"listen\.tls\.cert: .*empty is no certificate in PEM"),
        ("localhost.key.pem", "localhost.key.pem", r"listen\.tls\.cert: .*key\.pem is no certificate in PEM"),
        ("localhost.cert.pem", "localhost.cert.pem", r"listen\.tls\.key: .*cert\.pem is no private key in PEM"),
        ("localhost.cert.pem", "text", r"listen\.tls\.key: .*text is no private key in PEM"),
        ("localhost.cert.pem", "encrypted.pem", r"listen\.tls\.key: .*encrypted\.pem is encrypted.*openssl pkey"),
        ("localhost.cert.pem", "folder", r"listen\.tls\.key: .*can't be read|expected a file that can be read"),
        (
            "localhost.cert.pem",
            "missing",
            r"listen\.tls\.key \(line 1, .*expected a file that can be read",
        ),
    ],
)
@pytest.mark.parametrize("command", ["start", "web", "check"])
def test_certificate_and_key_that_do_not_do_are_told(
    file: Path, free: int, capsys: pytest.CaptureFixture[str], cert: str, key: str, words: str, command: str
) -> None:
    folder = file.parent
    self_signed(folder)
    self_signed(folder, "other.test")
    (folder / "text").write_text("no certificate")
    (folder / "empty").touch()
    (folder / "folder").mkdir()
    _encrypted(folder)
    file.write_text(f"listen: {{port: {free}, tls: {{cert: {cert}, key: {key}}}}}")
    assert cli.main([command]) in (1, 2)
    out, err = capsys.readouterr()
    assert re.search(words, err) and not out, err


@pytest.mark.parametrize("expired", [False, True])
def test_a_certificate_whose_time_is_over_is_told(
    became: list[str], file: Path, free: int, capsys: pytest.CaptureFixture[str], expired: bool
) -> None:
    self_signed(file.parent, expired=expired)
    file.write_text(f"listen: {{port: {free}, tls: {{cert: localhost.cert.pem, key: localhost.key.pem}}}}")
    with pytest.raises(Became):
        cli.main(["start"])
    assert ("has expired" in capsys.readouterr().out) == expired


def test_a_certificate_from_tomorrow_is_told(tmp_path: Path) -> None:
    pair = self_signed(tmp_path)
    tls = Tls(cert=pair.cert, key=pair.key)
    assert "is not valid before" in certificate.out_of_date(tls, time.time() - 10 * 86_400)
    assert certificate.out_of_date(tls, time.time()) == ""


# -- start and web


def test_start_becomes_an_optimised_mitmdump_with_relay_in_it(
    became: list[str], file: Path, free: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Became):
        cli.main(["start", "-w", "out.flow"])
    assert became[:3] == [sys.executable, "-P", "-O"]
    assert became[3].endswith("/mitmdump")
    assert became[4:8] == ["-s", str(ROOT / "addons/relay.py"), "--mode", mitmproxy_options.MODE]
    assert f"relay_config={file}" in became
    assert "termlog_verbosity=warn" in became
    assert became[-2:] == ["-w", "out.flow"]
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.split(maxsplit=3)[3] == f"http://127.0.0.1:{free}"
    assert second.split(maxsplit=2)[2] == "https://api.openai.com"
    assert f"curl --noproxy '*' http://127.0.0.1:{free}/v1/models" in third


def test_what_the_user_gives_replaces_relays_own(became: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Became):
        cli.main(["start", "--set", "termlog_verbosity=debug", "--listen-host", "0.0.0.0", "--set", "listen_port=0"])
    assert "termlog_verbosity=warn" not in became
    assert became.count("--listen-host") == 1
    assert "--listen-port" not in became
    assert "http://0.0.0.0:0" in capsys.readouterr().out


def test_relay_config_given_as_an_option_wins_over_the_environment(
    became: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.yaml").write_text("upstreams: [{name: o, url: 'https://other.test'}]\n")
    with pytest.raises(Became):
        cli.main(["start", "-p", "0", "--set", f"relay_config={tmp_path}/other.yaml"])
    assert "https://other.test" in capsys.readouterr().out
    assert sum("relay_config" in argument for argument in became) == 1


def test_web_listens_on_loopback_and_opens_no_browser(became: list[str], free: int) -> None:
    with pytest.raises(Became):
        cli.main(["web", "--web-port", "0"])
    assert became[3].endswith("/mitmweb")
    assert became[became.index("--web-host") + 1] == "127.0.0.1"
    assert "web_open_browser=false" in became


@pytest.mark.parametrize("command", ["start", "web", "demo"])
def test_without_a_folder_for_mitmproxy_nothing_starts(
    became: list[str],
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    (file.parent / "taken").write_text("")
    monkeypatch.setattr(addresses, "claim", lambda *_: None)
    assert cli.main([command, "--set", f"confdir={file.parent}/taken/below"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("relay: mitmproxy can't write to its folder") and "--set confdir=FOLDER" in said
    assert not became


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("start", "workers"),
        ("web", "mitmweb"),
        ("demo", "web"),
        ("check", "FILE"),
        ("record", "--append"),
        ("replay", "--or-forward"),
    ],
)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_a_help_of_its_own(
    became: list[str], capsys: pytest.CaptureFixture[str], command: str, named: str, flag: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, flag])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and not became
    assert f"usage: ./run.sh {command}" in said and named in said


@pytest.mark.parametrize(
    ("given", "own", "rest"),
    [
        (["record", "a", "-p", "9"], {"file": "a", "append": False}, ["-p", "9"]),
        (["record", "--append", "a", "~u chat"], {"file": "a", "append": True}, ["~u chat"]),
        (["replay", "a", "-p", "9", "--fast"], {"file": "a", "fast": True, "list": False}, ["-p", "9"]),
        (
            ["record", "a", "-s", "x.py", "--app", "-w=b"],
            {"file": "a", "append": False},
            ["-s", "x.py", "--app", "-w=b"],
        ),
        (["demo", "web", "-p", "9"], {"program": "web"}, ["-p", "9"]),
        (["demo", "-p", "9", "web"], {"program": None}, ["-p", "9", "web"]),
        (["demo", "~u web"], {"program": None}, ["~u web"]),
        (["start", "-p", "9", "~u web"], {}, ["-p", "9", "~u web"]),
        (["check", "--set", "relay_config=x"], {"file": None}, ["--set", "relay_config=x"]),
    ],
)
def test_what_is_mitmproxy_s_is_left_to_it(given: list[str], own: dict[str, object], rest: list[str]) -> None:
    line = read(given)
    assert line.command == given[0] and line.rest == rest
    assert own.items() <= vars(line.own).items()


@pytest.mark.parametrize("arguments", [["--version"], ["--options"], ["--commands"]])
def test_questions_go_to_mitmproxy_at_once(became: list[str], file: Path, arguments: list[str]) -> None:
    file.write_text("nonsense: 1")
    with pytest.raises(Became):
        cli.main(["start", *arguments])
    assert became[4:] == arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["start", "--mode", "regular"], "--mode can't be given"),
        (["start", "--set", "mode=regular"], "--mode can't be given"),
        (["start", "-p", "many"], "expected a port"),
        (["start", "-p", "65536"], "expected a port"),
        (["start", "--listen-host", "192.0.2.1"], "is no address of this machine"),
        (["start", "--listen-host", "relay.invalid"], "change listen.host"),
        (["web", "--web-host", "192.0.2.1", "--set", "web_password=x", "-p", "0", "--listen-host", ""], "--web-host"),
        (["record", "/nowhere/x.flow"], "can't be written"),
        (["record", "/tmp"], "is a folder"),
        (["replay", "/nowhere/x.flow"], "Record it first"),
        (["replay", "/tmp"], "can't be read"),
        (["web", "--web-host", "0.0.0.0"], "--set web_password="),
        (["web", "--set", "web_host="], "--set web_password="),
        (["web", "--set", "web_host=0.0.0.0", "--set", "web_password="], "--set web_password="),
        (["web", "-p", "9", "--web-port", "9"], "both"),
        (["demo", "--set", "relay_config=x"], "relay_config can't be given"),
        (["nothing"], "invalid choice: 'nothing'"),
        (["demo", "--set", "relay_config=x", "web"], "relay_config can't be given"),
        ([], "invalid choice: ''"),
    ],
)
def test_refusals_say_what_to_do(
    became: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.setattr(addresses, "claim", addresses.claim if "--listen-host" in arguments else lambda *_: None)
    assert cli.main(arguments) == 1
    assert words in capsys.readouterr().err
    assert not became


def test_mitmweb_is_open_to_others_with_a_password(became: list[str]) -> None:
    with pytest.raises(Became):
        cli.main(["web", "--web-host", "0.0.0.0", "--web-port", "0", "--set", "web_password=x"])


@pytest.mark.parametrize(
    ("command", "flag", "hint"), [("start", "-p", "listen.port"), ("web", "--web-port", "--web-port")]
)
def test_a_taken_port_is_refused(capsys: pytest.CaptureFixture[str], command: str, flag: str, hint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main([command, flag, str(port)]) == 1
    said = capsys.readouterr().err
    assert f"127.0.0.1:{port} is in use already" in said and hint in said and "another relay" not in said


def test_several_workers_are_led_and_one_is_not(
    became: list[str], file: Path, free: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    led: list[tuple[int, Sequence[str], int]] = []

    def run(
        count: int,
        orders: Orders,
        reread: object,
        listeners: Sequence[socket.socket],
        store: object,
        announce: Callable[[], None],
        book: object,
    ) -> int:
        assert not capsys.readouterr().out, "nobody serves yet"
        announce()
        led.append((count, orders.command, listeners[0].getsockname()[1]))
        return 7

    monkeypatch.setattr(parent, "run", run)
    file.write_text(f"listen: {{port: {free}}}\nworkers: 3\n")
    assert cli.main(["start"]) == 7
    [(count, command, port)] = led
    assert (count, port) == (3, free)
    assert command[3].endswith("/mitmdump") and "server=false" in command
    assert capsys.readouterr().out.splitlines()[2].split() == ["workers", "3"]

    for arguments in (["start", "-w", "out.flow"], ["web", "--web-port", "0"]):
        with pytest.raises(Became):
            cli.main(arguments)
        assert "server=false" not in became
    assert "workers            1 and not 3: -w is for one process\n" in capsys.readouterr().out
    assert len(led) == 1


def test_check_says_what_is_seldom_meant_with_a_proxy(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    upstreams = "upstreams: [{{name: a, url: '{}', proxy: '{}://127.0.0.1:1080'}}]"
    for scheme, url, said in (
        ("socks5", "https://api.test", True),
        ("socks5h", "https://api.test", False),
        ("socks5", "https://10.1.2.3", False),
        ("http", "https://api.test", False),
    ):
        file.write_text(upstreams.format(url, scheme))
        assert cli.main(["check"]) == 0
        printed = capsys.readouterr().out
        assert f"by the proxy {scheme}://127.0.0.1" in printed
        assert ("is usually what is meant" in printed) is said


def test_several_workers_need_a_system_that_passes_sockets_on(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("workers: 2")
    monkeypatch.setattr(sys, "platform", "win32")
    assert cli.main(["start"]) == 1
    assert "set workers to 1" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["start", "web", "workers"])
def test_a_store_that_cannot_be_had_is_told_before_anything_else(
    became: list[str], file: Path, free: int, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (file.parent / "file").touch()
    count = 2 if command == "workers" else 1
    file.write_text(f"listen: {{port: {free}}}\nworkers: {count}\nstore: {{path: file/below}}\n")
    arguments = ["web", "--web-port", "0"] if command == "web" else ["start"]
    assert cli.main(arguments) == 1
    out, err = capsys.readouterr()
    assert not out and not became
    assert err.startswith("relay: store.path: ") and err.count("\n") == 1


# -- check


def test_check_prints_yaml_that_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str], file: Path) -> None:
    file.write_text(
        "upstreams: [{name: a, url: 'https://a.test/x'}, {name: b, url: 'http://b.test:81', proxy: "
        "'http://127.0.0.1:7890'}]\nroutes: [{path: /b, upstream: b}]\n"
    )
    assert cli.main(["check"]) == 0
    said = capsys.readouterr().out
    assert "# forwards to        https://a.test/x" in said
    assert "# /b/...             goes to http://b.test:81 by the proxy http://127.0.0.1:7890" in said
    again = tmp_path / "again.yaml"
    again.write_text(said)
    assert describe_settings(load_settings(again, {})) == describe_settings(load_settings(file, {}))


@pytest.mark.parametrize(("written", "shown"), [("1", None), ("3", "3"), ("auto", "6")])
def test_check_counts_the_workers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path, written: str, shown: str | None
) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 6)
    file.write_text(f"workers: {written}")
    assert cli.main(["check"]) == 0
    said = capsys.readouterr().out
    assert f"\nworkers: {written}\n" in said
    assert (f"# workers            {shown}\n" in said) if shown else ("# workers" not in said)


def test_check_takes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("lisen: {}")
    assert cli.main(["check", str(tmp_path / "bad.yaml")]) == 2
    assert "lisen" in capsys.readouterr().err


# -- addresses


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("http", "127.0.0.1", 8080), "http://127.0.0.1:8080"),
        (("http", "::1", 80), "http://[::1]"),
        (("https", "a.test", 443), "https://a.test"),
        (("https", "a.test", 8443), "https://a.test:8443"),
    ],
)
def test_urls(arguments: tuple[str, str, int], text: str) -> None:
    assert addresses.url(*arguments) == text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert addresses.is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "a.test"])
def test_not_loopback(host: str) -> None:
    assert not addresses.is_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", ""])
def test_listening_on_every_address_of_a_host_at_one_port(host: str) -> None:
    try:
        sockets = addresses.listen({"listen_host": host, "listen_port": "0"})
    except addresses.Refusal:
        pytest.skip("this machine has no such address")
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        for sock in sockets:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
            with pytest.raises(addresses.Refusal, match="is in use already"):
                addresses.listen({"listen_host": sock.getsockname()[0], "listen_port": sock.getsockname()[1]})
    finally:
        for sock in sockets:
            sock.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_the_limit_of_open_files_is_raised() -> None:
    lower = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (256, r.getrlimit(r.RLIMIT_NOFILE)[1]))"
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{lower}; from addons.cli.launch import allow_many_files; allow_many_files(); "
            "print(*r.getrlimit(r.RLIMIT_NOFILE))",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    soft, hard = map(int, said.stdout.split())
    assert soft > 256
    assert soft == launch.MOST_FILES or soft == hard
