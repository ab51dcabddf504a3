"""Whose key a key is, and what becomes of it while relay runs."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from addons import errors
from addons.config.settings import Settings, load_settings
from addons.meter.keyring import Keyring
from addons.store import keys_file
from addons.store.folder import read_secret
from addons.store.keys_file import KeysFile, StoredKey, changing, hash_of

KEY = "rk-" + "a" * 40
LISTED = "rk-listed-0123456789abcdef"
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()


def settings(tmp_path: Path, *listed: dict[str, Any], **keys: Any) -> Settings:
    path = tmp_path / "relay.yaml"
    upstreams = [{"name": "openai", "url": "https://api.openai.com", "keys": ["sk-real"]}]
    written = {"upstreams": upstreams, "keys": {"list": list(listed), **keys}, "store": {"path": str(tmp_path)}}
    path.write_text(yaml.safe_dump(written))
    return load_settings(path, {})


def ring(tmp_path: Path, *listed: dict[str, Any], **keys: Any) -> Keyring:
    return Keyring(settings(tmp_path, *listed, **keys), read_secret(tmp_path / "secret"), KeysFile(tmp_path))


def hand_out(tmp_path: Path, text: str = KEY, **more: Any) -> None:
    with changing(tmp_path) as (secret, kept):
        kept.append(StoredKey(f"id{len(kept)}", "alice", hash_of(secret, text), "now", **more))


def test_without_keys_everybody_is_served(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    assert keys.authenticate("sk-anybody", NOW) is None
    assert keys.authenticate(None, NOW) is None


def test_with_the_first_key_others_are_refused(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    hand_out(tmp_path)
    found = keys.authenticate(KEY, NOW)
    assert found is not None and found.name == "alice"
    for text in ("sk-anybody", None, "", "rk-unknown"):
        with pytest.raises(errors.Unauthorized):
            keys.authenticate(text, NOW)


def test_open_serves_both(tmp_path: Path) -> None:
    hand_out(tmp_path)
    keys = ring(tmp_path, open=True)
    assert keys.authenticate("sk-anybody", NOW) is None and keys.authenticate(None, NOW) is None
    assert keys.authenticate(KEY, NOW) is not None
    (tmp_path / "empty").mkdir()
    closed = ring(tmp_path / "empty", open=False)
    with pytest.raises(errors.Unauthorized):
        closed.authenticate("sk-anybody", NOW)


def test_keys_of_relay_yaml(tmp_path: Path) -> None:
    budget = {"amount": 1.5, "per": "day"}
    keys = ring(tmp_path, {"name": "bob", "key": LISTED, "budget": budget, "rate": {"requests": 3}, "parallel": 2})
    found = keys.authenticate(LISTED, NOW)
    assert found is not None
    assert (found.id, found.budget, found.per, found.requests, found.parallel) == (
        "listed:bob",
        1_500_000_000,
        "day",
        3,
        2,
    )


def test_a_key_that_was_revoked_or_is_over_is_401_even_where_others_are_served(tmp_path: Path) -> None:
    hand_out(tmp_path, KEY, revoked="now")
    hand_out(tmp_path, "rk-over", expires="2026-11-29")
    hand_out(tmp_path, "rk-today", expires="2026-11-30")
    keys = ring(tmp_path, open=True)
    with pytest.raises(errors.Unauthorized, match="revoked"):
        keys.authenticate(KEY, NOW)
    with pytest.raises(errors.Unauthorized, match="2026-11-29"):
        keys.authenticate("rk-over", NOW)
    today = keys.authenticate("rk-today", NOW)
    assert today is not None and today.expires == date(2026, 11, 30)


def test_changes_take_effect_while_relay_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("addons.meter.keyring.time.monotonic", lambda: now)
    keys = ring(tmp_path, open=True)
    assert keys.find(KEY) is None
    hand_out(tmp_path)
    now += 1.1
    assert keys.find(KEY) is not None
    hand_out(tmp_path, "rk-second")
    assert keys.find("rk-second") is not None, "one that is not known yet is looked for at once"
    with changing(tmp_path) as (_, kept):
        kept[:] = [StoredKey(**{**kept[0].__dict__, "revoked": "now"})]
    now += 1.1
    found = keys.find(KEY)
    assert found is not None and found.revoked


def test_a_stranger_s_key_has_the_file_looked_at_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, looks = 100.0, 0
    state = keys_file.state

    def counted(folder: Path) -> object:
        nonlocal looks
        looks += 1
        return state(folder)

    monkeypatch.setattr("addons.meter.keyring.time.monotonic", lambda: now)
    monkeypatch.setattr("addons.meter.keyring.keys_file.state", counted)
    keys = ring(tmp_path, open=True)
    looks = 0
    for _ in range(100):
        assert keys.find("sk-own") is None
    assert looks <= 2
    hand_out(tmp_path, "sk-own")
    now += 1.1
    assert keys.find("sk-own") is not None


def test_a_file_that_is_broken_meanwhile_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hand_out(tmp_path)
    keys = ring(tmp_path)
    (tmp_path / keys_file.NAME).write_text("{")
    assert keys.find("rk-other") is None
    found = keys.find(KEY)
    assert found is not None and found.name == "alice"
    assert "the keys known so far stay in force" in caplog.text


def test_callers_are_told_apart_by_hashes(tmp_path: Path) -> None:
    keys = ring(tmp_path)
    assert keys.caller("sk-one") != keys.caller("sk-two")
    assert "sk-one" not in keys.caller("sk-one")
