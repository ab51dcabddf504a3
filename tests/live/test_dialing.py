"""Names of upstreams, as a whole relay looks them up: one that hangs is a 504 for its own callers alone."""

import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from addons.cli.fake_openai.server import Upstream
from tests.support import live
from tests.support.shapes import openai_error

AUTH = {"Authorization": "Bearer sk-test-0123456789"}
RESOLVER = """
import socket
import time

stock = socket.getaddrinfo

def getaddrinfo(host, *args, **kwargs):
    if host == "hangs.test":
        time.sleep(60)
    if host == "twofold.test":  # 192.0.2.0/24 is nobody's: RFC 5737
        return [*stock("192.0.2.1", *args, **kwargs), *stock("127.0.0.1", *args, **kwargs)]
    return stock("127.0.0.1" if host == "good.test" else host, *args, **kwargs)

socket.getaddrinfo = getaddrinfo
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an address may be refused where it leads nowhere")
def test_names(upstream: Upstream, tmp_path: Path) -> None:
    script = tmp_path / "resolver.py"
    script.write_text(textwrap.dedent(RESOLVER))
    upstreams = [
        {"name": each, "url": f"http://{each}.test:{upstream.port}"} for each in ("good", "hangs", "twofold", "unknown")
    ]
    routes = [{"path": f"/{each['name']}", "upstream": each["name"]} for each in upstreams[1:]]
    limits = {"connect": "3s"}
    with live.relay(tmp_path, upstreams, ("-s", str(script)), routes=routes, limits=limits) as relay:
        hanging = [
            threading.Thread(target=lambda: openai_error(relay.ask("GET", "/hangs/v1/models", headers=AUTH), 504))
            for _ in range(20)
        ]
        for thread in hanging:
            thread.start()
        begin = time.monotonic()
        for path in ("/v1/models", "/twofold/v1/models", "/v1/models"):
            assert relay.ask("GET", path, headers=AUTH).status == 200
        assert time.monotonic() - begin < 2.5, "neither the name that hangs nor the address that leads nowhere delays"
        openai_error(relay.ask("GET", "/unknown/v1/models", headers=AUTH), 502, 504)
        for thread in hanging:
            thread.join(20)
        assert relay.ask("GET", "/v1/models", headers=AUTH).status == 200
        begin = time.monotonic()
    assert time.monotonic() - begin < 5, "a look-up that hangs does not hold up the end"
