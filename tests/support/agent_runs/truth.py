"""What is true of a call: its thread, the call before it, the reason of its cost, and what that cost.

Thread. All calls of one conversation of a program with a model have one thread; any other has another.
- A subagent is a thread of its own, with its parent named beside it: it has a prompt of its own, and is paid for by
  itself. So is a side call (a title for the session). Their sessions' ids may be their parent's.
- A conversation that goes on is the same thread, whatever changes: key, upstream, model, system prompt, tools, session
  id (resumed under another one), history replaced by a summary, history edited, an earlier turn asked again (branches
  are one thread).
- Two conversations that begin alike are two threads. What a request's history has from a thread's answers tells it
  from others. A request without such history that repeats one: it is the same thread if that one failed (a retry), or
  if both name the same session; after an answered one without a session's id it begins another conversation. So
  nothing here has to be guessed. `prompt_cache_key` is no session's id where a program sends one for all its runs.

Previous. The call of the thread that passed last before this one, answered or not; but of a retry, the last call that
asked the same. The difference (differences.py), its path and both values are those against this call, whatever the
reason is. A retry and a first turn have none.

Reason, the first that holds. The person who pays wants to know what to change so that it costs less; so among causes
that coincide, the one comes first that would have cost as much alone, since curing a narrower one would save nothing.
1. `first_turn`: the thread had no call before.
2. `retry`: what it asks equals what an earlier call of the thread asked (settings included), whether that failed or
   was answered.
3. `other_upstream`: the previous call had another upstream or another key, and so another cache.
4. `settings_changed`: another model; caches are per model.
5. `cache_expired`: what the previous call left in the cache had died: more time passed since than it lives.
6. `compaction`: the program replaced its history by a summary, or cut off its old end, so as to make it shorter.
7. `prefix_changed`: the first difference is in the tools, the system prompt or a message that was there before: `part`
   tells which. `settings_changed` if it is in `tool_choice` or `thinking`, and the dialect is messages: what comes
   first in the prompt decides.
8. `settings_changed`: another setting is different. It costs no cached token (but perhaps more output).
9. `new_turn`: there is more behind the last message, and nothing else.

Tokens that the cache could not serve therefore: what the cache held of the previous call and could hold of this one,
less what it read: `max(0, min(held before, held now) - cached)`, where `held` is how much of a prompt lies in the
cache after its call (chat and responses: its tokens rounded down to 128, from 1024; messages: read and written
tokens). Each term can be had from the usage of answers. "Held before" is that of the last call, up to the previous
one, which the upstream worked on (one that was left or timed out tells no usage; nothing is lost after it here). New
input is nobody's fault: for `first_turn` and `new_turn` it is 0, and so for every change that cost no cached token.
Cost: what these tokens cost in this call at list price, in 10^-9 dollars (prices.cost_of); not the surplus over what
reading them from the cache would have cost. None of it where the upstream told no usage (a call that failed): tokens
and cost are None then.

Ambiguous: two or more of the causes 3, 4, 5, 6 and 7 hold at once, or a retry goes to another upstream, or the
scenario says that people could disagree. Path and thread are certain all the same.
"""

from dataclasses import dataclass

from tests.support.agent_runs.cache import Served
from tests.support.agent_runs.differences import Difference, all_places, first_difference, shown
from tests.support.agent_runs.prices import cost_of
from tests.support.agent_runs.saying import Usage
from tests.support.agent_runs.thread import REFUSED, Step
from tests.support.agent_runs.views import View

REASONS = (
    "first_turn",
    "new_turn",
    "cache_expired",
    "prefix_changed",
    "compaction",
    "settings_changed",
    "other_upstream",
    "retry",
)
_IN_PREFIX = ("tools", "system", "cached_setting", "message", "cut")


@dataclass(frozen=True, slots=True)
class Truth:
    thread: str
    parent: str | None
    """Of a subagent or a side call: the thread that sent it."""
    previous: int | None
    """The number of the previous call."""
    reason: str
    part: str | None
    """`system`, `tools` or `message`, where the reason is `prefix_changed`."""
    path: str | None
    before: str | None
    after: str | None
    tokens: int | None
    cost: int | None
    """In 10^-9 dollars."""
    ambiguous: bool


@dataclass(frozen=True, slots=True)
class Past:
    """A call of a thread, as later ones are compared with it."""

    index: int
    at: int
    step: Step
    view: View
    held: int
    """Left in the cache by the last call up to this one which the upstream worked on."""
    held_at: int
    life: int


class ThreadPast:
    """What has passed of one thread."""

    def __init__(self) -> None:
        self._calls: list[Past] = []

    def truth(self, index: int, at: int, step: Step, view: View, served: Served, usage: Usage | None) -> Truth:
        """The truth of the thread's next call, which is remembered."""
        key = view.key()
        repeated = next((each for each in reversed(self._calls) if each.view.key() == key), None)
        previous = repeated or (self._calls[-1] if self._calls else None)
        found = None if previous is None or repeated else first_difference(previous.view, view)
        reason, ambiguous = _reason(previous, repeated is not None, found, at, step, view)
        before, after = shown(found.before, found.after) if found is not None else (None, None)
        tokens = None if usage is None else _lost(previous, served)
        self._remember(index, at, step, view, served)
        return Truth(
            step.thread,
            step.parent,
            previous.index if previous is not None else None,
            reason,
            _part(found) if reason == "prefix_changed" else None,
            found.path if found is not None else None,
            before,
            after,
            tokens,
            None if usage is None or tokens is None else cost_of(view.model, tokens, usage),
            ambiguous or step.debatable,
        )

    def _remember(self, index: int, at: int, step: Step, view: View, served: Served) -> None:
        last = self._calls[-1] if self._calls else None
        held = served.held, at, served.life
        if step.outcome == REFUSED:
            held = (last.held, last.held_at, last.life) if last is not None else (0, at, 0)
        self._calls.append(Past(index, at, step, view, *held))


def _part(found: Difference | None) -> str | None:
    return None if found is None else "message" if found.place == "cut" else found.place


def _reason(
    previous: Past | None, repeated: bool, found: Difference | None, at: int, step: Step, view: View
) -> tuple[str, bool]:
    if previous is None:
        return "first_turn", False
    elsewhere = (previous.step.upstream, previous.step.key) != (step.upstream, step.key)
    if repeated:
        return "retry", elsewhere
    places = all_places(previous.view, view)
    prefix = next((each for each in places if each in _IN_PREFIX), None)
    changed = "settings_changed" if prefix == "cached_setting" else "prefix_changed" if prefix is not None else None
    causes = [
        "other_upstream" if elsewhere else None,
        "settings_changed" if "model" in places else None,
        "cache_expired" if previous.held and at - previous.held_at > previous.life else None,
        "compaction" if step.compacted else changed,
    ]
    holding = [each for each in causes if each is not None]
    if holding:
        return holding[0], len(holding) > 1
    return "settings_changed" if "setting" in places else "new_turn", False


def _lost(previous: Past | None, served: Served) -> int:
    return 0 if previous is None else max(0, min(previous.held, served.held) - served.cached)
