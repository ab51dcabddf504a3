"""How much of what has passed is kept to look at."""

from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import taddons

from addons.inspection.retention import Retention
from tests.support import flows


class View:
    """mitmweb's list."""

    name = "view"

    def __init__(self) -> None:
        self.gone: list[http.HTTPFlow] = []

    def remove(self, removed: list[http.HTTPFlow]) -> None:
        self.gone += removed


def answered(size: int) -> http.HTTPFlow:
    flow = flows.request("GET", "/v1/x")
    flows.respond(flow, 200, b"x" * size)
    flow.live = False
    return flow


@pytest.mark.parametrize(
    ("limits", "size", "kept"),
    [
        ({"keep_flows": 5}, 10, 5),
        ({"keep_flows": 100, "keep_bytes": "1m"}, 100_000, 9),
        ({"keep_bytes": 0}, 10, 0),
        ({"keep_flows": 0}, 10, 0),
        ({}, 10, 20),
    ],
)
def test_the_newest_are_kept(limits: dict[str, Any], size: int, kept: int) -> None:
    with taddons.context() as context:
        view = View()
        context.master.addons.add(view)
        retention = Retention(flows.settings(inspect=limits))
        made = [answered(size) for _ in range(20)]
        for flow in made:
            retention.response(flow)
        assert view.gone == made[: 20 - kept]


def test_what_is_under_way_or_marked_stays() -> None:
    with taddons.context() as context:
        view = View()
        context.master.addons.add(view)
        retention = Retention(flows.settings(inspect={"keep_flows": 1}))
        live, marked, plain, last = (answered(1) for _ in range(4))
        live.live, marked.marked = True, "*"
        for flow in (live, marked, plain, last):
            retention.response(flow)
        assert live not in view.gone and marked not in view.gone and plain in view.gone
