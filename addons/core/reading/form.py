"""Multipart forms: fields as they are, files by name, type and size, and the lines of a batch. One that was cut shows
what there is."""

import re

from addons.core.reading.batches import written_lines
from addons.core.reading.body import Body, UnreadableBody
from addons.core.reading.media import dimensions
from addons.core.reading.page import Page, one_line, size

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^\s;,]{1,200}))', re.IGNORECASE)
_NAME = re.compile(rb'[;\s]name="?([^";\r\n]*)"?', re.IGNORECASE)
_FILE = re.compile(rb'[;\s]filename="?([^";\r\n]*)"?', re.IGNORECASE)
_TYPE = re.compile(rb"^content-type:\s*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_JSON_LINES = re.compile(rb'\s{0,16}+\{[^\r\n]{0,4096}"custom_id"')
_MOST_PARTS = 200


def form(body: Body, page: Page) -> None:
    """Write an upload. Raises UnreadableBody where its boundary is missing."""
    found = _BOUNDARY.search(body.about.content_type)
    if found is None:
        raise UnreadableBody("a multipart form without a boundary")
    mark = b"--" + (found[1] or found[2]).encode("latin-1", "replace")
    _, *parts = (b"\r\n" + body.data).split(b"\r\n" + mark, _MOST_PARTS)
    if not parts:
        raise UnreadableBody("a multipart form without its boundary")
    ended = parts[-1].startswith(b"--")
    for position, part in enumerate(parts[:-1] if ended else parts):
        _part(page, part, cut=not ended and position == len(parts) - 1)
    if not ended and not body.partial:
        page.note("this form ends too early: here is what there is of it")


def _part(page: Page, part: bytes, cut: bool) -> None:
    head, _, content = part.partition(b"\r\n\r\n")
    head = head[:4096]
    name, file, kind = (_said(pattern, head) for pattern in (_NAME, _FILE, _TYPE))
    if file is None:
        page.block(name or "?", content.decode("utf-8", "replace"))
        return
    shown = [file or "unnamed", kind or "no type", ("at least " if cut else "") + size(len(content))]
    if measures := dimensions(content[: 1 << 16]):
        shown.append(f"{measures[0]}×{measures[1]}")
    page.block(name or "?", f"[file: {', '.join(shown)}]")
    if _JSON_LINES.match(content):
        written_lines(page, content)


def _said(pattern: re.Pattern[bytes], head: bytes) -> str | None:
    found = pattern.search(head)
    return one_line(found[1].decode("utf-8", "replace"), 200) if found else None
