"""What is told of an exchange when it is over: to metrics, to the log, to whoever collects spans.

Each name that stands in a label comes from a list in this file: callers write paths and codes, and there may be any
number of them.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from addons.core.failures import Failure
from addons.core.generations import Generation
from addons.core.metered import Metered
from addons.core.paths import OPENAI

OTHER = "other"


class Outcome(enum.StrEnum):
    """What became of an exchange."""

    OK = "ok"
    REFUSED = "refused"
    """By relay itself."""
    UPSTREAM_ERROR = "upstream_error"
    """The upstream has answered with an error, which was passed on."""
    FAILED = "failed"
    """The upstream gave no answer."""
    BROKEN = "broken"
    """An answer broke off."""
    LEFT = "left"
    """The client did not wait for the end."""


OPERATIONS: Mapping[Generation, str] = {
    Generation.CHAT: "chat",
    Generation.COMPLETION: "text_completion",
    Generation.RESPONSE: "chat",
    Generation.MESSAGE: "chat",
    Generation.EMBEDDING: "embeddings",
    Generation.IMAGE: "image_generation",
    Generation.SPEECH: "speech",
    Generation.TRANSCRIPTION: "transcription",
    Generation.CONTENT: "generate_content",
}
"""`gen_ai.operation.name`; those of images and audio are relay's own, for which the conventions have no name."""
REALTIME = "realtime"
"""Likewise, of a turn in a websocket."""

_ENDPOINTS: Mapping[Generation, str] = {
    Generation.CHAT: "chat_completions",
    Generation.COMPLETION: "completions",
    Generation.RESPONSE: "responses",
    Generation.MESSAGE: "messages",
    Generation.EMBEDDING: "embeddings",
    Generation.IMAGE: "images",
    Generation.SPEECH: "audio",
    Generation.TRANSCRIPTION: "audio",
    Generation.CONTENT: "generate_content",
}
OWN_ENDPOINTS = {"chat": "relay_chat", "balance": "relay_balance", "own": "relay"}
"""Of relay's own paths, by the kind of an exchange."""


def endpoint(kind: str, path: str, generation: Generation | None) -> str:
    """What a request asked for, in a word.

    >>> endpoint("pass", "/v1/files/file-1/content", None)
    'files'
    """
    if kind in OWN_ENDPOINTS:
        return OWN_ENDPOINTS[kind]
    if generation is not None:
        return _ENDPOINTS[generation]
    if "/dashboard/billing/" in path[:40]:
        return "billing"
    parts = path[:60].split("/", 4)
    if len(parts) > 3 and parts[2:4] == ["chat", "completions"]:
        return "chat_completions"
    return parts[2] if len(parts) > 2 and parts[1] == "v1" and parts[2] in OPENAI else OTHER


CODES = frozenset(
    (
        *("bad_request", "invalid_api_key", "forbidden", "not_found", "method_not_allowed", "request_timeout"),
        *("session_busy", "request_too_large", "rate_limit_exceeded", "balance_not_supported", "upstream_failed"),
        *("relay_unavailable", "upstream_timeout", "relay_error", "ambiguous_field", "context_length_exceeded"),
        *("duplicate_field", "filtered", "headers_too_large", "https_required", "input_not_bounded"),
        *("insufficient_quota", "invalid_header", "invalid_json", "invalid_path", "model_not_allowed"),
        *("model_not_found", "model_not_mapped", "model_not_priced", "output_not_bounded", "path_not_allowed"),
        *("redirected", "routing_not_allowed", "unknown_path", "upstream_key_refused", "upstream_keys_exhausted"),
        *("wrong_address", "too_many_connections", "metrics_not_allowed"),
    )
)
"""Of relay's own errors (addons/errors.py and whoever raises them)."""

_STATUSES = frozenset((400, 401, 402, 403, 404, 408, 409, 413, 415, 422, 429, 500, 501, 502, 503, 504, 529))


def kind_of_code(code: str) -> str:
    """A code of relay's own errors as a label."""
    return code if code in CODES else OTHER


def kind_of_status(status: int) -> str:
    """An upstream's error as a label: `http_429`, `http_4xx`."""
    return f"http_{status}" if status in _STATUSES else f"http_{status // 100}xx" if 400 <= status < 600 else OTHER


def kind_of_failure(failure: Failure) -> str:
    """A failure below HTTP as a label: `connect_timeout`."""
    return failure.name.lower()


KINDS = frozenset(
    (
        *CODES,
        *(kind_of_status(status) for status in range(400, 600)),
        *(kind_of_failure(each) for each in Failure),
        OTHER,
    )
)
"""All there are."""


def status_class(status: int | None) -> str:
    """`2xx`; `none` where no answer was sent."""
    return f"{status // 100}xx" if status is not None and 100 <= status < 600 else "none"


@dataclass(slots=True)
class Used:
    """What an exchange has used: a generation once, a websocket with each turn."""

    model: str = ""
    usage: Metered | None = None
    cost: int | None = None
    """Nano-dollars; None where they are not known."""
    estimated: bool = False
    turns: int = 0

    def add(self, model: str, usage: Metered | None, cost: int | None, *, estimated: bool) -> None:
        """One more turn. What is not known of one of them is not known of all."""
        first, self.turns = self.turns == 0, self.turns + 1
        self.model = model or self.model
        self.estimated = self.estimated or estimated
        if first:
            self.usage, self.cost = usage, cost
            return
        known = self.usage is not None and usage is not None
        self.usage = Metered(*map(sum, zip(self.usage, usage, strict=True))) if known else None  # type: ignore[arg-type]
        self.cost = self.cost + cost if self.cost is not None and cost is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One exchange that is over. Texts that callers have written are without keys already, but for the model's name
    where only numbers are wanted."""

    id: str
    ended: float
    """Seconds since the epoch."""
    seconds: float
    """From its arrival to its end."""
    endpoint: str
    method: str = ""
    path: str = ""
    """Without the query. Like `method` and `parent`, it is read where lines or spans tell of it."""
    status: int | None
    code: int | None = None
    """Of relay's envelope, where it has one."""
    outcome: Outcome = Outcome.OK
    error: str = ""
    """Its kind, where it failed."""
    operation: str = ""
    """`gen_ai.operation.name`, of a request to a model."""
    upstream: str = ""
    """Empty where relay has answered by itself."""
    key: str = ""
    """The name of a relay key, or the beginning of a keyed hash of a caller's own."""
    used: Used = field(default_factory=Used)
    stream: bool = False
    first_byte: float | None = None
    """Seconds until the first byte of the answer's body."""
    asked: float | None = None
    """Seconds until the upstream was asked; None where it was not."""
    upstream_seconds: float | None = None
    overhead: float | None = None
    streamed: float | None = None
    """Seconds from the first byte of a stream to its last."""
    attempts: Sequence[Mapping[str, object]] = ()
    """As `relay.attempts` has them, where there were several or one failed."""
    asked_times: int = 0
    """How often an upstream was asked."""
    parent: str = ""
    """`traceparent` of the request."""
    content: Mapping[str, str] = field(default_factory=dict)
    """What was asked and answered, where spans carry that."""
