"""run.sh, in copies of its own with Pythons that only pretend: finding one, setting up .venv, what gets through."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS: tuple[str, ...] = ("bash", "cat", "cksum", "chmod", "dirname", "env", "grep", "head", "mkdir", "mktemp", "mv")
TOOLS += ("readlink", "rm", "sed", "sh", "sleep", "tail", "uname")
ELSEWHERE = [*Path("/opt/homebrew/bin").glob("python3.1[34]"), *Path("/usr/local/bin").glob("python3.1[34]")]

# Says what it is asked, makes an environment with itself as the Python, and locks as a real one does.
PRETENDER = f"""#!/bin/sh
echo "$*" >>"$DIARY"
case "$*" in
  *fcntl*) exec {sys.executable} "$@" ;;
  *"-m venv"*)
    for folder; do :; done
    rm -rf "$folder"
    mkdir -p "$folder/bin"
    cat "$0" >"$folder/bin/python"
    chmod +x "$folder/bin/python" ;;
  *"pip install"*)
    sleep "${{PIP_SLEEPS:-0}}"
    [ -z "$PIP_FAILS" ] || {{ echo "ERROR: http://me:secret@mirror.test is out of order"; exit 1; }} ;;
  *addons.cli* | *pytest*) echo "args=$* cwd=$PWD path=$PYTHONPATH home=$PYTHONHOME" ;;
  *"pip config"*) exit 1 ;;
  *version_info* | *python_version*) echo 3.13.5 ;;
esac
"""
OLD = '#!/bin/sh\necho "is Python 3.11.2, too old" >&2\nexit 1\n'
SHIM = '#!/bin/sh\necho "pyenv: python3.13: command not found" >&2\nexit 127\n'


class House:
    """A copy of what run.sh needs, on a machine with nothing but the tools it uses."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a relay"
        self.bin = folder / "bin"
        self.diary = folder / "diary"
        self.diary.touch()
        self.bin.mkdir()
        self.root.mkdir()
        for name in TOOLS:
            found = shutil.which(name)
            assert found, name
            (self.bin / name).symlink_to(found)
        for name in ("run.sh", "pyproject.toml"):
            shutil.copy2(ROOT / name, self.root)
        shutil.copytree(ROOT / "requirements", self.root / "requirements")
        self.environ = {"PATH": str(self.bin), "HOME": str(folder), "DIARY": str(self.diary), "TMPDIR": str(folder)}

    def python(self, text: str, name: str = "python3") -> Path:
        """Put a Python on the path."""
        path = self.bin / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def run(
        self, *arguments: str, script: Path | None = None, cwd: Path | None = None, **environ: str
    ) -> tuple[int, str]:
        """Exit code, and everything said."""
        done = subprocess.run(
            [str(script or self.root / "run.sh"), *arguments],
            cwd=cwd or self.root.parent,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout

    def count(self, words: str) -> int:
        """How often a Python was asked this."""
        return self.diary.read_text().count(words)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


# -- finding a Python


@pytest.mark.skipif(bool(ELSEWHERE), reason=f"there is a Python that run.sh would find: {ELSEWHERE}")
def test_no_python_that_fits_is_one_message_with_what_was_tried_and_what_to_install(house: House) -> None:
    house.python(SHIM, "python3.13")
    house.python(OLD, "python3")
    code, said = house.run()
    assert code == 1
    assert f"{house.bin}/python3.13 pyenv: python3.13: command not found" in said
    assert f"{house.bin}/python3 is Python 3.11.2, too old" in said
    assert "apt install" in said and "brew install" in said and "pyenv install" in said and "uv python install" in said


def test_a_shim_that_fails_and_an_old_python_are_passed_over(house: House) -> None:
    house.python(SHIM, "python3.13")
    house.python(OLD, "python3")
    house.python(PRETENDER, "python")
    assert house.run("check", RELAY_PYTHON="")[0] == 0
    assert ELSEWHERE or house.count("-m venv") == 1


def test_pyenvs_versions_are_found_without_its_shims(house: House) -> None:
    folder = house.root.parent / ".pyenv/versions/3.13.9/bin"
    folder.mkdir(parents=True)
    house.python(PRETENDER).rename(folder / "python3")
    assert house.run("check")[0] == 0
    assert house.count("-m venv") == 1


def test_relay_python_that_is_too_old_is_refused_and_nothing_else_tried(house: House) -> None:
    house.python(PRETENDER, "python3.13")
    code, said = house.run(RELAY_PYTHON=str(house.python(OLD, "old")))
    assert code == 1
    assert "is Python 3.11.2" in said and "RELAY_PYTHON" in said
    assert not house.count("venv")


def test_relay_python_that_is_not_there(house: House) -> None:
    code, said = house.run(RELAY_PYTHON="/nowhere/python3")
    assert code == 1
    assert "/nowhere/python3 is not there" in said


def test_the_probe_takes_the_python_that_runs_this_test(house: House) -> None:
    house.python(
        PRETENDER.replace("*version_info* |", f'*version_info*) exec {sys.executable} "$@" ;;\n '), "python3.14"
    )
    code, said = house.run("check")
    assert code == 0
    assert f"setting up .venv with Python {'.'.join(map(str, sys.version_info[:3]))} " in said


# -- setting up


def test_it_is_set_up_once(house: House) -> None:
    house.python(PRETENDER, "python3.14")
    assert "setting up .venv" in house.run("check")[1]
    code, said = house.run("check")
    assert code == 0 and "setting up" not in said
    assert house.count("-m venv") == house.count("pip install") == 1


def test_a_changed_lock_brings_it_up_to_date(house: House) -> None:
    house.python(PRETENDER, "python3.14")
    house.run("check")
    with (house.root / "requirements/run.txt").open("a") as file:
        file.write("# changed\n")
    assert "up to date" in house.run("check")[1]
    assert house.count("-m venv") == 1 and house.count("pip install") == 2


def test_a_set_up_that_broke_off_is_made_anew(house: House) -> None:
    house.python(PRETENDER, "python3.14")
    house.run("check")
    (house.root / ".venv/.relay-run").unlink()
    house.run("check")
    assert house.count("-m venv") == 2


def test_an_environment_whose_python_is_gone_is_made_anew(house: House) -> None:
    house.python(PRETENDER, "python3.14")
    house.run("check")
    (house.root / ".venv/bin/python").unlink()
    assert house.run("check")[0] == 0
    assert house.count("-m venv") == 2


def test_a_failing_installation_says_why_and_which_mirror_is_in_force_without_its_password(house: House) -> None:
    house.python(PRETENDER, "python3.14")
    code, said = house.run("check", PIP_FAILS="1", PIP_INDEX_URL="https://me:secret@mirror.test/simple")
    assert code == 1
    assert "is out of order" in said and "PIP_INDEX_URL=https://***@mirror.test/simple" in said
    assert "HTTPS_PROXY=" in said and "secret" not in said and "args=" not in said
    assert house.run("check")[0] == 0
    assert house.count("-m venv") == 2


def test_a_failing_update_is_tried_again_as_an_update(house: House) -> None:
    house.python(PRETENDER, "python3.14")
    house.run("check")
    with (house.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert house.run("check", PIP_FAILS="1")[0] == 1
    assert house.run("check")[0] == 0
    assert house.count("-m venv") == 1 and house.count("pip install") == 3


def test_the_tools_are_installed_for_the_tests_only(house: House) -> None:
    house.python(PRETENDER, "python3.14")
    house.run("check")
    assert not house.count("dev.txt")
    assert "-m pytest -k chat" in house.run("test", "-k", "chat")[1]
    assert house.count("dev.txt") == 1
    house.run("check")
    house.run("test")
    assert house.count("pip install") == 2


@pytest.mark.parametrize(
    ("written", "takes"),
    [
        ("store: {kind: redis, url: x}\n", True),
        ("store:\n  kind: 'redis'  # ours\n", True),
        ("store:\n  kind: ${STORE_KIND}\n", True),
        ("store:\n  kind: shelve   # or redis\n", False),
        ("# store: {kind: redis}\n", False),
    ],
)
def test_redis_is_installed_where_relay_yaml_asks_for_it(house: House, written: str, takes: bool) -> None:
    house.python(PRETENDER, "python3.14")
    (house.root / "relay.yaml").write_text(written)
    house.run("check")
    assert house.count("redis.txt") == int(takes)
    house.run("check")
    assert house.count("pip install") == 1
    elsewhere = house.root.parent / "other.yaml"
    elsewhere.write_text("store: {kind: redis}\n")
    house.run("check", RELAY_CONFIG=str(elsewhere))
    assert house.count("redis.txt") == 1 and house.count("-m venv") == 1
    house.run("test")
    house.run("check", RELAY_CONFIG=str(elsewhere))
    assert house.count("pip install") == 3 - int(takes), "the tools have it, too"


def test_two_at_once_set_up_once(house: House) -> None:
    house.python(PRETENDER, "python3.14")
    command = [str(house.root / "run.sh"), "check"]
    environ = house.environ | {"PIP_SLEEPS": "1"}
    starts = [subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [start.communicate(timeout=60)[1] for start in starts]
    assert [start.returncode for start in starts] == [0, 0, 0]
    assert house.count("-m venv") == house.count("pip install") == 1
    assert sum("waiting for it" in each for each in said) == 2


# -- what gets through


def test_arguments_and_the_current_folder_get_through_and_the_users_python_variables_do_not(house: House) -> None:
    house.python(PRETENDER, "python3.14")
    folder = house.root.parent / "else where"
    folder.mkdir()
    code, said = house.run("-w", "a b.flow", "~d x", cwd=folder, PYTHONPATH="/elsewhere", PYTHONHOME="/elsewhere")
    assert code == 0
    assert f"args=-P -m addons.cli start -w a b.flow ~d x cwd={folder} path={house.root} home=\n" in said


def test_through_symlinks_it_finds_its_own_folder(house: House) -> None:
    house.python(PRETENDER, "python3.14")
    folder = house.root.parent / "links"
    folder.mkdir()
    (folder / "absolute").symlink_to(house.root / "run.sh")
    (folder / "relative").symlink_to("absolute")
    code, said = house.run("web", script=folder / "relative", cwd=folder)
    assert code == 0
    assert f"addons.cli web cwd={folder} path={house.root} " in said


def test_sh_will_do(house: House) -> None:
    house.python(PRETENDER, "python3.14")
    done = subprocess.run(["sh", "run.sh", "check"], cwd=house.root, env=house.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_environment_of_ones_own_is_used_as_it_is(house: House) -> None:
    own = house.root.parent / "own/bin"
    own.mkdir(parents=True)
    house.python(PRETENDER).rename(own / "python")
    assert "addons.cli check" in house.run("check", RELAY_VENV=str(own.parent))[1]
    assert not house.count("venv") and not house.count("pip")
    code, said = house.run("check", RELAY_VENV="/nowhere")
    assert code == 1 and "RELAY_VENV" in said


@pytest.mark.parametrize("arguments", [("help",), ("--help",), ("-h",)])
def test_help_needs_no_python(house: House, arguments: tuple[str, ...]) -> None:
    code, said = house.run(*arguments)
    assert code == 0
    assert all(f"./run.sh {word}" in said for word in ("web", "demo", "check", "record", "replay", "test", "bench"))


def test_an_unknown_command_is_named(house: House) -> None:
    code, said = house.run("chekc")
    assert code == 2
    assert "'chekc'" in said and "./run.sh check" in said


def test_without_benchmarks_bench_says_so(house: House) -> None:
    code, said = house.run("bench")
    assert code == 1
    assert "no benchmarks yet" in said


# -- the whole way, with the environment of these tests


def real(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """run.sh itself: exit code, standard output, standard error."""
    done = subprocess.run(
        [str(ROOT / "run.sh"), *arguments],
        env=os.environ | {"RELAY_VENV": sys.prefix} | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_check_says_what_a_good_file_means(tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text("listen: {port: 18099}\nupstreams: [{name: here, url: 'http://127.0.0.1:9/x/v1'}]\n")
    code, said, _ = real("check", RELAY_CONFIG=str(file))
    assert code == 0
    assert str(file) in said and "http://127.0.0.1:18099" in said and "http://127.0.0.1:9/x" in said


@pytest.mark.parametrize("command", ["check", "start", "web", "demo"])
def test_a_bad_file_stops_every_command_and_names_the_key(tmp_path: Path, command: str) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text("listen: {port: many}\n")
    code, _, said = real(command, RELAY_CONFIG=str(file))
    assert code == 2
    assert "listen.port" in said and "many" in said and "Traceback" not in said


def test_a_taken_port_is_named_with_what_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, said = real("-p", str(port))
    assert code == 1
    assert f"127.0.0.1:{port} is in use already" in said and "listen.port" in said and "Traceback" not in said


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="this is no checkout of git")
def test_a_checkout_on_windows_keeps_what_bash_reads() -> None:
    def attributes(*paths: str) -> str:
        command = ["git", "check-attr", "eol", "text", "binary", "--", *paths]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "run.sh: eol: lf" in attributes("run.sh")
    assert "addons/endpoints/static/page.html: eol: lf" in attributes("addons/endpoints/static/page.html")
    said = attributes("docs/page.png")
    assert "binary: set" in said and "text: unset" in said
