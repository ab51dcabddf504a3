"""Errors in OpenAI's shape, upstream's or relay's own."""

from addons.core.reading.body import Body, document
from addons.core.reading.page import Page
from addons.core.reading.values import brief, written


def error(body: Body, page: Page) -> None:
    """Write an error answer."""
    value = document(body, page)
    if body.about.status is not None:
        page.field("status", body.about.status)
    problem(page, value.get("error"))


def problem(page: Page, value: object) -> None:
    """Write an error object; one that is a plain string is its message."""
    if not isinstance(value, dict):
        written(page, "error", value)
        return
    for name in value:
        if name != "message":
            page.field(f"error {name}", brief(value[name]))
    message = value.get("message")
    if isinstance(message, str):
        page.block("error", message)
    else:
        written(page, "error", message)
