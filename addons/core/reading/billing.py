"""The upstream's own billing answers: what was granted, what was used day by day."""

from addons.core.reading.body import Body, document
from addons.core.reading.page import Page, count
from addons.core.reading.values import brief, objects, parameters

_MOST_DAYS = 100


def billing(body: Body, page: Page) -> None:
    """Write a subscription (dollars), a usage (cents), or whatever else billing tells."""
    value = document(body, page)
    used = value.get("total_usage")
    if isinstance(used, int | float):
        page.field("used", f"${used / 100:,.4f}".rstrip("0").rstrip("."))
    limit = value.get("hard_limit_usd")
    if isinstance(limit, int | float):
        page.field("granted", f"${limit:,.2f}")
    parameters(page, value, frozenset({"daily_costs"}))
    days = objects(value.get("daily_costs"))
    if days:
        page.field("daily_costs", count(len(days), "day"))
        page.gap()
    for day in days[:_MOST_DAYS]:
        costs = [item.get("cost") for item in objects(day.get("line_items"))]
        cents = sum(cost for cost in costs if isinstance(cost, int | float))
        if cents:
            page.item(brief(day.get("timestamp")) or "?", f"${cents / 100:,.4f}")
