"""Waiting for a session, and saying why that fails: shared by what answers `/chat` and its sessions."""

import logging
from collections.abc import Callable

from mitmproxy import http

from addons import errors
from addons.store.leases import Full, Left, Queue
from addons.store.shelf import StoreError

logger = logging.getLogger(__name__)


async def enter(gates: Queue, flow: http.HTTPFlow, key: str, max_waiting: int) -> Callable[[], None]:
    """Wait until a session is free. The result frees it. Raises RelayError where that is not to be."""
    try:
        return await gates.enter(flow.client_conn.id, key, max_waiting)
    except Full:
        raise errors.Busy(
            "该会话有太多消息正在等待，请在上一条得到回答后再发送。",
            "Too many messages of this session are waiting: send the next one when the last is answered.",
        ) from None
    except Left:
        raise errors.Unavailable("客户端已断开。", "The client has left.") from None
    except StoreError as error:  # the queue is kept where the store is
        raise no_store(error) from None


def no_store(error: StoreError) -> errors.Unavailable:
    """The error for a store that fails; the log says why."""
    logger.error(f"sessions can't be kept: {error}")
    return errors.Unavailable(
        "中转服务暂时无法保存会话，请稍后再试，或联系服务管理员。",
        "This relay can't keep sessions just now: try again later, or ask whoever runs it.",
    )
