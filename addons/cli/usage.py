"""The command usage: what was used and what it has cost, summed up from the ledger."""

import csv
import json
import os
import re
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal

from addons.addresses import Refusal
from addons.cli.kept import ledger_of
from addons.cli.launch import ROOT
from addons.config.settings import load_settings, settings_path
from addons.core.rates import dollars
from addons.meter.prices import PriceList, Prices
from addons.meter.reports import Sum, day_back, summed
from addons.store import StoreError
from addons.store.ledger_reader import Used, used

_SPAN = re.compile(r"([1-9][0-9]{0,4})d")
_TITLES = ("requests", "failures", "input", "cached", "output", "cost", "unpriced", "estimated")


def usage(own: Namespace, rest: list[str]) -> int:
    """Print a report. Raises Refusal."""
    if rest:
        raise Refusal(f"usage knows no {rest[0]}; see ./run.sh usage --help")
    if own.json and own.csv:
        raise Refusal("--json and --csv can't be given together")
    settings = load_settings(settings_path("", os.environ, ROOT), os.environ)
    prices = Prices(settings, PriceList())
    since = _since(own.since)
    try:
        prices.price_list.load()
        entries = used(ledger_of(settings), since, grain=prices, by_key=own.by == "key")
        sums = summed(entries, prices, _BY[own.by])
    except StoreError as error:
        raise Refusal(str(error)) from error
    names = sorted(sums) if own.by == "day" else sorted(sums, key=lambda name: (-sums[name].amount, name))
    rows = {name: sums[name] for name in names}
    if own.json:
        print(json.dumps({"since": since, "by": own.by, "rows": [_fields(own.by, *each) for each in rows.items()]}))
    elif own.csv:
        writer = csv.DictWriter(sys.stdout, [own.by, *_FIELDS])
        writer.writeheader()
        writer.writerows(_fields(own.by, *each) for each in rows.items())
    else:
        _table(own.by, since, rows)
    return 0


def _since(text: str) -> str:
    if (found := _SPAN.fullmatch(text)) is not None:
        return day_back(time.time(), int(found[1]) - 1)
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise Refusal(
            f"--since is {text[:40]}: take a number of days such as 7d, or a day such as 2026-11-01"
        ) from None


def _key_of(entry: Used) -> str:
    """The name of a relay key, or the beginning of the hash of a caller's own."""
    return entry.name or (f"own key {entry.key[:8]}" if entry.key else "keys not taken")


_BY: Mapping[str, Callable[[Used], str]] = {
    "key": _key_of,
    "model": lambda entry: entry.model or "(not told)",
    "day": lambda entry: entry.day,
}
_FIELDS = (
    "requests",
    "failures",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "cost_usd",
    "unpriced",
    "estimated",
)


def _fields(by: str, name: str, found: Sum) -> dict[str, object]:
    """As numbers; the cost as text, since a float would round it. Without what is unpriced."""
    values = (found.requests, found.failures, found.input, found.cached, found.output, f"{dollars(found.amount):f}")
    return {by: name, **dict(zip(_FIELDS, (*values, found.unpriced, found.estimated), strict=True))}


def _table(by: str, since: str, rows: Mapping[str, Sum]) -> None:
    if not rows:
        print(f"nothing was used since {since}")
        return
    lines: list[tuple[str, ...]] = [(by, *_TITLES)]
    lines += [(name, *_cells(found)) for name, found in rows.items()]
    total = Sum()
    for found in rows.values():
        for name in total.__slots__:
            setattr(total, name, getattr(total, name) + getattr(found, name))
    lines.append(("all", *_cells(total)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    print(f"since {since}")
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells))
    if total.unpriced:
        print(f"{total.unpriced} request(s) have no price: their usage or their model's rates are not known")


def _sum(nano: int) -> str:
    """Dollars, with more places where four would show nothing of it."""
    amount = dollars(nano)
    return f"${amount:.4f}" if not nano or amount >= Decimal("0.01") else f"${amount:.7f}"


def _cells(found: Sum) -> tuple[str, ...]:
    share = f" ({100 * found.cached // found.input}%)" if found.input and found.cached else ""
    known = found.requests - found.unpriced
    cost = _sum(found.amount) if known or found.amount else "unknown"
    counts = (found.requests, found.failures, found.input)
    return (
        *(f"{count:,}" for count in counts),
        f"{found.cached:,}{share}",
        f"{found.output:,}",
        cost,
        f"{found.unpriced:,}",
        f"{found.estimated:,}",
    )
