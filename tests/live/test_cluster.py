"""Three relays behind HAProxy that share a Redis, for a minute of faults: what clients were told has to hold.

Longer: `./run.sh bench --cluster --seconds 600`; another history: `--seed N`.
"""

from pathlib import Path

import pytest

from tests.support.asking import Heard
from tests.support.cluster import driver, haproxy, history
from tests.support.cluster.checks import conversations
from tests.support.cluster.clients import Talk
from tests.support.redis_server import NEEDED

pytestmark = pytest.mark.alone

SEED = 20_261_130
ENVELOPE = b'{"code": 200, "message": "ok", "data": "hi"}'


@NEEDED
@pytest.mark.skipif(haproxy.PROGRAM is None, reason="there is no haproxy: apt install haproxy")
def test_a_minute_of_faults_costs_nobody_a_turn_or_a_cent(tmp_path: Path) -> None:
    played = driver.play(tmp_path, SEED, 60)
    assert not played.wrong, str(played)
    print(played)
    kinds = {fault.kind.lstrip("0123456789 ") for fault in played.history.faults}
    assert kinds == {"kill", "stop", "Redis killed", "replies cut", "restart"}
    assert played.turns > 100 and played.settled > 300 and played.history.errors


# The checks themselves: each has to find what is wrong


def message(
    number: int, begun: float, *, status: int = 200, server: str = "relay0", ended: float = 0.0
) -> history.Told:
    told = history.Told(f"t{number}", "chat", "json", begun, server=server, ended=ended or begun + 0.5)
    told.heard = Heard(status=status, body=ENVELOPE, whole=status == 200, broke="" if status else "TimeoutError")
    return told


def talk(*told: history.Told, shown: list[str]) -> list[Talk]:
    return [Talk("s", "k", list(told), shown)]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        pytest.param(["t0", "t1", "t2"], "", id="all of them"),
        pytest.param(["t0", "t2"], "", id="one that was not answered may be missing"),
        pytest.param(["t0", "t1"], "missing", id="one that was answered is missing"),
        pytest.param(["t2", "t0"], "stands behind", id="in another order"),
        pytest.param(["t0", "t0", "t2"], "twice", id="one is there twice"),
        pytest.param(["t0", "t2", "x9"], "somebody else", id="another conversation's"),
    ],
)
def test_a_turn_that_is_lost_is_found(shown: list[str], expected: str) -> None:
    found = conversations(talk(message(0, 1), message(1, 2, status=0), message(2, 3), shown=shown), [])
    assert bool(found) == bool(expected) and all(expected in each for each in found), found


@pytest.mark.parametrize(
    ("fault", "told", "right"),
    [
        pytest.param(("kill", "relay0"), message(0, 9.9, status=0, ended=10.1), True, id="on a relay that was killed"),
        pytest.param(("kill", "relay0"), message(0, 11.5, status=0), False, id="after HAProxy has seen it"),
        pytest.param(("kill", "relay1"), message(0, 9.9, status=0, ended=10.1), False, id="on another relay"),
        pytest.param(("kill", "relay0"), message(0, 8, status=0, ended=9), False, id="before"),
        pytest.param(("Redis killed", ""), message(0, 10.5, status=0), True, id="while Redis was away"),
        pytest.param(("Redis killed", ""), message(0, 10.5, status=0, ended=19), False, id="long after it is back"),
        pytest.param(("restart", "relay0"), message(0, 10.5, status=0), False, id="over a rolling restart"),
        pytest.param(("3 replies cut", ""), message(0, 10.5, status=0), False, id="over replies that were cut"),
        pytest.param(("kill", "relay1"), message(0, 11, ended=17), False, id="answered too late"),
        pytest.param(("Redis killed", ""), message(0, 10.5, ended=13), True, id="answered when Redis is back"),
    ],
)
def test_an_error_that_nothing_explains_is_found(fault: tuple[str, str], told: history.Told, right: bool) -> None:
    faults = [history.Fault(fault[0], 10.0, fault[1], seen=11.0, ended=12.0)]
    assert (not history.History([told], faults).judge()) is right
