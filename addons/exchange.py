"""What relay knows of one exchange while it lasts: it travels with the flow.

Hooks of a flow that began before a reload run in the new instances of the addons, and settings may have been swapped
since. So what an exchange needs at its end hangs on the flow itself, as a plain attribute: it is never serialised, and
a flow read from a file, copied or replayed has none, which is how hooks tell that a flow is not theirs.
"""

import abc
import asyncio
import enum
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mitmproxy import http, websocket

from addons.config.settings import Settings, Upstream
from addons.core.known_secrets import KnownSecrets
from addons.core.slices import Sliced
from addons.errors import RelayError

if TYPE_CHECKING:  # of all mitmproxy's proxy only its name is needed here
    from mitmproxy.proxy.server import ConnectionHandler

_ATTRIBUTE = "relay_exchange"
_BESIDE = "relay_beside"
_ORIGINAL = "relay_original"


class Kind(enum.StrEnum):
    """Whose answer it is."""

    PASS = "pass"
    """Upstream's, unchanged."""
    CHAT = "chat"
    BALANCE = "balance"
    OWN = "own"
    """relay's own small paths, and refusals of unknown ones."""


@dataclass(frozen=True)
class SessionPath:
    """`/chat/{sessionId}`; None where what stands there is no text in UTF-8."""

    session_id: str | None


@dataclass(eq=False, slots=True)
class BodyState:
    """The request's body, where relay reads it whole. Whoever is to read it writes here: endpoints/ or the meter.

    The engine asks with each piece that comes whether that is too much, and Streaming leaves such a body alone.
    """

    cap: int | None = None
    """Bytes of it that may be held; more is answered 413. None: not held at all."""
    passes: bool = False
    """It is held so that it can be sent again, and for nothing else: a longer or slower one goes up as it comes."""
    passing: Callable[[bytes], bytes | list[bytes]] | None = None
    """The tap of one that does. Streaming's."""
    holding: Callable[[int], RelayError | None] | None = None
    """Hears how many bytes of it are held, and may refuse more. The meter's, which counts the bodies of all clients."""


@dataclass(eq=False, slots=True)
class AnswerState:
    """Upstream's answer, where relay reads it itself. endpoints/chat.py owns it, with endpoints/chat_answer.py.

    The engine ends the message by it, Streaming puts the tail into the record, and the meter asks whether it was whole.
    Others set the last two.
    """

    over: bool = False
    """It has come to its end, whatever its connection does: nothing more of it is wanted."""
    whole: bool = False
    """It is all there: should its connection break now, that is an end like any other."""
    tail: bytes = b""
    """What a streamed answer still says when its `response` hook is over."""
    ear: Callable[[bytes], object] | None = None
    """Hears an answer that is read whole while it comes, and may then say that it is `over`."""
    tap: Callable[[bytes], object] | None = None
    """Hears what upstream says where relay tells the client something else. Set by replay/recording.py for `/chat`."""
    read_whole: bool = False
    """It is read before it is passed on, so nobody streams it. Set by the meter for Streaming."""


@dataclass(eq=False, slots=True)
class StreamState:
    """An answer that is sent chunk by chunk. proxy/streaming.py owns it.

    The engine and the meter ask whether it has ended, and redaction whether it is sent. The engine sets `seen_off`.
    """

    ended: Callable[[], bool] | None = None
    """Whether a streamed answer has told its last event; None where it has none that is known."""
    seen_off: bool = False
    """The client has left behind that event: nothing is sent to it any more, and the exchange ends as one that was
    answered."""
    sent: bool = False
    """The answer's body was streamed and is on the wire: what the record says of it is free to change."""


@dataclass(eq=False, slots=True)
class RecordState:
    """What people see of an exchange. inspection/ owns it, and the engine sends and calls what it leaves here.

    Routing finds the first two as it makes the exchange; whoever keeps copies or notes for the record reads them.
    """

    watched: bool = True
    """Somebody may look at the record of this exchange when it is over."""
    saved: bool = False
    """Flows are saved to a file as they end."""
    later: bool = False
    """Nobody reads it before a person does, in a list: it is finished when there is time for it, once all is sent.
    Redaction takes that back where the exchange has ended otherwise."""
    notes: list[Callable[[], None]] = field(default_factory=list)
    """Leave something in it that takes time to work out, when there is time. Set by the meter, called by the list."""
    asked_clean: bool = False
    """The request's head is clean. Redaction's."""
    cleaning: Sliced[None] | None = None
    """What is left to do until nothing in it is secret. Until then it shows nothing that may be."""
    wire: http.Response | None = None
    """What is sent, where the record was cleaned before: `flow.response` is then the record."""
    ended_at: float | None = None
    """When it was over, before its record was cleaned: seconds on the monotonic clock."""
    late: Callable[[http.HTTPFlow], None] | None = None
    """Hears of a client that has left while `response` ran: mitmproxy notes it as the flow's error, without a hook."""


@dataclass(eq=False, slots=True)
class FailureState:
    """What went wrong. Whoever sees it notes it here, and proxy/failures.py, which owns this, makes an answer of it.

    The engine sends that answer. The meter, Chat and the list in mitmweb read why there is one.
    """

    fault: RelayError | None = None
    """Why relay cut upstream off; the `error` hook answers with it. Set by whoever cuts it off."""
    by_client: bool = False
    """The client left, or broke the rules of HTTP: it is not upstream's failure. Set by the engine."""
    connecting: bool = False
    """It waits for its connection to upstream. Set by the engine."""
    connect_timed_out: bool = False
    """A connect of this client was given up after `limits.connect` meanwhile. Set by proxy/timeouts.py."""
    answer_timed_out: bool = False
    """Upstream was silent for `limits.idle`, and was given up. Set by proxy/timeouts.py."""
    substitute: http.Response | None = None
    """What the client gets in place of mitmproxy's HTML page, set by the `error` hook, sent by the engine."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """How a request has failed upstream, before anything of an answer went to its client."""

    error: str = ""
    """mitmproxy's words, where there is no answer."""
    connected: bool = True
    """Whether there was a connection, so that upstream may have seen something of the request."""
    answer: http.Response | None = None
    """The head of an answer that may be a refusal."""
    body: bytes = b""
    """As much of its body as was read, as it came."""
    whole: bool = True
    """Whether nothing of it is still to come. Else it can't be kept waiting: what comes meanwhile is held."""


@dataclass(eq=False)
class AttemptState(abc.ABC):
    """What becomes of a request that fails upstream. upstreams/ decides; the engine asks, and sends it again.

    The engine runs the hook `upstream_failed` once it has set `failed`; whoever decides sets `again`, and has pointed
    the flow to where it is to go.
    """

    failed: FailedAttempt | None = None
    again: bool = False
    gone: Callable[[], bool] | None = None
    """Whether the client has left meanwhile."""
    key_refused: bool = False
    """The answer that is left refuses relay's own key: it is no business of the caller's."""

    @abc.abstractmethod
    def begin(self) -> None:
        """Upstream is about to be asked."""

    @abc.abstractmethod
    def patience(self, flow: http.HTTPFlow, response: http.Response) -> float | None:
        """Seconds for which the body of an answer may be waited for, since its head may be that of a refusal; None
        where it passes as it comes."""


@dataclass(eq=False, slots=True)
class Exchange:
    """One request and its answer, as relay sees them.

    What Routing finds in the request's head, and three marks that several rooms set, stand here plainly. What belongs
    to one room and is read by others stands in a state of its own; what a room keeps for itself is a `Part`.
    """

    settings: Settings
    upstream: Upstream
    kind: Kind
    path: str
    """The path behind a route's prefix, without the query."""
    routed: bool = False
    """It came under the prefix of a route, which names its upstream."""
    origin: bool = False
    """The request came from a browser's script: it carries an Origin."""
    forwarded: bool = False
    """Another server has passed it on, and says so."""
    session_path: SessionPath | None = None
    """The request asks for a session of `/chat` by its path, and is no message."""
    id: str = field(default_factory=lambda: f"req_{time.time_ns():016x}{os.urandom(4).hex()}")
    """Later ones are greater: rows of the ledger with such keys stand one behind the other."""
    started: float = field(default_factory=time.monotonic)
    """Seconds on the monotonic clock."""
    client_closes: bool = False
    """The answer says `Connection: close`: the client asked for that, which is not passed on, or relay wants it."""
    committed: bool = False
    """The head of an answer is on its way to the client: from here on an error can only be a break."""
    refused: bool = False
    """relay has answered by itself; later hooks leave the flow alone."""
    body: BodyState = field(default_factory=BodyState)
    answer: AnswerState = field(default_factory=AnswerState)
    stream: StreamState = field(default_factory=StreamState)
    record: RecordState = field(default_factory=RecordState)
    failure: FailureState = field(default_factory=FailureState)
    attempts: AttemptState | None = None
    """None: what fails is not asked again."""
    waiting: set[asyncio.Task[Any]] = field(default_factory=set)
    """What is done while its client waits (flow/leaving.py). The engine cancels it where the client resets its stream
    of HTTP/2; where it disconnects, whoever has begun it does."""
    parts: dict[str, Any] = field(default_factory=dict)
    """What rooms keep here, each through a `Part` of its own."""


class Part[T]:
    """What one room keeps on exchanges, with its type. Whoever is to read it gets this object from the room.

    It is kept by its name: hooks of a flow that began before a reload run with the parts of the new modules.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def of(self, exchange: Exchange) -> T | None:
        """What is kept, if anything is."""
        kept: T | None = exchange.parts.get(self._name)
        return kept

    def keep(self, exchange: Exchange, value: T) -> T:
        """Keep it in place of what was there."""
        exchange.parts[self._name] = value
        return value

    def take(self, exchange: Exchange) -> T | None:
        """What was kept until now."""
        kept: T | None = exchange.parts.pop(self._name, None)
        return kept


REAL_KEY = Part[bytes]("real_key")
"""relay's own key that went up for a caller with one of relay's: its caller must not see it in what comes back. Set by
the meter and Chat."""


@dataclass(eq=False, slots=True)
class Parting:
    """A client has left behind the last event of a stream, and upstream has a moment to end, too. For the engine."""

    timer: asyncio.TimerHandle
    """Cuts upstream off when the moment is over."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Upstream has ended, or was cut off."""


@dataclass(eq=False, slots=True)
class _Beside:
    """What is kept on every flow, a client's or a sub-request."""

    hearing: Exchange | None = None
    answer_cap: int | None = None
    original: http.Response | None = None
    secrets: KnownSecrets | None = None
    handler: "ConnectionHandler | None" = None
    parting: Parting | None = None
    upstream: Upstream | None = None


_NOTHING = _Beside()


def _beside(flow: http.HTTPFlow) -> _Beside:
    found: _Beside | None = getattr(flow, _BESIDE, None)
    if found is None:
        found = _Beside()
        setattr(flow, _BESIDE, found)
    return found


def attach(flow: http.HTTPFlow, exchange: Exchange) -> Exchange:
    """Hang `exchange` on `flow`."""
    setattr(flow, _ATTRIBUTE, exchange)
    return exchange


def of(flow: http.HTTPFlow) -> Exchange | None:
    """The exchange of `flow`, or None where the flow is not a client's: replayed, read from a file, a sub-request."""
    return None if flow.is_replay else getattr(flow, _ATTRIBUTE, None)


def listen(flow: http.HTTPFlow, exchange: Exchange) -> None:
    """Note in `exchange` when the answer to a sub-request is over: it may be an event stream like any other."""
    _beside(flow).hearing = exchange


def heard(flow: http.HTTPFlow) -> Exchange | None:
    """Where it is noted when the answer to `flow` is over, a client's or a sub-request."""
    return getattr(flow, _BESIDE, _NOTHING).hearing or of(flow)


def ongoing(flow: http.HTTPFlow, *kinds: Kind) -> Exchange | None:
    """The guard line of request hooks: the exchange, if it is one of `kinds` and nobody has answered it yet."""
    exchange = of(flow)
    if exchange is None or exchange.refused or flow.response is not None or flow.error is not None:
        return None
    return exchange if exchange.kind in kinds else None


def cap_answer(flow: http.HTTPFlow, cap: int) -> None:
    """Hold no more than `cap` bytes of the answer to `flow`, a client's or a sub-request."""
    _beside(flow).answer_cap = cap


def answer_cap(flow: http.HTTPFlow) -> int | None:
    """Bytes of an answer that may be held; None where nobody has set a bound."""
    cap: int | None = getattr(flow, _BESIDE, _NOTHING).answer_cap
    return cap


def keep_original(flow: http.HTTPFlow, response: http.Response) -> None:
    """Keep the answer as it came beside a flow whose own one is cleaned: whoever asked needs it whole."""
    _beside(flow).original = response


def original(flow: http.HTTPFlow) -> http.Response | None:
    """The answer as it came, or the flow's own where nobody has cleaned that."""
    return getattr(flow, _BESIDE, _NOTHING).original or flow.response


def secrets_of(flow: http.HTTPFlow, secret: bytes) -> KnownSecrets:
    """The secrets that have been seen in `flow` so far. `secret` keys what is shown for them. For redaction alone."""
    beside = _beside(flow)
    if beside.secrets is None:
        beside.secrets = KnownSecrets(secret)
    return beside.secrets


def noted_secrets(flow: http.HTTPFlow) -> KnownSecrets | None:
    """The same, where any have been looked for: not so in a flow that was read from a file."""
    found: KnownSecrets | None = getattr(flow, _BESIDE, _NOTHING).secrets
    return found


def keep_handler(flow: http.HTTPFlow, handler: "ConnectionHandler | None") -> None:
    """Note the task that serves a sub-request, while it lasts: it has no client that is connected."""
    _beside(flow).handler = handler


def kept_handler(flow: http.HTTPFlow) -> "ConnectionHandler | None":
    """The task that serves a sub-request; None for a client's flow, whose client has it."""
    handler: ConnectionHandler | None = getattr(flow, _BESIDE, _NOTHING).handler
    return handler


def aim(flow: http.HTTPFlow, upstream: Upstream) -> None:
    """Note which upstream a flow goes to, a client's or a sub-request."""
    _beside(flow).upstream = upstream


def aimed_at(flow: http.HTTPFlow) -> Upstream | None:
    """Where it goes; None where nobody has said so, as of a flow that was read from a file."""
    upstream: Upstream | None = getattr(flow, _BESIDE, _NOTHING).upstream
    return upstream


def keep_parting(flow: http.HTTPFlow, parting: Parting) -> None:
    """Note that the client of `flow` has left. For the engine alone."""
    _beside(flow).parting = parting


def take_parting(flow: http.HTTPFlow) -> Parting | None:
    """The parting that lasted until now, if it was one."""
    parting: Parting | None = getattr(flow, _BESIDE, _NOTHING).parting
    if parting is not None:
        _beside(flow).parting = None
    return parting


def keep_message(message: websocket.WebSocketMessage, content: bytes) -> None:
    """Keep what a message said as it came beside its cleaned record, until it has been sent."""
    setattr(message, _ORIGINAL, content)


def original_message(message: websocket.WebSocketMessage) -> bytes | None:
    """What a message said as it came, or None where its record is that."""
    return getattr(message, _ORIGINAL, None)


def forget_message(message: websocket.WebSocketMessage) -> None:
    """Let go of what a message said as it came, once that has been sent."""
    if hasattr(message, _ORIGINAL):
        delattr(message, _ORIGINAL)
