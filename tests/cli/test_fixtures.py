"""The commands record and replay, as far as they refuse or only list: what starts a relay is live/test_replay.py's."""

from pathlib import Path

import pytest

from addons.cli import __main__ as cli
from tests.support.recordings import made, saved


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "it is empty"),
        (b"nonsense", "no flow file and no HAR"),
        (b'{"log": 1}', "no flow file and no HAR"),
        (b"{", "no flow file and no HAR"),
        (b'{"log": {"entries": []}}', "it is empty"),
        (b"3:abc,", "no flow file and no HAR"),
        (b"5:1:1#}", "no flow file and no HAR"),
        (b"999999999999:x", "no flow file and no HAR"),
        (b"cos\nsystem\n(S'id'\ntR.", "no flow file and no HAR"),
    ],
    ids=["missing", "empty", "nonsense", "json", "half", "har without entries", "text", "types", "huge", "pickle"],
)
@pytest.mark.parametrize("more", [[], ["--list"]], ids=["replay", "list"])
def test_bad_files_are_refused(
    content: bytes | None, words: str, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.flow"
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["replay", str(path), *more]) == 1
    said = capsys.readouterr().err
    assert words in said and said.startswith("relay: ") and "Traceback" not in said


def test_the_list_of_a_strangers_file_holds_no_escape_sequences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "x", made("/v1/\x1b[31mred" + "x" * 500))
    assert cli.main(["replay", str(path), "--list"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "…" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["record"], "arguments are required: FILE"),
        (["record", "-p", "1"], "arguments are required: FILE"),
        (["replay", "--fast"], "arguments are required: FILE"),
        (["record", "{there}"], "--append"),
        (["record", "{folder}/none/x"], "can't be written"),
        (["record", "{folder}"], "is a folder"),
        (["record", "{new}", "-w", "x"], "-w can't be given"),
        (["replay", "{there}", "--set", "relay_config=x"], "use RELAY_CONFIG"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_refusals_say_what_to_do(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = saved(tmp_path / "there", made())
    names = {"there": there, "folder": tmp_path, "new": tmp_path / "new"}
    assert cli.main([each.format(**names) for each in arguments]) == 1
    assert words in capsys.readouterr().err


def test_nothing_is_recorded_with_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "relay.yaml").write_text("inspect: {redact: false}")
    monkeypatch.setenv("RELAY_CONFIG", str(tmp_path / "relay.yaml"))
    assert cli.main(["record", str(tmp_path / "x")]) == 1
    assert "inspect.redact" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
