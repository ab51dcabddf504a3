"""JSON that ends too early, closed: a record that was cut still tells most of its story.

1. Strings are stepped over, brackets are counted; possessive matching keeps this linear. Commas count as well where it
   is too much: each may stand for a value.
2. A string value that was cut is ended where it stops; a key, a number or a word that was cut is dropped.
3. What is open is closed.
"""

import re

_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)
_HALF_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_CLOSING = {"{": "}", "[": "]"}
_MAX_DEPTH = 400
MAX_TOKENS = 40_000
"""Strings, brackets and commas that are gone through; more would take longer than a view may."""


def mend(text: str) -> tuple[str, int]:
    """`text` with its end put right, and how many characters of it were left out, since it has too many pieces.

    Raises ValueError where it is no JSON from the start, or where nothing is missing at its end.
    """
    whole = len(text)
    stack: list[str] = []
    end, start, last = 0, 0, ""
    for number, token in enumerate(_TOKEN.finditer(text)):
        mark = text[token.start()]
        if number == MAX_TOKENS:
            text = text[: token.start() if mark == "," else end]
            break
        if mark == ",":
            continue
        start, end = token.span()
        last = mark
        if last in "{[":
            stack.append(last)
            if len(stack) > _MAX_DEPTH:
                raise ValueError("nested too deep")
        elif last in "}]" and (not stack or _CLOSING[stack.pop()] != last):
            raise ValueError("brackets do not match")
    if not stack:
        raise ValueError("nothing to mend")
    if last == '"' and not _closed(text, start, end):
        kept = _end_string(text, start, stack[-1])
    else:
        kept = _end_scalar(text, start, end, last, stack[-1])
    return kept + "".join(_CLOSING[bracket] for bracket in reversed(stack)), whole - len(text)


def _closed(text: str, start: int, end: int) -> bool:
    """Whether a string token ends in a quote of its own."""
    if end - start < 2 or text[end - 1] != '"':
        return False
    return _backslashes(text[start + 1 : end - 1]) % 2 == 0


def _backslashes(text: str) -> int:
    """How many stand at the end."""
    return len(text) - len(text.rstrip("\\"))


def _end_string(text: str, start: int, inside: str) -> str:
    before = text[:start].rstrip()
    if inside == "{" and not before.endswith(":"):
        return before.removesuffix(",")
    string = text[start:]
    cut = _HALF_ESCAPE.search(string)
    if cut and _backslashes(string[: cut.start()]) % 2 == 0:
        string = string[: cut.start()]
    return before + string + '"'


def _end_scalar(text: str, start: int, end: int, last: str, inside: str) -> str:
    tail = text[end:]
    if "," in tail:
        kept, _, _ = text.rpartition(",")
        return kept
    if last == '"' and inside == "{":
        before = text[:start].rstrip()
        if not before.endswith(":"):  # a key without its value
            return before.removesuffix(",")
    return text[:end]
