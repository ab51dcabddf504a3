"""Recordings for tests: flows as a file holds them, and files of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mitmproxy import http
from mitmproxy.io import FlowWriter
from mitmproxy.test import tflow, tutils

from addons.config.settings import Settings


def settings(**sections: Any) -> Settings:
    upstreams = [{"name": "one", "url": "https://one.test/proxy"}, {"name": "two", "url": "http://two.test:81"}]
    return Settings.model_validate({"upstreams": upstreams, **sections})


def made(
    path: str = "/v1/models",
    answer: bytes = b"{}",
    headers: Mapping[str, str] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> http.HTTPFlow:
    """A flow as a file holds it."""
    flow = tflow.tflow(
        req=tutils.treq(method=b"GET", path=path.encode(), host="one.test", port=443, scheme=b"https", content=b""),
        resp=tutils.tresp(content=answer, headers=http.Headers()),
    )
    assert flow.response is not None
    for name, value in (headers or {}).items():
        flow.response.headers[name] = value
    flow.metadata.update(meta or {})
    return flow


def saved(path: Path, *flows: http.HTTPFlow) -> Path:
    with path.open("wb") as file:
        writer = FlowWriter(file)
        for flow in flows:
            writer.add(flow)
    return path
