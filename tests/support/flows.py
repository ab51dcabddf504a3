"""Flows as relay's hooks meet them, without a wire: for tests that call a hook directly."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mitmproxy import flow, http
from mitmproxy.test import tflow, tutils

from addons.config.settings import Settings
from addons.exchange import Exchange, Kind, attach, of
from addons.proxy.routing import Routing

UPSTREAM = {"name": "test", "url": "https://api.test/proxy"}
OTHER = {"name": "other", "url": "http://other.test:8000", "model": "other-chat"}

Headers = Mapping[str, str] | Sequence[tuple[bytes, bytes]]


def settings(**sections: Any) -> Settings:
    """relay.yaml with an upstream at https://api.test/proxy, a second one under /other, and these sections."""
    tree = {"upstreams": [UPSTREAM, OTHER], "routes": [{"path": "/other", "upstream": "other"}]}
    return Settings.model_validate(tree | sections)


def request(method: str, path: str, headers: Headers = (), body: bytes = b"") -> http.HTTPFlow:
    """A flow whose request has just arrived, not seen by any hook."""
    items = [(k.encode(), v.encode()) for k, v in headers.items()] if isinstance(headers, Mapping) else headers
    return tflow.tflow(
        req=tutils.treq(
            method=method.encode(),
            path=path.encode(),
            host="relay.invalid",
            port=80,
            headers=http.Headers(items),
            content=body,
        )
    )


def routed(made: http.HTTPFlow, **sections: Any) -> http.HTTPFlow:
    """The same flow once Routing has judged it."""
    Routing(settings(**sections)).requestheaders(made)
    return made


def opened(method: str, path: str, headers: Headers = (), body: bytes = b"", **sections: Any) -> http.HTTPFlow:
    """A flow that Routing has judged, under settings with these sections."""
    return routed(request(method, path, headers, body), **sections)


def attached(kind: Kind, **state: Any) -> tuple[http.HTTPFlow, Exchange]:
    """A flow with an exchange of this kind, and the exchange."""
    made = request("POST", "/v1/x")
    in_force = settings()
    return made, attach(made, Exchange(in_force, in_force.upstreams[0], kind, "/v1/x", **state))


def exchange(made: http.HTTPFlow) -> Exchange:
    """The exchange of a flow that must have one."""
    found = of(made)
    assert found is not None
    return found


def respond(
    made: http.HTTPFlow, status: int, body: bytes | Any = b"", headers: Mapping[str, str] | None = None
) -> None:
    """Give a flow upstream's answer; what is not bytes goes as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    made.response = http.Response.make(status, b"", dict(headers or {}))
    made.response.raw_content = content  # `make` would compress it as the headers say
    made.response.headers["Content-Length"] = str(len(content))


def answer_of(made: http.HTTPFlow) -> http.Response:
    """The answer of a flow that must have one."""
    assert made.response is not None
    return made.response


def json_of(made: http.HTTPFlow) -> Any:
    """That answer's JSON."""
    return json.loads(answer_of(made).raw_content or b"")


def fail(made: http.HTTPFlow, message: str) -> None:
    """Let a flow fail, in mitmproxy's words."""
    made.error = flow.Error(message)
