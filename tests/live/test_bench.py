"""The benchmarks' own arithmetic, and a few idle streams in short; what they measure is not judged here."""

import sys
from pathlib import Path

import pytest

from tests.bench import ablation, idle, without, workers
from tests.bench.load import Load
from tests.bench.report import Report

pytestmark = pytest.mark.alone

FIRST = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n26\r\ndata: {"delta":{"content":" word"}}\n\n\r\n'
LAST = b'2b\r\ndata: {"finish_reason":"stop"}\n\ndata: [DONE]\n\n\r\n'
END = b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("count", "others", "cores", "expected"),
    [
        pytest.param(1, 0.5, 2, 100, id="one worker has a core of its own all the same"),
        pytest.param(2, 0.5, 2, 100 * 2 / 1.5, id="two workers get back what was taken"),
        pytest.param(1, 1.5, 2, 200, id="one worker gets back what was taken of its core"),
        pytest.param(2, 0.5, 4, 100, id="nothing was taken where there are cores enough"),
        pytest.param(2, 0.5, 1, 200, id="a core that is not there is not counted"),
        pytest.param(2, 2.0, 2, 0, id="nothing was left"),
    ],
)
def test_the_generator_is_put_aside(count: int, others: float, cores: int, expected: float) -> None:
    assert workers.aside(100, count, others, cores) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rounds", "sure"), [(1, "-10.0% to -10.0%"), (5, "-10.0% to +30.0%"), (20, "+40.0% to +130.0%")]
)
def test_what_a_change_brings_is_told_with_its_bounds(rounds: int, sure: str) -> None:
    def loads(*cpu: float) -> list[Load]:
        return [Load(requests=10, seconds=2.0, errors=0, p50=0.0, p99=0.0, cpu=10 * each) for each in cpu]

    without_it = loads(*(0.9 + each / 10 for each in range(rounds)))
    whole = loads(*[1.0] * rounds)
    kinds = {"relay": [whole, whole], "lines": [without_it, whole]}
    said = ablation.section(kinds, {"relay": [1.0] * rounds, "lines": [1.0] * rounds})
    assert sure in said and "without lines" in said and "+0.0% (+0.0% to +0.0%)" in said
    assert "|          5 |" in said, "requests a second"


def test_a_section_of_a_command_of_its_own_takes_the_place_of_the_last(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\n## Where the rest of the time goes\n\nby hand\n")
    for text in ("old", "new"):
        report = Report()
        report.add("Brings", text)
        report.replace(path, "Brings")
    path.write_text(path.read_text() + "\n## Behind\n\nlast\n")
    report.replace(path, "Brings")
    said = path.read_text()
    assert "old" not in said and said.count("## Brings") == 1 and said.count("by hand") == 1
    assert said.index("last") < said.index("new")


def test_every_change_for_speed_can_be_taken_back() -> None:
    rooms = {path.stem for path in (Path(without.__file__).parents[2] / "addons/engine/speed").glob("[!_]*.py")}
    assert rooms == {name.partition(":")[0] for name in without.CHANGES}


@pytest.mark.parametrize(
    ("came", "begun", "whole"),
    [
        pytest.param([FIRST], True, False, id="silent"),
        pytest.param([FIRST, LAST[:30], LAST[30:] + END], True, True, id="to its end"),
        pytest.param([FIRST, LAST], True, False, id="the body does not end"),
        pytest.param([FIRST, END], True, False, id="the last event is missing"),
        pytest.param([b"HTTP/1.1 502 Bad Gateway\r\n\r\n"], False, False, id="refused"),
    ],
)
def test_a_stream_knows_whether_it_was_lost(came: list[bytes], begun: bool, whole: bool) -> None:
    stream = idle.Stream(b"")
    for data in came:
        stream.data_received(data)
    assert (stream.begun, stream.whole, stream.over.is_set()) == (begun, whole, whole)
    assert stream.answered.is_set()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_idle_streams_come_to_their_end() -> None:
    relay, plain = idle.run(30, 0.5)
    assert not relay.fails and not plain.fails, idle.report([relay, plain])
    assert relay.begun == 30
    assert relay.opened["descriptors"] >= relay.before["descriptors"] + 60
