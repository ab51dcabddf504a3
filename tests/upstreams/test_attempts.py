"""One request's way through its candidates, where others wait for the same ones."""

import asyncio
import time
from pathlib import Path

import pytest
import yaml
from mitmproxy.test import tflow

from addons import errors
from addons.config.settings import Settings, load_settings
from addons.core.candidates import Candidate
from addons.core.unbilled import RATE_LIMITED, Refusal, Scope
from addons.exchange import Exchange, Kind
from addons.upstreams.aiming import Request
from addons.upstreams.attempts import Attempts, Pool
from addons.upstreams.health import UpstreamHealth


def settings(tmp_path: Path, queue: str, *keys: str) -> Settings:
    path = tmp_path / "relay.yaml"
    upstream = {"name": "one", "url": "https://one.test", "keys": list(keys or ["sk-real-a"])}
    path.write_text(yaml.safe_dump({"upstreams": [upstream], "limits": {"queue": queue}}))
    return load_settings(path, {})


def attempts(pool: Pool, under: Settings, caller: str = "alice") -> Attempts:
    made = Attempts(pool=pool, settings=under, client=tflow.tclient_conn())
    made.may_go_to(under.upstreams, "conversation", "m", caller, Request("/v1/x"))
    return made


def going_to(made: Attempts) -> Candidate | None:
    return made.ticket.candidate if made.ticket is not None else None


def test_who_comes_while_others_still_wait_stands_behind_them(tmp_path: Path) -> None:
    """The key works again, and the line is not empty yet: that is no reason to say that no key works."""

    async def run() -> None:
        pool, under = Pool(UpstreamHealth(b"")), settings(tmp_path, "5s")
        first = attempts(pool, under)
        await first.acquire()
        assert first.ticket is not None
        pool.health.refused(first.ticket, Refusal(RATE_LIMITED, Scope.MODEL, 0.1))
        waiting = [asyncio.create_task(attempts(pool, under).acquire()) for _ in range(6)]
        await asyncio.sleep(0.15)
        probing = [each for each in waiting if each.done()]
        assert len(probing) == 1
        [probe] = [ticket for ticket in [aside.probe for aside in pool.health._places.values()] if ticket]
        pool.health.answered(probe)  # two more go
        await asyncio.sleep(0)
        assert len(pool.lines) > 0
        late = asyncio.create_task(attempts(pool, under, "bob").acquire())
        await asyncio.sleep(0)
        assert not late.done(), "others come first"
        await asyncio.wait_for(asyncio.gather(late, *waiting), 4)
        assert len(pool.lines) == 0

    asyncio.run(run())


def test_where_too_many_wait_it_is_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        pool, under = Pool(UpstreamHealth(b"")), settings(tmp_path, "5s")
        monkeypatch.setattr(pool.lines, "is_waited_for", lambda _line: True)
        monkeypatch.setattr("addons.upstreams.waiting.MOST", 0)
        with pytest.raises(errors.RateLimited) as caught:
            await attempts(pool, under).acquire()
        assert caught.value.headers["retry-after"] == "1"

    asyncio.run(run())


def test_the_time_of_attempts_begins_with_the_first(tmp_path: Path) -> None:
    pool, under = Pool(UpstreamHealth(b"")), settings(tmp_path, "0s")
    made = attempts(pool, under)
    made.started = time.monotonic() - 3600  # a body that came slowly, or a long time in line
    made.begin()
    assert not made._is_over()
    made.started -= 3600
    made.begin()
    assert made._is_over()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_key_that_has_asked_others_to_leave_it_alone_is_not_asked_by_a_repeat(tmp_path: Path, method: str) -> None:
    """It was learned while this one paused."""

    async def run() -> None:
        pool, under = Pool(UpstreamHealth(b"")), settings(tmp_path, "0s", "sk-real-a", "sk-real-b")
        made, flow = attempts(pool, under), tflow.tflow()
        exchange = Exchange(under, under.upstreams[0], Kind.PASS, "/v1/x")
        await made.acquire()
        assert made.ticket is not None
        asked = made.ticket.candidate
        made.tried.append(asked)
        pool.health.refused(made.ticket, Refusal(RATE_LIMITED, Scope.MODEL, 60.0))
        made.ticket = None
        again = await made._here(flow, exchange, elsewhere=method == "GET")
        assert again is (method == "GET")
        assert going_to(made) == (made.order[1] if method == "GET" else None) != asked

    asyncio.run(run())
