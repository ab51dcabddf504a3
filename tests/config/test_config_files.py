"""Files that are no relay.yaml at all, or mean harm: they are refused soon, and in plain words."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from addons.config.settings import ConfigError, load_settings
from tests.support.config_text import JUNK, mistakes, models


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "relay.yaml"


# Files that are not there, or no files


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(file, {})
    assert str(caught.value).startswith(
        f"{file}: there is no such file; create it (it may be empty), or name another with RELAY"
    )


def test_a_folder_is_no_file(file: Path) -> None:
    file.mkdir()
    with pytest.raises(ConfigError, match="this file cannot be read: "):
        load_settings(file, {})


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        pytest.param(b"a: 1\n\xff", "expected UTF-8, which line 2 is not", id="Latin-1"),
        pytest.param("chat: {}".encode("utf-16"), "expected UTF-8, which line 1 is not", id="UTF-16"),
        pytest.param(b"#" * (1 << 20) + b"#", "expected a file of at most 1 MiB", id="too long"),
    ],
)
def test_bytes_that_are_no_settings(file: Path, content: bytes, shown: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=shown):
        load_settings(file, {})


BOMB = "\n".join(["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(BOMB, id="aliases of aliases"),
        pytest.param(
            "a: &a '" + "x" * 900_000 + "'\n" + "".join(f"b{n}: *a\n" for n in range(9000)), id="a long text repeated"
        ),
        pytest.param("a: &a [*a]", id="an alias of itself"),
        pytest.param("a: " + "[" * 100_000, id="many brackets"),
        pytest.param("- " * 100_000, id="many dashes"),
        pytest.param("- a\n" * 100_000, id="many items"),
        pytest.param("a: '" + "${" * 400_000 + "'", id="many references"),
        pytest.param("a: '" + "${X:-" * 200_000 + "'", id="many defaults left open"),
        pytest.param("a: '" + "sk-@://" * 100_000 + "'", id="many secrets"),
        pytest.param("limits: {body: " + "9" * 500_000 + "}", id="many digits"),
        pytest.param("listen: {host: '" + "a." * 300_000 + "'}", id="many labels"),
    ],
)
def test_no_file_keeps_relay_from_answering(file: Path, text: str) -> None:
    start = time.monotonic()
    assert mistakes(file, text)
    assert time.monotonic() - start < 10


@given(st.text() | st.text("{}[]:-,&*!|>'\"%@`#\n \t$~?ax1"))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_read_or_refused(file: Path, text: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_settings(file, {})
    except ConfigError as error:
        assert str(error).startswith(str(file))


@given(
    st.sampled_from([(path, key) for path, model in models() for key in model.model_fields]),
    JUNK,
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_of_any_key_is_read_or_refused_in_our_own_words(
    file: Path, where: tuple[str, str], value: Any
) -> None:
    path, key = where
    tree: Any = {key: value}
    for section in reversed([part for part in path.split(".") if part]):
        tree = {section: [tree] if section in ("upstreams", "routes") else tree}
    file.write_text(yaml.safe_dump(tree, allow_unicode=False), encoding="utf-8")
    try:
        load_settings(file, {})
    except ConfigError as error:
        assert "another kind of value" not in str(error)
