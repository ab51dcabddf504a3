"""The upstream of a replay, as far as it needs no socket: its library, and relay.yaml for the relays around it."""

import json
from pathlib import Path

import pytest

from addons.config.settings import Settings
from addons.core.matching import Ask, ask
from addons.replay.server import Library, behind, front
from tests.support.config_text import read
from tests.support.recordings import made, saved, settings


def get(path: str) -> Ask:
    return ask("GET", path, "", b"")


def test_the_same_request_is_answered_in_order_and_of_its_own_upstream(tmp_path: Path) -> None:
    other = made("/v1/models", b"of two")
    other.request.host, other.request.port, other.request.scheme = "two.test", 81, "http"
    library = Library(saved(tmp_path / "x", made(answer=b"1"), other, made(answer=b"2")), settings())
    found = [library.find(name, get("/v1/models")) for name in ("one", "two", "one", "one")]
    assert [each and each.body for each in found] == [b"1", b"of two", b"2", b"2"]
    assert library.find("one", get("/v1/files")) is None


def test_what_is_added_to_the_file_is_answered_from(tmp_path: Path) -> None:
    path = saved(tmp_path / "x", made("/v1/models"))
    library = Library(path, settings())
    library.reread()
    assert len(library.recording.records) == 1
    with path.open("ab") as file:
        file.write(saved(tmp_path / "y", made("/v1/files", b"new")).read_bytes())
    assert library.find("one", get("/v1/files")) is None
    library.reread()
    found = library.find("one", get("/v1/files"))
    assert found is not None and (found.number, found.body) == (2, b"new")


def test_a_file_that_is_gone_is_answered_from_all_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path / "x", made("/v1/models"))
    library = Library(path, settings())
    path.unlink()
    library.reread()
    assert library.find("one", get("/v1/models")) is not None


def test_a_refusal_names_the_nearest_and_what_differs(tmp_path: Path) -> None:
    library = Library(saved(tmp_path / "x", made("/v1/files"), made("/v1/models?a=1")), settings())
    error = library.refusal("one", get("/v1/models?a=2"))
    assert (error.status, error.code) == (404, "not_recorded")
    assert "The nearest is number 2, GET /v1/models; what differs: ?a: recorded" in error.en


def test_a_refusal_names_four_differences_and_counts_the_rest(tmp_path: Path) -> None:
    library = Library(saved(tmp_path / "x", made("/v1/models?a=1&b=1&c=1&d=1&e=1&f=1")), settings())
    text = library.refusal("one", get("/v1/models?a=2&b=2&c=2&d=2&e=2&f=2")).en
    assert text.count(": recorded") == 4 and "; and 2 more." in text


def written(file: Path, text: str) -> Settings:
    """The settings that a relay.yaml of replay's own means."""
    return read(file, text)


def test_the_relay_before_it_has_every_upstream_there_and_no_key(tmp_path: Path) -> None:
    keys = {"upstreams": [{"name": "one", "url": "https://one.test/proxy", "keys": ["sk-real"], "model": "${m}"}]}
    text = front(Settings.model_validate(keys), "http://127.0.0.1:5", tmp_path)
    assert "sk-real" not in text
    [upstream] = written(tmp_path / "relay.yaml", text).upstreams
    assert (upstream.name, upstream.url) == ("one", "http://127.0.0.1:5/upstream/one/v1")
    assert upstream.model == "${m}", "it is no reference to the environment"


@pytest.mark.parametrize("redact", [True, False], ids=["redacting", "not redacting"])
def test_the_relay_behind_it_asks_each_upstream_below_a_path_and_keeps_no_key(tmp_path: Path, redact: bool) -> None:
    text = behind(settings(inspect={"redact": redact}), 7, tmp_path)
    found = written(tmp_path / "relay.yaml", text)
    assert [(route.path, route.upstream) for route in found.routes] == [
        ("/upstream/one", "one"),
        ("/upstream/two", "two"),
    ]
    assert (found.listen.host, found.listen.port) == ("127.0.0.1", 7)
    assert not found.chat.paths and not found.balance.paths and found.inspect.redact
    assert json.loads(text)["upstreams"][0]["url"].startswith("https://one.test")
