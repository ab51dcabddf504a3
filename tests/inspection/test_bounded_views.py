"""mitmproxy's own views, with the beginning of what is large."""

import time
from collections.abc import Iterator

import pytest
from mitmproxy import contentviews, http
from mitmproxy.contentviews import InteractiveContentview, Metadata
from mitmproxy.test import taddons, tflow

from addons.engine.corrections import views
from addons.inspection import bounded_views
from addons.inspection import contentviews as relay_s

MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with taddons.context() as context:
        context.options.add_option("protobuf_definitions", str, "", "")
        relay_s.register()
        bounded_views.register()
        yield
        bounded_views.unregister()
        relay_s.unregister()


def shown(content_type: str, body: bytes, view: str = "auto") -> tuple[str | None, str, float]:
    flow = tflow.tflow(resp=True)
    flow.response = http.Response.make(200, body, {"content-type": content_type})
    begun = time.thread_time()
    result = contentviews.prettify_message(flow.response, flow, view)
    return result.view_name, result.text, time.thread_time() - begun


@pytest.mark.parametrize(
    ("content_type", "piece", "view"),
    [
        ("application/x-www-form-urlencoded", b"a=b&", "URL-encoded"),
        ("text/html", b"<a b='c'>d</a>\n<br>", "XML/HTML"),
        ("application/xml", b"<b c='d'>e</b>", "XML/HTML"),
        ("text/css", b"a{b:c}", "ViewCSS"),
        ("application/javascript", b"a(){[;", "JavaScript"),
    ],
)
def test_a_large_body_is_shown_from_its_beginning(content_type: str, piece: bytes, view: str) -> None:
    name, text, took = shown(content_type, piece * (MEGABYTE // len(piece)))
    assert name == view
    assert (
        text.startswith("# the first ") and " of 1 MB; the view Raw has all of it\n\n" in text and len(text) < 300_000
    )
    assert took < 0.5, "a hundredth of what all of it takes is a good deal more"


def test_a_small_body_is_shown_as_ever() -> None:
    assert shown("text/html", b"<p>hi</p>")[:2] == ("XML/HTML", "<p>hi</p>\n")


def test_raw_has_all_of_it() -> None:
    assert len(shown("text/html", b"<p>" * MEGABYTE, "raw")[1]) == 3 * MEGABYTE


def test_a_long_query_is_shown_from_its_beginning() -> None:
    flow = tflow.tflow()
    flow.request.path = "/v1/x?" + "a=b&" * 15_000
    text = contentviews.prettify_message(flow.request, flow, "query").text
    assert text.startswith("# a view shows 8 kB of a path: this one has 58.6 kB") and len(text) < 10_000


def test_what_was_cut_is_not_edited_by_mistake() -> None:
    view = contentviews.registry["msgpack"]
    assert isinstance(view, InteractiveContentview)
    with pytest.raises(ValueError, match="only the beginning"):
        view.reencode("1", Metadata(original_data=b"\x01" * MEGABYTE))
    assert view.reencode("1", Metadata(original_data=b"\x01")) == b"\x01"


def test_registering_again_wraps_nothing_twice() -> None:
    before = dict(contentviews.registry)
    bounded_views.register()
    wrapped = views.mitmproxys(bounded_views.__name__).values()
    assert wrapped and all(not isinstance(view.view, bounded_views.Bounded) for view in wrapped)
    assert before.keys() == contentviews.registry.keys()
    bounded_views.unregister()
    assert not any(isinstance(view, bounded_views.Bounded) for view in contentviews.registry.values())


def test_the_view_of_another_addon_is_left_alone() -> None:
    class Whole(contentviews.Contentview):
        def prettify(self, data: bytes, metadata: Metadata) -> str:
            return str(len(data))

    contentviews.add(Whole())
    try:
        bounded_views.register()
        assert shown("text/plain", b"x" * MEGABYTE, "whole")[1] == str(MEGABYTE)
    finally:
        del contentviews.registry._by_name["whole"]
