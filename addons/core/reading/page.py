"""The text that a view shows, built line by line: YAML in its looks, so that mitmproxy can colour it."""

import re
from string import ascii_letters, digits

MAX_SHOWN = 1 << 20
"""Characters a page holds; what is beyond is counted and left out."""
MAX_PARTS = 10_000
"""Fields, blocks and lines that it holds."""
MAX_LAID_OUT = 10_000
"""Values of JSON that it lays out over several lines; further ones stand on one line, as they were written."""

LONG = 4096
"""Characters of what an agent sends along again and again, such as its system prompt; a longer one is folded."""

_HEAD, _TAIL = 1200, 400
"""Characters that stay of a text that is folded, at its beginning and at its end."""
_ENCODING = bytes(0x61 if chr(code) in ascii_letters + digits + "+/_-" else 0x20 for code in range(256))
"""What base64 is written with, as one letter; all else as a blank."""
_RUN = b"a" * 64
"""Of a data URL; without its head a run has to be longer, so that it is no word."""
_LONG_RUN = 512
_DATA_URL = re.compile(r"data:([\w.+/-]{0,100}+)(?:;[\w=.-]{1,60}+){0,5}+,\Z")
_LONGEST_HEAD = 420
_BREAKS = re.compile(r"\s+")
_DIGIT, _UPPER, _LOWER = re.compile("[0-9]"), re.compile("[A-Z]"), re.compile("[a-z]")
_LONGEST_FIELD = 600


class Page:
    """Notes first (what is missing, what broke), then fields and blocks in the order they were written."""

    def __init__(self, limit: int = MAX_SHOWN) -> None:
        self._notes: list[str] = []
        self._parts: list[str] = []
        self.values = MAX_LAID_OUT
        """Values that may still be laid out."""
        self._room = limit
        self._left_out = 0
        self.most: int | None = None
        """Characters of a block; a longer one is folded."""

    def note(self, text: str) -> None:
        """Say something that must not be missed, once; it stands at the top."""
        if text not in self._notes:
            self._notes.append(text)

    def comment(self, text: str) -> None:
        """Write a line about what follows."""
        self._write(f"# {one_line(text)}\n")

    def field(self, name: str, value: object) -> None:
        """Write `name: value` on one line; nothing where the value is None or empty."""
        if value is not None and value != "":
            self._write(f"{one_line(name, 80)}: {one_line(str(value))}\n")

    def item(self, name: str, value: object) -> None:
        """Write one of a list under a field: `  - name: value`."""
        self._write(f"  - {one_line(name, 200)}: {one_line(str(value))}\n")

    def block(self, title: str, text: str, most: int | None = None) -> None:
        """Write a text of any length, indented under its title; one of more than `most` characters is folded."""
        if self._is_full():
            self._left_out += len(text)
            return
        text = without_base64(text)
        if bounds := [each for each in (most, self.most) if each is not None]:
            text = folded(text, min(bounds))
        self.gap()
        if not text:
            self._write(f'{one_line(title, 120)}: ""\n')
            return
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        kept = text[: max(self._room, 0)]
        self._left_out += len(text) - len(kept)
        indented = kept.replace("\n", "\n  ")
        self._write(f"{one_line(title, 120)}: |\n  {indented}\n")

    def gap(self) -> None:
        """Leave one line empty, unless nothing stands above."""
        if self._parts and self._parts[-1] != "\n":
            self._parts.append("\n")

    def text(self) -> str:
        """All of it."""
        notes = list(self._notes)
        if self._left_out:
            notes.append(f"too long to show: {count(self._left_out, 'more character')} left out; the raw view has them")
        lines = [f"# {one_line(note)}\n" for note in notes]
        if lines and self._parts:
            lines.append("\n")
        return without_surrogates("".join(lines + self._parts).rstrip("\n"))

    def _is_full(self) -> bool:
        return self._room <= 0 or len(self._parts) >= MAX_PARTS

    def _write(self, text: str) -> None:
        if len(self._parts) >= MAX_PARTS:
            self._left_out += len(text)
            return
        if len(text) > self._room:
            self._left_out += len(text) - max(self._room, 0)
            text = text[: max(self._room, 0)]
        self._room -= len(text)
        if text:
            self._parts.append(text)


def without_surrogates(text: str) -> str:
    """JSON may hold lone ones; UTF-8, which mitmweb speaks, may not. Looking for a million of them takes 0.1 s."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("\ufffd" * 3, "\ufffd")
    return text


def one_line(text: str, longest: int = _LONGEST_FIELD) -> str:
    """The text on one line, shortened to about `longest` characters."""
    if len(text) > longest:
        text = f"{text[:longest]}… ({len(text):,} characters)"
    return _BREAKS.sub(" ", text).strip()


def without_base64(text: str) -> str:
    """A text with type and size in place of what is encoded in base64 in it: a data URL, or a run that is no word."""
    if len(text) <= len(_RUN):
        return text
    marks = text.encode("ascii", "replace").translate(_ENCODING)  # as long as the text
    pieces: list[str] = []
    done = 0
    start = marks.find(_RUN)
    while start >= 0:
        end = marks.find(b" ", start)
        end = len(text) if end < 0 else end
        head = _data_url(text, start)
        if head is not None or _looks_encoded(text[start:end]):
            begin, kind = (start, "base64") if head is None else head
            pieces += (text[done:begin], f"[{kind}, {size((end - start) * 3 // 4)}]")
            padding = text[end : end + 2]
            done = end + len(padding) - len(padding.lstrip("="))
        start = marks.find(_RUN, end)
    return "".join((*pieces, text[done:])) if pieces else text


def _data_url(text: str, start: int) -> tuple[int, str] | None:
    """Where the head of a data URL begins whose data begin at `start`, and its type."""
    at = text.rfind("data:", max(0, start - _LONGEST_HEAD), start) if text[start - 1 : start] == "," else -1
    found = _DATA_URL.match(text, at, start) if at >= 0 else None
    return None if found is None else (at, found[1] or "base64")


def _looks_encoded(run: str) -> bool:
    """Whether it is neither xxxx... nor a number."""
    return len(run) >= _LONG_RUN and all(each.search(run) for each in (_DIGIT, _UPPER, _LOWER))


def folded(text: str, most: int = LONG) -> str:
    """A text of more than `most` characters as its beginning, its end and the size of what lies between."""
    if len(text) <= most:
        return text
    head, tail = min(_HEAD, most * 3 // 4), min(_TAIL, most // 4)
    # At the end of a line, where one is near.
    head = max(text.rfind("\n", head // 2, head), 0) or head
    tail = len(text) - (text.find("\n", len(text) - tail, len(text) - tail // 2) + 1 or len(text) - tail)
    gone = len(text[head : len(text) - tail].encode("utf-8", "replace"))
    return f"{text[:head]}\n… {size(gone)} folded; the raw view has all of it …\n{text[len(text) - tail :]}"


def count(number: int, noun: str) -> str:
    """`1 event`, `2,000 events`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(number: int) -> str:
    """A number of bytes for people: `812 bytes`, `12.3 kB`, `1 MB`; k is 1024, as in relay.yaml."""
    if number < 1024:
        return count(number, "byte")
    value, unit = number / 1024, "kB"
    for larger in ("MB", "GB"):
        if value < 1023.95:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def seconds(milliseconds: float) -> str:
    """A duration for people: `42 ms`, `0.31 s`, `2.4 s`, `38 s`, `3 min 5 s`."""
    if milliseconds < 99.5:
        return f"{milliseconds:.0f} ms"
    value = milliseconds / 1000
    if value < 0.995:
        return f"{value:.2f} s"
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"
