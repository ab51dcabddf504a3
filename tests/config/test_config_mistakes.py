"""Mistakes in relay.yaml: each is refused, at its place and in plain words."""

import pickle
import re
from pathlib import Path

import pytest

from addons.config.mistakes import address
from addons.config.settings import ConfigError
from tests.support.config_text import OK, mistakes, read


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "relay.yaml"


# What is refused: the text, and each mistake as it is shown

MISTAKES = {
    "a size in words": (
        "limits: {body: lots}",
        "limits.body: 'lots' -- expected a size such as 64k, 512m, 1g or a number of bytes",
    ),
    "a size of nothing": ("limits: {body: 0}", "limits.body: 0 -- expected a size of 1 or more"),
    "a negative size": ("chat: {max_body: -1k}", "chat.max_body: '-1k' -- expected a size such as 64k"),
    "a head too small": ("limits: {header_size: 1}", "limits.header_size: 1 -- expected a size of 1k or more"),
    "a duration in words": (
        "chat: {timeout: soon}",
        "chat.timeout: 'soon' -- expected a duration such as 500ms, 30s, 5m",
    ),
    "a duration of nothing": ("limits: {idle: 0s}", "limits.idle: '0s' -- expected a duration longer than 0"),
    "a negative duration": ("limits: {idle: -5}", "limits.idle: -5 -- expected a duration"),
    "an endless duration": ("limits: {idle: .inf}", "limits.idle: inf -- expected a duration of at most 36500d"),
    "a boolean for a duration": ("limits: {idle: true}", "limits.idle: true -- expected a duration"),
    "a list for a duration": ("limits: {idle: [1]}", "limits.idle: a list -- expected a duration"),
    "a key without a value": ("limits:\n  idle:\n", "limits.idle: nothing -- expected a duration"),
    "a fraction for a number": (
        "chat: {max_content: 1.5}",
        "chat.max_content: 1.5 -- expected a whole number of 1 or more",
    ),
    "a number in quotes": ("listen: {port: '80'}", "listen.port: '80' -- expected a whole number from 1 to 65535"),
    "a port too high": ("listen: {port: 65536}", "listen.port: 65536 -- expected a whole number from 1 to 65535"),
    "a boolean for a number": (
        "balance: {window_days: true}",
        "balance.window_days: true -- expected a whole number from 1 to 99",
    ),
    "too many days": (
        "balance: {window_days: 100}",
        "balance.window_days: 100 -- expected a whole number from 1 to 99",
    ),
    "a word for a flag": ("inspect: {redact: yes}", "inspect.redact: 'yes' -- expected true or false"),
    "a number for a flag": ("inspect: {redact: 1}", "inspect.redact: 1 -- expected true or false"),
    "a number for a text": ("chat: {system: 5}", "chat.system: 5 -- expected text or null"),
    "an empty model": ("chat: {model: ' '}", "chat.model: ' ' -- expected text"),
    "another store": ("store: {kind: mysql}", "store.kind: 'mysql' -- expected shelve or redis"),
    "a Redis that is nowhere": ("store: {kind: redis}", "store.url: expected the address of a Redis such as redis://"),
    "no address of a Redis": (
        "store: {kind: redis, url: 'http://user:MARKx@host'}",
        "store.url: 'http://***@host' -- expected the address of a Redis such as redis://",
    ),
    "a prefix with braces": ("store: {prefix: 'a{b}'}", "store.prefix: 'a{b}' -- expected a prefix of at most 64"),
    "a number for a path": ("store: {path: 5}", "store.path: 5 -- expected the path of a file or folder"),
    "a url for a host": ("listen: {host: 'http://x'}", "listen.host: 'http://x' -- expected an address to listen on"),
    "a port in a host": ("listen: {host: 'x:80'}", "listen.host: 'x:80' -- expected an address to listen on"),
    "no workers": ("workers: 0", "workers: 0 -- expected a whole number from 1 to 64, or auto for one per core"),
    "too many workers": ("workers: 65", "workers: 65 -- expected a whole number from 1 to 64"),
    "a word for workers": ("workers: all", "workers: 'all' -- expected a whole number from 1 to 64, or auto"),
    "a boolean for workers": ("workers: true", "workers: true -- expected a whole number from 1 to 64"),
    "a list for workers": ("workers: [2]", "workers: a list -- expected a whole number from 1 to 64"),
    "a list for a section": ("chat: [1]", "chat: a list -- expected keys and values: paths, model, system"),
    "a word for a section": (
        "limits: none",
        "limits: 'none' -- expected keys and values: body, json, held, header_size",
    ),
    "a section for a list": ("routes: {path: /x}", "routes: keys and values -- expected a list"),
    "a word for a list": ("balance: {paths: /x}", "balance.paths: '/x' -- expected a list: in brackets"),
    "an unknown section": ("chats: {}", "chats: {} -- there is no such key; did you mean chat?"),
    "an unknown key, misspelt": ("chat: {modle: x}", "chat.modle: 'x' -- there is no such key; did you mean model?"),
    "an unknown key, deep down": (
        "chat: {context: {turns: 3}}",
        "chat.context.turns: 3 -- there is no such key; did you mean max_turns?",
    ),
    "a key of another section": (
        "session_ttl: 5m",
        "session_ttl: '5m' -- there is no such key here; did you mean chat.session_ttl?",
    ),
    "a key like no other": (
        "store: {x: 1}",
        "store.x: 1 -- there is no such key; expected one of kind, path, url, prefix",
    ),
    "a merge key": ("chat: {<<: {}}", "chat.'<<': {} -- there is no such key"),
    "an unknown key of an upstream": (
        f"upstreams: [{{{OK}, prox: null}}]",
        "upstreams[0].prox: nothing -- there is no such key; did you mean proxy?",
    ),
    "no upstreams": ("upstreams: []", "upstreams: [] -- expected at least one upstream"),
    "an upstream without url": ("upstreams: [{name: a}]", "upstreams[0].url: nothing -- expected a value"),
    "an upstream without name": ("upstreams: [{url: http://a}]", "upstreams[0].name: nothing -- expected a value"),
    "an upstream with a name of capitals": (
        "upstreams: [{name: A, url: http://a}]",
        "upstreams[0].name: 'A' -- expected a name of a-z, 0-9, - and _",
    ),
    "an upstream that is a word": (
        "upstreams: [openai]",
        "upstreams[0]: 'openai' -- expected keys and values: name, url",
    ),
    "two upstreams of a name": (
        f"upstreams: [{{{OK}}}, {{{OK}}}]",
        "upstreams[1].name: 'a' -- expected a name of its own; upstreams[0].name is the same",
    ),
    "an url that is none": (
        "upstreams: [{name: a, url: a.com}]",
        "upstreams[0].url: 'a.com' -- expected an address such as",
    ),
    "an url with a query": (
        "upstreams: [{name: a, url: 'https://a.com?x'}]",
        "upstreams[0].url: 'https://a.com?***' -- expected an address without ? and #",
    ),
    "an url with a password": (
        "upstreams: [{name: a, url: 'https://u:p@a.com'}]",
        "upstreams[0].url: 'https://***@a.com' -- expected an address without user and password",
    ),
    "an url of an endpoint": (
        "upstreams: [{name: a, url: https://a.com/v1/chat/completions}]",
        "upstreams[0].url: 'https://a.com/v1/chat/completions' -- expected the address before the endpoint",
    ),
    "a proxy that speaks an old SOCKS": (
        f"upstreams: [{{{OK}, proxy: 'socks4://u:p@h:1'}}]",
        "upstreams[0].proxy: 'socks4://***@h:1' -- relay speaks SOCKS5 to proxies; use socks5h://",
    ),
    "a proxy that speaks HTTPS": (
        f"upstreams: [{{{OK}, proxy: 'https://h:1'}}]",
        "upstreams[0].proxy: 'https://h:1' -- relay speaks plain HTTP to proxies",
    ),
    "a proxy that is none": (
        f"upstreams: [{{{OK}, proxy: 7890}}]",
        "upstreams[0].proxy: 7890 -- expected a proxy such as http://127.0.0.1:7890 or socks5h://",
    ),
    "a list of mapped models": (
        f"upstreams: [{{{OK}, models: [gpt-4o]}}]",
        "upstreams[0].models: a list -- expected names of models and what goes up in their place, e.g. {gpt-4o: deep",
    ),
    "a model that becomes nothing": (
        f"upstreams: [{{{OK}, models: {{gpt-4o: null}}}}]",
        "upstreams[0].models: keys and values -- expected names of models and what goes up in their place",
    ),
    "a model that becomes a number": (
        f"upstreams: [{{{OK}, models: {{gpt-4o: 4}}}}]",
        "upstreams[0].models: keys and values -- expected names of models and what goes up in their place",
    ),
    "a model of a name that nobody writes": (
        f"upstreams: [{{{OK}, models: {{' gpt-4o': x}}}}]",
        "upstreams[0].models: keys and values -- expected names of models and what goes up in their place",
    ),
    "a model of a long name": (
        f"upstreams: [{{{OK}, models: {{x: {'y' * 201}}}}}]",
        "upstreams[0].models: keys and values -- expected names of models and what goes up in their place, e.g. "
        "{gpt-4o: deepseek-chat}, of at most 200 characters each",
    ),
    "an amount that is none": (
        f"upstreams: [{{{OK}, granted: much}}]",
        "upstreams[0].granted: 'much' -- expected an amount in dollars",
    ),
    "a negative amount": (f"upstreams: [{{{OK}, granted: -1}}]", "upstreams[0].granted: -1 -- expected an amount"),
    "a balance that is none": (
        f"upstreams: [{{{OK}, balance: x}}]",
        "upstreams[0].balance: 'x' -- expected auto, billing, credit_grants, newapi, ",
    ),
    "a route to nowhere": (
        "routes: [{path: /x, upstream: opanai}]",
        "routes[0].upstream: 'opanai' -- there is no upstream of this name; did you mean 'openai'?",
    ),
    "a fallback to nowhere": (
        f"upstreams: [{{{OK}, keys: [sk-abcdefgh], fallback: [b]}}]",
        "upstreams[0].fallback[0]: 'b' -- there is no upstream of this name; expected one of 'a'",
    ),
    "a fallback to itself": (
        f"upstreams: [{{{OK}, keys: [sk-abcdefgh], fallback: [a]}}]",
        "upstreams[0].fallback[0]: 'a' -- expected another upstream than the one it is a fallback of",
    ),
    "a fallback without keys": (
        f"upstreams: [{{{OK}, keys: [sk-abcdefgh], fallback: [b]}}, {{name: b, url: 'https://b.example'}}]",
        "upstreams[0].fallback[0]: expected an upstream with keys: set upstreams[].keys of 'b'",
    ),
    "a fallback of an upstream without keys": (
        f"upstreams: [{{{OK}, fallback: [b]}}, {{name: b, url: 'https://b.example', keys: [sk-abcdefgh]}}]",
        "upstreams[0].fallback",
    ),
    "a fallback that stands twice": (
        f"upstreams: [{{{OK}, keys: [sk-abcdefgh], fallback: [b, b]}}, "
        "{name: b, url: 'https://b.example', keys: [sk-abcdefgh]}]",
        "upstreams[0].fallback[1]: 'b' -- expected a name of its own; upstreams[0].fallback[0] is the same",
    ),
    "a circle of fallbacks": (
        f"upstreams: [{{{OK}, keys: [sk-abcdefgh], fallback: [b]}}, "
        "{name: b, url: 'https://b.example', keys: [sk-abcdefgh], fallback: [c]}, "
        "{name: c, url: 'https://c.example', keys: [sk-abcdefgh], fallback: [a]}]",
        "upstreams[2].fallback[0]: 'a' -- expected no circle; 'a' leads back to this one",
    ),
    "retries beyond reason": (
        f"upstreams: [{{{OK}, retries: 11}}]",
        "upstreams[0].retries: 11 -- expected a whole number from 0 to 10",
    ),
    "no attempts": ("limits: {attempts: 0}", "limits.attempts: 0 -- expected a whole number from 1 to 100"),
    "a queue that is none": ("limits: {queue: -1s}", "limits.queue"),
    "a route without upstream": ("routes: [{path: /x}]", "routes[0].upstream: nothing -- expected a value"),
    "a route of everything": (
        "routes: [{path: /, upstream: openai}]",
        "routes[0].path: '/' -- expected a path such as /chat",
    ),
    "a route with a slash at its end": (
        "routes: [{path: /x/, upstream: openai}]",
        "routes[0].path: '/x/' -- expected a path such as /chat",
    ),
    "a route that is a pattern": (
        "routes: [{path: '/x?', upstream: openai}]",
        "routes[0].path: '/x?' -- expected a path such as /chat",
    ),
    "a route into OpenAI's API": (
        "routes: [{path: /v1/x, upstream: openai}]",
        "routes[0].path: '/v1/x' -- expected another path; /v1 belongs to OpenAI's API",
    ),
    "a route over relay's own paths": (
        "routes: [{path: /metrics, upstream: openai}]",
        "routes[0].path: '/metrics' -- expected another path; /metrics belongs to relay itself",
    ),
    "a route over a path of /chat": (
        "routes: [{path: /pro/chat, upstream: openai}]",
        "routes[0].path: '/pro/chat' -- expected another path; this one covers chat.paths[1]",
    ),
    "a route over the balance": (
        "routes: [{path: /pro/balance, upstream: openai}]",
        "routes[0].path: '/pro/balance' -- expected another path; this one covers balance.paths[0]",
    ),
    "two routes of one path": (
        "routes: [{path: /x, upstream: openai}, {path: /x, upstream: openai}]",
        "routes[1].path: '/x' -- expected a path of its own; routes[0].path is the same",
    ),
    "a path without slash": ("chat: {paths: [chat]}", "chat.paths[0]: 'chat' -- expected a path such as /chat"),
    "a path with dots": ("chat: {paths: [/a/../b]}", "chat.paths[0]: '/a/../b' -- expected a path such as /chat"),
    "chat in the place of the balance": (
        "chat: {paths: [/a, /pro/balance]}",
        "balance.paths[0]: '/pro/balance' -- expected a path of its own; chat.paths[1] is the same",
    ),
    "chat in the place of the API": (
        "chat: {paths: [/v1/chat/completions]}",
        "chat.paths[0]: '/v1/chat/completions' -- expected another path; /v1 belongs to OpenAI's API",
    ),
    "the balance in the place of the dashboard": (
        "balance: {paths: [/dashboard]}",
        "balance.paths[0]: '/dashboard' -- expected another path; /dashboard belongs to OpenAI's API",
    ),
    "a field that relay sets": (
        "chat: {params: {stream: true}}",
        "chat.params: keys and values -- stream is set by relay",
    ),
    "a field with a place of its own": (
        "chat: {params: {model: x}}",
        "chat.params: keys and values -- model is set by relay; use chat.model",
    ),
    "a field that JSON cannot hold": (
        "chat: {params: {x: [.nan]}}",
        "chat.params: keys and values -- expected numbers that JSON has",
    ),
    "a list of fields": ("chat: {params: [x]}", "chat.params: a list -- expected fields of a completion request"),
    "a certificate that is not there": (
        "listen: {tls: {cert: x.pem, key: relay.yaml}}",
        "listen.tls.cert: 'x.pem' -- expected a file that can be read",
    ),
    "a folder for a key": (
        "listen: {tls: {cert: relay.yaml, key: .}}",
        "listen.tls.key: '.' -- expected a file that can be read",
    ),
    "a certificate without key": ("listen: {tls: {cert: relay.yaml}}", "listen.tls.key: nothing -- expected a value"),
    "a key twice": ("chat: {}\nlimits: {}\nchat: {}", "chat: this key stands twice, in lines 1 and 3; keep one"),
    "a name that is not set": (
        "chat: {model: '${MODEL}'}",
        "chat.model: '${MODEL}' -- MODEL is not set in the environment; set it, or write ${MODEL:-default}",
    ),
    "a number that is not set": ("listen:\n  port: ${P}\n", "listen.port: '${P}' -- P is not set in the environment"),
    "a brace left open": (
        "chat: {system: '${A'}",
        "chat.system: '${A' -- expected ${NAME} or ${NAME:-default}; for a plain ${ write $${",
    ),
    "a name that is none": (
        "chat: {system: '${a b}'}",
        "chat.system: '${a b}' -- expected ${NAME} or ${NAME:-default}",
    ),
    "a default within a default": ("chat: {system: '${A:-${B}}'}", "chat.system: '${A:-${B}}' -- expected ${NAME}"),
    "a tag": ("chat: {model: !secret x}", "chat.model: '!secret x' -- expected a value without a tag"),
    "a tag that would run something": (
        "chat: !!python/object:os.system {}",
        "chat: 'python/object:os.system' -- expected a value without a tag",
    ),
    "half a character": (
        r'chat: {system: "\ud800"}',
        r"chat.system: '\ud800' -- expected text that can be written in UTF-8",
    ),
    "a list as a key": ("chat: {? [a] : 1}", "chat: expected a word as a key in line 1"),
}


@pytest.mark.parametrize(("text", "shown"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named(file: Path, text: str, shown: str) -> None:
    found = mistakes(file, text)
    assert len(found) == 1
    assert found[0].startswith(shown)
    for jargon in (
        "pydantic",
        "Input",
        "validation",
        "type=",
        "yaml.org",
        "ValueError",
        "None",
        "dict",
        "tuple",
        "str ",
    ):
        assert jargon not in found[0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("chat: {\n  model: [1", "line 2, column 12: this is not YAML: ", id="a bracket left open"),
        pytest.param("chat:\n\tmodel: x", "line 2, column 1: this is not YAML: .*indent with blanks", id="a tab"),
        pytest.param("chat:\n model: x\n  system: y", "line 3, column 9: this is not YAML: ", id="a wrong indent"),
        pytest.param("listen: {port: ${P}}", "line 1, column 17: .*put \\${NAME} in quotes", id="a brace in a brace"),
        pytest.param("a: *b", "line 1, column 4: this is not YAML: found undefined alias", id="an alias of nothing"),
        pytest.param("a: 1\n---\nb: 2", "line 2, column 1: this is not YAML: ", id="two documents"),
        pytest.param("a: 1\nb: '\x07'", "line 2: expected text without control characters", id="a control character"),
        pytest.param("- a", "expected keys such as listen:", id="a list"),
        pytest.param("relay", "expected keys such as listen:", id="a word"),
        pytest.param('a: "\\UFFFFFFFF"', "expected YAML; an escape", id="an escape of nothing"),
    ],
)
def test_a_file_that_is_no_mapping_in_yaml(file: Path, text: str, shown: str) -> None:
    found = mistakes(file, text)
    assert len(found) == 1
    assert re.match(shown, found[0])


def test_every_mistake_is_told_at_once(file: Path) -> None:
    text = """
listen: {port: 0}
upstreams: [{name: a, url: x}, {name: a, url: https://a.com}]
routes: [{path: /pro, upstream: b}]
chat: {model: "${NOPE}", timeout: soon, timeout: 5m}
limits: {body: lots, bodi: 1}
"""
    with pytest.raises(ConfigError) as caught:
        read(file, text)
    assert {problem.path for problem in caught.value.problems} == {
        *["listen.port", "upstreams[0].url", "upstreams[1].name", "routes[0].path", "routes[0].upstream"],
        *["chat.model", "chat.timeout", "limits.body", "limits.bodi"],
    }
    assert str(caught.value).startswith(f"{file} has 10 mistakes:\n  chat.model (line 5, column 15): ")
    assert str(caught.value).count("\n  ") == 10


def test_one_mistake_is_one(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(file, "limits: {body: lots}")
    expected = "expected a size such as 64k, 512m, 1g or a number of bytes"
    assert str(caught.value) == f"{file} has 1 mistake:\n  limits.body (line 1, column 16): 'lots' -- {expected}"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("listen:\n  port: 0\n  host: 1\n", ["listen.port (line 2, column 9)", "listen.host (line 3, column 9)"]),
        ("upstreams:\n  - url: x\n", ["upstreams[0].name (line 2, column 5)", "upstreams[0].url (line 2, column 10)"]),
        ("\n\nlimits:\n  body:\n    - 1\n", ["limits.body (line 4, column 3)"]),
        ("nothing: 1\n", ["nothing (line 1, column 10)"]),
        ("chat: {params: {'a.b': 1, 'a.b': 2}}", ["(line 1, column "]),
    ],
)
def test_a_mistake_is_told_with_its_place(file: Path, text: str, places: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(file, text)
    assert [place for place in places if place not in str(caught.value)] == []


def test_a_mistake_of_an_alias_is_told_where_it_is_used(file: Path) -> None:
    assert len(mistakes(file, "chat: {timeout: &x soon}\nlimits: {idle: *x}")) == 2


def test_a_proxy_of_the_environment_that_does_not_do(file: Path) -> None:
    text = f"upstreams: [{{{OK}, proxy: env}}]"
    (found,) = mistakes(file, text, HTTPS_PROXY="socks4://user:hunter2@h:1")
    assert found.startswith(
        "upstreams[0].proxy: 'env' -- HTTPS_PROXY of the environment does not do: relay speaks SOCKS5"
    )
    assert "hunter2" not in found


HIDDEN = "hunter2"
PLACES = [
    f"https://user:{HIDDEN}@a.test/v1",
    f"https://{HIDDEN}@a.test",
    f"https://us:pa/{HIDDEN}@a.test/ftp",
    f"https://user:{HIDDEN}?x@a.test",
    f"https://user:x?{HIDDEN}@a.test",
    f"https://user:{HIDDEN}#x@a.test:1",
    f"https://a.test/v1?key={HIDDEN}",
    f"https://a.test/?a=b&key={HIDDEN}@x",
    f"https://a.test#{HIDDEN}",
    f"https://a.test/{HIDDEN}Z/chat/completions",
    f"ftp://a.test/{HIDDEN}Z9",
    f"https://a.test:port/{HIDDEN}",
    f"https//user:{HIDDEN}@a.test",
    f"https:/user:{HIDDEN}@a.test",
    f"user:{HIDDEN}@a.test",
    f"a.test/x?key={HIDDEN}",
    f"a.test {HIDDEN}",
    f"{HIDDEN}Z0123456789abcdef.0123456789abcdef",
    f"https://a.test/\\\\{HIDDEN}?",
    f"socks4://user:{HIDDEN}@127.0.0.1:1",
    f"https://user:{HIDDEN}@127.0.0.1:1",
    f"http://user:{HIDDEN}@127.0.0.1:1/path",
    f"http://a b:{HIDDEN}@127.0.0.1:1",
    f"${{HOST}}/{HIDDEN}?key=x",
    f"${{NOT_SET}}/{HIDDEN}",
    f"${{EMPTY:-ftp://user:{HIDDEN}@a.test}}",
]


@pytest.mark.parametrize("written", PLACES)
@pytest.mark.parametrize(
    "form",
    [
        "upstreams: [{name: a, url: '@'}]",
        "upstreams: [{name: a, url: ['@']}]",
        "upstreams: [{name: a, URL: '@'}]",
        "upstreams: [{name: a, base_url: '@'}]",
        "upstreams: [{name: a, url: !env '@'}]",
        "upstreams: ['@']",
        "upstreams: '@'",
        "url: '@'",
        "upstreams: [{name: a, url: 'https://a.test', proxies: '@'}]",
        "upstreams: [{name: a, url: 'https://a.test', headers: {x: '@'}}]",
    ],
)
def test_what_may_be_a_secret_in_an_address_is_not_told(file: Path, form: str, written: str) -> None:
    found = mistakes(file, form.replace("@", written.replace("'", "''"), 1), HOST="https://a.test")
    assert found and HIDDEN not in "\n".join(found)


@pytest.mark.parametrize("written", [each for each in PLACES if "://" in each])
@pytest.mark.parametrize(
    "form",
    [
        "routes: [{path: '/x', upstream: '@'}]",
        "upstreams: [{name: '@', url: 'https://a.test'}]",
        "upstreams: [{name: a, url: 'https://a.test', balance: '@'}]",
        "listen: {host: '@'}",
        "chat: '@'",
    ],
)
def test_nor_where_no_address_is_expected(file: Path, form: str, written: str) -> None:
    found = mistakes(file, form.replace("@", written.replace("'", "''"), 1))
    assert found and HIDDEN not in "\n".join(found)


@pytest.mark.parametrize("written", PLACES)
def test_nor_in_a_proxy(file: Path, written: str) -> None:
    found = mistakes(
        file, f"upstreams: [{{name: a, url: 'https://a.test', proxy: '{written}/x'}}]", HOST="http://a.test"
    )
    assert found and HIDDEN not in "\n".join(found)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("ftp://a.test/openai/v1", "ftp://a.test/openai/v1"),
        ("https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1/chat/completions"),
        ("api.openai.com", "api.openai.com"),
        ("127.0.0.1:8081", "127.0.0.1:8081"),
        ("https://user:x@api.openai.com:1/v1?y", "https://***@api.openai.com:1/v1?***"),
        ("https://a.test/0f9A", "https://a.test/***"),
        ("0f9A8e7D", "***"),
    ],
)
def test_what_is_told_of_an_address(written: str, told: str) -> None:
    assert address(written) == told


@pytest.mark.parametrize("key", ["api_key", "password", "pwd", "bearer", "whatever"])
def test_what_stands_under_a_key_that_is_none_is_not_told(file: Path, key: str) -> None:
    (found,) = mistakes(file, f"upstreams: [{{name: a, url: 'https://a.test', {key}: {HIDDEN}}}]")
    assert key in found and HIDDEN not in found
