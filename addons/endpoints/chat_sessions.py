"""Sessions: `GET /chat/{sessionId}` shows a conversation, `DELETE` forgets it. The key comes as bearer."""

from mitmproxy import connection, http

from addons import errors
from addons.core import chat, envelope
from addons.core.relay_keys import owner_of
from addons.core.sessions import Session
from addons.exchange import Exchange, Kind, ongoing
from addons.flow.answers import answer, json_response, refuse
from addons.meter.metering import Meter
from addons.store import Store, StoreError
from addons.store.queueing import lease_for, no_store

_ALLOW = "GET, DELETE"


class Sessions:
    """Answers the paths of single sessions, which Routing has told apart."""

    serves = (Kind.CHAT,)

    def __init__(self, store: Store, meter: Meter) -> None:
        self.store = store
        self.meter = meter

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Neither method has a body: none is read."""
        exchange = _of_session(flow)
        if exchange is None:
            return
        exchange.body.cap = 0
        if flow.request.method not in ("GET", "HEAD", "DELETE"):
            refuse(flow, exchange, errors.MethodNotAllowed(flow.request.method, _ALLOW))

    async def request(self, flow: http.HTTPFlow) -> None:
        """Show or forget."""
        exchange = _of_session(flow)
        if exchange is None:
            return
        try:
            text, session_id = _names(flow.request, exchange)
            key, _ = self.store.key(owner_of(self.meter.authenticate(text), text), session_id)
            flow.metadata["relay.session"] = key
            if flow.request.method == "DELETE":
                await self._forget(flow, exchange, key)
                said = envelope.dumps(200, envelope.SUCCESS, None)
            else:
                session = await self.store.load(key, exchange.settings.chat.session_ttl)
                said = envelope.history(_messages(session))
        except errors.RelayError as error:
            refuse(flow, exchange, error)
        except StoreError as error:
            refuse(flow, exchange, no_store(error))
        else:
            answer(flow, json_response(said))

    async def _forget(self, flow: http.HTTPFlow, exchange: Exchange, key: str) -> None:
        # A message that is being answered would bring the session back: it comes to its end first.
        lease = await lease_for(flow, self.store, key, exchange.settings.chat.max_waiting)
        try:
            await self.store.delete(lease)
        finally:
            lease.release()

    def client_disconnected(self, client: connection.Client) -> None:
        """Give up a place in the queue."""
        self.store.waiter_left(client.id)


def _of_session(flow: http.HTTPFlow) -> Exchange | None:
    exchange = ongoing(flow, Kind.CHAT)
    return exchange if exchange is not None and exchange.session_path is not None else None


def _names(request: http.Request, exchange: Exchange) -> tuple[str, str]:
    settings = exchange.settings.chat
    key = chat.read_bearer(request.headers.get("authorization", ""))
    session_id = exchange.session_path.session_id if exchange.session_path is not None else None
    if key is None:
        raise errors.Unauthorized(
            "请在 Authorization 请求头中提供密钥：Bearer sk-...", "Send the key as Authorization: Bearer sk-..."
        )
    if session_id is None or len(session_id) > settings.max_session_id or len(key) > settings.max_api_key:
        raise errors.BadRequest(
            f"sessionId 或 apiKey 无效：sessionId 应为 UTF-8 并经百分号编码，最多 {settings.max_session_id} 个字符，"
            f"apiKey 最多 {settings.max_api_key} 个字符。",
            f"sessionId must be UTF-8, percent-encoded, of at most {settings.max_session_id} characters, "
            f"the key of at most {settings.max_api_key}.",
        )
    try:
        return chat.read_key(key), session_id
    except chat.Invalid as error:
        raise errors.BadRequest(error.zh, str(error)) from None


def _messages(session: Session) -> list[dict[str, str]]:
    return [
        message
        for turn in session.turns
        for message in ({"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.assistant})
    ]
