"""Pages that relay adds to mitmweb: in place of nothing that is mitmweb's own, and once, however often it is loaded."""

from types import SimpleNamespace

from tornado.httputil import HTTPServerRequest
from tornado.web import Application, RequestHandler

from addons.engine.corrections import web


class Theirs(RequestHandler):
    """mitmweb's."""


class Ours(RequestHandler):
    """relay's."""


class Newer(RequestHandler):
    """relay's, loaded again."""


def handler_at(application: Application, path: str) -> object:
    found = application.find_handler(HTTPServerRequest("GET", path, connection=SimpleNamespace()))  # type: ignore[arg-type]
    return getattr(found, "handler_class", None)


def test_pages_are_added_once() -> None:
    application = Application([(r"/", Theirs), (r"/flows", Theirs)])
    master = SimpleNamespace(app=application)
    before = len(application.wildcard_router.rules)
    for handler in (Ours, Newer):
        web.add_pages(master, "/relay/", [(r"/relay/threads/(?P<label>[0-9a-f]{8})", handler, {})])
    assert len(application.wildcard_router.rules) == before + 1
    assert handler_at(application, "/relay/threads/5f0c21aa") is Newer
    assert handler_at(application, "/flows") is Theirs
    assert handler_at(application, "/relay/threads/5f0c21aaff") not in (Ours, Newer)


def test_without_mitmweb_nothing_happens() -> None:
    web.add_pages(SimpleNamespace(), "/relay/", [("/relay/x", Ours, {})])
    web.add_pages(SimpleNamespace(app=None), "/relay/", [("/relay/x", Ours, {})])
