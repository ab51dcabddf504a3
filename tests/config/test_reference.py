"""docs/configuration.md and relay.schema.json say what the settings say, and what is written by hand stays."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from addons.config import reference
from addons.config.settings import Settings, settings_schema
from tests.support.config_text import models

FIELDS = [
    pytest.param(field, id=f"{path}.{key}".strip("."))
    for path, model in models()
    for key, field in model.model_fields.items()
]


def test_the_page_is_current() -> None:
    """`python -m addons.config.reference` writes it."""
    text = reference.PAGE.read_text(encoding="utf-8")
    assert reference.page(text) == text, "run: python -m addons.config.reference"


def test_the_schema_is_current() -> None:
    assert reference.SCHEMA.read_text(encoding="utf-8") == reference.schema(), "run: python -m addons.config.reference"


@pytest.mark.parametrize("field", FIELDS)
def test_each_key_is_described_in_sentences(field: FieldInfo) -> None:
    said = field.description or ""
    assert re.match(r"[A-Z`]|relay's ", said) and said.endswith("."), said
    assert "|" not in said


def _described(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(said := part.get("description"), str):
            yield said
        for each in part.values():
            yield from _described(each)
    elif isinstance(part, list):
        for each in part:
            yield from _described(each)


def test_editors_are_shown_plain_text() -> None:
    said = list(_described(settings_schema()))
    assert len(said) > len(FIELDS)
    assert [each for each in said if "](" in each or "\n" in each] == []
    assert any("Models by other names (docs/networks.md)" in each for each in said)


def test_what_is_written_by_hand_stays_and_tables_are_made_anew() -> None:
    text = reference.PAGE.read_text(encoding="utf-8")
    stale = re.sub(r"^\| `(?:port|connect|max_turns)` .*\n", "", text.replace("`8080`", "`80`"), flags=re.MULTILINE)
    assert stale != text
    assert reference.page(stale.replace("Durations:", "Times:")) == text.replace("Durations:", "Times:")


def test_a_section_without_a_place_gets_one_behind_the_section_before_it() -> None:
    text = reference.PAGE.read_text(encoding="utf-8")
    start, end = text.index("### store\n"), text.index("### limits\n")
    found = reference.page(text[:start] + text[end:])
    assert re.findall(r"^### (\w+)$", found, re.MULTILINE) == list(Settings.model_fields)
    assert "| `max_sessions` | `100000` |" in found and "Where sessions, the ledger" in found
    assert found.partition("### limits\n")[2] == text.partition("### limits\n")[2]


def test_a_place_of_a_section_that_there_is_not_is_told() -> None:
    with pytest.raises(ValueError, match="no section gone"):
        reference.page("<!-- settings: gone -->\n<!-- end -->\n")


def test_a_key_without_a_description_is_told() -> None:
    class Bare(BaseModel):
        key: int = 1

    with pytest.raises(ValueError, match="key needs a description"):
        reference.table(Bare.model_fields)


def test_defaults_are_told_as_relay_yaml_has_them() -> None:
    found = {
        f"{name}.{key}": reference.written_default(field)
        for name, keys in reference.sections()
        for key, field in keys.items()
    }
    assert found["limits.body"] == "`512m`" and found["chat.timeout"] == "`5m`"
    assert found["balance.paths"] == "`[/pro/balance]`" and found["upstreams.models"] == "`{}`"
    assert found["listen.tls"] == "`null`" and found["page.enabled"] == "`true`"
    assert found["upstreams.url"] == "required"
    json.dumps(found)
