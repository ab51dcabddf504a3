"""Under another mitmproxy relay ends before anything of it is imported, and nobody is served meanwhile."""

import ast
from pathlib import Path

import mitmproxy.version
import pytest
from mitmproxy.test import taddons, tflow

from addons import mitmproxy_version

ADDONS = Path(__file__).resolve().parent.parent / "addons"


def test_with_this_one_nothing_happens() -> None:
    with taddons.context() as context:
        mitmproxy_version.end_with_another()
        assert context.master.addons.get(mitmproxy_version.Refusal.name) is None


def test_with_another_one_it_ends_and_turns_everyone_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mitmproxy.version, "VERSION", "11.1.3")
    with taddons.context() as context:
        with pytest.raises(SystemExit) as ended:
            mitmproxy_version.end_with_another()
        assert ended.value.code == 1
        [record] = caplog.records
        assert record.getMessage().startswith("relay is written for mitmproxy 12.2.3, and this is 11.1.3: ")
        refusal = context.master.addons.get(mitmproxy_version.Refusal.name)
        assert isinstance(refusal, mitmproxy_version.Refusal)
        client = tflow.tclient_conn()
        refusal.client_connected(client)
        assert client.error
        flow = tflow.tflow()
        flow.live = True
        refusal.requestheaders(flow)
        assert flow.error is not None


def test_the_entry_asks_before_it_imports_anything_else_of_relays() -> None:
    lines = ast.parse((ADDONS / "relay.py").read_text(encoding="utf-8")).body
    asked = next(
        each.lineno
        for each in lines
        if isinstance(each, ast.Expr)
        and isinstance(each.value, ast.Call)
        and "end_with_another" in ast.dump(each.value)
    )
    before = [each for each in lines if isinstance(each, ast.ImportFrom | ast.Import) and each.lineno < asked]
    ours = {
        each.module for each in before if isinstance(each, ast.ImportFrom) and (each.module or "").startswith("addons")
    }
    assert ours == {"addons.mitmproxy_version"}
    assert not any("mitmproxy" in name.name.split(".") for each in before for name in each.names)


def test_the_check_imports_nothing_that_another_version_may_lack() -> None:
    tree = ast.parse((ADDONS / "mitmproxy_version.py").read_text(encoding="utf-8"))
    names = {
        f"{node.module}.{each.name}" if isinstance(node, ast.ImportFrom) else each.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom | ast.Import)
        for each in node.names
    }
    assert names == {"logging", "mitmproxy.version", "mitmproxy.connection", "mitmproxy.ctx", "mitmproxy.http"}
