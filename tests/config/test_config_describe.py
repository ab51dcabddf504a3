"""What relay tells of its settings: it reads back, and nothing secret is in it, nor in a mistake."""

import json
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from addons.config.settings import ConfigError, Settings, describe_settings
from tests.support.config_text import JUNK, OK, read, read_everything


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "relay.yaml"


@pytest.fixture
def everything(file: Path) -> Settings:
    return read_everything(file)


# Secrets

SECRETS = {
    "from the environment, of the wrong kind": ("limits: {body: '${S}'}", {"S": "hunter2"}),
    "from the environment, in a part": ("chat: {paths: ['x${S}']}", {"S": "hunter2"}),
    "from the environment, as a name": ("upstreams: [{name: '${S} ', url: http://a}]", {"S": "hunter2"}),
    "from the environment, as a name given twice": (
        "upstreams: [{name: '${S}', url: http://a}, {name: '${S}', url: http://a}]",
        {"S": "hunter2"},
    ),
    "from the environment, as a name sought": (
        "upstreams: [{name: '${S}', url: http://a}]\nroutes: [{path: /x, upstream: hunter}]",
        {"S": "hunter2"},
    ),
    "from the environment, as a path": ("chat: {paths: [/v1, '/${S}', '/${S}']}", {"S": "hunter2"}),
    "from the environment, as a file": ("listen: {tls: {cert: '${S}', key: '${S}'}}", {"S": "hunter2"}),
    "from the environment, as a proxy": (f"upstreams: [{{{OK}, proxy: '${{S}}'}}]", {"S": "socks5://hunter2@h"}),
    "from the environment, under an unknown key": ("chat: {x: '${S}'}", {"S": "hunter2"}),
    "a key": ("chat: {timeout: sk-hunter2}", {}),
    "a key in a default": ("chat: {timeout: '${S:-sk-hunter2}'}", {}),
    "a key as a key": ("chat: {sk-hunter2: 1}", {}),
    "a key in a longer text": (f"chat: {{timeout: '{'x' * 50} sk-hunter2'}}", {}),
    "under a key that says so": ("upstreams: [{name: a, url: http://a, api_key: hunter2}]", {}),
    "the user of an url": ("upstreams: [{name: a, url: 'https://hunter2@a.com'}]", {}),
    "a password with an at sign": ("upstreams: [{name: a, url: 'https://u:hunter2@x@a.com'}]", {}),
    "a password with a slash": (f"upstreams: [{{{OK}, proxy: 'http://u:hunter2/x@h:1'}}]", {}),
    "a password without a scheme": (f"upstreams: [{{{OK}, proxy: 'u:hunter2@h:1'}}]", {}),
}


@pytest.mark.parametrize(("text", "environ"), SECRETS.values(), ids=SECRETS.keys())
def test_no_mistake_shows_a_secret(file: Path, text: str, environ: Mapping[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(file, text, **environ)
    shown = "".join(traceback.format_exception(caught.value)).replace(text, "")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)
    assert "hunter2" not in shown


def test_the_description_shows_no_secret(file: Path) -> None:
    text = """
    upstreams:
      - {name: a, url: "https://${H}", proxy: "http://user:hunter2@h:1"}
      - {name: b, url: "https://b.com", proxy: "http://u:hunter2@x@h:1"}
    chat:
      system: call sk-hunter2hunter2
      params: {user: "${S}", deep: [{key: sk-hunter2hunter2}], n: "${N}"}
      model: m${S}
    limits: {idle: "${T}"}
    """
    settings = read(file, text, H="hunter2.com", S="hunter2", T="1h30m", N="7")
    shown = describe_settings(settings)
    assert "hunter2" not in shown
    assert "hunter2" not in repr(settings)  # for the log's sake: it shows less than all
    tree = yaml.safe_load(shown)
    assert tree["upstreams"][0]["url"] == "https://${H}"
    assert tree["upstreams"][0]["proxy"] == "http://***:***@h:1"
    assert tree["chat"]["params"] == {"user": "${S}", "deep": [{"key": "sk-***"}], "n": 7}
    assert tree["limits"]["idle"] == "1h30m"
    assert settings.upstreams[1].proxy_auth == "u:hunter2@x"


# The description reads back


def test_the_description_of_everything_reads_back(everything: Settings, file: Path) -> None:
    shown = describe_settings(everything)
    assert "session_ttl: 1h30m" in shown
    assert "max_body: 64k" in shown
    again = read(file, shown)
    assert again == everything
    assert hash(again) == hash(everything)
    assert describe_settings(again) == shown


def test_the_description_with_an_environment_reads_back(file: Path) -> None:
    environ = {"N": "a", "T": "7", "M": "m: 1"}
    settings = read(
        file, 'upstreams: [{name: "${N}", url: http://h}]\nchat: {timeout: "${T}", system: "$${x} ${M}"}', **environ
    )
    shown = describe_settings(settings)
    assert "timeout: 7s" in shown
    assert "system: $${x} ${M}" in shown
    assert read(file, shown, **environ) == settings


@given(
    system=st.text(st.characters(codec="utf-8"))
    | st.sampled_from(["1e3", "0o7", "no", "12:30", "~", "${A}", "$${", "=", "<<", "0\x85", " a\n\n b \n"]),
    params=st.dictionaries(st.text("abc.~ é"), JUNK, max_size=3),
    ttl=st.floats(1e-3, 1e6),
    body=st.integers(1, 2**40),
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_description_reads_back(file: Path, system: str, params: dict[str, Any], ttl: float, body: int) -> None:
    text = json.dumps({"chat": {"system": system, "params": params, "session_ttl": ttl, "max_body": body}})
    try:
        settings = read(file, re.sub(r"\$(?=\{)", "$$$", text))
    except ConfigError:
        return
    shown = describe_settings(settings)
    if "***" not in shown:
        assert read(file, shown) == settings
