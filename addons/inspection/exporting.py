"""Exports of records: cleaned copies of flows, as one text.

A record may hold keys all the same, where a file was saved with `inspect.redact: false`; so each is cleaned again,
whatever the settings say, but for those that this relay has cleaned itself. To clean twice changes nothing.
"""

import asyncio
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from mitmproxy import flow, http

from addons.config.settings import Settings
from addons.core.export import jsonl, otlp, page
from addons.core.export.record import Exported
from addons.core.slices import Sliced, at_once
from addons.exchange import aimed_at, of
from addons.flow.exported import exported
from addons.flow.turns import in_turns
from addons.inspection.placing import placing, wants_placing
from addons.inspection.redaction import Redaction
from addons.meter.prices import Prices
from addons.telemetry.tracing import VERSION

FORMATS = ("jsonl", "html", "otlp")
_BY_ENDING = {".jsonl": "jsonl", ".ndjson": "jsonl", ".html": "html", ".htm": "html", ".json": "otlp"}


class Unfit(ValueError):
    """Why there is no export, in a sentence."""


def format_of(path: Path, named: str = "") -> str:
    """The format that is named, or that a file's ending tells. Raises Unfit."""
    found = named or _BY_ENDING.get(path.suffix.lower(), "")
    if found in FORMATS:
        return found
    if named:
        raise Unfit(f"There is no format {named[:40]}: take one of {', '.join(FORMATS)}.")
    raise Unfit(f"{path} tells no format: let its name end in .jsonl, .html or .json (OTLP).")


def refuse_existing(path: Path, advice: str) -> None:
    """Raise Unfit where nothing may be written to `path`; `advice` says what to do about a file that is there."""
    if path.is_dir():
        raise Unfit(f"{path} is a folder: name a file to export into.")
    if path.exists() or path.is_symlink():
        raise Unfit(f"{path} is there already: {advice}.")


def write(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write an export. Raises Unfit where it can't be written, or is there already."""
    try:
        with path.open("w" if overwrite else "x", encoding="utf-8", newline="\n") as file:
            try:
                file.write(text)
                file.flush()
            except OSError:
                if not overwrite:
                    path.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise Unfit(f"{path} can't be written: {error.strerror}.") from None


def text_of(records: Iterable[Exported], form: str) -> str:
    """The export itself; HTML of several threads has a section each."""
    if form == "jsonl":
        return jsonl.document(sorted(records, key=lambda each: each.at))
    if form == "html":
        return page.page(records)
    encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
    return "".join((*encoder.iterencode(otlp.document(records, VERSION)), "\n"))  # others have their turns meanwhile


def always_redacting(settings: Settings, secret: bytes) -> Redaction:
    """One that cleans under any settings. `secret` keys the hashes that are shown."""
    inspect = settings.inspect.model_copy(update={"redact": True})
    return Redaction(settings.model_copy(update={"inspect": inspect}), secret)


def reading(flows: Sequence[flow.Flow], redaction: Redaction) -> Sliced[list[http.HTTPFlow]]:
    """Copies of these flows that are clean; those under way are left out."""
    copies: list[http.HTTPFlow] = []
    for each in flows:
        if isinstance(each, http.HTTPFlow) and not each.live and not _is_unfinished(each):
            copies.append((yield from _cleaned(each, redaction)))
    return copies


def telling(copies: Sequence[http.HTTPFlow], settings: Settings, prices: Prices) -> list[Exported]:
    """What is told of these clean copies, with the threads of those that have none as yet."""
    if wants_placing(copies):
        at_once(placing(copies, prices))
    return [told for each in copies if (told := exported(each, settings.upstreams)) is not None]


def _cleaned(each: http.HTTPFlow, redaction: Redaction) -> Sliced[http.HTTPFlow]:
    copy: http.HTTPFlow = each.copy()
    if (aimed := aimed_at(each)) is not None:
        copy.metadata.setdefault("relay.upstream", aimed.name)
    if not _is_clean(each):
        yield from redaction.cleaning_record(copy)
    copy.id, copy.timestamp_created = each.id, each.timestamp_created
    return copy


def _is_clean(each: http.HTTPFlow) -> bool:
    """Whether it has passed here, was cleaned then, and nobody has changed it since."""
    exchange = of(each)
    return exchange is not None and exchange.settings.inspect.redact and exchange.record.watched and not each.modified()


def _is_unfinished(each: http.HTTPFlow) -> bool:
    exchange = of(each)
    return exchange is not None and exchange.record.later


async def export(
    flows: Sequence[flow.Flow], settings: Settings, secret: bytes, form: str, prices: Prices
) -> tuple[str, int]:
    """The export of flows, made while relay serves, and how many exchanges are in it. What lost tokens have cost is
    looked up in `prices`."""
    copies = await in_turns(reading(flows, always_redacting(settings, secret)))
    # A copy is nobody else's, so all the rest is done beside the loop.
    if await asyncio.to_thread(wants_placing, copies):
        await prices.ready()
    return await asyncio.to_thread(_made, copies, settings, prices, form)


def _made(copies: Sequence[http.HTTPFlow], settings: Settings, prices: Prices, form: str) -> tuple[str, int]:
    records = telling(copies, settings, prices)
    return text_of(records, form), len(records)
