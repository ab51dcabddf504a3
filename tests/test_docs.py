"""The pages are true: their tables say what the settings are, and their files, links and commands exist.

Tables of relay.yaml, codes, variables and rooms are compared with the code. What stands behind a `$` in a console block
is run by live/test_docs_examples.py where that is `demo`, `curl` or `python`.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from addons import addresses, errors
from addons.cli import __main__ as cli
from addons.cli import launch
from addons.config import mitmproxy_options
from addons.config.fields import inner_types
from addons.config.settings import ChatSettings, Settings, load_settings
from addons.workers import names
from tests.support.live import ROOT, environment
from tests.support.pages import BLOCKS, PAGES, PROSE, README, SHOWN, TEXTS, Block, commands, prose

REQUIRED = "required"


def _section(title: str) -> str:
    """The text below a heading, up to the next one of any level."""
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PROSE, re.MULTILINE | re.DOTALL)
    assert match, f"no page has a heading {title!r}"
    return match[1]


def _rows(title: str, first: str) -> list[list[str]]:
    """The rows of the table below a heading whose first column is called `first`."""
    rows: list[list[str]] = []
    for line in _section(title).splitlines():
        cells = (
            [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split(" | ")]
            if line.startswith("|")
            else []
        )
        if not cells:
            if rows:
                break
        elif rows or cells[0] == first:
            rows.append(cells)
    assert len(rows) > 2, f"no page has a table of {first!r} below {title!r}"
    return rows[2:]


def _at(block: Block) -> str:
    return f"{block.language} in line {block.line}"


def _written_in(language: str) -> list[Any]:
    return [pytest.param(block, id=_at(block)) for block in BLOCKS if block.language == language]


# -- relay.yaml


def _models(field: FieldInfo) -> list[type[BaseModel]]:
    """The sections among the types of a field."""
    return [each for each in inner_types(field.annotation) if isinstance(each, type) and issubclass(each, BaseModel)]


def _leaves(model: type[BaseModel], where: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key that takes a value of its own. What is a section or null counts itself, too."""
    for key, field in model.model_fields.items():
        models = _models(field)
        if not models or type(None) in inner_types(field.annotation):
            yield where + key, field
        for inner in models:
            yield from _leaves(inner, f"{where}{key}.")


def _sections() -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    """The sections with their keys; a key that is a section of its own stands in its table alone."""
    for name, field in Settings.model_fields.items():
        models = _models(field)
        yield name, dict(_leaves(models[0])) if models else {name: field}


@pytest.mark.parametrize(("name", "fields"), [pytest.param(*each, id=each[0]) for each in _sections()])
def test_each_key_of_relay_yaml_is_in_its_table_with_its_default(name: str, fields: Mapping[str, FieldInfo]) -> None:
    documented = {row[0].strip("`"): row[1].strip("`") for row in _rows(name, "key")}
    assert list(documented) == list(fields)
    for key, text in documented.items():
        field = fields[key]
        if field.is_required():
            assert text == REQUIRED, f"{name}.{key}"
            continue
        kind: Any = Annotated[(field.annotation, "as the field has it", *field.metadata)]
        value = TypeAdapter(kind).validate_python(yaml.safe_load(text))
        assert value == field.get_default(call_default_factory=True), f"{name}.{key}"


def test_the_limits_of_a_message_are_the_defaults() -> None:
    chat = ChatSettings()
    limits = {"apiKey": chat.max_api_key, "sessionId": chat.max_session_id, "content": chat.max_content}
    bounded = {row[0].strip("`"): row[2] for row in _rows("Conversations: `/chat`", "field") if row[2]}
    assert bounded == {name: f"{most} characters" for name, most in limits.items()}


@pytest.mark.parametrize("block", _written_in("yaml"))
def test_each_example_of_relay_yaml_can_be_loaded(block: Block, tmp_path: Path) -> None:
    for name in re.findall(r"\S+\.pem", block.text):
        (tmp_path / name).touch()
    path = tmp_path / "relay.yaml"
    path.write_text(block.text, encoding="utf-8")
    assert load_settings(path, {}) != load_settings(None, {})


def test_keys_named_in_the_text_exist() -> None:
    known = {f"{name}.{key}" for name, fields in _sections() for key in fields}
    first = "|".join(Settings.model_fields)
    named = {re.sub(r"\[\]", "", key) for key in re.findall(rf"`((?:{first})(?:\[\])?\.[a-z_.]+)`", PROSE)}
    sections = {"listen.tls", "listen.client_address", "chat.context", "limits.per_address"}
    assert named - known - {"relay.yaml", "keys.json"} - sections == set()


# -- errors


def _errors() -> list[type[errors.RelayError]]:
    return errors.RelayError.__subclasses__()


@pytest.mark.parametrize(
    ("title", "never"),
    [("Conversations: `/chat`", {501}), ("The balance: `/pro/balance`", {404, 409, 413})],
    ids=["chat", "balance"],
)
def test_the_codes_of_the_envelope_are_those_of_the_errors(title: str, never: set[int]) -> None:
    documented = [int(row[0]) for row in _rows(title, "code")]
    assert documented == sorted({200, *(error.envelope_code for error in _errors())} - never)


def test_statuses_and_codes_of_relays_own_errors_exist() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "addons").rglob("*.py"))
    statuses = {error.code: error.status for error in _errors()}
    for status, codes, _ in _rows("Errors of relay's own", "status"):
        for code in re.findall(r"`(\w+)`", codes):
            if code in statuses:
                assert statuses[code] == int(status)
            else:
                assert f'code="{code}"' in source
                assert int(status) in statuses.values()


# -- commands, variables, files, links


def _help() -> str:
    run = subprocess.run([ROOT / "run.sh", "help"], capture_output=True, text=True, env=environment(), check=True)
    return run.stdout


def test_each_command_is_in_the_table_and_none_else() -> None:
    commands = set(re.findall(r"^(\./run\.sh(?: [a-z]+)?)(?= {2})", _help(), re.MULTILINE))
    documented = [row[0].strip("`") for row in _rows("Development", "command")]
    assert {each for each in documented if each.startswith("./run.sh")} == commands


def test_each_command_of_the_page_exists() -> None:
    known = set(re.findall(r"^\./run\.sh ([a-z]+)", _help(), re.MULTILINE))
    assert set(re.findall(r"\./run\.sh ([a-z]+)", README)) <= known


def test_the_environment_variables_of_relay_are_in_the_table_and_none_else() -> None:
    files = [ROOT / "run.sh", *(ROOT / "addons").glob("**/*.py")]
    used = set(re.findall(r"\bRELAY_[A-Z_]+\b", "".join(path.read_text(encoding="utf-8") for path in files)))
    documented = {name for row in _rows("Environment variables", "variable") for name in re.findall(r"`(\w+)`", row[0])}
    ours = {name for name in documented if name.startswith("RELAY_")}
    passed_on = {names.NUMBER, names.CHANNEL, names.LISTENERS, names.METRICS, names.SETTINGS}
    between_processes = passed_on | {mitmproxy_options.SAYS}
    assert ours == used - {"RELAY_SETS"} - between_processes  # a constant, and what nobody sets by hand
    assert documented - ours == {
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "PIP_INDEX_URL",
        "UV_DEFAULT_INDEX",
    }


def test_the_newest_version_of_the_changelog_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = re.findall(r"^## (\d+\.\d+\.\d+)$", TEXTS[ROOT / "CHANGELOG.md"], re.MULTILINE)
    assert versions[0] == project["version"]


def test_the_files_named_in_the_text_exist() -> None:
    named = re.findall(r"`((?:addons|tests|requirements|\.ci)/[\w./*-]*)`", PROSE)
    assert len(named) > 10
    assert [name for name in named if not list(ROOT.glob(name.rstrip("/")))] == []


def _anchors(text: str) -> list[str]:
    """The anchors of a page, by GitHub's rule: lower case, punctuation dropped, blanks to hyphens."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    anchors = _anchors(TEXTS[page])
    assert len(set(anchors)) == len(anchors), "two headings share an anchor"
    for target in re.findall(r"\]\(([^)]+)\)", prose(TEXTS[page])):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in _anchors(TEXTS[path]), target


def test_every_page_can_be_found_from_the_first() -> None:
    first = TEXTS[ROOT / "README.md"]
    assert first.count("\n") <= 200
    assert [str(page.relative_to(ROOT)) for page in PAGES[1:] if f"({page.relative_to(ROOT)})" not in first] == []


@pytest.mark.parametrize("block", [*_written_in("json"), *_written_in("python"), *_written_in("sh")])
def test_each_example_can_be_parsed(block: Block) -> None:
    if block.language == "json":
        json.loads(block.text)
    elif block.language == "python":
        compile(block.text, _at(block), "exec")
    else:
        subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)


def test_json_within_the_text_can_be_parsed() -> None:
    for text in re.findall(r"`(\{\".*?\})`", PROSE):
        json.loads(text)
    for shown in SHOWN:
        if shown.output.startswith("{"):
            json.loads(shown.output)


# -- what is shown is what is printed


@pytest.mark.parametrize("command", ["./run.sh", "./run.sh web"])
def test_what_a_start_says(command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(addresses, "check", lambda options, program: None)  # 8080 may be in use here
    monkeypatch.setattr(launch, "check_store", lambda folder: None)

    def execute(command: list[str], environ: dict[str, str]) -> None:
        print(environ[mitmproxy_options.SAYS])
        sys.exit(0)

    monkeypatch.setattr(launch, "execute", execute)
    with pytest.raises(SystemExit):
        cli.main([command.removeprefix("./run.sh").strip() or "start"])
    shown = next(shown for shown in SHOWN if shown.command == command)
    assert capfd.readouterr().out.rstrip("\n") == shown.output


def test_what_the_demo_proposes_is_shown_with_its_output() -> None:
    [demo] = commands("./run.sh demo")
    proposed = re.findall(r"^try +(.*)$", demo.output, re.MULTILINE)
    assert [shown.command for shown in SHOWN if shown.command in proposed] == proposed
