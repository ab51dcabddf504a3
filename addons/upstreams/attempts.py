"""Attempts: one request's way through its candidates.

1. A caller's own key goes to the upstream that was asked and to no other. What is repeated of it is a failed connect,
   at the same place. Only a request that goes up with a key of `upstreams[].keys` has candidates (`lead`).
2. Each key is tried once a request for refusals; an upstream that could not be reached, or that is overloaded, is asked
   again with its other keys only when nobody else is left.
3. What may have been worked on is repeated for GET and HEAD, and with `Idempotency-Key` at the same upstream with the
   same key, where `upstreams[].idempotent` says that it honours that. From then on it goes nowhere else, whatever
   becomes of the repeat.
4. `upstreams[].retries` bounds repeats at one place, `limits.attempts` and `limits.attempt_time` all attempts.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mitmproxy import connection, http

from addons import errors
from addons.config.settings import Settings, Upstream
from addons.core import candidates, unbilled, upstream_error
from addons.core.candidates import Candidate
from addons.core.failures import Failure, classify
from addons.core.unbilled import Refusal, Scope
from addons.engine.pool.upstream_connection import unseat
from addons.exchange import AttemptState, Exchange, FailedAttempt, Part
from addons.flow.decoding import content_of
from addons.flow.leaving import Waiting
from addons.flow.upstream_errors import own_key_refused
from addons.upstreams.aiming import Request, aim
from addons.upstreams.health import Ticket, UpstreamHealth
from addons.upstreams.waiting import Lines

_READ = 2.0
"""Seconds for the body of a refusal. What takes longer is judged by what has come of it."""
_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
"""Seconds before the first repeat at a place, which double."""
_PASSING = (Failure.NAME, Failure.REFUSED, Failure.UNREACHABLE, Failure.BROKEN, Failure.OTHER)
"""Why a connect may fail that succeeds a moment later. A certificate stays as it is, and one that has timed out has
taken its time."""
_SAFE = ("GET", "HEAD")
_SHOWN = 200
_MOST_ANSWERED = 10_000
KEY_HEADER = "idempotency-key"


@dataclass(eq=False)
class Pool:
    """What all requests of a process share."""

    health: UpstreamHealth
    lines: Lines[Ticket] = field(default_factory=Lines)
    leaving: Waiting = field(default_factory=Waiting)

    answered: OrderedDict[str, Candidate] = field(default_factory=OrderedDict)
    """Who has given the latest responses, by their ids: what goes on from one is known there alone."""

    def __post_init__(self) -> None:
        self.health.changed.append(self.lines.move)

    def remember(self, response: str, candidate: Candidate) -> None:
        """Note who has given a response."""
        self.answered[response] = candidate
        if len(self.answered) > _MOST_ANSWERED:
            self.answered.popitem(last=False)


@dataclass(eq=False)
class Attempts(AttemptState):
    """Of one request."""

    pool: Pool = field(kw_only=True)
    settings: Settings = field(kw_only=True)
    client: connection.Client = field(kw_only=True)
    exchange: Exchange | None = field(default=None, kw_only=True)
    """Which it is of."""
    order: Sequence[Candidate] = ()
    """None for a caller's own key."""
    model: str = ""
    caller: str = ""
    request: Request | None = None
    keys: Mapping[Candidate, tuple[Upstream, str]] = field(default_factory=dict)
    ticket: Ticket | None = None
    tried: list[Candidate] = field(default_factory=list)
    repeats: int = 0
    """At the present place."""
    count: int = 0
    started: float = field(default_factory=time.monotonic)
    """When the first attempt began, once there was one."""
    waited: float = 0.0
    """Seconds in line."""
    told: list[dict[str, object]] = field(default_factory=list)
    """What has become of each attempt, for records."""
    passed_over: list[str] = field(default_factory=list)
    """Upstreams that were preferred and not asked, and why; for records."""
    refusals: list[Refusal] = field(default_factory=list)
    uncertain: list[str] = field(default_factory=list)
    """The upstreams of attempts that may have been worked on, and were repeated."""
    last: Candidate | None = None
    """The one that was asked last, with a key of relay's own."""
    _begun: float = 0.0
    _upstream: str = ""
    """The one that was asked last."""

    # Candidates

    def may_go_to(
        self,
        upstreams: Sequence[Upstream],
        conversation: str,
        model: str,
        caller: str,
        request: Request,
        first: Candidate | None = None,
    ) -> None:
        """It goes up with a key of these upstreams, in this order; of each, the key that the conversation prefers.

        `first` is one that knows the conversation already.
        """
        health = self.pool.health
        keys: dict[Candidate, tuple[Upstream, str]] = {}
        for upstream in upstreams:
            by_hash = {health.hash_of(key): key for key in upstream.keys}
            for candidate in candidates.preferred(conversation, upstream.name, by_hash):
                keys[candidate] = (upstream, by_hash[candidate.key])
        self.keys, self.order = keys, sorted(keys, key=lambda each: each != first)
        self.model, self.caller, self.request = model, caller, request

    def first(self) -> tuple[Upstream, str]:
        """The upstream and the key that are preferred, whatever is known of them. Raises Unavailable without any."""
        if not self.order:
            raise errors.Unavailable(
                "此中转服务没有该上游的密钥，请联系服务管理员。",
                "This relay has no key for that upstream: ask whoever runs it.",
                advice="set upstreams[].keys in relay.yaml",
            )
        return self.keys[self.order[0]]

    async def acquire(self) -> tuple[Upstream, str]:
        """The upstream and the key to begin with. Raises RelayError where none may be asked for now."""
        self.first()
        self.give_back()
        ticket = await self._taken()
        if ticket is None:
            raise self.refusal()
        self.ticket = ticket
        if ticket.candidate != self.order[0]:
            self.passed_over = self.pool.health.passed_over(self.order, ticket.candidate, self.model)
        return self.keys[ticket.candidate]

    async def _taken(self, *, wait: bool = True) -> Ticket | None:
        """A place to go to, waited for where `limits.queue` says so, and `wait` does."""
        health, lines, seconds = self.pool.health, self.pool.lines, self._may_wait_for()
        line = (frozenset(self.order), self.model)

        def take() -> Ticket | None:
            return health.take(self.order, self.model, self.tried)

        others = seconds > 0 and lines.is_waited_for(line)
        found = take() if not others else None
        if found is not None or seconds <= 0 or not wait or not (others or self._may_wait()):
            return found
        self.tried.clear()
        begun = time.monotonic()
        soonest = lambda: health.soonest(self.order, self.model)  # noqa: E731
        waiting = lines.wait(line, self.caller, seconds, take, soonest, health.given_back)
        try:
            return await self.pool.leaving.do(self.client, waiting, self.exchange)
        finally:
            self.waited += time.monotonic() - begun

    def _may_wait_for(self) -> float:
        """Seconds that are left to wait in: of `limits.queue`, and of the time in which attempts may begin."""
        limits = self.settings.limits
        left = limits.queue - self.waited
        return min(left, limits.attempt_time - (time.monotonic() - self.started)) if self.count else left

    def _may_wait(self) -> bool:
        """Whether time is what is missing, and not a key that works."""
        reasons = self.pool.health.reasons(self.order, self.model)
        return bool(reasons & {unbilled.RATE_LIMITED, unbilled.OVERLOADED})

    def refusal(self) -> errors.RelayError:
        """What is said where nobody may be asked for now."""
        health = self.pool.health
        reasons = health.reasons(self.order, self.model)
        if reasons == {unbilled.KEY_REFUSED}:
            error: errors.RelayError = own_key_refused()
            error.headers["x-should-retry"] = "false"
            return error
        wait = max(1, round(health.soonest(self.order, self.model) or 1))
        again = {"retry-after": str(wait), "x-should-retry": "true"}
        if not reasons or reasons & {unbilled.RATE_LIMITED, unbilled.OVERLOADED}:  # none: others come first
            return errors.RateLimited(
                f"上游对此中转服务的所有密钥限流，请在 {wait} 秒后再试。",
                f"The upstream limits the rate of all of this relay's keys: try again in {wait} s.",
                headers=again,
            )
        return errors.Unavailable(
            "此中转服务在上游的密钥目前均不可用，请联系服务管理员。",
            "None of this relay's keys works upstream for now (out of quota, or refused): tell whoever runs it.",
            code="upstream_keys_exhausted",
            headers=again,
        )

    def present(self) -> tuple[Upstream, str]:
        """Where it is about to go."""
        return self.keys[self.ticket.candidate] if self.ticket is not None else self.first()

    def give_back(self) -> None:
        """The attempt that was to be made is not made."""
        if self.ticket is not None:
            self.pool.health.given_back(self.ticket)
            self.ticket = None

    # One attempt after the other

    def once_more(self, exchange: Exchange) -> "Attempts":
        """The attempts of another request for the same client, which begins at the place where this one has ended."""
        other = Attempts(pool=self.pool, settings=self.settings, client=self.client, exchange=self.exchange)
        other.order, other.keys, other.model, other.caller = self.order, self.keys, self.model, self.caller
        if self.last is not None:
            other.ticket = self.pool.health.ask(self.last, self.model)
        exchange.attempts = ATTEMPTS.keep(exchange, other)
        return other

    def begin(self) -> None:
        """Upstream is about to be asked."""
        self.count += 1
        if self.count == 1:
            self.started = time.monotonic()
        self.last = self.ticket.candidate if self.ticket is not None else None
        self._begun = time.monotonic()

    def patience(self, flow: http.HTTPFlow, response: http.Response) -> float | None:
        """As `AttemptState` has it."""
        if not self.order:
            return None
        status = response.status_code
        uncertain = status in unbilled.UNCERTAIN and self._may_repeat(flow)
        if not uncertain and not unbilled.may_refuse(status, _names(response)):
            return None
        return _READ

    def _is_bound(self, flow: http.HTTPFlow) -> bool:
        """Whether it may have been worked on already where it was: with another key it would be billed twice."""
        return bool(self.uncertain) and flow.request.method not in _SAFE

    def _is_gone(self) -> bool:
        return self.gone is not None and self.gone()

    def _is_over(self) -> bool:
        limits = self.settings.limits
        return self.count >= limits.attempts or time.monotonic() - self.started >= limits.attempt_time

    async def next_attempt(self, flow: http.HTTPFlow, exchange: Exchange, failed: FailedAttempt) -> bool:
        """Whether it is asked once more; the flow is pointed there, then."""
        self._upstream = exchange.upstream.name
        refusal = self._judged(failed)
        self._note(failed, refusal)
        self._settle(failed, refusal)
        again = await self._decided(flow, exchange, failed, refusal)
        if again and failed.connected and refusal is None:
            self.uncertain.append(self._upstream)
        return again

    async def _decided(
        self, flow: http.HTTPFlow, exchange: Exchange, failed: FailedAttempt, refusal: Refusal | None
    ) -> bool:
        if exchange.failure.fault is not None or self._is_over() or self._is_gone():
            return False
        if failed.answer is not None and refusal is None and failed.answer.status_code not in unbilled.UNCERTAIN:
            return False
        if refusal is not None:
            return not self._is_bound(flow) and await self._elsewhere(flow, exchange, wait=failed.whole)
        if not failed.connected:
            return await self._after_connect(flow, exchange, classify(failed.error))
        if not self._may_repeat(flow):
            return False
        if self.repeats < exchange.upstream.retries and self.order:
            return await self._here(flow, exchange, elsewhere=flow.request.method in _SAFE)
        return flow.request.method in _SAFE and await self._elsewhere(flow, exchange, wait=failed.whole)

    async def _after_connect(self, flow: http.HTTPFlow, exchange: Exchange, failure: Failure) -> bool:
        timed_out = exchange.failure.connect_timed_out
        if failure in _PASSING and not timed_out and self.repeats < exchange.upstream.retries:
            return await self._here(flow, exchange, elsewhere=not self._is_bound(flow))
        return not self._is_bound(flow) and await self._elsewhere(flow, exchange, exchange.upstream.name)

    async def _here(self, flow: http.HTTPFlow, exchange: Exchange, *, elsewhere: bool) -> bool:
        """At the same place, after a pause; `elsewhere`, if that may be, where it has asked others meanwhile to be left
        alone."""
        pause = min(_LONGEST_PAUSE, _PAUSE * 2**self.repeats) * random.uniform(0.5, 1.0)
        self.repeats += 1
        await self.pool.leaving.do(self.client, asyncio.sleep(pause), self.exchange)
        if self._is_gone():
            return False
        if self.tried and self.order:
            if self.pool.health.free(self.tried[-1], self.model) is False:
                return elsewhere and await self._elsewhere(flow, exchange)
            self.ticket = self.pool.health.ask(self.tried.pop(), self.model)
        unseat(flow)
        exchange.failure.connect_timed_out = exchange.failure.answer_timed_out = False
        return True

    async def _elsewhere(
        self, flow: http.HTTPFlow, exchange: Exchange, unreached: str | None = None, *, wait: bool = True
    ) -> bool:
        """With another key, or at another upstream. `unreached` is one that no key leads to. `wait`: in line, if need
        be."""
        if not self.order or self.request is None:
            return False
        if unreached is not None:
            self.tried += [each for each in self.order if each.upstream == unreached and each not in self.tried]
        ticket = await self._taken(wait=wait)
        if ticket is None:
            return False
        if self._is_gone():
            self.pool.health.given_back(ticket)
            return False
        upstream, key = self.keys[ticket.candidate]
        try:
            made = await self.request.body_for(upstream) if self.request.body_for is not None else None
        except errors.RelayError:  # it can't be said there
            self.pool.health.given_back(ticket)
            self.tried += [each for each in self.order if each.upstream == upstream.name and each not in self.tried]
            return await self._elsewhere(flow, exchange, wait=wait)
        self.ticket, self.repeats = ticket, 0
        aim(flow, exchange, self.request, upstream, key, made)
        return True

    def _may_repeat(self, flow: http.HTTPFlow) -> bool:
        """Whether a request may be repeated that may have been worked on."""
        if not self.order or (self.ticket is None and not self.tried):
            return False
        if flow.request.method in _SAFE:
            return True
        last = self.ticket.candidate if self.ticket is not None else self.tried[-1]
        upstream = self.keys[last][0]
        return upstream.idempotent and upstream.retries > 0 and KEY_HEADER in flow.request.headers

    # What was learned

    def _judged(self, failed: FailedAttempt) -> Refusal | None:
        answer = failed.answer
        if answer is None:
            return None
        response = answer.copy()
        response.raw_content = failed.body
        body = content_of(response, upstream_error.MAX_BODY)
        return unbilled.refusal(answer.status_code, _names(answer), body, time.time())

    def _settle(self, failed: FailedAttempt, refusal: Refusal | None) -> None:
        ticket, self.ticket = self.ticket, None
        if refusal is not None:
            self.refusals.append(refusal)
            self.key_refused = all(each.of_key for each in self.refusals)
        health = self.pool.health
        if ticket is None:
            if not failed.connected:
                health.unreached(health.ask(Candidate(self._upstream, ""), ""))
            return
        self.tried.append(ticket.candidate)
        if refusal is not None:
            health.refused(ticket, refusal)
            if refusal.scope is Scope.UPSTREAM:
                mine = ticket.candidate.upstream
                self.order = sorted(self.order, key=lambda each: each.upstream == mine)
        elif not failed.connected:
            health.unreached(ticket)
        else:
            health.unknown(ticket)

    def answered(self, exchange: Exchange, response: http.Response) -> None:
        """An answer is passed on: of what was not judged yet, its head tells."""
        self._upstream = exchange.upstream.name
        ticket, self.ticket = self.ticket, None
        if ticket is None:
            self.pool.health.reached(self._upstream)
            if self.count > len(self.told) > 0:
                self.told.append(self._told(None, response.status_code, "", ""))
            return
        refusal = unbilled.refusal(response.status_code, _names(response), b"", time.time())
        if refusal is not None:
            self.pool.health.refused(ticket, refusal)
        else:
            self.pool.health.answered(ticket)
        self.told.append(self._told(ticket.candidate, response.status_code, "", refusal.reason if refusal else ""))

    def over(self, error: str = "") -> None:
        """The exchange is over."""
        ticket, self.ticket = self.ticket, None
        self.request = None  # what it holds may hold this
        if ticket is not None:
            self.pool.health.unknown(ticket)
            if self.count:
                self.told.append(self._told(ticket.candidate, None, error, ""))

    def _note(self, failed: FailedAttempt, refusal: Refusal | None) -> None:
        candidate = self.ticket.candidate if self.ticket is not None else None
        status = failed.answer.status_code if failed.answer is not None else None
        reason = refusal.reason if refusal is not None else "" if failed.connected else "no connection"
        self.told.append(self._told(candidate, status, failed.error, reason))

    def _told(self, candidate: Candidate | None, status: int | None, error: str, reason: str) -> dict[str, object]:
        now = time.monotonic()
        begun = self._begun or now
        told: dict[str, object] = {"start": round(time.time() - (now - begun), 3), "ms": round((now - begun) * 1000, 1)}
        if candidate is not None:
            told = {"key": self.pool.health.shown(self.keys[candidate][1]), **told}
        told = {"upstream": candidate.upstream if candidate is not None else self._upstream, **told}
        if status is not None:
            told["status"] = status
        if error:
            told["error"] = error[:_SHOWN]
        return told | ({"reason": reason} if reason else {})


ATTEMPTS = Part[Attempts]("attempts")


def _names(response: http.Response) -> Mapping[str, str]:
    """The headers of an answer, by their names in lower case."""
    return {name.lower(): value for name, value in response.headers.items()}


def attempts_for(pool: Pool, flow: http.HTTPFlow, exchange: Exchange) -> Attempts:
    """What decides on a request that fails, made where it is not there yet."""
    attempts = ATTEMPTS.of(exchange)
    if attempts is None:
        attempts = Attempts(pool=pool, settings=exchange.settings, client=flow.client_conn, exchange=exchange)
        exchange.attempts = ATTEMPTS.keep(exchange, attempts)
    return attempts
