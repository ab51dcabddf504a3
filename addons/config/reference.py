"""The tables of configuration.md, and relay.schema.json: written from the settings, so that they say what is so.

    python -m addons.config.reference     writes both anew, after a key was added or changed

What stands between `<!-- settings: NAME -->` and `<!-- end -->` is the table of a section of relay.yaml: its keys,
their defaults, and what stands below each in settings.py. All else on the page is written by hand and stays. A section
that has no place yet gets one behind the section before it.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from addons.config.fields import inner_types
from addons.config.settings import Settings, settings_schema

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "configuration.md"
SCHEMA = ROOT / "relay.schema.json"
REQUIRED = "required"
_END = "<!-- end -->"
_PLACE = re.compile(rf"<!-- settings: (\w+) -->\n.*?{re.escape(_END)}", re.DOTALL)
_HEADING = re.compile(r"^#{1,3} ", re.MULTILINE)


def sections() -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    """The sections of relay.yaml with their keys; what is a section itself stands in the table of the one around it."""
    for name, field in Settings.model_fields.items():
        models = _models(field)
        yield name, dict(_keys(models[0])) if models else {name: field}


def _models(field: FieldInfo) -> list[type[BaseModel]]:
    return [each for each in inner_types(field.annotation) if isinstance(each, type) and issubclass(each, BaseModel)]


def _keys(model: type[BaseModel], where: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key that takes a value of its own. A section that may be null counts itself, too."""
    for key, field in model.model_fields.items():
        models = _models(field)
        if not models or type(None) in inner_types(field.annotation):
            yield where + key, field
        for inner in models:
            yield from _keys(inner, f"{where}{key}.")


def written_default(field: FieldInfo) -> str:
    """A default as it would stand in relay.yaml, on one line."""
    if field.is_required():
        return REQUIRED
    kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    value = TypeAdapter(kind).dump_python(field.get_default(call_default_factory=True), mode="json")
    text = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=sys.maxsize)
    return f"`{text.strip()[1:-1]}`"


def table(keys: dict[str, FieldInfo]) -> str:
    """A section's table. Raises ValueError for a key that nobody has described."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, field in keys.items():
        said = " ".join((field.description or "").split())
        if not said or "|" in said:
            raise ValueError(f"settings.py: {key} needs a description below it, without any |")
        rows.append(f"| `{key}` | {written_default(field)} | {said} |")
    return "\n".join(rows)


def page(text: str) -> str:
    """The page with its tables as they have to be. Raises ValueError for a place of a section that there is not."""
    tables = {name: table(keys) for name, keys in sections()}
    if strange := [name for name in _PLACE.findall(text) if name not in tables]:
        raise ValueError(f"{PAGE.name}: relay.yaml has no section {', '.join(strange)}: take its place away")
    before = ""
    for name in tables:
        if f"<!-- settings: {name} -->" not in text:
            text = _with_place(text, name, before)
        before = name
    return _PLACE.sub(lambda found: f"{_mark(found[1])}\n\n{tables[found[1]]}\n\n{_END}", text)


def _mark(name: str) -> str:
    return f"<!-- settings: {name} -->"


def _with_place(text: str, name: str, before: str) -> str:
    """The page with a place for another section, behind what is said of the one before it."""
    start = text.index(_mark(before)) if before else 0
    heading = _HEADING.search(text, start)
    at = heading.start() if heading is not None else len(text)
    said = " ".join((Settings.model_fields[name].description or "").split())
    return f"{text[:at]}### {name}\n\n{said}\n\n{_mark(name)}\n{_END}\n\n{text[at:]}"


def schema() -> str:
    """relay.schema.json."""
    return json.dumps(settings_schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write both."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
