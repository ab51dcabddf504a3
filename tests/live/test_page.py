"""The page at `/` on the wire, and that a HEAD is answered without a body."""

import pytest

from addons.config.settings import Settings
from addons.endpoints.page import render
from tests.support.live import Live, answer_in


def test_the_page_on_the_wire(relay: Live) -> None:
    page = relay.ask("GET", "/", headers={"Accept": "application/json"})
    assert page.status == 200
    assert page.body == render(Settings())[0]
    assert int(page.headers["content-length"]) == len(page.body) < 160 * 1024
    unchanged = relay.ask("GET", "/", headers={"If-None-Match": page.headers["etag"]})
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert relay.ask("POST", "/", b"x" * 1000).status == 405


@pytest.mark.parametrize("path", ["/", "/healthz", "/chat"])
def test_a_head_has_no_body(relay: Live, path: str) -> None:
    request = f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    raw = relay.raw(request.encode())
    assert raw.endswith(b"\r\n\r\n")
    assert int(answer_in(raw, "HEAD").headers["content-length"]) > 0
