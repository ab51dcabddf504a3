"""Upstreams that fail: what is asked again, where, and what never is. Longer: `./run.sh bench --outages 20000`."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import failing_upstream, live, outages
from tests.support.failing_upstream import SLOWLY, Asked, FailingUpstream
from tests.support.live import Answer, Live, eventually

KEY = "rk-failover-0123456789abcdefghijkl"
BUDGETED = "rk-budgeted-0123456789abcdefghijk"
A, B, C, D = (f"sk-real-MARK{name}-0123456789abcdef" for name in "abcd")
CHAT = "/v1/chat/completions"


def settings(failing: FailingUpstream, **limits: str) -> dict[str, Any]:
    return {
        "upstreams": [
            {"name": "one", "url": failing.url("one"), "keys": [A, B], "fallback": ["two"], "idempotent": True},
            {"name": "two", "url": failing.url("two"), "keys": [C], "model": "two-model"},
            {"name": "lonely", "url": failing.url("lonely"), "keys": [D]},
        ],
        "routes": [{"path": "/lonely", "upstream": "lonely"}],
        "keys": {
            "open": True,
            "list": [
                {"name": "failover", "key": KEY},
                {"name": "budgeted", "key": BUDGETED, "budget": {"amount": 100}},
            ],
        },
        "prices": {"m": {"input": 1, "output": 2, "context": 1000}, "dear": {"input": 1, "output": 2, "context": 1000}},
        "store": {"path": "store"},
        "limits": {"connect": "300ms", **limits},
    }


@pytest.fixture(scope="module", params=[True, False], ids=["fast", "plain"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Live, FailingUpstream]]:
    with failing_upstream.running("one", "two", "lonely") as failing:
        written = settings(failing)
        upstreams = written.pop("upstreams")
        folder = tmp_path_factory.mktemp("failover")
        with live.relay(folder, upstreams, engine={"fast": request.param}, **written) as relay:
            yield relay, failing


numbers = iter(range(10**6))


class Case:
    """One test's requests: a model of its own, so that what is set aside for it concerns no other test."""

    def __init__(self, relay: Live, failing: FailingUpstream) -> None:
        self.relay, self.failing = relay, failing
        self.number = next(numbers)
        self.model = f"m-{self.number}"
        failing.forget()
        for place in failing.ports:
            failing.listen(place)
        assert eventually(self._are_all_reached, 40)
        failing.forget()

    def _are_all_reached(self) -> bool:
        """Whether nothing is known any more of upstreams that were away in other tests."""
        told = self.relay.ask("GET", "/readyz").json()["upstreams"]
        away = [each for each in told if each["state"] not in ("ok", "no key works")]
        for each in away:
            if each["for"] == 0:
                path = "/lonely/v1/models" if each["name"] == "lonely" else "/v1/models"
                self.relay.ask("GET", path, None, {"Authorization": f"Bearer {KEY}"})
        return not away

    def ask(
        self, said: str = "x", key: str = KEY, path: str = CHAT, headers: Mapping[str, str] = {}, **more: Any
    ) -> Answer:
        body = {"model": self.model, "user": f"{self.number} {said}", "messages": [{"role": "user", "content": "hi"}]}
        return self.relay.ask(
            "POST",
            path,
            {**body, **more},
            {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers},
        )

    def asked(self, said: str = "x") -> list[Asked]:
        return [each for each in self.failing.asked if each.said == f"{self.number} {said}"]

    def accepted(self, said: str = "x") -> int:
        return self.failing.accepted[f"{self.number} {said}"]


@pytest.fixture
def case(served: tuple[Live, FailingUpstream]) -> Case:
    return Case(*served)


def where(asked: list[Asked]) -> list[str]:
    return [each.place for each in asked]


def test_a_request_that_is_answered_is_asked_once(case: Case) -> None:
    assert case.ask().status == 200
    assert where(case.asked()) == ["one"] and case.accepted() == 1


@pytest.mark.parametrize("refusal", ["429", "429 for 1 s"])
def test_a_key_that_is_out_of_its_rate_gives_way_to_the_next(case: Case, refusal: str) -> None:
    case.failing.plan = lambda asked: refusal if asked.before == 0 else "ok"
    answer = case.ask()
    assert answer.status == 200
    asked = case.asked()
    assert where(asked) == ["one", "one"] and {each.key for each in asked} == {A, B}
    assert case.accepted() == 1
    assert asked[0].body == asked[1].body


def test_every_key_is_tried_once_before_the_last_answer_passes_unchanged(case: Case) -> None:
    case.failing.plan = lambda asked: "429 for 1 s"
    answer = case.ask()
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert answer.json() == {"error": {"type": "x", "code": "rate_limit_exceeded", "message": "Rate limit reached."}}
    asked = case.asked()
    assert where(asked) == ["one", "one", "two"] and {each.key for each in asked} == {A, B, C}
    # Until a second has passed nobody is asked for this model.
    again = case.ask("again")
    assert again.status == 429 and again.headers["x-should-retry"] == "true" and int(again.headers["retry-after"]) >= 1
    assert case.asked("again") == []


def test_after_that_one_request_is_the_probe(case: Case) -> None:
    case.failing.plan = lambda asked: "429 for 1 s"
    case.ask()
    case.failing.plan = lambda asked: "wait 0.4"
    time.sleep(1.1)
    threads = [threading.Thread(target=case.ask, args=(f"{n}",)) for n in range(8)]
    for each in threads:
        each.start()
    time.sleep(0.3)
    keys = [each.key for each in case.failing.asked if each.said.startswith(f"{case.number} ") and "x" not in each.said]
    for each in threads:
        each.join()
    assert sorted(keys) == sorted([A, B, C]), "one probe for each key"
    assert case.ask("later").status == 200


@pytest.mark.parametrize("refusal", ["503 for 1 s", "529"])
def test_an_overloaded_upstream_gives_way_to_the_other(case: Case, refusal: str) -> None:
    case.failing.plan = lambda asked: refusal if asked.place == "one" else "ok"
    assert case.ask().status == 200
    assert where(case.asked()) == ["one", "two"]
    time.sleep(1.1)  # it is the upstream that was set aside, for all
    case.failing.plan = lambda asked: "ok"
    case.ask("later")


@pytest.mark.parametrize("answer", ["500", "400", "503", "403"])
def test_other_answers_pass(case: Case, answer: str) -> None:
    case.failing.plan = lambda asked: answer
    assert case.ask().status == int(answer)
    assert where(case.asked()) == ["one"]


@pytest.mark.parametrize("fault", ["502", "504", "hang up", "half a head", "head", "middle"])
def test_what_may_have_been_worked_on_is_not_asked_again(case: Case, fault: str) -> None:
    case.failing.plan = lambda asked: fault
    try:
        status = case.ask(stream=fault in ("head", "middle")).status
    except Exception:
        status = 0  # it breaks off
    assert status in (0, 200, 502, 504)
    assert len(case.asked()) == 1 and case.accepted() == 1


@pytest.mark.parametrize("fault", ["502", "504", "hang up", "half a head"])
def test_with_an_idempotency_key_it_is_at_the_same_place(case: Case, fault: str) -> None:
    case.failing.plan = lambda asked: fault if asked.before < 2 else "ok"
    assert case.ask(headers={"Idempotency-Key": "one-and-only"}).status == 200
    asked = case.asked()
    assert where(asked) == ["one"] * 3 and len({each.key for each in asked}) == 1
    assert all("one-and-only" in each.head for each in asked)


def test_and_not_elsewhere_once_its_repeats_are_used_up(case: Case) -> None:
    case.failing.plan = lambda asked: "hang up"
    assert case.ask(headers={"Idempotency-Key": "one-and-only"}).status == 502
    assert where(case.asked()) == ["one"] * 3


@pytest.mark.parametrize("then", ["429", "401", "503 for 1 s"])
def test_nor_with_another_key_where_the_repeat_is_refused(case: Case, then: str) -> None:
    case.failing.plan = lambda asked: "hang up" if asked.before == 0 else then if asked.place == "one" else "ok"
    answer = case.ask(headers={"Idempotency-Key": "one-and-only"})
    assert answer.status == (502 if then == "401" else int(then[:3]))
    asked = case.asked()
    assert where(asked) == ["one"] * 2 and len({each.key for each in asked}) == 1
    case.failing.plan = lambda asked: "ok"
    time.sleep(1.1)
    assert case.ask("later").status == 200  # the probe of what was set aside


def test_nor_elsewhere_where_the_place_is_gone_then(case: Case) -> None:
    def plan(asked: Asked) -> str:
        if asked.place == "one":
            threading.Thread(target=case.failing.deafen, args=("one",)).start()
            return "hang up"
        return "ok"

    case.failing.plan = plan
    assert case.ask(headers={"Idempotency-Key": "one-and-only"}).status == 502
    assert where(case.asked()) == ["one"]
    case.failing.listen("one")


def test_a_get_is_repeated_whatever_broke(case: Case) -> None:
    path = f"/v1/models?{case.number}"
    case.failing.plan = lambda asked: "hang up" if asked.place == "one" else "ok"
    answer = case.relay.ask("GET", path, None, {"Authorization": f"Bearer {KEY}"})
    assert answer.status == 200
    places = where([each for each in case.failing.asked if each.said == path])
    assert places[:3] == ["one"] * 3 and places[-1] == "two"


def test_an_upstream_that_is_away_gives_way_to_the_other(case: Case) -> None:
    case.failing.deafen("one")
    answer = case.ask()
    assert answer.status == 200 and where(case.asked()) == ["two"]
    case.failing.listen("one")


def test_one_that_is_away_for_a_moment_is_asked_again(case: Case) -> None:
    case.failing.deafen("lonely")
    threading.Timer(0.08, case.failing.listen, ("lonely",)).start()
    assert case.ask(path=f"/lonely{CHAT}").status == 200
    assert where(case.asked()) == ["lonely"]


def test_where_nobody_is_there_the_error_says_so(case: Case) -> None:
    case.failing.deafen("lonely")
    answer = case.ask(path=f"/lonely{CHAT}")
    assert answer.status == 502 and answer.headers["x-should-retry"] == "true"
    assert answer.json()["error"]["code"] == "upstream_failed"
    case.failing.listen("lonely")


def test_a_failed_connect_of_a_caller_s_own_key_is_repeated_too(case: Case) -> None:
    case.failing.deafen("lonely")
    threading.Timer(0.08, case.failing.listen, ("lonely",)).start()
    assert case.ask(path=f"/lonely{CHAT}", key="sk-own-MARKED").status == 200
    assert where(case.asked()) == ["lonely"]


@pytest.mark.parametrize(
    "fault", ["401", "403 key", "429", "429 for 1 s", "quota", "503 for 1 s", "529", "502", "hang up"]
)
def test_a_caller_s_own_key_reaches_no_second_upstream(case: Case, fault: str) -> None:
    case.failing.plan = lambda asked: fault
    headers = {"Idempotency-Key": "one-and-only"}
    status = case.ask(key="sk-own-MARKED", headers=headers).status
    assert status == int(fault[:3]) if fault[0].isdigit() else status in (429, 502)
    assert where(case.asked()) == ["one"]
    assert all(each.place == "one" for each in case.failing.asked if "MARKED" in each.head)


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"x-api-key": "sk-own-MARKED-01"}, ""),
        ({"api-key": "sk-own-MARKED-01"}, ""),
        ({"x-goog-api-key": "sk-own-MARKED-01"}, ""),
        ({"Helicone-Auth": "Bearer sk-own-MARKED-01"}, ""),
        ({"Sec-WebSocket-Protocol": "openai-insecure-api-key.sk-own-MARKED-01"}, ""),
        ({}, "?key=sk-own-MARKED-01"),
    ],
)
def test_nor_does_one_that_stands_beside_a_relay_key(case: Case, headers: dict[str, str], query: str) -> None:
    case.failing.plan = lambda asked: "429" if asked.place == "one" else "ok"
    assert case.ask(headers=headers, path=f"{CHAT}{query}").status == 429
    assert where(case.asked()) == ["one", "one"], "with the other key of that upstream"


def test_nor_where_its_upstream_is_away(case: Case) -> None:
    case.failing.deafen("one")
    assert case.ask(key="sk-own-MARKED").status == 502
    assert case.failing.asked == []
    case.failing.listen("one")


@pytest.mark.parametrize("refusal", ["endless 429", "silent 429"])
def test_a_refusal_without_an_end_is_left_alone(case: Case, refusal: str) -> None:
    case.failing.plan = lambda asked: refusal if asked.before == 0 else "ok"
    begun = time.monotonic()
    answer = case.ask()
    assert answer.status == 200 and answer.json()["object"] == "chat.completion"
    assert time.monotonic() - begun < 4
    assert len(case.asked()) == 2


def test_a_slow_refusal_is_whole_where_all_others_are_set_aside(case: Case) -> None:
    case.failing.plan = lambda asked: "429 for 1 s" if asked.key == A else "429 for 9 s"
    assert case.ask("before").status == 429
    time.sleep(1.1)  # and nobody but one may be asked
    case.failing.plan = lambda _asked: "slow 429"
    begun = time.monotonic()
    answer = case.ask()
    assert (answer.status, answer.json()["error"]["message"]) == (429, SLOWLY)
    assert time.monotonic() - begun > 2.5
    assert len(case.asked()) == 1


def test_who_leaves_while_a_refusal_is_read_leaves_nothing_behind(case: Case) -> None:
    case.failing.plan = lambda _asked: "silent 429"
    body = json.dumps({"model": case.model, "user": f"{case.number} left", "messages": []}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    with case.relay.connect() as client:
        client.sendall(head.encode() + body)
        assert eventually(lambda: case.asked("left"))
        time.sleep(0.5)
    case.failing.plan = lambda _asked: "ok"
    time.sleep(2)
    assert len(case.asked("left")) == 1
    assert case.ask().status == 200


def test_what_is_left_of_a_refusal_enters_no_other_answer(case: Case) -> None:
    """On one connection of a client, many times."""
    case.failing.plan = lambda asked: "endless 429" if asked.before == 0 and "refuse" in asked.said else "ok"
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", case.relay.port, timeout=20)
    for number in range(12):
        case.model = f"m-{case.number}-{number}"
        body = {
            "model": case.model,
            "user": f"{case.number} {'refuse' if number % 2 else 'take'} {number}",
            "messages": [],
        }
        connection.request("POST", CHAT, json.dumps(body), {"Authorization": f"Bearer {KEY}"})
        answer = connection.getresponse()
        assert answer.status == 200 and json.loads(answer.read())["model"] == case.model
    connection.close()


def test_a_client_that_leaves_causes_no_further_attempt(case: Case) -> None:
    case.failing.deafen("lonely")
    body = json.dumps({"model": case.model, "user": f"{case.number} x", "messages": []}).encode()
    head = (
        f"POST /lonely{CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    leaving = [case.relay.connect() for _ in range(50)]
    for each in leaving:
        each.sendall(head.encode() + body)
    time.sleep(0.05)
    for each in leaving:
        each.close()
    case.failing.listen("lonely")
    time.sleep(0.5)
    assert len(case.asked()) <= 10, "but for those that were under way in that moment"


def test_chat_moves_on_as_well(case: Case) -> None:
    case.failing.deafen("one")
    answer = case.relay.chat("hello", key=KEY, session=f"s{case.number}")
    assert answer["code"] == 200 and answer["data"] == "two says hello"
    [asked] = case.failing.asked
    assert json.loads(asked.body)["model"] == "two-model"
    case.failing.listen("one")


def test_a_session_stays_with_its_key(case: Case) -> None:
    for number in range(2):
        for session in range(16):
            said = f"hello {number} of {session}"
            assert case.relay.chat(said, key=KEY, session=f"{case.number}-{session}")["code"] == 200
    keys: dict[str, list[str]] = {}
    for each in case.failing.asked:
        keys.setdefault(json.loads(each.body)["messages"][0]["content"], []).append(each.key)
    assert [len(used) for used in keys.values()] == [2] * 16
    assert all(len(set(used)) == 1 for used in keys.values()), keys
    assert {used[0] for used in keys.values()} == {A, B}


def test_a_conversation_stays_with_its_key(case: Case) -> None:
    used: dict[int, set[str]] = {}
    for thread in range(16):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"question {thread}"}]
        for turn in range(3):
            said = f"{thread} {turn}"
            assert case.ask(said, messages=messages).status == 200
            used.setdefault(thread, set()).update(each.key for each in case.asked(said))
            messages = [*messages, {"role": "assistant", "content": "ok"}, {"role": "user", "content": f"more {turn}"}]
    assert all(len(keys) == 1 for keys in used.values()), used
    assert set.union(*used.values()) == {A, B}


def test_the_health_of_upstreams_is_told_and_changes_no_status(case: Case) -> None:
    case.failing.plan = lambda asked: "429 for 2 s" if asked.place == "lonely" else "ok"
    case.ask(path=f"/lonely{CHAT}")
    ready = case.relay.ask("GET", "/readyz")
    assert ready.status == 200
    told = {each["name"]: each for each in ready.json()["upstreams"]}
    assert told["lonely"]["state"] == "no key works" and told["lonely"]["why"] == ["rate limited"]
    assert told["lonely"]["keys"] == {"all": 1, "aside": 1}
    assert "MARK" not in ready.body.decode()
    assert eventually(lambda: case.relay.ask("GET", "/readyz").json()["upstreams"][2]["state"] == "ok", 4)


def test_no_key_is_in_the_log(case: Case) -> None:
    assert "MARK" not in case.relay.log and "Traceback" not in case.relay.log


def test_keys_that_are_refused_are_no_business_of_the_caller_s(tmp_path: Path) -> None:
    with failing_upstream.running("one", "two", "lonely") as failing:
        written = settings(failing)
        with live.relay(tmp_path, written.pop("upstreams"), **written) as relay:
            case = Case(relay, failing)
            failing.plan = lambda asked: "401" if asked.key in (A, C) else "403 key"
            answer = case.ask()
            assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_key_refused")
            assert answer.headers["x-should-retry"] == "false"
            assert {each.key for each in case.asked()} == {A, B, C}
            again = case.ask("again")
            assert (again.status, again.json()["error"]["code"]) == (502, "upstream_key_refused")
            assert case.asked("again") == [], "they are set aside"
            socket.create_connection(("127.0.0.1", relay.port)).close()


def test_a_day_of_outages(tmp_path: Path) -> None:
    played = outages.play(tmp_path, 2500, 20_261_130)
    assert outages.holds(played), str(played)
    assert played.outages > 0 and played.conversations > 1000
