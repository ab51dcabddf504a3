"""Waiting for a session, and saying why that fails: shared by what answers `/chat` and its sessions."""

import logging

from mitmproxy import http

from addons import errors
from addons.store import Lease, LeaseLost, Store, StoreError, TooManyWaiting, WaiterLeft

logger = logging.getLogger(__name__)


async def lease_for(flow: http.HTTPFlow, store: Store, key: str, max_waiting: int) -> Lease:
    """Wait until a session is free. Raises RelayError where that is not to be."""
    try:
        return await store.lease(key, max_waiting, flow.client_conn.id)
    except TooManyWaiting:
        raise errors.Busy(
            "该会话有太多消息正在等待，请在上一条得到回答后再发送。",
            "Too many messages of this session are waiting: send the next one when the last is answered.",
        ) from None
    except WaiterLeft:
        raise errors.Unavailable("客户端已断开。", "The client has left.") from None
    except StoreError as error:  # the queue is kept where the store is
        raise no_store(error) from None


def no_store(error: StoreError) -> errors.Unavailable:
    """The error for a store that fails; the log says why."""
    if isinstance(error, LeaseLost):
        logger.warning(f"a turn was not kept: {error}")
        return errors.Unavailable(
            "中转服务停顿过久，这条消息没有保存，请重新发送。",
            "This relay stood still for too long, so the turn was not kept: send the message again.",
        )
    logger.error(f"sessions can't be kept: {error}")
    return errors.Unavailable(
        "中转服务暂时无法保存会话，请稍后再试，或联系服务管理员。",
        "This relay can't keep sessions just now: try again later, or ask whoever runs it.",
    )
