"""The file of keys: hashes alone, changed as a whole."""

import json
import threading
from pathlib import Path

import pytest

from addons.core.relay_keys import RelayKey
from addons.store import StoreError
from addons.store.keys_file import NAME, StoredKey, caller_of, changing, hash_of, read, state

ALICE = StoredKey("1", "alice", "hash", "2026-01-01", amount="20.5", per="month", expires="2027-01-31", models=["a*"])


def test_what_is_changed_is_kept(tmp_path: Path) -> None:
    assert read(tmp_path) == [] and state(tmp_path) is None
    with changing(tmp_path) as (secret, keys):
        assert len(secret) == 32
        keys.append(ALICE)
    assert read(tmp_path) == [ALICE]
    before = state(tmp_path)
    with changing(tmp_path) as (again, keys):
        assert again == secret
        keys.clear()
    assert read(tmp_path) == [] and state(tmp_path) != before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(f"{NAME}.")] == []


def test_a_key_says_what_it_may_do() -> None:
    key = ALICE.key()
    assert isinstance(key, RelayKey)
    assert (key.budget, key.per, key.models, str(key.expires)) == (20_500_000_000, "month", ("a*",), "2027-01-31")


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    with changing(tmp_path) as (_, keys):
        keys.append(ALICE)
    assert (tmp_path / NAME).stat().st_mode & 0o077 == 0


def test_a_failure_changes_nothing(tmp_path: Path) -> None:
    with changing(tmp_path) as (_, keys):
        keys.append(ALICE)
    with pytest.raises(ZeroDivisionError), changing(tmp_path) as (_, keys):
        keys.clear()
        raise ZeroDivisionError
    assert read(tmp_path) == [ALICE]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"keys": [{}]}', '{"keys": [{"id": "1", "name": "a", "hash": "h", "created": "x", "per": "week"}]}'],
)
def test_a_damaged_file_is_no_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(StoreError, match=r"keys\.json is damaged"):
        read(tmp_path)


def test_two_commands_at_once_lose_nothing(tmp_path: Path) -> None:
    def add(number: int) -> None:
        with changing(tmp_path) as (_, keys):
            keys.append(StoredKey(str(number), f"key{number}", "h", "now"))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(tmp_path)) == 12


def test_hashes_are_keyed_and_of_two_kinds() -> None:
    assert hash_of(b"a" * 32, "rk-1") != hash_of(b"b" * 32, "rk-1")
    assert hash_of(b"a" * 32, "rk-1") != hash_of(b"a" * 32, "rk-2")
    assert not hash_of(b"a" * 32, "sk-1").startswith(caller_of(b"a" * 32, "sk-1"))
    assert "rk-1" not in json.dumps(hash_of(b"a" * 32, "rk-1"))
