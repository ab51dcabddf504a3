"""Counts: how much is kept and held, for whoever scrapes `/metrics`. Told by the process that has store and ledger."""

from addons.core.metrics import Numbers
from addons.store.ledger import Book


def count_kept(numbers: Numbers, store: object, book: Book | None) -> None:
    """Note what is known of a store and a ledger; of one that can't tell, nothing."""
    if isinstance(sessions := getattr(store, "sessions", None), int):
        numbers.set("relay_sessions", sessions)
    if book is not None:
        holds = book.accounts.holds.values()
        numbers.set("relay_holds", len(holds))
        numbers.set("relay_held_nanodollars", sum(hold.claim.amount for hold in holds))
