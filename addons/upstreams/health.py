"""Health: what is known of keys and upstreams in this process, by what they have said and by how connects went.

1. A *place* is an upstream, a key there, or a key for one model. One that works has no entry.
2. What upstream refuses is left alone until the time that it has told, however many want it. What could not be reached
   is only passed over: it is tried where there is no better one.
3. When the time is over one request goes there, a probe; the others go on as before until it has ended. If it is
   refused the time begins anew. So there is at most one probe a window and process, and no herd. One that is silent for
   `_SILENT` keeps nobody any longer: a long answer has its head when it is done.
"""

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from addons.config.settings import Upstream
from addons.core.candidates import Candidate, choose, key_hash
from addons.core.unbilled import Refusal, Scope, seconds_aside

_MOST_PLACES = 10_000
"""Callers name models, so there may be any number of them."""
_INCONCLUSIVE = 1.0
"""Seconds until the next probe where one has ended without an answer."""
_SILENT = 15.0
"""Seconds after which another probe may go. A refusal comes at once."""
_UNREACHED = 1.0
"""Seconds for which an upstream is passed over that could not be reached, which double with each further time."""
_LONGEST_UNREACHED = 30.0

type Place = tuple[str, ...]


@dataclass(slots=True)
class Aside:
    """A place that is left alone."""

    since: float
    until: float
    reason: str
    hard: bool
    """It has asked for it; else it could not be reached."""
    strikes: int = 0
    probe: "Ticket | None" = None


@dataclass(eq=False, slots=True)
class Ticket:
    """One attempt at a candidate. When it has ended one of UpstreamHealth's methods is called with it, and no other."""

    candidate: Candidate
    model: str
    at: float
    probing: list[Place] = field(default_factory=list)


class UpstreamHealth:
    """Of all upstreams of this process. Times are on the monotonic clock; `secret` keys the hashes that are shown."""

    def __init__(self, secret: bytes = b"", clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._secret = secret
        self._places: OrderedDict[Place, Aside] = OrderedDict()
        self._hashes: dict[str, str] = {}
        self.changed: list[Callable[[int], object]] = []
        """Called with how many requests more may go somewhere now."""

    def adopt(self, secret: bytes) -> None:
        """Show hashes under another secret."""
        self._secret = secret

    # Names

    def hash_of(self, key: str) -> str:
        """What stands for a key here."""
        known = self._hashes.get(key)
        if known is None:
            known = self._hashes[key] = key_hash(key)
        return known

    def shown(self, key: str) -> str:
        """What stands for a key in records: keyed, so that nobody can check a guess."""
        return hmac.digest(self._secret, b"upstream key\0" + key.encode("utf-8", "surrogateescape"), "sha256").hex()[:8]

    # States

    def free(self, candidate: Candidate, model: str) -> bool | None:
        """As `core.candidates.choose` wants it."""
        found: bool | None = True
        now = self.clock()
        for place in _places(candidate, model):
            aside = self._places.get(place)
            if aside is None or _may_be_probed(aside, now):
                continue
            if aside.hard:
                return False
            found = None
        return found

    def soonest(self, candidates: Sequence[Candidate], model: str) -> float | None:
        """Seconds until one of these may be asked again; None where one may be now, or nobody knows."""
        now, waits = self.clock(), []
        for candidate in candidates:
            blocking = [aside for place in _places(candidate, model) if (aside := self._places.get(place)) is not None]
            waits.append(max((aside.until - now for aside in blocking if aside.hard), default=0.0))
        return min(waits) if waits and min(waits) > 0 else None

    def reasons(self, candidates: Sequence[Candidate], model: str) -> set[str]:
        """Why none of these may be asked."""
        places = (place for candidate in candidates for place in _places(candidate, model))
        return {aside.reason for place in places if (aside := self._places.get(place)) is not None and aside.hard}

    def passed_over(self, order: Sequence[Candidate], chosen: Candidate, model: str) -> list[str]:
        """Which upstreams were preferred to the chosen one and are left alone, and why: `openai rate limited`."""
        found = {}
        for candidate in order:
            if candidate == chosen:
                break
            if candidate.upstream == chosen.upstream:
                continue
            for place in _places(candidate, model):
                if (aside := self._places.get(place)) is not None and aside.until > self.clock():
                    found[candidate.upstream] = f"{candidate.upstream} {aside.reason}"
        return list(found.values())

    # Attempts

    def take(self, order: Sequence[Candidate], model: str, tried: Sequence[Candidate] = ()) -> Ticket | None:
        """The candidate to ask next, if there is one."""
        chosen = choose(order, tried, lambda candidate: self.free(candidate, model))
        return None if chosen is None else self.ask(chosen, model)

    def ask(self, candidate: Candidate, model: str) -> Ticket:
        """An attempt at this one."""
        now = self.clock()
        ticket = Ticket(candidate, model, now)
        for place in _places(candidate, model):
            aside = self._places.get(place)
            if aside is not None and _may_be_probed(aside, now):
                aside.probe = ticket
                ticket.probing.append(place)
        return ticket

    def answered(self, ticket: Ticket) -> None:
        """It was answered: whatever was wrong there is over."""
        self._end(ticket)
        for place in _places(ticket.candidate, ticket.model):
            aside = self._places.get(place)
            if aside is not None and aside.since <= ticket.at:
                del self._places[place]
        self._tell(2)

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """It was refused."""
        self._end(ticket)
        candidate = ticket.candidate
        place: Place = (candidate.upstream,)
        if refusal.scope is not Scope.UPSTREAM:
            place = (candidate.upstream, candidate.key)
        if refusal.scope is Scope.MODEL:
            place = (*place, ticket.model)
        self._set_aside(place, refusal.reason, lambda strikes: seconds_aside(refusal, strikes), hard=True)
        self._inconclusive(ticket)

    def unreached(self, ticket: Ticket, reason: str = "not reached") -> None:
        """There was no connection."""
        self._end(ticket)

        def seconds(strikes: int) -> float:
            doubled: float = _UNREACHED * 2 ** min(strikes, 16)
            return min(_LONGEST_UNREACHED, doubled)

        self._set_aside((ticket.candidate.upstream,), reason, seconds, hard=False)
        self._inconclusive(ticket)

    def reached(self, upstream: str) -> None:
        """An upstream has answered somebody who has no ticket."""
        aside = self._places.get((upstream,))
        if aside is not None and not aside.hard:
            del self._places[(upstream,)]

    def unknown(self, ticket: Ticket) -> None:
        """It ended, and nothing was learned."""
        self._end(ticket)
        self._inconclusive(ticket)

    def given_back(self, ticket: Ticket) -> None:
        """It was never made."""
        self._end(ticket)
        self._tell(1)

    def _set_aside(self, place: Place, reason: str, seconds: Callable[[int], float], *, hard: bool) -> None:
        now, before = self.clock(), self._places.get(place)
        if before is None:
            before = self._places[place] = Aside(now, now, reason, hard)
            if len(self._places) > _MOST_PLACES:
                self._places.popitem(last=False)
        elif now >= before.until:  # else it is one event, told by many
            before.strikes += 1
            before.since = now
        before.reason, before.hard = reason, hard or (before.hard and before.until > now)
        before.until = max(before.until, now + seconds(before.strikes))
        self._places.move_to_end(place)

    def _end(self, ticket: Ticket) -> None:
        for place in ticket.probing:
            aside = self._places.get(place)
            if aside is not None and aside.probe is ticket:
                aside.probe = None

    def _inconclusive(self, ticket: Ticket) -> None:
        """Of what it was a probe for and did not learn about, the next one has to wait a little."""
        now = self.clock()
        for place in ticket.probing:
            aside = self._places.get(place)
            if aside is not None and aside.until <= now:
                aside.until = now + _INCONCLUSIVE
        self._tell(1)

    def _tell(self, more: int) -> None:
        for each in self.changed:
            each(more)

    # For people

    def report(self, upstreams: Sequence[Upstream]) -> list[dict[str, object]]:
        """What is known of each: for `/readyz` and whoever looks."""
        return [self._of(upstream) for upstream in upstreams]

    def _of(self, upstream: Upstream) -> dict[str, object]:
        now = self.clock()
        whole = self._places.get((upstream.name,))
        told: dict[str, object] = {"name": upstream.name, "state": "ok"}
        if whole is not None:
            told |= {"state": whole.reason, "for": max(0, round(whole.until - now))}
        if upstream.keys:
            hashes = {self.hash_of(key) for key in upstream.keys}
            aside = {key: reason for key, reason in self._keys_aside(upstream.name) if key in hashes}
            told["keys"] = {"all": len(hashes), "aside": len(aside)}
            if aside:
                told["why"] = sorted(set(aside.values()))
            if whole is None and len(aside) == len(hashes):
                told["state"] = "no key works"
        return told

    def _keys_aside(self, upstream: str) -> Iterator[tuple[str, str]]:
        now = self.clock()
        for place, aside in self._places.items():
            if len(place) > 1 and place[0] == upstream and aside.until > now:
                yield place[1], aside.reason


def _may_be_probed(aside: Aside, now: float) -> bool:
    return now >= aside.until and (aside.probe is None or now - aside.probe.at >= _SILENT)


def _places(candidate: Candidate, model: str) -> tuple[Place, ...]:
    """What has to work for an attempt."""
    upstream, key = candidate.upstream, candidate.key
    return ((upstream,), (upstream, key), (upstream, key, model))
