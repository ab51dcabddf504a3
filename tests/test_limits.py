import pytest
from mitmproxy.test import taddons

from addons.limits import Limits
from tests import flows


def head(total: int, path: str) -> list[tuple[bytes, bytes]]:
    """A head of this many bytes, by relay's count, once Hosts has aimed it at the upstream."""
    aimed = flows.opened("POST", path, [(b"Host", b"x"), (b"X", b"")])
    taken = sum(len(name) + len(value) + 4 for name, value in aimed.request.headers.fields) + len(aimed.request.path)
    return [(b"Host", b"x"), (b"X", b"y" * (total - taken))]


@pytest.mark.parametrize(("over", "refused"), [(0, False), (1, True)], ids=["at the limit", "one byte over"])
def test_the_size_of_a_head_is_bounded(over: int, refused: bool) -> None:
    flow = flows.opened("POST", "/v1/models", head(2048 + over, "/v1/models"), limits={"header_size": "2k"})
    addon = Limits(flows.exchange(flow).settings)
    with taddons.context():
        addon.requestheaders(flow)
    assert flows.exchange(flow).refused is refused
    if refused:
        assert flows.answer_of(flow).status_code == 400
        error = flows.json_of(flow)["error"]
        assert error["code"] == "headers_too_large"
        assert "2048" in error["message"]
    else:
        assert flow.response is None


def test_a_long_path_is_part_of_the_head() -> None:
    flow = flows.opened("GET", "/v1/models?q=" + "x" * 3000, limits={"header_size": "2k"})
    Limits(flows.exchange(flow).settings).requestheaders(flow)
    assert flows.json_of(flow)["error"]["code"] == "headers_too_large"


def test_chat_hears_of_it_in_its_envelope() -> None:
    flow = flows.opened("POST", "/chat", {"X": "y" * 3000}, limits={"header_size": "2k"})
    Limits(flows.exchange(flow).settings).requestheaders(flow)
    assert flows.answer_of(flow).status_code == 200
    assert (flows.json_of(flow)["code"], flows.json_of(flow)["data"]) == (400, None)


def test_what_is_refused_already_keeps_its_answer() -> None:
    flow = flows.opened("GET", "/nowhere", {"X": "y" * 3000}, limits={"header_size": "2k"})
    Limits(flows.exchange(flow).settings).requestheaders(flow)
    assert flows.json_of(flow)["error"]["code"] == "unknown_path"


def test_a_sub_request_is_none_of_ours() -> None:
    flow = flows.request("GET", "/v1/models", {"X": "y" * 3000})
    Limits(flows.settings(limits={"header_size": "2k"})).requestheaders(flow)
    assert flow.response is None
