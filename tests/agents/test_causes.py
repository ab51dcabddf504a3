"""Threads and causes in recorded runs of real agents, against labels that were made by hand before."""

import functools
import json
from typing import Any

from addons.core.slices import at_once
from addons.core.threads.call import Call, Outcome, Placed
from addons.core.threads.prompt import dialect_of
from addons.core.threads.registry import Threads
from tests.agents import recording
from tests.agents.recording import Exchange, Recording

LABELS: list[dict[str, Any]] = json.loads((recording.FOLDER / "labels.json").read_text(encoding="utf-8"))
LEAST = 36
"""Of 40 that have to be right."""


def call_of(name: str, exchange: Exchange) -> Call:
    if exchange.error is not None:
        outcome = Outcome.LEFT
    elif exchange.status is None or exchange.status in (408, 504):
        outcome = Outcome.UNHEARD
    else:
        outcome = Outcome.REFUSED if exchange.status >= 400 else Outcome.ANSWERED
    return Call(
        name,
        exchange.at,
        exchange.path,
        exchange.headers,
        exchange.body,
        exchange.answer,
        exchange.content_type.startswith("text/event-stream"),
        outcome,
        exchange.upstream,
        exchange.header("authorization") or exchange.header("x-api-key") or exchange.header("x-goog-api-key"),
    )


@functools.cache
def placed(name: str) -> dict[int, Placed]:
    """What is found of each call of a recording, by its number."""
    threads = Threads(1 << 28)
    found: dict[int, Placed] = {}
    for number, exchange in enumerate(Recording.load(recording.FOLDER / f"{name}.jsonl.xz").exchanges):
        if exchange.method == "POST" and dialect_of(exchange.path) is not None:
            each = at_once(threads.placing(call_of(str(number), exchange)))
            if each is not None:
                found[number] = each
    return found


def judged(label: dict[str, Any]) -> list[str]:
    """What is wrong of a labelled call."""
    found = placed(label["recording"]).get(label["request"])
    if found is None:
        return ["it was not placed"]
    cause = found.cause
    follows = None if label["follows"] is None else str(label["follows"])
    told = {
        "follows": (cause.previous, follows),
        "reason": (str(cause.reason), label["reason"]),
        "part": (cause.part, label["part"]),
        "path": (cause.path, label["path"]),
    }
    return [f"{name}: {mine}, not {theirs}" for name, (mine, theirs) in told.items() if mine != theirs]


def test_nearly_all_of_the_labels_are_met() -> None:
    wrong = {f"{each['recording']} {each['request']}": judged(each) for each in LABELS if judged(each)}
    assert len(LABELS) == 40
    assert len(LABELS) - len(wrong) >= LEAST, wrong
