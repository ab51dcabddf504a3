"""Tables in Markdown, for the terminal and for RESULTS.md alike."""

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned: the first column to the left, all others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return "| " + " | ".join([cells[0].ljust(widths[0]), *padded[1:]]) + " |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)])


def times(value: float | None) -> str:
    """A ratio."""
    return "" if value is None else f"{value:.2f}"


def ms(seconds: float) -> str:
    """Milliseconds."""
    return f"{seconds * 1e3:.2f}" if abs(seconds) < 0.1 else f"{seconds * 1e3:.0f}"


def us(seconds: float) -> str:
    """Microseconds."""
    return f"{seconds * 1e6:,.0f}"


def mb(size: float) -> str:
    """Megabytes."""
    return f"{size / 1e6:.1f}"


def kb(size: float) -> str:
    """Kilobytes."""
    return f"{size / 1e3:.1f}"
