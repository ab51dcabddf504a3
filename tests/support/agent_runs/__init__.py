"""Runs of AI agents whose truth is known, made up by seed, for whatever finds threads and causes.

`agent_runs(seed, calls)` yields calls in the order in which they pass a relay: headers, body, the upstream's answer
with its usage, the time; and of each what is true. The definitions, each at the head of its file:

- truth.py: what a thread is, which call is the previous one, the reasons and which comes first when two hold, tokens
  and cost;
- differences.py: what is compared with what, in which order, and how a path is written;
- views.py: the parts of a prompt; what is a setting, and what is neither;
- cache.py: the stub's cache and its counter of tokens; prices.py: the list prices.

FROZEN. It was written before the classifier that it judges, by someone who had not seen one. It is not changed to
please a classifier: only where it is at fault by its own definitions or not as real agents and upstreams are, by
someone who does not work on the classifier at the same time, with the reason in the commit.
tests/core/test_agent_runs.py holds a hash of what it yields.

`python -m tests.support.agent_runs --seed 1 --calls 20` prints an excerpt.
"""

from tests.support.agent_runs.calls import Call
from tests.support.agent_runs.runs import DIALECTS, SCENARIOS, agent_runs
from tests.support.agent_runs.saying import Usage
from tests.support.agent_runs.truth import REASONS, Truth

CI_SEED, CI_CALLS = 18, 500
"""What the tests take; by command it is 5,000."""

__all__ = ["CI_CALLS", "CI_SEED", "DIALECTS", "REASONS", "SCENARIOS", "Call", "Truth", "Usage", "agent_runs"]
