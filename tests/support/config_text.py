"""Settings from text, for the tests of relay.yaml."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from pydantic import BaseModel

from addons.config.fields import inner_types
from addons.config.settings import ConfigError, Settings, load_settings

OK = "name: a, url: https://a.com"
"""The least that an upstream needs, for braces."""

JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["/x", "http://a", "5m", "64k", "env"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "url", "path", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def read(file: Path, text: str, **environ: str) -> Settings:
    file.write_text(text, encoding="utf-8")
    return load_settings(file, environ)


def mistakes(file: Path, text: str, **environ: str) -> list[str]:
    """The mistakes of a file, each as it is shown."""
    with pytest.raises(ConfigError) as caught:
        read(file, text, **environ)
    return [str(problem) for problem in caught.value.problems]


def models(model: type[BaseModel] = Settings, path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every model below Settings, with the path of its section."""
    yield path, model
    for key, field in model.model_fields.items():
        for inner in inner_types(field.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from models(inner, f"{path}.{key}".strip("."))


EVERYTHING = """
listen: {host: "::1", port: 8443, tls: {cert: a.pem, key: keys/b.pem, plain: refuse}}
workers: auto
upstreams:
  - {name: one, url: "https://x.com/proxy/v1/", model: gpt-4o, proxy: "http://127.0.0.1:7890", balance: null}
  - name: two_2
    url: http://[::1]:8081
routes:
  - {path: /two, upstream: two_2}
  - {path: /two/more, upstream: one}
chat:
  paths: [/talk]
  model: "123"
  system: |
    Be brief: no `no`, costs $5 and $${NOT_A_NAME}.
    你好
  params: {temperature: 0.2, stop: [a, b], stream_options: {include_usage: true}, n: 1e0, when: 2024-01-01, is: no}
  session_ttl: 1h30m
  timeout: 90
  context: {max_turns: 0}
balance: {paths: [], window_days: 1, timeout: 500ms}
store: {path: var/sessions, max_sessions: 5}
limits: {body: 1.5m, idle: 2d}
inspect: {redact: false, keep_flows: 0, max_body: 0}
replay: {ignore: [user, metadata.run]}
page: {enabled: false}
engine: {fast: false}
"""


def read_everything(file: Path) -> Settings:
    """Settings in which every key has another value than its default, or nearly so."""
    (file.parent / "keys").mkdir()
    (file.parent / "a.pem").write_text("certificate")
    (file.parent / "keys" / "b.pem").write_text("key")
    return read(file, EVERYTHING)
