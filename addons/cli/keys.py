"""The command keys: keys that relay hands out. A relay that runs knows of what is changed here within a second."""

import os
import secrets
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation

from addons.addresses import Refusal
from addons.cli.kept import changing_keys, keys_of, ledger_of
from addons.cli.launch import ROOT
from addons.config.settings import Settings, load_settings, settings_path
from addons.core.rates import dollars
from addons.core.relay_keys import PREFIX, RelayKey, begins, is_name
from addons.meter.keyring import of_settings
from addons.store import StoreError, keys_file
from addons.store.keys_file import StoredKey
from addons.store.ledger_reader import used

_LENGTH = 40
_OF_NEW = ("budget", "per", "upstream", "models", "paths", "requests", "tokens", "parallel", "expires")
"""Options of the action new."""
_LEAST_BUDGET = Decimal("0.000001")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def keys(own: Namespace, rest: list[str]) -> int:
    """Hand out, list, revoke or replace keys. Raises Refusal."""
    if rest:
        raise Refusal(f"keys knows no {rest[0]}; see ./run.sh keys --help")
    if (own.name is None) != (own.action == "list"):
        raise Refusal("keys list takes no name" if own.action == "list" else f"keys {own.action} takes a NAME")
    given = next((name for name in _OF_NEW if getattr(own, name) is not None), None)
    if own.action != "new" and given is not None:
        raise Refusal(f"keys {own.action} takes no --{given}: what a key may do is said when it is new")
    settings = load_settings(settings_path("", os.environ, ROOT), os.environ)
    try:
        match own.action:
            case "new":
                return _new(own, settings)
            case "list":
                return _list(settings)
            case "revoke":
                return _revoke(own.name, settings)
            case _:
                return _rotate(own.name, settings)
    except StoreError as error:
        raise Refusal(str(error)) from error


def _new(own: Namespace, settings: Settings) -> int:
    fresh = _checked(own, settings)
    text = _secret()
    with changing_keys(settings) as (secret, kept):
        if any(each.name == fresh.name and each.revoked is None for each in kept):
            raise Refusal(f"there is a key {fresh.name} already: keys rotate replaces it, keys revoke takes it back")
        first = not kept and not settings.keys.list
        kept.append(replace(fresh, hash=keys_file.hash_of(secret, text)))
    _show(text, fresh.name)
    if first and settings.keys.open is None:
        print("from now on callers with keys of their own are refused; keys.open: true in relay.yaml serves them, too")
    return 0


def _checked(own: Namespace, settings: Settings) -> StoredKey:
    """The key that is asked for. Raises Refusal for what it can't be."""
    if not is_name(own.name):
        raise Refusal(f"{own.name[:80]} is no name: take letters, digits and ._@-, such as alice")
    if any(each.name == own.name for each in settings.keys.list):
        raise Refusal(f"relay.yaml has a key {own.name} under keys.list already: take another name")
    upstreams = {each.name: each for each in settings.upstreams}
    if own.upstream is not None and own.upstream not in upstreams:
        raise Refusal(f"there is no upstream {own.upstream[:80]} in relay.yaml: there are {', '.join(upstreams)}")
    upstream = upstreams[own.upstream] if own.upstream is not None else settings.upstreams[0]
    if not upstream.keys:
        raise Refusal(
            f"relay has no key of its own for {upstream.name}: set upstreams[].keys in relay.yaml, e.g. "
            'keys: ["${OPENAI_KEY}"]'
        )
    if own.per is not None and own.budget is None:
        raise Refusal("--per says for which span a budget is: add --budget")
    for name in ("requests", "tokens", "parallel"):
        if (value := getattr(own, name)) is not None and value < 1:
            raise Refusal(f"--{name} is {value}: take 1 or more, or leave it out for no limit")
    return StoredKey(
        secrets.token_hex(8),
        own.name,
        "",
        datetime.now(UTC).isoformat(timespec="seconds"),
        own.upstream,
        _words(own.models),
        _words(own.paths),
        _dollars(own.budget),
        own.per or "total",
        own.requests,
        own.tokens,
        own.parallel,
        _day(own.expires),
    )


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _dollars(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        amount = Decimal(text.removeprefix("$"))
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or not _LEAST_BUDGET <= amount <= 10**9:
        raise Refusal(f"--budget is {text[:40]}: take an amount in dollars, such as 20 or 2.50")
    return f"{amount:f}"


def _day(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise Refusal(f"--expires is {text[:40]}: take a day such as 2027-01-31") from None
    if day < datetime.now(UTC).date():
        raise Refusal(f"--expires is {day}, which is over (UTC): take a later day")
    return day.isoformat()


def _secret() -> str:
    return PREFIX + "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))


def _show(text: str, name: str) -> None:
    print(text)
    print(f"the key of {name}: it is shown this once, since only its hash is kept")


def _revoke(name: str, settings: Settings) -> int:
    with changing_keys(settings) as (_, kept):
        at = _place(name, kept, settings)
        kept[at] = replace(kept[at], revoked=datetime.now(UTC).isoformat(timespec="seconds"))
    print(f"{name} is revoked")
    return 0


def _rotate(name: str, settings: Settings) -> int:
    text = _secret()
    with changing_keys(settings) as (secret, kept):
        at = _place(name, kept, settings)
        # The old one is kept as a revoked one: it must not be taken for a caller's own and go up.
        now = datetime.now(UTC).isoformat(timespec="seconds")
        kept.append(replace(kept[at], id=secrets.token_hex(8), revoked=now, replaced=True))
        kept[at] = replace(kept[at], hash=keys_file.hash_of(secret, text))
    _show(text, name)
    print("the old one does not work any more; what was spent stays counted")
    return 0


def _place(name: str, kept: Sequence[StoredKey], settings: Settings) -> int:
    for position, each in enumerate(kept):
        if each.name == name and each.revoked is None:
            return position
    if any(each.name == name for each in settings.keys.list):
        raise Refusal(f"{name} stands in relay.yaml, under keys.list: change it there")
    raise Refusal(f"there is no key {name[:80]}: keys list shows those that there are")


_TITLES = ("name", "where", "budget", "spent", "left", "expires", "models", "state")


def _list(settings: Settings) -> int:
    rows: list[tuple[str, ...]] = [_TITLES]
    listed = [(of_settings(each), "relay.yaml") for each in settings.keys.list]
    stored = [(each.key(), "store") for each in keys_of(settings) if not each.replaced]
    spent = _spent(settings)
    for key, where in (*listed, *stored):
        rows.append(_row(key, where, spent))
    if len(rows) == 1:
        print("no key was handed out: ./run.sh keys new NAME")
        return 0
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _row(key: RelayKey, where: str, spent: dict[str, dict[str, int]]) -> tuple[str, ...]:
    now = datetime.now(UTC).timestamp()
    since = begins(key.per, now)
    used_up = sum(amount for day, amount in spent.get(key.id, {}).items() if day >= since)
    budget = left = "-"
    if key.budget is not None:
        budget = f"${dollars(key.budget).normalize():f}" + ("" if key.per == "total" else f" a {key.per}")
        left = f"${dollars(key.budget - used_up):.4f}"
    state = "revoked" if key.revoked else "expired" if key.expired(now) else "works"
    expires = key.expires.isoformat() if key.expires else "-"
    return key.name, where, budget, f"${dollars(used_up):.4f}", left, expires, ", ".join(key.models) or "all", state


def _spent(settings: Settings) -> dict[str, dict[str, int]]:
    """Nano-dollars by key and day."""
    found: dict[str, dict[str, int]] = {}
    for entry in used(ledger_of(settings), ""):
        if entry.amount:
            days = found.setdefault(entry.key, {})
            days[entry.day] = days.get(entry.day, 0) + entry.amount
    return found
