"""relay.yaml: what is read, what the environment has to do with it, and the object that comes of it."""

import copy
import json
import pickle
import re
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from addons.config.settings import Settings, Upstream, load_settings, settings_path, settings_schema
from addons.core.balances import KINDS, LEDGER
from addons.core.rates import RATE_NAMES
from tests.support.config_text import models, read, read_everything

SHIPPED = Path(__file__).parent.parent.parent / "relay.yaml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "relay.yaml"


# The file that is shipped


def test_the_shipped_file_holds_the_defaults() -> None:
    assert load_settings(SHIPPED, {}).model_dump(exclude={"store"}) == Settings().model_dump(exclude={"store"})
    assert load_settings(SHIPPED, {}).store.path == SHIPPED.parent.absolute() / ".relay"


@pytest.mark.parametrize(
    ("path", "key"),
    [pytest.param(path, key, id=f"{path}.{key}") for path, model in models() for key in model.model_fields],
)
def test_the_shipped_file_shows_every_key(path: str, key: str) -> None:
    section = path.split(".")[0]
    text = SHIPPED.read_text(encoding="utf-8")
    if section:
        found = re.search(rf"^{section}:.*(?:\n(?:[ #].*)?)*", text, re.MULTILINE)
        assert found
        text = found[0]
    assert re.search(rf"^[ #-]*\b{key}:", text, re.MULTILINE)


def test_the_shipped_file_works_with_its_comments_taken_away(file: Path) -> None:
    """What stands in a comment must be right as well."""
    text = SHIPPED.read_text(encoding="utf-8").replace("  tls: null", "").replace("routes: []", "routes:")
    text = (
        text.replace("  list: []", "  list:").replace("prices: {}", "prices:").replace("keys: [] ", "keys: [sk-real]")
    )
    text = re.sub(r"^  # (  |- |tls:|my-model:)", r"  \1", text, flags=re.MULTILINE)
    (file.parent / "fullchain.pem").write_text("certificate")
    (file.parent / "privkey.pem").write_text("key")
    text = text.replace("upstream: openai", "upstream: deepseek")
    settings = read(file, text.replace("name: openai", "name: deepseek"), ALICE_KEY="rk-alice-0123456789abcdef")
    [alice] = settings.keys.list
    assert alice.budget is not None and (alice.budget.amount, alice.budget.per) == (Decimal(20), "month")
    assert (alice.rate.requests, alice.expires) == (60, date(2027, 1, 31))
    assert settings.prices["my-model"].rates().keys() == set(RATE_NAMES)
    assert settings.listen.tls is not None
    assert settings.listen.tls.cert == file.parent / "fullchain.pem"
    assert settings.routes[0].path == "/deepseek"


# What is read


@pytest.mark.parametrize(
    "text", ["", "\n", "# only this\n", "---\n", "{}", "null", "\ufeff", "chat:\nlimits:\nroutes:\nupstreams:\n"]
)
def test_an_empty_file_means_the_defaults(file: Path, text: str) -> None:
    assert read(file, text).model_dump(exclude={"store"}) == Settings().model_dump(exclude={"store"})


def test_no_file_at_all_means_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, {})
    assert settings.source is None
    assert settings.store.path == tmp_path / ".relay"


def test_the_defaults_are_those_of_the_design() -> None:
    settings = Settings()
    assert (settings.listen.host, settings.listen.port, settings.listen.tls) == ("127.0.0.1", 8080, None)
    only: dict[str, object] = {
        "name": "openai",
        "url": "https://api.openai.com",
        "model": None,
        "proxy": None,
        "balance": "auto",
    }
    only |= {"models": {}, "granted": None, "ca": None, "keys": (), "price": 1, "warm": 0}
    only |= {"fallback": (), "retries": 2, "idempotent": False}
    assert [upstream.model_dump() for upstream in settings.upstreams] == [only]
    assert (settings.keys.open, settings.keys.unbounded, settings.keys.list) == (None, "hold", ())
    assert settings.chat.paths == ("/chat", "/pro/chat/completions")
    assert (settings.chat.session_ttl, settings.chat.max_body, settings.chat.timeout) == (1800, 65536, 300)
    assert (settings.chat.max_session_id, settings.chat.max_content, settings.chat.max_api_key) == (64, 1000, 256)
    assert (settings.chat.context.max_turns, settings.chat.context.max_tokens) == (50, 3000)
    assert (settings.balance.paths, settings.balance.window_days, settings.balance.timeout) == (
        ("/pro/balance",),
        90,
        10,
    )
    limits = settings.limits
    assert (limits.body, limits.header_size) == (512 * 1024**2, 65536)
    assert (limits.json, limits.held) == (32 * 1024**2, 256 * 1024**2)
    assert (limits.connect, limits.headers, limits.keepalive, limits.idle) == (10, 20, 75, 3600)
    assert (limits.attempts, limits.attempt_time, limits.queue) == (8, 60, 0)
    assert (settings.inspect.redact, settings.inspect.keep_flows, settings.inspect.max_body) == (True, 1000, 1024**2)


@pytest.fixture
def everything(file: Path) -> Settings:
    return read_everything(file)


def test_everything_can_be_set(everything: Settings, file: Path) -> None:
    assert everything.source == file
    listen = everything.listen
    assert listen.tls is not None
    assert (listen.host, listen.tls.cert, listen.tls.plain) == ("::1", file.parent / "a.pem", "refuse")
    assert listen.tls.key == file.parent / "keys" / "b.pem"
    one, two = everything.upstreams
    assert (one.scheme, one.host, one.port, one.prefix, one.authority) == ("https", "x.com", 443, "/proxy", "x.com")
    assert (one.via, one.proxy_auth, one.balance, one.model) == (("127.0.0.1", 7890), None, None, "gpt-4o")
    assert (two.scheme, two.host, two.port, two.prefix, two.authority) == ("http", "::1", 8081, "", "[::1]:8081")
    assert (two.via, two.model, two.balance) == (None, None, "auto")
    assert everything.chat.model == "123"
    assert everything.chat.system == "Be brief: no `no`, costs $5 and ${NOT_A_NAME}.\n你好\n"
    assert json.loads(json.dumps(everything.chat.params)) == {
        **{"temperature": 0.2, "stop": ["a", "b"], "stream_options": {"include_usage": True}, "n": 1.0},
        **{"when": "2024-01-01", "is": "no"},
    }
    assert (everything.chat.session_ttl, everything.chat.timeout, everything.balance.timeout) == (5400, 90, 0.5)
    assert (everything.limits.body, everything.store.path) == (1536 * 1024, file.parent / "var/sessions")


def test_a_relative_file_has_absolute_paths_in_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("store: {path: ../there}")
    monkeypatch.chdir(file.parent)
    assert load_settings(Path("relay.yaml"), {}).store.path == file.parent.parent / "there"


def test_aliases_work(file: Path) -> None:
    settings = read(file, "chat: {timeout: &long 7m}\nlimits: {connect: *long}")
    assert settings.limits.connect == settings.chat.timeout == 420


def test_plain_words_are_those_of_yaml_1_2(file: Path) -> None:
    text = "chat: {params: {a: 010, b: 0x10, c: 0o10, d: 12:30:00, e: off, f: 1e3, g: ~, h: True, i: 1_0}}"
    assert read(file, text).chat.params == dict(
        a=10, b=16, c=8, d="12:30:00", e="off", f=1000.0, g=None, h=True, i="1_0"
    )


# The environment


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("port: ${PORT}", 9000),
        ('port: "${PORT}"', 9000),
        ("port: ${NONE:-8081}", 8081),
        ("port: ${EMPTY:-8082}", 8082),
        ("port: ${PORT:-1}", 9000),
    ],
)
def test_a_number_may_come_from_the_environment(file: Path, text: str, port: int) -> None:
    assert read(file, f"listen:\n  {text}\n", PORT="9000", EMPTY="").listen.port == port


def test_any_kind_may_come_from_the_environment(file: Path) -> None:
    text = """
    upstreams:
      - {name: "${N}", url: "https://${H}/${H}", model: "${M:-}", proxy: "${M:-null}", balance: "${B:-auto}"}
    chat:
      params: {temperature: "${F}", user: "u-${S}"}
      system: ${Y}
      paths: ["/${N}"]
      timeout: ${T}
      max_body: ${S}
    inspect: {redact: "${R}"}
    """
    settings = read(file, text, N="a", H="h.com", T="1m", S="2k", F="0.5", R="false", Y="a: b\n- 'c\" ${N} 123")
    assert settings.upstreams == (Upstream(name="a", url="https://h.com/h.com"),)
    assert (settings.chat.paths, settings.chat.timeout, settings.chat.max_body) == (("/a",), 60, 2048)
    assert settings.chat.params == {"temperature": 0.5, "user": "u-2k"}
    assert settings.chat.system == "a: b\n- 'c\" ${N} 123"
    assert settings.inspect.redact is False


def test_text_stays_text(file: Path) -> None:
    assert read(file, "chat: {model: '${MODEL}'}", MODEL="123").chat.model == "123"
    assert type(read(file, "chat: {model: '${MODEL}'}", MODEL="123").chat.model) is str


@given(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_secret_can_break_the_file(file: Path, secret: str) -> None:
    assert read(file, "chat: {model: 'a-${SECRET}'}", SECRET=secret).chat.model == f"a-{secret}"


@pytest.mark.parametrize(
    ("written", "read_as"),
    [("$${A}", "${A}"), ("$$${A}", "$${A}"), ("$A", "$A"), ("$5 {A}", "$5 {A}"), ("$${", "${"), ("${A}$${A}", "x${A}")],
)
def test_a_doubled_dollar_is_a_dollar(file: Path, written: str, read_as: str) -> None:
    assert read(file, f"chat: {{model: '{written}'}}", A="x").chat.model == read_as


def test_the_environment_names_the_proxy(file: Path) -> None:
    text = """
    upstreams:
      - {name: a, url: https://a.com, proxy: env}
      - {name: b, url: http://b.com, proxy: env}
      - {name: c, url: https://c.com, proxy: env}
      - {name: d, url: https://d.com}
    """
    environ = {"HTTPS_PROXY": "http://u:p@p:1", "http_proxy": "q:2", "NO_PROXY": "c.com"}
    a, b, c, d = read(file, text, **environ).upstreams
    assert [each.via for each in (a, b, c, d)] == [("p", 1), ("q", 2), None, None]
    assert (a.proxy_auth, b.proxy_auth) == ("u:p", None)
    assert read(file, text).upstreams[0].via is None
    assert read(file, text) != read(file, text, **environ)


# The object


@pytest.mark.parametrize("section", ["listen", "chat", "limits", "store"])
def test_settings_stay_as_they_are(section: str) -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        setattr(settings, section, None)
    with pytest.raises(ValidationError):
        setattr(getattr(settings, section), next(iter(type(getattr(settings, section)).model_fields)), None)


def test_params_stay_as_they_are(everything: Settings) -> None:
    params: Any = everything.chat.params
    changes: list[Callable[[], object]] = [
        lambda: params.update(x=1),
        params.clear,
        lambda: params.setdefault("x", 1),
        lambda: params.pop("n"),
        lambda: params.__setitem__("n", 2),
        lambda: params.__delitem__("n"),
        lambda: params.__ior__({"n": 2}),
        lambda: params["stream_options"].update(x=1),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="settings cannot be changed"):
            change()
    assert params["stop"] == ("a", "b")
    assert {**params}["n"] == 1.0
    assert copy.deepcopy(params) == pickle.loads(pickle.dumps(params)) == params


def test_settings_are_equal_by_what_they_ask_for(file: Path, tmp_path: Path) -> None:
    text = "chat: {model: x}"
    other = tmp_path / "other.yaml"
    assert read(file, text) == read(other, text) == read(file, "chat: {model: '${M}'}", M="x")
    assert len({read(file, text), read(other, text)}) == 1
    assert read(file, text) != read(file, "chat: {model: y}")
    assert Settings() != "settings"


@pytest.mark.parametrize(
    ("option", "environ", "expected"),
    [
        pytest.param("", {}, Path("/root/of/relay/relay.yaml"), id="beside run.sh"),
        pytest.param("", {"RELAY_CONFIG": "/etc/relay.yaml"}, Path("/etc/relay.yaml"), id="by the environment"),
        pytest.param(
            "/a.yaml", {"RELAY_CONFIG": "/etc/relay.yaml"}, Path("/a.yaml"), id="by the option, which goes first"
        ),
        pytest.param("", {"RELAY_CONFIG": ""}, Path("/root/of/relay/relay.yaml"), id="by an empty name, which is none"),
        pytest.param("x.yaml", {}, Path.cwd() / "x.yaml", id="relative to the current folder"),
    ],
)
def test_the_file_in_force(option: str, environ: Mapping[str, str], expected: Path) -> None:
    assert settings_path(option, environ, Path("/root/of/relay")) == expected


def test_the_schema_knows_every_section() -> None:
    described = settings_schema()
    assert set(described["properties"]) == set(Settings.model_fields)
    assert described["additionalProperties"] is False
    json.dumps(described)


def test_the_schema_offers_the_ways_to_ask_for_a_balance(file: Path) -> None:
    offered = settings_schema()["$defs"]["Upstream"]["properties"]["balance"]["anyOf"]
    assert offered == [{"type": "string", "enum": ["auto", *KINDS, LEDGER]}, {"type": "null"}]
    for kind in (*offered[0]["enum"], None):
        upstream = {"name": "a", "url": "https://a.test", "balance": kind}
        assert read(file, json.dumps({"upstreams": [upstream]})).upstreams[0].balance == kind


def test_the_schema_for_editors_is_the_one_in_force() -> None:
    """`python -m addons.config.settings --schema > relay.schema.json` writes it."""
    beside = SHIPPED.with_name("relay.schema.json")
    assert json.loads(beside.read_text(encoding="utf-8")) == settings_schema()
    assert SHIPPED.read_text(encoding="utf-8").startswith(f"# yaml-language-server: $schema={beside.name}\n")
