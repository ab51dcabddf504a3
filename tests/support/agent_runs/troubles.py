"""Scenarios of time and place: pauses, other keys and upstreams, calls that fail and are sent again."""

from collections.abc import Callable

from tests.support.agent_runs.cast import MINUTE, Cast, Steps, advance, again, failing, loop
from tests.support.agent_runs.programs import KEYS, UPSTREAMS
from tests.support.agent_runs.thread import LEFT, REFUSED, SECOND, TIMED_OUT, Thread


def long_while(cast: Cast, thread: Thread) -> int:
    """A pause longer than the cache lives by any account of it, in milliseconds; hours for most, days for some."""
    least = 12 if thread.marks == "5m" else 130
    return cast.dice.between(least, cast.dice.pick((60, 600, 4_000)) + least) * MINUTE


def cache_expired(cast: Cast) -> Steps:
    thread = cast.thread(marks=cast.dice.pick(("5m", "5m", "1h")))
    yield from loop(thread, 2, 4)
    yield advance(thread, wait=long_while(cast, thread))
    yield from loop(thread, 1, 2)


def resumed(cast: Cast) -> Steps:
    """Days later the conversation is gone on with, under another session's id where it has one."""
    thread = cast.thread()
    yield from loop(thread, 2, 4)
    if thread.session is not None:
        thread.session = cast.dice.uuid()
    yield advance(thread, wait=cast.dice.between(1_500, 9_000) * MINUTE)
    yield from loop(thread, 1, 2)


def warm_prefix(cast: Cast) -> Steps:
    """After the pause, another agent of the same program has warmed tools and system prompt; the thread's own history
    is cold.
    """
    thread = cast.thread()
    yield from loop(thread, 2, 4)
    yield advance(cast.like(thread), wait=long_while(cast, thread))
    yield from loop(thread, 2, 2)


def other_key(cast: Cast) -> Steps:
    """The thread goes on with another key, and stays there or comes back."""
    thread = cast.thread()
    yield from loop(thread, 2, 3)
    usual = thread.key
    thread.key = cast.dice.pick([each for each in KEYS if each != usual])
    yield from loop(thread, 1, 2)
    if cast.dice.chance(0.5):
        thread.key = usual
        yield from loop(thread, 1, 2)


def keys_in_turn(cast: Cast) -> Steps:
    """A program that takes its keys in turn."""
    thread = cast.thread()
    first = thread.key
    second = cast.dice.pick([each for each in KEYS if each != first])
    for number in range(cast.dice.between(4, 5)):
        thread.key = second if number % 2 else first
        yield advance(thread)


def other_upstream(cast: Cast) -> Steps:
    """The thread goes on at another upstream, and later comes back."""
    thread = cast.thread()
    usual, spare = UPSTREAMS[thread.program.dialect.name]
    yield from loop(thread, 2, 3)
    thread.upstream = spare
    yield from loop(thread, 1, 3)
    thread.upstream = usual
    yield from loop(thread, 1, 2)


def _retried(thread: Thread, outcome: str, status: int, times: int) -> Steps:
    thread.prepare()
    for tries in range(times):
        wait = None if tries == 0 else _patience(thread, outcome)
        yield failing(thread, outcome, status, tries=tries, wait=wait)
    yield again(thread, tries=times, wait=_patience(thread, outcome))


def _patience(thread: Thread, outcome: str) -> int:
    low, high = (61, 70) if outcome == TIMED_OUT else (2, 8)
    return thread.dice.between(low * SECOND, high * SECOND)


def refused(status: int) -> Callable[[Cast], Steps]:
    """Refused once or a few times, at the first turn or later, and sent again."""

    def run(cast: Cast) -> Steps:
        thread = cast.thread()
        if cast.dice.chance(0.7):
            yield from loop(thread, 1, 3)
        number = 529 if status == 503 and cast.dialect == "messages" else status
        yield from _retried(thread, REFUSED, number, cast.dice.between(1, 3))
        yield from loop(thread, 1, 2)

    return run


def timed_out(cast: Cast) -> Steps:
    thread = cast.thread()
    yield from loop(thread, 1, 3)
    yield from _retried(thread, TIMED_OUT, 504, 1)
    yield from loop(thread, 1, 2)


def client_left(cast: Cast) -> Steps:
    """The stream broke at the client's side, which asks the same again."""
    thread = cast.thread(cast.streaming())
    yield from loop(thread, 1, 3)
    yield from _retried(thread, LEFT, 200, cast.dice.between(1, 2))
    yield from loop(thread, 1, 2)


TROUBLES: dict[str, Callable[[Cast], Steps]] = {
    "cache_expired": cache_expired,
    "resumed": resumed,
    "warm_prefix": warm_prefix,
    "other_key": other_key,
    "keys_in_turn": keys_in_turn,
    "other_upstream": other_upstream,
    "refused_429": refused(429),
    "refused_500": refused(500),
    "refused_503": refused(503),
    "timed_out": timed_out,
    "client_left": client_left,
}
