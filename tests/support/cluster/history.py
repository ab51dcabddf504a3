"""What clients were told, what went wrong when, and which of both explains an error."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field

from tests.support.asking import Heard
from tests.support.cluster.haproxy import NOBODY

SLOW = 5.0
"""Seconds within which everything has recovered."""
_JUST = 0.1
"""Seconds that what was seen may have been under way to us."""


EXPLAINING = ("kill", "stop", "Redis killed")
"""Faults by which clients may have errors. Replies that were cut, and a rolling restart, are none."""


@dataclass
class Told:
    """One request, and what came of it. Times are monotonic seconds."""

    tag: str
    kind: str
    """chat, show or completion."""
    how: str
    begun: float
    key: str = ""
    session: str = ""
    takes: float = 0.0
    """Seconds that upstream takes at least."""
    ended: float = 0.0
    server: str = ""
    heard: Heard = field(default_factory=Heard)

    @property
    def envelope(self) -> dict[str, object]:
        """Of a message: what was told last."""
        text = self.heard.body
        if self.heard.fields.get("content-type", "").startswith("text/event-stream"):
            text = text.rstrip().rpartition(b"data: ")[2]
        try:
            said = json.loads(text)
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    @property
    def answered(self) -> bool:
        """It has had its answer, to the end."""
        whole = self.heard.whole and self.heard.status == 200
        return whole and (self.kind == "completion" or self.envelope.get("code") == 200)

    @property
    def refused(self) -> bool:
        """There was not enough left of its key's budget."""
        return self.heard.status == 429 and b"insufficient_quota" in self.heard.body

    @property
    def error(self) -> str:
        """What went wrong; empty where nothing did."""
        heard = self.heard
        if heard.left or self.answered or self.refused:
            return ""
        if heard.broke or not heard.status:
            return f"{heard.status or 'no status'} {heard.broke or 'broke off'}"
        if self.how == "refuse" and heard.status == 400:
            return ""
        text = heard.body[-160:].decode("utf-8", "replace")
        return f"{heard.status} {text if heard.whole else 'not whole'}"

    def __str__(self) -> str:
        said = f"{self.kind} {self.tag} ({self.how}) on {self.server or '?'}, {self.begun:.2f} to {self.ended:.2f}"
        return f"{said}: {self.error or self.heard.status}"


@dataclass
class Fault:
    """Something that was done to the cluster."""

    kind: str
    begun: float
    server: str = ""
    """The relay that it was done to; empty where Redis was away."""
    seen: float = 0.0
    """Since when nobody was sent there any more; for Redis, since when it was there again."""
    ended: float = 0.0
    recovery: float = 0.0
    """Seconds after which a request began that still had an error by it."""

    def touches(self, told: Told) -> bool:
        """Whether a request was under way when this happened, or began before it was over."""
        if self.kind not in EXPLAINING or told.ended < self.begun:
            return False
        if self.server:
            return told.server == self.server and told.begun <= self.seen + _JUST
        return told.begun <= self.seen + _JUST

    def explains(self, told: Told) -> bool:
        """Whether an error was to be expected."""
        if self.server:
            return self.touches(told)
        # Clients hear of it until everything has recovered, and then no more.
        late = self.seen + SLOW
        return self.kind in EXPLAINING and told.ended >= self.begun and told.begun <= late and told.ended <= late

    def over_for(self, told: Told) -> float:
        """Seconds of a request's time that passed before this was over; where another relay than its own was killed or
        stopped, before that began: it may wait for a session that was there."""
        if self.touches(told):
            return max(0.0, (self.ended if self.server else self.seen) - told.begun)
        elsewhere = self.kind in EXPLAINING and self.server and told.begun <= self.begun <= told.ended
        return self.begun - told.begun if elsewhere else 0.0

    def __str__(self) -> str:
        where = f" of {self.server}" if self.server else ""
        seen = f", seen after {self.seen - self.begun:.2f} s" if self.kind in EXPLAINING else ""
        return f"{self.begun:8.2f} {self.kind}{where}{seen}, over after {self.ended - self.begun:.2f} s"


@dataclass
class History:
    """All of it."""

    told: list[Told] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    """By what explains them."""
    slowest: float = 0.0
    """The most seconds that a request has waited, besides what upstream took, and while no fault kept it waiting."""

    def judge(self) -> list[str]:
        """Errors that nothing explains, and whoever waited too long."""
        wrong: list[str] = []
        for told in self.told:
            causes = [fault for fault in self.faults if fault.explains(told)]
            if told.error and causes:
                self._note(told, causes[-1])
            elif told.error:
                wrong.append(f"not explained: {told}")
            elif not told.heard.left:
                away = max((fault.over_for(told) for fault in self.faults), default=0.0)
                waited = told.ended - told.begun - told.takes - away
                self.slowest = max(self.slowest, waited)
                if waited > SLOW:
                    wrong.append(f"waited {waited:.1f} s: {told}")
        return wrong + [f"recovered after {f.recovery:.1f} s only: {f}" for f in self.faults if f.recovery > SLOW]

    def _note(self, told: Told, fault: Fault) -> None:
        since = fault.begun if fault.server else fault.seen
        fault.recovery = max(fault.recovery, told.begun - since)
        status = told.heard.status or "no answer"
        said = re.search(r'"code": ?(\d+)', told.error)
        self.errors[f"{fault.kind}: {told.kind} {status}{f', code {said[1]}' if said else ''}"] += 1


def on(told: Told, log: tuple[str, str] | None) -> str:
    """The relay that a request was on, by its answer or by HAProxy's log."""
    server = told.heard.fields.get("x-server") or (log[0] if log else "")
    return "" if server == NOBODY else server
