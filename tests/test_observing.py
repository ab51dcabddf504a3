"""docs/observing.md says what there is, and its rules are Prometheus'."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from addons.core.metrics import ALL, SEMANTIC_CONVENTIONS, Numbers
from addons.telemetry.exposition import exposition

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "observing.md").read_text(encoding="utf-8")


def names() -> dict[str, str]:
    """Each metric as Prometheus calls it."""
    return {metric.name: f"{metric.name}_total" if metric.kind == "counter" else metric.name for metric in ALL}


def test_every_metric_stands_in_the_table_and_no_other() -> None:
    table = PAGE.partition("### What there is")[2].partition("### What to watch")[0]
    rows = [row.split(" | ")[0] for row in table.splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(names().values())
    assert f"version {SEMANTIC_CONVENTIONS}" in table


def test_the_page_names_no_metric_that_there_is_not() -> None:
    known = set(names().values())
    endings = ("_bucket", "_count", "_sum")
    for name in re.findall(r"\b(?:relay|gen_ai)_[a-z_]+[a-z]\b", PAGE):
        plain = next((name.removesuffix(end) for end in endings if name.endswith(end)), name)
        labels = {label for metric in ALL for label in metric.labels}
        assert plain in known | labels or name in ("gen_ai_server", "gen_ai_client", "relay_ms", "relay_chat"), name


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    [rules] = [each for each in re.findall(r"```yml\n(.*?)```", PAGE, re.DOTALL) if each.startswith("groups:")]
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here: apt install prometheus")
    file = tmp_path / "rules.yaml"
    file.write_text(rules, encoding="utf-8")
    judged = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_help_is_told_and_numbers_stay_exact() -> None:
    numbers = Numbers()
    most = 9_007_199_254_740_991
    numbers.count("relay_cost_nanodollars", ("m", "one"), most)
    text = exposition(numbers, "")[0].decode()
    assert "# HELP relay_cost_nanodollars_total " in text
    [value] = re.findall(r"^relay_cost_nanodollars_total\{.*\} (\S+)$", text, re.MULTILINE)
    assert int(float(value)) == most
