"""Kept connections that upstream closes: no client hears of it, and nothing is asked twice."""

import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import closing_upstream, live
from tests.support.closing_upstream import ClosingUpstream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")

CHAT = "/v1/chat/completions"
HEADERS = {"Authorization": "Bearer sk-test-0123456789", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def closing() -> Iterator[ClosingUpstream]:
    with closing_upstream.running() as running:
        yield running


@pytest.fixture(scope="module")
def relay(closing: ClosingUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Live]:
    with live.relay(tmp_path_factory.mktemp("reuse"), closing.url) as running:
        yield running


@pytest.fixture(autouse=True)
def as_usual(closing: ClosingUpstream) -> None:
    closing.only_read, closing.say_first = False, b""
    closing.accepted.clear()
    closing.connections = closing.closed = 0


class Client:
    """One that keeps its connection, and pauses at random."""

    def __init__(self, relay: live.Live, number: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=20)
        self.number = number
        self.chance = random.Random(number)
        self.statuses: Counter[int] = Counter()

    def ask(self, said: str, size: int = 0) -> int:
        body = json.dumps({"model": "m", "said": said, "more": "x" * size})
        self.connection.request("POST", CHAT, body, HEADERS)
        answer = self.connection.getresponse()
        answer.read()
        self.statuses[answer.status] += 1
        return answer.status

    def run(self, count: int) -> None:
        for each in range(count):
            self.ask(f"{self.number}-{each}")
            time.sleep(self.chance.uniform(0.0, 0.025))


def test_clients_don_t_hear_of_connections_that_are_closed_between_requests(
    relay: live.Live, closing: ClosingUpstream
) -> None:
    clients = [Client(relay, number) for number in range(8)]
    threads = [threading.Thread(target=each.run, args=(150,)) for each in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    statuses = sum((each.statuses for each in clients), Counter())
    said = [json.loads(body)["said"] for body in closing.accepted]
    assert len(said) == len(set(said)) == statuses[200], "each was accepted once"
    # What arrives between upstream's last look and its close may be acknowledged by its kernel at once: nobody can tell
    # that from what was read. It is one in thousands, or more on a busy machine; without asking again, one in seven.
    assert statuses.total() == 1200 and statuses[502] == 1200 - statuses[200] <= 36
    assert closing.closed > 200, "connections were closed meanwhile"


def test_what_upstream_has_read_is_not_asked_again(relay: live.Live, closing: ClosingUpstream) -> None:
    closing.only_read = True
    client = Client(relay, 1)
    assert client.ask("first") == 200
    assert client.ask("second") == 502
    assert [json.loads(body)["said"] for body in closing.accepted] == ["first", "second"]


def test_a_byte_of_an_answer_ends_it(relay: live.Live, closing: ClosingUpstream) -> None:
    closing.say_first = b"HTTP/1.1 2"
    client = Client(relay, 2)
    assert client.ask("first") == 200
    assert client.ask("second") == 502
    assert len(closing.accepted) == 2


def test_what_relay_cuts_off_itself_is_not_asked_again(closing: ClosingUpstream, tmp_path: Path) -> None:
    closing.after = (5.0, 5.0)
    try:
        with live.relay(tmp_path, closing.url, limits={"body": "300"}) as relay:
            client = Client(relay, 3)
            assert client.ask("first") == 200
            before = closing.connections
            body = iter([b'{"said": "' + b"x" * 100, b"x" * 500, b'"}'])
            client.connection.request("POST", CHAT, body, HEADERS, encode_chunked=True)
            assert client.connection.getresponse().status == 413
            time.sleep(0.5)
    finally:
        closing.after = (0.0, 0.02)
    assert closing.connections == before, "upstream saw no second connection"
    assert len(closing.accepted) == 1
