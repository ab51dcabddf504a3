"""Upstreams that fail: with which key and where a request goes up, and where it goes when that one refuses or breaks.

health.py remembers who has refused or could not be reached, and for how long that one is left alone; waiting.py lets
requests wait for a key, in order. attempts.py is one request's way through its candidates, aiming.py makes the request
that goes up for one of them, and failover.py has the hooks. What a refusal means, and which candidate is preferred, is
reckoned in addons/core (core/unbilled.py, core/candidates.py, core/conversations.py).

Not here: how a request is sent again within its flow, which is addons/engine/corrections/attempts.py; what it costs,
which is the meter's.
"""
