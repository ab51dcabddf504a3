"""./run.sh export: what is written where, and what is said of what can't be."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from addons.cli.__main__ import main
from tests.support.agent_flows import flows, hash_of
from tests.support.agent_runs import CI_SEED, agent_runs
from tests.support.recordings import made, saved

CALLS = list(agent_runs(CI_SEED, 30))


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    config = tmp_path / "relay.yaml"
    config.write_text(f"store: {{path: {tmp_path}/store}}\n")
    monkeypatch.setenv("RELAY_CONFIG", str(config))
    yield
    assert not (tmp_path / "store").exists(), "an export makes no store"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(tmp_path / "agent.flow", *flows(CALLS))


def test_jsonl_goes_to_standard_output(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(file), "--to", "jsonl"]) == 0
    told = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [each["relay.cause"]["reason"] for each in told] == [call.truth.reason for call in CALLS]


def test_a_thread_alone(file: Path, tmp_path: Path) -> None:
    out, thread = tmp_path / "a.html", hash_of(CALLS[0].truth.thread)
    assert main(["export", str(file), "--to", "html", "--out", str(out), "--thread", thread]) == 0
    text = out.read_text(encoding="utf-8")
    assert f"<title>thread {thread} · relay</title>" in text
    assert text.count("<article") == sum(call.truth.thread == CALLS[0].truth.thread for call in CALLS)


def test_the_same_file_gives_the_same_page(file: Path, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"")
    for name in ("one", "two"):
        assert main(["export", str(file), "--to", "html", "--out", str(tmp_path / name), "--overwrite"]) == 0
    one, two = ((tmp_path / name).read_text(encoding="utf-8") for name in ("one", "two"))
    assert len(one) == len(two)


def test_spans_are_one_document(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(file), "--to", "otlp"]) == 0
    [resource] = json.loads(capfd.readouterr().out)["resourceSpans"]
    spans = resource["scopeSpans"][0]["spans"]
    assert {each["traceId"] for each in spans if each["name"].startswith("thread ")} == {
        each["traceId"] for each in spans
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["{tmp}/none.flow", "--to", "html"], "{tmp}/none.flow: No such file or directory."),
        (["{tmp}", "--to", "html"], "{tmp} can't be read"),
        (["{tmp}/text", "--to", "html"], "{tmp}/text is no flow file and no HAR"),
        (["{tmp}/empty.flow", "--to", "html"], "{tmp}/empty.flow holds nothing to export."),
        (["{file}", "--to", "html", "--thread", "12345678"], "{file} holds nothing of thread 12345678 to export."),
        (["{file}", "--to", "html", "--out", "{tmp}/text"], "{tmp}/text is there already: add --overwrite"),
        (["{file}", "--to", "html", "--out", "{tmp}", "--overwrite"], "{tmp} is a folder"),
        (["{file}", "--to", "html", "--out", "{file}", "--overwrite"], "{file} is the file that is read"),
        (["{file}", "--to", "html", "--out", "{tmp}/no/a.html"], "{tmp}/no/a.html can't be written: No such file"),
        (["{file}", "--to", "pdf"], "argument --to: invalid choice: 'pdf' (choose from "),
        (["{file}"], "the following arguments are required: --to"),
        (["{file}", "--to", "html", "-p", "9000"], "export knows no -p"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    file: Path, tmp_path: Path, given: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("no flow file")
    saved(tmp_path / "empty.flow")
    assert main(["export", *(each.format(tmp=tmp_path, file=file) for each in given)]) == 1
    told = capfd.readouterr()
    assert told.err.startswith(f"relay: {said.format(tmp=tmp_path, file=file)}") and told.err.count("\n") == 1
    assert told.out == ""
    assert (tmp_path / "text").read_text() == "no flow file"


def test_a_file_that_breaks_off_gives_what_is_whole(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.flow"
    cut.write_bytes(file.read_bytes()[:-100])
    assert main(["export", str(cut), "--to", "jsonl"]) == 0
    told = capfd.readouterr()
    assert len(told.out.splitlines()) == len(CALLS) - 1
    assert told.err.startswith("left out: the rest of the file is broken")


def test_a_har_can_be_exported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    entry = {
        "startedDateTime": "2026-01-01T00:00:00.000Z",
        "request": {
            "method": "GET",
            "url": "https://api.openai.com/v1/models",
            "httpVersion": "HTTP/1.1",
            "headers": [],
            "cookies": [],
            "queryString": [],
        },
        "response": {
            "status": 200,
            "statusText": "OK",
            "httpVersion": "HTTP/1.1",
            "headers": [],
            "cookies": [],
            "content": {"size": 2, "mimeType": "application/json", "text": "{}"},
            "redirectURL": "",
        },
        "timings": {"send": 0, "wait": 1, "receive": 1},
    }
    har = tmp_path / "a.har"
    har.write_text(json.dumps({"log": {"entries": [entry]}}))
    assert main(["export", str(har), "--to", "jsonl"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["path"], told["response"]["body"]) == ("/v1/models", {})


def test_the_hash_of_a_key_is_the_stores(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    each = made()
    each.request.headers["Authorization"] = "Bearer sk-marked-0123456789abcdefghij"
    file = saved(tmp_path / "a.flow", each)
    store = tmp_path / "store"
    store.mkdir()
    (store / "secret").write_bytes(b"s" * 32)
    for _ in range(2):
        assert main(["export", str(file), "--to", "jsonl"]) == 0
    one, two = capfd.readouterr().out.splitlines()
    assert one == two and "sk-***" in one and "sk-marked" not in one
    (store / "secret").unlink()
    store.rmdir()
