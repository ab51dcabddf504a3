"""The command export: what a flow file holds, as JSONL, as one HTML page or as spans."""

import secrets
import sys
from argparse import Namespace
from os import environ
from pathlib import Path

from addons.addresses import Refusal
from addons.cli.launch import ROOT
from addons.config.settings import Settings, load_settings, settings_path
from addons.core.slices import at_once
from addons.inspection import exporting
from addons.inspection.placing import wants_placing
from addons.meter.prices import PriceList, Prices
from addons.replay.flow_file import flows_of
from addons.store.folder import SECRET


def export(own: Namespace, rest: list[str]) -> int:
    """Write an export to standard output or to a file. Raises Refusal."""
    if rest:
        raise Refusal(f"export knows no {rest[0]}; see ./run.sh export --help")
    path = Path(own.file).expanduser().absolute()
    out = Path(own.out).expanduser().absolute() if own.out else None
    settings = load_settings(settings_path("", environ, ROOT), environ)
    try:
        if out is not None and (not own.overwrite or out.is_dir()):
            exporting.refuse_existing(out, "add --overwrite to write it anew, or name another file")
        if out is not None and out.exists() and out.samefile(path):
            raise exporting.Unfit(f"{out} is the file that is read: name another one.")
        flows, left_out = flows_of(path)
        redaction = exporting.always_redacting(settings, _secret(settings))
        copies = at_once(exporting.reading(flows, redaction))
        prices = Prices(settings, PriceList())
        if wants_placing(copies):
            prices.price_list.load()
        records = exporting.telling(copies, settings, prices)
        if own.thread:
            records = [each for each in records if each.thread == own.thread]
        if not records:
            of_thread = f" of thread {own.thread[:40]}" if own.thread else ""
            raise exporting.Unfit(f"{path} holds nothing{of_thread} to export.")
        text = exporting.text_of(records, own.to)
        if out is not None:
            exporting.write(out, text, overwrite=own.overwrite)
        else:
            sys.stdout.buffer.write(text.encode("utf-8", "replace"))
            sys.stdout.flush()
    except exporting.Unfit as error:
        raise Refusal(str(error)) from None
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    if out is not None:
        print(f"{len(records)} exchange(s) are in {out}", file=sys.stderr)
    return 0


def _secret(settings: Settings) -> bytes:
    """What keys the hashes of keys: the store's, so that a key has one hash in records and exports. Without a store
    one for this export alone."""
    try:
        found = (settings.store.path / SECRET).read_bytes()
    except OSError:
        found = b""
    return found if len(found) == 32 else secrets.token_bytes(32)
