"""A backup of a store that is in use, and what a relay knows that starts from it."""

import shutil
import subprocess
import sys
from pathlib import Path

from addons.cli.fake_openai.server import Upstream
from tests.support import live
from tests.support.front import DEPLOY

KEY = "sk-test-0123456789"
ALICE = "rk-test-alice-0123456789abcdef"
KEYS = {"open": True, "list": [{"name": "alice", "key": ALICE, "budget": {"amount": 20}}]}
PRICES = {"gpt-4o-mini": {"request": 0.5}}
BODY = {"model": "gpt-4o-mini", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]}


def spent(relay: live.Live) -> str:
    return str(relay.ask("GET", f"/pro/balance?apiKey={ALICE}").json()["data"]["used"]) + str(
        relay.ask("GET", "/api/usage/token", headers={"Authorization": f"Bearer {ALICE}"}).json()["data"]
    )


def backup(*arguments: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(DEPLOY / "backup.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_relay_goes_on_from_a_backup(upstream: Upstream, tmp_path: Path) -> None:
    upstreams = [{"name": "test", "url": upstream.url, "keys": ["sk-test-real-0123456789"]}]
    spend = {"Authorization": f"Bearer {ALICE}"}
    copy, store = tmp_path / "copy", tmp_path / ".relay"
    with live.relay(tmp_path, upstreams, keys=KEYS, prices=PRICES) as relay:
        assert relay.chat("my name is Ann", session="ann")["code"] == 200
        for _ in range(3):
            assert relay.ask("POST", "/v1/chat/completions", BODY, spend).status == 200
        before = spent(relay)
        said = backup(store, copy)
        assert said.returncode == 0, said.stderr
        assert "sessions.db, ledger.db" in said.stdout
        assert relay.chat("and now Bob", session="bob")["code"] == 200, "relay serves meanwhile"
        assert relay.ask("POST", "/v1/chat/completions", BODY, spend).status == 200
        assert spent(relay) != before
    assert backup(store, copy).returncode == 1, "no copy is written over"
    assert {path.stat().st_mode & 0o077 for path in (copy, *copy.iterdir())} == {0}, "for its owner alone"
    shutil.rmtree(store)
    copy.rename(store)
    with live.relay(tmp_path, upstreams, keys=KEYS, prices=PRICES) as relay:
        assert spent(relay) == before
        assert relay.chat("who am I?", session="ann")["code"] == 200
        asked = [each["content"] for each in upstream.seen[-1].json()["messages"]]
        assert "my name is Ann" in asked, "the conversation goes on"
        assert relay.chat("and I?", session="bob")["code"] == 200
        asked = [each["content"] for each in upstream.seen[-1].json()["messages"]]
        assert asked == ["and I?"], "what came after the backup is gone"


def test_what_is_no_store_is_not_copied(tmp_path: Path) -> None:
    said = backup(tmp_path, tmp_path / "copy")
    assert said.returncode == 1 and "no store of relay's" in said.stderr
    assert not (tmp_path / "copy").exists()
    (tmp_path / "secret").write_bytes(bytes(32))
    (tmp_path / "ledger.db").write_bytes(b"not a database at all" * 100)
    assert backup(tmp_path, tmp_path / "copy").returncode == 1
    assert not (tmp_path / "copy").exists(), "half a copy is none"
