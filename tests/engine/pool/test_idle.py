"""Which connections rest, for how long, and who gets one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from addons.engine.pool import idle
from addons.engine.pool.idle import Pool
from addons.engine.pool.places import Place
from addons.engine.pool.upstream_connection import UpstreamConnection

HERE = Place("here.test", 443, True)
THERE = Place("there.test", 443, True)
PROXIED = Place("here.test", 443, True, way=("socks5h", ("127.0.0.1", 1080)))


class Connection:
    """One that is as fit as it is told to be."""

    def __init__(self, place: Place = HERE) -> None:
        self.place = place
        self.fit = self.is_untouched = True
        self.expires_at = 0.0
        self.seat: object | None = object()
        self.discarded: str | None = None
        self.on_change: Callable[[Any], None] | None = None

    def rest(self, expires_at: float) -> None:
        self.expires_at = expires_at

    def is_fit(self, now: float) -> bool:
        return self.fit and now < self.expires_at

    def leave(self, on_change: Callable[[Any], None]) -> None:
        self.seat, self.on_change = None, on_change

    def discard(self, why: str) -> None:
        self.discarded = why


class Scene:
    """A pool with a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pool = Pool(lambda: self.now)

    def rest(self, *connections: Connection, keeps: float | None = None) -> None:
        for each in connections:
            self.pool.rest(cast(UpstreamConnection, each), keeps=keeps)

    def take(self, place: Place = HERE) -> Connection | None:
        return cast(Connection | None, self.pool.take(place))


def played(play: Callable[[Scene], Awaitable[None]]) -> None:
    async def life() -> None:
        scene = Scene()
        await play(scene)
        scene.pool.close()

    asyncio.run(life())


def test_the_last_that_was_used_is_taken_first_and_once() -> None:
    async def play(scene: Scene) -> None:
        one, two = Connection(), Connection()
        scene.rest(one, two)
        assert scene.take(THERE) is None
        assert [scene.take(), scene.take(), scene.take()] == [two, one, None]
        assert one.seat is None and two.seat is None, "whoever had them last has them no more"

    played(play)


def test_what_is_not_fit_any_more_is_passed_over_and_closed() -> None:
    async def play(scene: Scene) -> None:
        good, bad = Connection(), Connection()
        scene.rest(good, bad)
        bad.fit = False
        assert scene.take() is good and bad.discarded and not good.discarded

    played(play)


def test_whoever_has_one_goes_on_with_it_unless_somebody_has_taken_it() -> None:
    async def play(scene: Scene) -> None:
        one, two = Connection(), Connection()
        scene.rest(one, two)
        assert scene.pool.keep_own(cast(UpstreamConnection, one)) and one.seat is not None
        assert not scene.pool.keep_own(cast(UpstreamConnection, one)), "it is in use"
        assert scene.take() is two
        assert not scene.pool.keep_own(cast(UpstreamConnection, two))
        scene.rest(one)
        one.fit = False
        assert not scene.pool.keep_own(cast(UpstreamConnection, one)) and one.discarded

    played(play)


@pytest.mark.parametrize(
    ("place", "keeps", "longest"), [(HERE, None, 60), (HERE, 4.0, 4), (HERE, 99.0, 60), (PROXIED, None, 15)]
)
def test_how_long_one_rests(place: Place, keeps: float | None, longest: float) -> None:
    async def play(scene: Scene) -> None:
        one = Connection(place)
        scene.rest(one, keeps=keeps)
        assert one.expires_at == longest
        scene.now = longest
        assert scene.take(place) is None and one.discarded

    played(play)


def test_no_more_rest_than_may() -> None:
    async def play(scene: Scene) -> None:
        many = [Connection() for _ in range(idle.MOST + 3)]
        scene.rest(*many)
        assert [each.discarded is not None for each in many] == [True] * 3 + [False] * idle.MOST
        assert scene.pool.count(HERE) == idle.MOST

    played(play)


def test_what_rests_too_long_is_closed_without_being_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "_LOOK", 0.01)

    async def play(scene: Scene) -> None:
        one = Connection()
        scene.rest(one)
        await asyncio.sleep(0.05)
        assert scene.pool.count(HERE) == 1
        scene.now = 61.0
        await asyncio.sleep(0.05)
        assert one.discarded and scene.pool.count(HERE) == 0

    played(play)


def test_a_client_that_leaves_takes_nothing_with_it() -> None:
    async def play(scene: Scene) -> None:
        one, used = Connection(), Connection()
        scene.rest(one)
        assert scene.pool.orphan(cast(UpstreamConnection, one)) and one.seat is None
        assert not scene.pool.orphan(cast(UpstreamConnection, used)), "an exchange is under way on it"
        assert one.on_change is not None
        one.on_change(one)  # a byte has come
        assert one.discarded and scene.take() is None

    played(play)


def test_some_are_kept_ready_and_failures_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "_LOOK", 0.005)
    dialed: list[float] = []
    works = True

    async def play(scene: Scene) -> None:
        async def dial(place: Place) -> UpstreamConnection:
            dialed.append(scene.now)
            await asyncio.sleep(0)
            if not works:
                raise OSError("nobody there")
            return cast(UpstreamConnection, Connection(place))

        nonlocal works
        scene.pool.adopt(60.0, 1.0, {HERE: 2, THERE: 0}, dial)
        await asyncio.sleep(0.03)
        assert scene.pool.count(HERE) == 2 and len(dialed) == 2
        assert scene.take() is not None
        await asyncio.sleep(0.03)
        assert scene.pool.count(HERE) == 2 and len(dialed) == 3
        works = False
        scene.take(), scene.take()
        for second in range(1, 31):
            scene.now = float(second)
            await asyncio.sleep(0.012)
        assert len(dialed) <= 3 + 2 * 6, "after 1, 2, 4, 8, 16 s"
        works = True
        scene.now = 100.0
        await asyncio.sleep(0.03)
        assert scene.pool.count(HERE) == 2

    played(play)


def test_what_has_an_end_that_its_client_has_not_read_yet_is_closed_with_him() -> None:
    async def play(scene: Scene) -> None:
        one = Connection()
        scene.rest(one)
        one.fit = False
        assert not scene.pool.orphan(cast(UpstreamConnection, one)) and one.discarded and one.seat is not None
        assert scene.take() is None

    played(play)


def test_what_speaks_before_it_is_asked_is_not_kept_ready() -> None:
    async def play(scene: Scene) -> None:
        made: list[Connection] = []

        async def dial(place: Place) -> UpstreamConnection:
            made.append(Connection(place))
            made[-1].is_untouched = len(made) > 1
            return cast(UpstreamConnection, made[-1])

        scene.pool.adopt(60, 10, {HERE: 1}, dial)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [each.discarded for each in made] == ["relay: it speaks unasked"] and scene.take() is None
        scene.pool._look()
        assert len(made) == 1, "it is not tried again at once"

    played(play)


def test_those_that_are_kept_ready_are_made_anew_before_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "_LOOK", 0.005)
    made: list[Connection] = []

    async def play(scene: Scene) -> None:
        async def dial(place: Place) -> UpstreamConnection:
            made.append(Connection(place))
            return cast(UpstreamConnection, made[-1])

        async def until(now: float) -> int:
            scene.now = now
            await asyncio.sleep(0.03)
            return scene.pool.count(HERE)

        scene.pool.adopt(60.0, 1.0, {HERE: 2}, dial)
        assert [await until(now) for now in (0.0, 56.0)] == [2, 2] and len(made) == 2
        assert await until(58.0) == 4, "the old ones are still good, and the new ones are there"
        assert await until(59.0) == 4
        assert await until(60.5) == 2 and [each.discarded is not None for each in made] == [True, True, False, False]

    played(play)
