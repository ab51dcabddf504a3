"""What a scrape of /metrics says, taken apart."""

import shutil
import subprocess
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

type Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(series: Series, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    return sum(value for (each, said), value in series.items() if each == name and labels.items() <= dict(said).items())


def fallen(before: Series, after: Series) -> list[str]:
    """The counters that have gone back, or are gone."""
    rising = ("_total", "_count", "_sum", "_bucket")
    return [
        f"{name}{dict(labels)}: {value} -> {after.get((name, labels))}"
        for (name, labels), value in before.items()
        if name.endswith(rising) and after.get((name, labels), -1.0) < value - 1e-9
    ]


def check_with_promtool(text: bytes) -> None:
    """Have Prometheus' own tool judge it; skips where that is not installed."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not here: apt install prometheus")
    judged = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=20, check=False)
    assert judged.returncode == 0 and not judged.stdout + judged.stderr, (judged.stdout + judged.stderr).decode()
