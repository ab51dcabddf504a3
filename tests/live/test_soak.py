"""A short soak: relay ends with the connections, tasks, locks and, nearly, the memory it began with."""

import sys

import pytest

from tests.bench import soak

pytestmark = pytest.mark.alone


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_left_of_thousands_of_exchanges() -> None:
    soaked = soak.run(3000)
    assert not soaked.grown, (soaked.grown, soaked.before, soaked.after)
    unanswered = {kind: times for kind, times in soaked.said.items() if kind.endswith("no answer in time")}
    assert not unanswered
    assert soaked.said["completion: 200"] > 1000
