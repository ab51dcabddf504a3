"""What has to hold at the end, of conversations and of money."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from addons.store.ledger_file import FINISHED, KILLED, LEFT
from tests.support.cluster.books import Books, Row
from tests.support.cluster.clients import OWN, Talk
from tests.support.cluster.history import Fault, Told
from tests.support.invoice import Billed

_ESTIMATED = ("silent", "none")
"""How upstream answers without any usage: relay can only estimate."""


def conversations(talks: Sequence[Talk], bodies: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with them: as relay shows them at the end, and as upstream has seen them with each message."""
    wrong = [each for talk in talks for each in _in_order(talk, talk.shown, "at the end", None)]
    by_tag = {told.tag: (talk, told) for talk in talks for told in talk.told}
    for body in bodies:
        said = [_tag(each) for each in body.get("messages", ()) if each.get("role") == "user"]
        if said and said[-1] in by_tag:
            talk, told = by_tag[said[-1]]
            wrong += _in_order(talk, said, f"as {told.tag} went up", told)
    return wrong


def _tag(message: Mapping[str, Any]) -> str:
    try:
        return str(json.loads(message["content"])["tag"])
    except (ValueError, KeyError, TypeError):
        return ""


def _in_order(talk: Talk, seen: Sequence[str], when: str, now: Told | None) -> Iterator[str]:
    """`now` is the message that has just been sent; None at the end."""
    told = {each.tag: each for each in talk.told}
    where = f"{talk.session} {when}"
    if len(set(seen)) < len(seen):
        yield f"{where}: a turn is there twice: {seen}"
    if strange := set(seen) - set(told):
        yield f"{where}: turns of somebody else: {strange}"
        return
    for each in talk.told:
        if each.answered and each.tag not in seen and (now is None or each.ended < now.begun):
            yield f"{where}: answered, and missing: {each}; there are {seen}"
    for at, tag in enumerate(seen):
        for later in seen[at + 1 :]:
            if told[later].answered and told[later].ended < told[tag].begun:
                yield f"{where}: {later} was answered before {tag} was said, and stands behind it"


def money(
    told: Sequence[Told],
    books: Books,
    billed: Mapping[str, Sequence[Billed]],
    budgets: Mapping[str, int],
    names: Mapping[str, str],
    faults: Sequence[Fault],
) -> list[str]:
    """What is wrong with it. `budgets` are by the names of keys, which `names` has by their keys."""
    rows = {row["request"]: row for row in books.rows}
    wrong = [*books.restless(), *books.twice()]
    for each in told:
        wrong += _one(each, rows, sum(one.nano for one in billed.get(each.tag, ())), faults)
    spent, ids = defaultdict[str, int](int), dict[str, str]()
    for row in books.rows:
        if row["name"] is not None:
            spent[row["name"]] += row["amount"] or 0
            ids[row["name"]] = row["key"]
    owed, certain = defaultdict[str, int](int), defaultdict[str, int](int)
    tags = {each.tag: each for each in told}
    for tag, answers in billed.items():
        asked = tags.get(tag)
        if asked is None or asked.key == OWN:
            continue
        name = names[asked.key]
        owed[name] += sum(each.nano for each in answers)
        certain[name] += 0 if asked.how in _ESTIMATED else sum(each.nano for each in answers)
    for name, budget in budgets.items():
        if owed[name] > budget or spent[name] > budget:
            wrong.append(f"{name}: {owed[name]} billed, {spent[name]} spent, of a budget of {budget}")
        if certain[name] > spent[name]:
            wrong.append(f"{name}: {certain[name]} billed, {spent[name]} spent")
        total = books.accounts.get(ids.get(name, ""), {}).get("total", 0)
        if total != spent[name]:
            wrong.append(f"{name}: {total} spent in its account, {spent[name]} in the ledger")
    return wrong


def _one(told: Told, rows: Mapping[str, Row], billed: int, faults: Sequence[Fault]) -> Iterator[str]:
    request, row = told.heard.request, rows.get(told.heard.request)
    if told.refused:
        if row is not None or billed:
            yield f"refused, and paid for: {told}, {row}, {billed} billed"
        return
    if not request or told.key == OWN or told.kind == "show":
        return
    if row is None:
        # Whoever has left may have heard no more than the beginning of an envelope.
        refused = any(code in told.heard.body for code in (b'"code": 429', b'"code": 503'))
        if told.heard.status not in (401, 403, 503) and not refused:
            yield f"not settled: {told} {request}"
    elif row["reason"] == KILLED:
        if not any(fault.kind in ("kill", "stop") and fault.server == told.server for fault in faults):
            yield f"settled as one whose relay is gone: {told}"
    elif row["reason"] == LEFT:
        if told.answered:
            yield f"settled as one who has left: {told}"
    elif row["reason"] == FINISHED and told.how not in _ESTIMATED and row["amount"] != billed:
        yield f"settled at {row['amount']}, billed {billed}: {told}"
    elif row["amount"] is None:
        yield f"settled at nothing known: {told}"


def reports(said: Mapping[str, Any], books: Books) -> list[str]:
    """What is wrong with what `./run.sh usage` says on each machine."""
    first = next(iter(said))
    wrong = [f"usage of {first} and {name} differ" for name in said if said[name] != said[first]]
    told = {row["key"]: row["requests"] for row in said[first]}
    ours = defaultdict[str, int](int)
    for row in books.rows:
        if row["name"] is not None:
            ours[row["name"]] += 1
    return wrong + [f"usage has {told.get(name)} of {name}, not {n}" for name, n in ours.items() if told.get(name) != n]
