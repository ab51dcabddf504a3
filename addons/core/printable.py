"""Text of a stranger's on a terminal, in a log, in a list: what would steer the terminal is shown instead of obeyed.

Escaped are the controls of C0 (but for tab and line feed) and C1, DEL, the separators U+2028 and U+2029, at which some
viewers break lines, Unicode's Bidi_Control, by which text is made to read otherwise than it is (CVE-2021-42574), and
halves of surrogate pairs, which no terminal can be sent.
"""

_STEERING = (
    *range(0x20),
    *range(0x7F, 0xA0),
    0x61C,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_ESCAPED = {code: _escape(code) for code in _STEERING}
_ON_ONE_LINE = dict(_ESCAPED)
for _kept in (0x09, 0x0A):
    del _ESCAPED[_kept]


def is_encodable(text: str) -> bool:
    """Whether a text can be written in UTF-8: JSON and YAML can name halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str, *, one_line: bool = False) -> str:
    """`text` with what steers a terminal as an escape of Python's; with `one_line` tabs and line feeds, too.

    >>> printable("\x1b[31mred\u202e")
    '\\\\x1b[31mred\\\\u202e'
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_ON_ONE_LINE if one_line else _ESCAPED)
