"""Commands about threads: which conversations and runs of agents there are, and why they cost what they did.

relay.threads          a line for each thread among the flows
relay.thread @focus    the flows of that thread, and nothing else in the list
relay.why @focus       why these calls cost what they did, and where the money of their thread went
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from mitmproxy import command, ctx, exceptions, flow, http
from mitmproxy.log import ALERT

from addons.core.export.record import loaded
from addons.core.export.talk import offered
from addons.core.threads import telling
from addons.core.threads.noted import amount, cause_of
from addons.core.threads.telling import Told
from addons.flow.decoding import content_of
from addons.flow.model_calls import CAUSE, PARENT, label_of, tokens_of
from addons.inspection.commands import flows_on_view

logger = logging.getLogger(__name__)

_MOST_READ = 4 << 20
_MOST_WHY = 20
"""Calls that are told of at once."""


class ThreadCommands:
    """As mitmproxy's `command` module wants them."""

    name = "relay-thread-commands"

    @command.command("relay.threads")
    def threads(self) -> Sequence[str]:
        """
        List the threads among the flows, which are conversations and runs of agents: short hash, calls, models, tokens,
        cost, and what has happened but for new turns.
        """
        return telling.overview(list(_told_of(flows_on_view())))

    @command.command("relay.thread")
    def thread(self, flows: Sequence[flow.Flow]) -> None:
        """
        Show the thread that these flows belong to, and nothing else: sets view_filter. An empty view_filter shows
        everything again.
        """
        labels = _labels(flows)
        found = sum(label_of(each) in labels for each in flows_on_view())
        ctx.options.update(view_filter="~meta '^relay.thread: (" + "|".join(sorted(labels)) + ")$'")
        names = ", ".join(sorted(labels))
        logger.log(ALERT, f"{found} of thread {names}; without a view_filter all flows are shown again")

    @command.command("relay.why")
    def why(self, flows: Sequence[flow.Flow]) -> Sequence[str]:
        """
        Say why these calls cost what they did, each against the one of its thread before it, and where the money of
        their thread went: by cause, and the tools by their bytes.
        """
        labels = _labels(flows)
        beside = {each.id: each for each in _told_of(each for each in flows_on_view() if label_of(each) in labels)}
        lines: list[str] = []
        chosen = [each for each in flows if label_of(each) is not None]
        for each in chosen[:_MOST_WHY]:
            told = next(_told_of([each]), None)
            if told is not None:
                lines += [*telling.why(told, beside.get(told.cause.previous or "")), ""]
        if len(chosen) > _MOST_WHY:
            lines += [f"and {len(chosen) - _MOST_WHY} more", ""]
        for label in sorted(labels):
            group = [each for each in beside.values() if each.thread == label]
            if group:
                lines += [*telling.totals(group), *telling.tools(_tools_of(label, flows))]
        return lines


def _tools_of(label: str, flows: Sequence[flow.Flow]) -> dict[str, int]:
    """Of the latest of these calls: to read all of them would hold up whoever is served."""
    latest = next((each for each in reversed(flows) if label_of(each) == label), None)
    return _tools(latest) if isinstance(latest, http.HTTPFlow) else {}


def _labels(flows: Sequence[flow.Flow]) -> set[str]:
    labels = {label for each in flows if (label := label_of(each)) is not None}
    if not labels:
        raise exceptions.CommandError("No call of a model that belongs to a thread is among the selected flows.")
    return labels


def _told_of(flows: Iterator[flow.Flow] | Sequence[flow.Flow]) -> Iterator[Told]:
    """What records tell, those that have a thread."""
    for each in flows:
        cause, label = cause_of(each.metadata.get(CAUSE)), label_of(each)
        if not isinstance(each, http.HTTPFlow) or label is None or cause is None:
            continue
        cost, parent = each.metadata.get("relay.cost"), each.metadata.get(PARENT)
        yield Told(
            each.id,
            time.strftime("%H:%M:%S", time.localtime(each.timestamp_created)),
            label,
            parent if isinstance(parent, str) else None,
            str(each.metadata.get("relay.model", "")),
            tokens_of(each),
            amount(cost),
            isinstance(cost, str) and cost.startswith("~"),
            cause,
        )


def _tools(each: http.HTTPFlow) -> dict[str, int]:
    """Bytes of the definitions of tools in a request."""
    found: Counter[str] = Counter()
    body = loaded(content_of(each.request, _MOST_READ))
    for tool in offered(body) if isinstance(body, dict) else ():
        found[tool.name] += tool.size
    return dict(found)
