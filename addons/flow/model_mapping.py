"""`upstreams[].models` applied: a body as it goes up to an upstream, or the error that says why it can't.

Whoever sends a request to another upstream asks again, with the body that its caller has sent.
"""

from mitmproxy import http

from addons import errors
from addons.config.settings import Upstream
from addons.core import model_mapping
from addons.core.model_mapping import Mapped, MappedInPlace, NotUtf8, Twice, Unmapped
from addons.flow.request_body import not_utf8, stands_twice, unreadable
from addons.flow.turns import in_turns

_IN = {"form": ("表单", "forms"), "path": ("路径", "paths"), "query": ("查询参数", "queries")}


async def mapped_for(upstream: Upstream, body: bytes, content_type: str = "application/json") -> Mapped:
    """A body, decoded, as it goes up there. Raises BadRequest."""
    if not upstream.models:
        return Mapped(body)
    try:
        return await in_turns(model_mapping.mapping(body, content_type, upstream.models))
    except Unmapped as error:
        raise _told(error, upstream) from None


def note_mapped(flow: http.HTTPFlow, asked: str | None) -> None:
    """Leave the caller's name for a model beside a request that shows upstream's, for whoever looks at it."""
    if asked is not None:
        flow.metadata["relay.asked_model"] = asked


def check_address(upstream: Upstream, path: str, query: str) -> None:
    """Raise BadRequest where a path or query names a model that has another name there. `query` has no `?`."""
    if upstream.models:
        try:
            model_mapping.check_address(path, query, upstream.models)
        except MappedInPlace as error:
            raise _told(error, upstream) from None


def _told(error: Unmapped, upstream: Upstream) -> errors.BadRequest:
    if isinstance(error, MappedInPlace):
        zh, en = _IN[error.place]
        sent = upstream.models[error.model]
        return errors.BadRequest(
            f"模型 {error.model} 在此上游名为 {sent}，{zh}中的名称不会被替换：请直接写 {sent}。",
            f"The model {error.model} is called {sent} at this upstream, and names in {en} are not changed on the way: "
            f"write {sent}.",
            code="model_not_mapped",
            param="model",
        )
    if isinstance(error, Twice):
        return stands_twice(error.name)
    return not_utf8() if isinstance(error, NotUtf8) else unreadable(str(error))
