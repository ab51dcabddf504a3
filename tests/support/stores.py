"""Sessions kept and forgotten as `/chat` does it: under a lease."""

from addons.core.sessions import Session
from addons.store import Store


async def keep(store: Store, key: str, owner: str, session: Session) -> None:
    """Save a session."""
    async with store.lease(key, 100) as lease:
        await store.save(lease, owner, session)


async def forget(store: Store, key: str) -> bool:
    """Delete a session; False if there was none."""
    async with store.lease(key, 100) as lease:
        return await store.delete(lease)
