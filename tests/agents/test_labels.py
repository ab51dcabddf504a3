"""The labels of recorded requests: forty, written by hand before anything in relay found threads or causes.

They are not changed to please what is judged by them: only where one is wrong by the definitions in
tests/support/agent_runs/truth.py and differences.py, with the reason in the commit.
"""

from tests.agents.recording import Recording, labels, recordings
from tests.support.agent_runs import REASONS

LABELS = labels()
RECORDED: dict[str, Recording] = {each.name: each for each in recordings()}


def test_there_are_forty_of_as_many_requests() -> None:
    assert len({(each.recording, each.request) for each in LABELS}) == len(LABELS) == 40


def test_they_speak_of_requests_that_are_there() -> None:
    for label in LABELS:
        assert 0 <= label.request < len(RECORDED[label.recording].exchanges)
        assert label.follows is None or 0 <= label.follows < label.request
        assert (label.follows is None) == (label.reason == "first_turn")
        assert (label.path is None) == (label.reason in ("first_turn", "retry"))
        assert (label.part is not None) == (label.reason == "prefix_changed")
        assert label.why


def test_every_reason_is_among_them() -> None:
    assert {label.reason for label in LABELS} == set(REASONS)
    assert {label.part for label in LABELS} == {None, "system", "tools", "message"}
