import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from mitmproxy import http

from addons import errors
from addons.config.settings import Upstream
from addons.endpoints import balance as balance_module
from addons.endpoints.balance import Balance
from addons.meter import reports
from addons.store.ledger_reader import Stopped, Used
from tests.support import flows
from tests.support.metering import a_gate

KEY = "sk-0123456789abcdef"
NOW = 1_700_000_000.0  # 2023-11-14 UTC
GRANTED = {"hard_limit_usd": 18}
USED = {"total_usage": 8.0}

Answers = Callable[[str], tuple[int, Any]]


class Asked:
    """Stands in for `ask`: notes what is asked, and answers."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.seen: list[tuple[str, str, Mapping[str, str], float]] = []
        self.open = 0

    async def __call__(
        self, upstream: Upstream, path: str, headers: Mapping[str, str], *, timeout: float
    ) -> http.Response:
        self.seen.append((upstream.name, path, headers, timeout))
        self.open += 1
        try:
            await asyncio.sleep(0)
            status, body = self.answers(path)
            if isinstance(body, Exception):
                raise body
            if body is Ellipsis:
                await asyncio.sleep(60)
            return http.Response.make(status, body if isinstance(body, bytes) else json.dumps(body).encode())
        finally:
            self.open -= 1


def fine(path: str) -> tuple[int, Any]:
    return 200, GRANTED if path.endswith("/subscription") else USED


def always(status: int, body: Any) -> Answers:
    return lambda path: (status, body)


def question(
    monkeypatch: pytest.MonkeyPatch,
    answers: Answers = fine,
    path: str = f"/pro/balance?apiKey={KEY}",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    **sections: Any,
) -> tuple[http.HTTPFlow, Asked]:
    asked = Asked(answers)
    monkeypatch.setattr(balance_module, "ask", asked)
    flow = flows.opened(method, path, headers or {}, **sections)
    addon = Balance(lambda: NOW)
    addon.requestheaders(flow)
    asyncio.run(addon.request(flow))
    assert asked.open == 0
    assert not addon._asking
    return flow, asked


def test_a_balance_is_told_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, asked = question(monkeypatch)
    said = (
        '{"code": 200, "message": "执行成功", "data": {"total": 18.00, "balance": 17.92, "used": 0.08}, '
        '"detail": {"currency": "USD", "source": "billing", "as_of": "2023-11-14T22:13:20Z"}}'
    )
    assert flows.answer_of(flow).raw_content == said.encode()
    assert flows.answer_of(flow).headers["Content-Type"] == "application/json; charset=utf-8"
    headers = {"Authorization": f"Bearer {KEY}"}
    folder = "/proxy/v1/dashboard/billing"
    assert asked.seen == [
        ("test", f"{folder}/subscription", headers, 10.0),
        ("test", f"{folder}/usage?start_date=2023-08-16&end_date=2023-11-15", headers, 10.0),
    ]


def test_the_settings_say_how_far_back_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    _, asked = question(monkeypatch, balance={"window_days": 1, "timeout": "3s"})
    assert "start_date=2023-11-13&end_date=2023-11-15" in asked.seen[1][1]
    assert {timeout for *_, timeout in asked.seen} == {3.0}


def test_a_route_asks_its_own_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    _, asked = question(monkeypatch, path=f"/other/pro/balance?apiKey={KEY}")
    assert [(name, path.startswith("/v1/dashboard")) for name, path, *_ in asked.seen] == [("other", True)] * 2


@pytest.mark.parametrize(
    ("status", "said", "code", "words"),
    [
        (201, GRANTED | USED, 200, ""),
        (302, b"", 502, "redirects"),
        (200, {"success": False, "message": "无效的令牌"}, 401, "无效的令牌"),
        (200, {"success": False, "message": "the moon"}, 502, "the moon"),
        (200, {"error": {"message": "slow down", "code": "429"}}, 429, "slow down"),
        (500, {"detail": f"bad {KEY} here"}, 502, "here"),
        (503, b"no healthy upstream", 502, "no healthy upstream"),
        (522, b"<html>", 408, "HTTP 522"),
        (200, b"[" + b"[]," * 100_000 + b"1]", 502, "too large"),
        (200, b"<html>", 502, "not JSON"),
    ],
    ids=lambda value: value if isinstance(value, int) else str(value)[:30],
)
def test_what_upstream_says_is_read_as_for_chat(
    monkeypatch: pytest.MonkeyPatch, status: int, said: Any, code: int, words: str
) -> None:
    flow, _ = question(monkeypatch, always(status, said))
    answer = flows.json_of(flow)
    assert (answer["code"], "data" in answer) == (code, code == 200)
    assert words in answer["message"] and KEY not in answer["message"]


OPENAI = [{"name": "openai", "url": "https://api.openai.com"}]
SESSION_KEY = {
    "error": {
        "message": "Your request to GET /v1/dashboard/billing/usage must be made with a session key (that is, it can "
        "only be made from the browser). You made it with the following key type: secret.",
        "type": "server_error",
        "code": None,
    }
}


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (401, SESSION_KEY, 200),
        (403, SESSION_KEY, 200),
        (404, {"error": {"message": "Invalid URL"}}, 200),
        (401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}, 401),
        (429, {"error": {"message": "slow down"}}, 429),
        (500, {"error": {"message": "down"}}, 502),
    ],
    ids=["a browser's key wanted", "the same, 403", "no such page", "a wrong key", "too fast", "a failure"],
)
def test_what_openai_does_not_tell_any_more_the_ledger_does(
    monkeypatch: pytest.MonkeyPatch, status: int, said: Any, code: int
) -> None:
    asked = Asked(always(status, said))
    monkeypatch.setattr(balance_module, "ask", asked)
    path = f"/pro/balance?apiKey={KEY}"
    flow = flows.opened("GET", path, {}, upstreams=OPENAI, routes=[])
    addon = Balance(lambda: NOW, a_gate())
    asyncio.run(addon.request(flow))
    answer = flows.json_of(flow)
    assert len(asked.seen) == 2, "it is tried first"
    assert answer["code"] == code
    if code == 200:
        assert answer["data"] == {"total": None, "balance": None, "used": None}
        assert answer["detail"]["source"] == "ledger" and answer["detail"]["estimated"] is True
        assert answer["detail"]["requests"] == 0
    else:
        assert "data" not in answer


def test_equal_questions_to_the_ledger_are_one_and_end_when_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Callable[[], bool]] = []
    go_on = threading.Event()

    def slow(*_: object, stop: Callable[[], bool], **__: object) -> Iterator[Used]:
        begun.append(stop)
        while not go_on.wait(0.005) and not stop():
            pass
        yield from ()

    monkeypatch.setattr(reports, "used", slow)
    upstreams = [{"name": "a", "url": "https://api.example.com", "balance": "ledger"}]

    async def scenario() -> None:
        addon = Balance(lambda: NOW, a_gate())
        path = f"/pro/balance?apiKey={KEY}"
        flowing = [flows.opened("GET", path, {}, upstreams=upstreams, routes=[]) for _ in range(5)]
        asking = [asyncio.ensure_future(addon.request(flow)) for flow in flowing]
        while not begun:
            await asyncio.sleep(0.005)
        for flow in flowing[1:]:
            addon.client_disconnected(flow.client_conn)
        await asyncio.wait(asking, timeout=0.05)
        assert not begun[0]() and len(begun) == 1
        addon.client_disconnected(flowing[0].client_conn)
        await asyncio.wait_for(asyncio.gather(*asking), 5)
        assert begun[0]() and not addon._asking
        last = asyncio.ensure_future(addon.request(flows.opened("GET", path, {}, upstreams=upstreams, routes=[])))
        while len(begun) < 2:
            await asyncio.sleep(0.005)
        go_on.set()
        await asyncio.wait_for(last, 5)

    asyncio.run(scenario())


def test_relay_ends_while_a_report_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def endless(*_: object, stop: Callable[[], bool], **__: object) -> Iterator[Used]:
        begun.set()
        while not stop():
            time.sleep(0.005)
        yield from ()
        raise Stopped

    monkeypatch.setattr(reports, "used", endless)
    upstreams = [{"name": "a", "url": "https://api.example.com", "balance": "ledger"}]

    async def scenario() -> None:
        addon = Balance(lambda: NOW, a_gate())
        flow = flows.opened("GET", f"/pro/balance?apiKey={KEY}", {}, upstreams=upstreams, routes=[])
        asking = asyncio.ensure_future(addon.request(flow))
        await asyncio.to_thread(begun.wait, 10)
        addon.done()
        await asyncio.wait_for(asking, 5)
        assert flows.json_of(flow)["code"] == 503

    asyncio.run(scenario())


def test_a_key_without_a_limit_says_so_beside_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, _ = question(monkeypatch, lambda path: (200, {"hard_limit_usd": 100_000_000} | USED))
    answer = flows.json_of(flow)
    assert answer["detail"]["unlimited"] is True
    assert set(answer["data"]) == {"total", "balance", "used"}


@pytest.mark.parametrize(
    ("path", "headers", "key"),
    [
        (f"/pro/balance?apiKey={KEY}", {}, KEY),
        (f"/pro/balance?x=1&apiKey=%20{KEY}%0A", {}, KEY),
        (f"/pro/balance?apiKey={KEY}", {"Authorization": "Bearer sk-other-123456"}, KEY),
        ("/pro/balance", {"Authorization": f"Bearer {KEY}"}, KEY),
        ("/pro/balance?apiKey=sk%2Dabc%2Fdef", {}, "sk-abc/def"),
    ],
    ids=["in the query", "with blanks around it", "the query first", "as bearer", "percent-encoded"],
)
def test_the_key_is_found(monkeypatch: pytest.MonkeyPatch, path: str, headers: dict[str, str], key: str) -> None:
    _, asked = question(monkeypatch, path=path, headers=headers)
    assert [headers["Authorization"] for _, _, headers, _ in asked.seen] == [f"Bearer {key}"] * 2


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/pro/balance", {}),
        ("/pro/balance?apiKey=", {}),
        ("/pro/balance?apiKey=%20", {}),
        ("/pro/balance?apikey=x", {}),
        ("/pro/balance", {"Authorization": "Basic dTpw"}),
        ("/pro/balance?apiKey=a%0d%0aX:%20y", {}),
        ("/pro/balance?apiKey=%E4%BD%A0", {}),
        ("/pro/balance?apiKey=%FF", {}),
        ("/pro/balance?apiKey=" + "k" * 257, {}),
    ],
    ids=["none", "empty", "a blank", "misspelt", "no bearer", "a header's end", "Chinese", "not UTF-8", "too long"],
)
def test_a_bad_key_asks_nobody(monkeypatch: pytest.MonkeyPatch, path: str, headers: dict[str, str]) -> None:
    flow, asked = question(monkeypatch, path=path, headers=headers)
    assert flows.answer_of(flow).status_code == 200
    answer = flows.json_of(flow)
    assert (answer["code"], "data" in answer) == (400, False)
    assert "apiKey" in answer["message"]
    assert asked.seen == []


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        pytest.param(always(401, {"error": {"message": "no"}}), 401, id="the key is refused"),
        pytest.param(always(429, {"error": {"message": "slow down"}}), 429, id="too fast"),
        pytest.param(always(404, b"<html>"), 501, id="no such page"),
        pytest.param(always(405, b""), 501, id="not that method"),
        pytest.param(always(500, b"<html>"), 502, id="the upstream fails"),
        pytest.param(always(200, b"<html>"), 502, id="a page for an answer"),
        pytest.param(always(200, b"\xff"), 502, id="no text"),
        pytest.param(always(200, []), 502, id="an array"),
        pytest.param(always(200, {}), 502, id="nothing in it"),
        pytest.param(always(200, {"hard_limit_usd": "18", "total_usage": 8}), 502, id="text for a number"),
        pytest.param(always(200, {"hard_limit_usd": None, "total_usage": 8}), 502, id="null for a number"),
        pytest.param(always(200, {"error": {"message": "invalid api key"}}), 401, id="refused in a 200"),
        pytest.param(always(0, errors.UpstreamTimeout("慢。", "Slow.")), 408, id="too slow"),
        pytest.param(always(0, errors.UpstreamFailed("断。", "Broken.")), 502, id="unreachable"),
        pytest.param(lambda path: (200, GRANTED) if "sub" in path else (401, {}), 401, id="only usage is refused"),
        pytest.param(lambda path: (200, ...) if "sub" in path else (401, {}), 401, id="refused while the other hangs"),
        pytest.param(lambda path: (200, USED) if "usage" in path else (500, b""), 502, id="only the grant fails"),
    ],
)
def test_an_error_has_a_code_and_no_data(monkeypatch: pytest.MonkeyPatch, answers: Answers, code: int) -> None:
    flow, _ = question(monkeypatch, answers)
    assert flows.answer_of(flow).status_code == 200
    answer = flows.json_of(flow)
    assert list(answer) == ["code", "message"]
    assert answer["code"] == code


def test_an_upstream_that_tells_no_balance_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, asked = question(monkeypatch, upstreams=[flows.UPSTREAM | {"balance": None}], routes=[])
    assert flows.json_of(flow)["code"] == 501
    assert asked.seen == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_a_wrong_method_asks_nobody(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    flow, asked = question(monkeypatch, method=method)
    assert flows.answer_of(flow).status_code == 405
    assert flows.answer_of(flow).headers["Allow"] == "GET"
    assert "data" not in flows.json_of(flow)
    assert asked.seen == []


def test_no_body_of_a_question_is_held() -> None:
    flow = flows.opened("GET", "/pro/balance")
    Balance(lambda: NOW).requestheaders(flow)
    assert flows.exchange(flow).body.cap == 0


def test_a_client_that_leaves_ends_both_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(always(200, ...))
    monkeypatch.setattr(balance_module, "ask", asked)

    async def scenario() -> None:
        flow = flows.opened("GET", f"/pro/balance?apiKey={KEY}")
        addon = Balance(lambda: NOW)
        task = asyncio.ensure_future(addon.request(flow))
        while asked.open < 2:
            await asyncio.sleep(0)
        addon.client_disconnected(flows.request("GET", "/").client_conn)  # somebody else
        await asyncio.sleep(0)
        assert not task.done()
        addon.client_disconnected(flow.client_conn)
        await asyncio.wait_for(task, 5)
        await asyncio.sleep(0)
        assert asked.open == 0
        assert not addon._asking

    asyncio.run(scenario())


def test_other_paths_are_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, asked = question(monkeypatch, path="/v1/models")
    assert flow.response is None
    assert asked.seen == []


class Clock:
    """Seconds since the epoch, as a test has them."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Relay:
    """One addon that is asked again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: Answers, **sections: Any) -> None:
        self.clock = Clock()
        self.asked = Asked(answers)
        self.addon = Balance(self.clock)
        self.sections = sections
        monkeypatch.setattr(balance_module, "ask", self.asked)

    def told(self, key: str = KEY) -> dict[str, Any]:
        flow = flows.opened("GET", f"/pro/balance?apiKey={key}", {}, **self.sections)
        asyncio.run(self.addon.request(flow))
        told: dict[str, Any] = flows.json_of(flow)
        return told


def test_an_answer_is_told_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay(monkeypatch, fine, balance={"cache": "5s"})
    first = relay.told()
    relay.clock.now += 4
    assert relay.told() == first and len(relay.asked.seen) == 2
    assert relay.told("sk-another-0123456789")["data"] == first["data"]
    assert len(relay.asked.seen) == 4, "each key by itself"
    relay.clock.now += 2
    assert relay.told()["detail"]["as_of"] > first["detail"]["as_of"]
    assert len(relay.asked.seen) == 6


def test_an_old_answer_is_told_as_old_where_upstream_can_t_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    failing: list[tuple[int, Any]] = []
    relay = Relay(monkeypatch, lambda path: failing[0] if failing else fine(path))
    first = relay.told()
    assert "stale" not in first["detail"]
    relay.clock.now += 3600
    for failure in ((500, b""), (0, errors.UpstreamTimeout("慢。", "Slow."))):
        failing[:] = [failure]
        assert relay.told() == first | {"detail": first["detail"] | {"stale": True}}
    failing[:] = [(429, {"error": {"message": "no more", "code": "insufficient_quota"}})]
    assert relay.told()["code"] == 429, "it says itself what is left"
    failing[:] = [(401, {})]
    assert relay.told()["code"] == 401, "the key is refused: what it once had is none of its business"
    failing[:] = [(500, b"")]
    assert relay.told("sk-another-0123456789")["code"] == 502
    relay.clock.now += 24 * 3600
    assert relay.told()["code"] == 502


def test_what_is_kept_is_bounded_and_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance_module, "_MOST_KNOWN", 10)
    relay = Relay(monkeypatch, fine)
    for number in range(30):
        relay.told(f"sk-0123456789-{number}")
    assert len(relay.addon._known) == 10
    assert "sk-0123456789" not in str(relay.addon._known)


def test_ways_are_tried_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(path: str) -> tuple[int, Any]:
        if path.endswith("/api/usage/token/"):
            data = {"total_granted": 10_000_000, "total_used": 500_000, "total_available": 9_500_000}
            return 200, {"code": True, "message": "ok", "data": data}
        if path.endswith("/api/status"):
            return 200, {"success": True, "message": "", "data": {"quota_per_unit": 500000}}
        return 200, b"<!doctype html><title>a page at every address</title>"

    told = Relay(monkeypatch, answers).told()
    assert told["data"] == {"total": 20, "balance": 19, "used": 1} and told["detail"]["source"] == "newapi"


@pytest.mark.parametrize("status", [404, 200])
def test_where_no_way_leads_there_the_first_says_why(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    relay = Relay(monkeypatch, always(status, b"<html>"))
    told = relay.told()
    assert told["code"] == (501 if status == 404 else 502) and "data" not in told
    assert len(relay.asked.seen) == 5


def test_what_an_upstream_does_not_tell_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"is_available": True, "balance_infos": [{"currency": "CNY", "total_balance": "110.00"}]}
    upstream = flows.UPSTREAM | {"balance": "deepseek"}
    relay = Relay(monkeypatch, always(200, said), upstreams=[upstream], routes=[])
    told = relay.told()
    assert told["data"] == {"total": None, "balance": 110, "used": None}
    assert told["detail"]["currency"] == "CNY"
    assert [path for _, path, *_ in relay.asked.seen] == ["/proxy/user/balance"]


def test_pages_are_asked_for_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(path: str) -> tuple[int, Any]:
        more = path.count("page=") == 0
        cost = {"results": [{"amount": {"value": 0.06, "currency": "usd"}}]}
        return 200, {"object": "page", "data": [cost], "has_more": more, "next_page": "two" if more else None}

    upstream = flows.UPSTREAM | {"balance": "costs", "granted": 20}
    relay = Relay(monkeypatch, answers, upstreams=[upstream], routes=[])
    assert relay.told()["data"] == {"total": 20, "balance": 19.88, "used": 0.12}
    assert [path.partition("&page=")[2] for _, path, *_ in relay.asked.seen] == ["", "two"]


def test_pages_without_end_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = flows.UPSTREAM | {"balance": "costs"}
    said = {"object": "page", "data": [], "has_more": True, "next_page": "again"}
    relay = Relay(monkeypatch, always(200, said), upstreams=[upstream], routes=[])
    told = relay.told()
    assert told["code"] == 502 and "too many pages" in told["message"]
    assert len(relay.asked.seen) <= 30
