"""Gate: who may go up, and in which form. It admits requests of relay keys against what is left of their budget.

1. The body says which model is wanted and what that may cost at most (core/claims.py, core/rates.py).
2. The ledger holds that amount before upstream is asked, or the request is refused with what would fit.
3. Of the body no more is changed than relay needs: the model where the upstream has another name for it,
   `stream_options.include_usage` where a stream would not tell its usage, and the bound of the answer where relay.yaml
   sets one and the request none.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from addons import errors
from addons.config.settings import Settings, Upstream
from addons.core import claims
from addons.core.accounts import Claim, Refused, Terms
from addons.core.claims import Claimed, Unreadable, claiming, estimated_tokens
from addons.core.form_fields import is_of_ascii, reading_form
from addons.core.frozen import FrozenDict
from addons.core.generations import Generation, model_in
from addons.core.model_mapping import Mapped
from addons.core.paths import is_plain
from addons.core.printable import is_encodable
from addons.core.rates import Bound, Rates, dollars, worst
from addons.core.relay_keys import RelayKey, renews
from addons.core.slices import Sliced
from addons.core.top_level import Members, NoObject, Repeated, decoding, finding
from addons.exchange import Exchange, Kind
from addons.flow.model_mapping import mapped_for
from addons.flow.request_body import not_utf8, stands_twice, unreadable
from addons.flow.turns import in_turns_if_large
from addons.meter.keyring import Keyring
from addons.meter.prices import LONGEST_NAME, Prices
from addons.store import StoreError
from addons.store.ledger_file import FINISHED, LEFT, REFUSED
from addons.store.settlements import Ledger, OverLimit, Settlement
from addons.upstreams.attempts import Pool
from addons.upstreams.health import UpstreamHealth

_STREAMS_USAGE = (Generation.CHAT, Generation.COMPLETION)
_BOUNDS: Mapping[Generation | None, str] = {
    **dict.fromkeys((Generation.CHAT, Generation.COMPLETION, Generation.MESSAGE), "max_tokens"),
    Generation.RESPONSE: "max_output_tokens",
}
"""The field that bounds an answer, of those that have one."""
_NEW_BOUND = "max_completion_tokens"
_REASONING = ("o1", "o3", "o4", "gpt-5")
"""How names of models begin that know `max_completion_tokens` alone."""
_FORMS = ("multipart/", "urlencoded")
_OPTIONS = "stream_options"
_SLICE = 1 << 20
"""Characters that are encoded at a time."""
_PATIENCE = 10.0
"""Seconds that the ledger has to write a hold."""
_MOST_NAMED = 6
"""Of what is not bounded, in a message."""


class Admission(NamedTuple):
    """A request that may go up."""

    request: str
    key: RelayKey
    at: float
    """Seconds since the epoch."""
    upstream: str
    model: str
    """As upstream is asked for it."""
    path: str
    kind: Generation | None
    size: int
    """Bytes of its body as it goes up, decoded, without what relay adds, and without pictures that are counted by their
    size in pixels."""
    hold: int | None
    """Nano-dollars; None where there is no budget."""
    body: bytes | None = None
    """In place of its own, where that had to be changed."""
    asked_model: str | None = None
    """As its caller has called it, where it goes up by another name."""
    called: str = ""
    """The model as its caller calls it, whatever it is called where it goes."""
    body_at: "Callable[[Upstream], Awaitable[bytes | None]] | None" = None
    model_of: "Callable[[Upstream], str] | None" = None
    strips_usage: bool = False
    """The client did not ask for the usage chunk that upstream is asked for."""
    added: Mapping[str, object] = FrozenDict()
    """Bounds that relay has written into the body."""
    asked: Mapping[str, str] = FrozenDict()
    """What the price depends on besides the model, as it was asked for."""
    output: int = 0
    """Tokens that are held for all answers together."""
    price: Callable[[int], int] | None = None
    """What it may cost at most by the tokens of its output; None without a budget."""
    characters: int = 0
    answers: int = 1
    background: bool = False

    def model_at(self, upstream: Upstream) -> str:
        """What is asked for there."""
        return self.model_of(upstream) if self.model_of is not None else upstream.models.get(self.called, self.called)

    async def sent_to(self, upstream: Upstream) -> bytes | None:
        """The body that goes up there; None where it is the caller's as it came. Raises RelayError."""
        return await self.body_at(upstream) if self.body_at is not None else self.body


@dataclass(frozen=True)
class Going:
    """Where a request may go up."""

    upstreams: Sequence[Upstream]
    """In the order in which they are asked. Where there is a budget, what can't be priced is none of them."""
    repeats: int = 0
    """How often it may be repeated though it may have been worked on: each time may be billed."""
    model_at: Callable[[Upstream], str] | None = None
    """The model that is asked for there, where that is not everywhere the same."""
    choose: Callable[[Sequence[Upstream], Members | None, str], Awaitable[None]] | None = None
    """Called before anything is held, with those upstreams, the body and the model. Raises RelayError."""


class _Bodies:
    """The body of a request for whichever upstream it goes to: made when it goes there."""

    def __init__(
        self,
        first: Upstream,
        body: bytes,
        content_type: str,
        sent: bytes | None,
        changes: Mapping[str, object],
        reserve: tuple[str, int] | None,
        reasoning: bool,
    ) -> None:
        """`body` is the caller's, and `sent` what goes to the first one in its place. The bound of a `reasoning` model
        has one name everywhere."""
        self._reasoning = reasoning
        self._first, self._body, self._content_type, self._sent = first, body, content_type, sent
        self._changes, self._reserve = changes, reserve

    async def at(self, upstream: Upstream) -> bytes | None:
        """For one of them; None where it is the caller's as it came. Raises RelayError."""
        same = self._reserve is None or self._reasoning or _is_openai(upstream) == _is_openai(self._first)
        if upstream is self._first or (same and upstream.models == self._first.models):
            return self._sent
        mapped = await mapped_for(upstream, self._body, self._content_type)
        changes = dict(self._changes)
        if self._reserve is not None and not same:
            changes[_other_bound(self._reserve[0])] = changes.pop(self._reserve[0])
        if not changes:
            return mapped.body
        members = await in_turns_if_large(finding(mapped.body.decode().removeprefix("\ufeff")), len(mapped.body))
        return await in_turns_if_large(_written(members, changes), len(mapped.body))


class Gate:
    """Admits the requests of relay keys under one state of the settings."""

    def __init__(
        self,
        settings: Settings,
        keyring: Keyring,
        ledger: Ledger,
        prices: Prices,
        clock: Callable[[], float] = time.time,
        pool: Pool | None = None,
    ) -> None:
        self.settings = settings
        self.keyring = keyring
        self.ledger = ledger
        self.prices = prices
        self.clock = clock
        self._upstreams = {upstream.name: upstream for upstream in settings.upstreams}
        self.pool = pool if pool is not None else Pool(UpstreamHealth(b""))
        """Of attempts upstream."""

    # Where a key leads

    def upstream_for(self, key: RelayKey, exchange: Exchange) -> Upstream:
        """The upstream that a key's requests go to. Raises Forbidden where the path leads to another one."""
        if key.upstream is None:
            return exchange.upstream
        named = self._upstreams.get(key.upstream)
        if named is None:
            raise errors.Unavailable(
                "此密钥对应的上游已不存在，请联系服务管理员。",
                "The upstream of this key is gone: ask whoever runs this relay.",
            )
        if exchange.routed and exchange.upstream.name != named.name:
            raise errors.Forbidden(
                "此密钥不能使用这个路径。", "This key may not use this path.", code="path_not_allowed"
            )
        return named

    def candidates(self, upstream: Upstream, *, elsewhere: bool = True) -> list[Upstream]:
        """An upstream, and those that its requests may go to where it fails, in this order."""
        names = upstream.fallback if elsewhere else ()
        return [upstream, *(self._upstreams[name] for name in names if name in self._upstreams)]

    def may_use(self, exchange: Exchange, key: RelayKey, model: str) -> bool:
        """Whether a key may use a model: with a budget only one whose price is known. Prices have to be `ready`."""
        if not key.allows_model(model):
            return False
        if key.budget is None:
            return True
        sent = exchange.upstream.models.get(model, model)
        choices = self.prices.choices(exchange.upstream.name, sent, {}, self.clock())
        if not choices or all(rates.empty for rates in choices):
            return False
        return not claims.always_searches(sent) or all(rates.searches or rates.request for rates in choices)

    # Admission

    async def admit(
        self,
        exchange: Exchange,
        key: RelayKey,
        kind: Generation | None,
        body: bytes = b"",
        content_type: str = "",
        going: "Going | None" = None,
    ) -> Admission:
        """Hold what a request may cost. `body` is its caller's, decoded. Raises RelayError; then nothing is held."""
        asked = Claimed()
        members: Members | None = None
        going = going if going is not None else Going((exchange.upstream,))
        mapped, called = Mapped(body), ""
        path = exchange.path
        await self.prices.ready()
        if kind is not None:
            # What is judged is what goes up; the key's list has the names that its caller writes.
            mapped = await mapped_for(exchange.upstream, body, content_type)
            asked, members = await in_turns_if_large(read_claim(kind, mapped.body, content_type), len(mapped.body))
            asked = asked._replace(model=mapped.asked or asked.model)
            if exchange.kind == Kind.PASS:
                if _is_bound(key):
                    _check_reading(path, content_type, form=members is None)
                asked = self._with_model_of_path(key, path, asked)
            self._check_model(key, asked)
            if key.models or key.budget is not None:
                _check_routing(asked.routing)
            called = asked.model or ""
            if asked.model == mapped.asked:
                asked = asked._replace(model=mapped.sent)
        budgeted = key.budget is not None and kind is not None
        size = len(mapped.body) - _pictures(exchange.upstream, asked)
        now = self.clock()
        if budgeted and asked.background:
            raise errors.BadRequest(
                "有预算的密钥不能使用 background：费用要之后才知道。",
                "A key with a budget can't use background: what that costs is known only later.",
                param="background",
            )
        upstreams = tuple(going.upstreams)
        if budgeted and asked.openai_alone and not all(map(_is_openai, upstreams)):
            asked = asked._replace(output=None)
        reserve = self._reserved(exchange.upstream, kind, asked)
        # A reasoning model is given the new name everywhere, which others than OpenAI may pass over.
        everywhere = all(map(_is_openai, upstreams)) or not _is_reasoning(asked.model or "")
        if reserve is not None and not (budgeted and reserve[0] == _NEW_BOUND and not everywhere):
            asked = asked._replace(output=reserve[1])
        price: Callable[[int], int] | None = None
        output = 0
        first = exchange.upstream
        hold: int | None = None
        if budgeted:
            upstreams, output, price = self._dearest(going, kind, asked, called, now)
            hold = price(output) * (1 + going.repeats)
        if going.choose is not None:
            await going.choose(upstreams, members, called)
        claim = Claim(
            exchange.id,
            key.id,
            hold or 0,
            estimated_tokens(size),
            Terms(key.budget if budgeted else None, key.per, key.requests, key.tokens, key.parallel),
            key.name,
            exchange.upstream.name,
            asked.model or "",
            path,
            kept=kind is not None,
        )
        admission = Admission(
            exchange.id,
            key,
            now,
            exchange.upstream.name,
            asked.model or "",
            path,
            kind,
            size,
            hold,
            body=mapped.body if mapped.sent is not None else None,
            asked_model=mapped.asked,
            called=called,
            model_of=going.model_at,
            characters=asked.bound.characters,
            answers=asked.answers,
            background=asked.background,
            added={} if reserve is None else {reserve[0]: reserve[1]},
            asked=asked.asked,
            output=output,
            price=price,
        )
        if members is not None and (changes := _changes(kind, asked, members, reserve)):
            written = await in_turns_if_large(_written(members, changes), len(mapped.body))
            admission = admission._replace(body=written, strips_usage=_OPTIONS in changes)
        else:
            changes = {}
        maker = _Bodies(first, body, content_type, admission.body, changes, reserve, _is_reasoning(asked.model or ""))
        admission = admission._replace(body_at=maker.at)
        await self._reserve(claim, admission, lambda left: _fitting(price, asked, left // (1 + going.repeats)))
        return admission

    def _with_model_of_path(self, key: RelayKey, path: str, asked: Claimed) -> Claimed:
        """A model that the path names is the one that is used; Azure's deployments have names of their own, and the
        body's is then one that the key has to be allowed as well. Raises RelayError."""
        named = model_in(path)
        if named is None or named == asked.model:
            return asked
        if asked.model is not None:
            self._check_model(key, asked)
            if not (key.models or key.budget is not None):
                return asked  # whose price is the one that is known
        return asked._replace(model=named)

    def _check_model(self, key: RelayKey, asked: Claimed) -> None:
        if asked.model and len(asked.model) > LONGEST_NAME:
            raise errors.BadRequest(
                f"model 过长，最多 {LONGEST_NAME} 个字符。",
                f"model is too long: at most {LONGEST_NAME} characters are taken.",
                param="model",
            )
        bound = bool(key.models) or key.budget is not None
        if asked.model and (not is_encodable(asked.model) or (bound and "," in asked.model)):
            # LiteLLM asks all the models of a list that is divided by commas.
            raise errors.BadRequest("model 的值无效。", "The value of model is no model's name.", param="model")
        if not asked.model:
            if bound:
                raise errors.BadRequest("缺少 model。", "model is missing: say which one.", param="model")
        elif not key.allows_model(asked.model):
            shown = asked.model[:80]
            raise errors.Forbidden(
                f"此密钥不能使用模型 {shown}，可用的模型见 GET /v1/models。",
                f"This key may not use the model {shown}: GET /v1/models lists those that it may.",
                code="model_not_allowed",
                param="model",
            )

    def _reserved(self, upstream: Upstream, kind: Generation | None, asked: Claimed) -> tuple[str, int] | None:
        """The field and the bound to write into a body that has none."""
        tokens = self.settings.keys.reserve_output
        if tokens is None or asked.output is not None:
            return None
        if kind == Generation.CHAT:
            # OpenAI's reasoning models refuse the old name wherever they are, and most others don't know the new one.
            new = _is_openai(upstream) or _is_reasoning(asked.model or "")
            return (_NEW_BOUND if new else "max_tokens"), tokens
        if kind == Generation.RESPONSE:
            return "max_output_tokens", tokens
        return ("max_tokens", tokens) if kind == Generation.COMPLETION else None

    def _dearest(
        self, going: "Going", kind: Generation | None, asked: Claimed, called: str, now: float
    ) -> tuple[tuple[Upstream, ...], int, Callable[[int], int]]:
        """The upstreams where it can be priced, the output of an answer at most, and what it may cost at the dearest of
        them. Raises RelayError where it can be priced nowhere."""
        prices: list[Callable[[int], int]] = []
        priced: list[Upstream] = []
        most, refused = 0, None
        for upstream in going.upstreams:
            model = going.model_at(upstream) if going.model_at is not None else upstream.models.get(called, called)
            try:
                claim = claims.claimed_by(model or "", kind, asked)
                bound, output, choices = self._bound(upstream, kind, claim, now)
                price = _pricing(bound, choices, self.prices.factor(upstream.name))
                price(output)
            except ValueError:
                refused = refused or _unpriced(model or "")
            except errors.RelayError as error:
                refused = refused or error
            else:
                prices.append(price)
                priced.append(upstream)
                most = max(most, output)
        if not prices:
            raise refused or _unpriced(asked.model or "")
        return tuple(priced), most, lambda output: max(price(output) for price in prices)

    def _bound(
        self, upstream: Upstream, kind: Generation | None, asked: Claimed, now: float
    ) -> tuple[Bound, int, Sequence[Rates]]:
        """The most that a request uses, its output apart, and the rates that may be billed."""
        model = asked.model or ""
        choices = self.prices.choices(upstream.name, model, asked.asked, now)
        if not choices or all(rates.empty for rates in choices):
            raise _unpriced(model)
        if all(rates.flat for rates in choices):
            return asked.bound._replace(requests=_billed(kind, asked)), 0, choices
        window = self.prices.window(upstream.name, model)
        by_time = any(rates.hours is not None for rates in choices)
        by_characters = any(rates.characters is not None for rates in choices)
        used, output = asked.bound.input, asked.output
        used -= _pictures(upstream, asked)
        unbounded = asked.unbounded
        if kind == Generation.TRANSCRIPTION:
            if by_time and unbounded:
                raise _unbounded(unbounded)
            used, unbounded = (0, ()) if by_time else (used, ("the length of the audio",))
            output = 0 if by_time else output
        if kind == Generation.SPEECH and by_characters:
            used = output = 0
        if unbounded:
            used = max(self._window(unbounded, model, window), used if kind == Generation.IMAGE else 0)
        if output is None:
            output = self.prices.longest_answer(model) or claims.longest_answer(model, window)
        if output is None:
            raise errors.BadRequest(
                "请设置 max_tokens：不知道此模型回答的上限，无法预留费用。",
                "Set max_tokens: how long this model's answers may be is not known, so nothing can be held for one.",
                code="output_not_bounded",
                param="max_tokens",
            )
        bound = asked.bound._replace(
            input=used,
            milliseconds=asked.bound.milliseconds if by_time else 0,
            characters=asked.bound.characters if by_characters else 0,
            requests=_billed(kind, asked),
        )
        return bound, output * asked.answers + asked.extra_output, choices

    def _window(self, unbounded: Sequence[str], model: str, window: int | None) -> int:
        if self.settings.keys.unbounded == "refuse":
            raise _unbounded(unbounded)
        if window is None:
            names = ", ".join(unbounded[:_MOST_NAMED])
            raise errors.BadRequest(
                f"无法为 {names} 预留费用：不知道模型 {model[:80]} 的上下文长度。请换用其他模型，或联系服务管理员。",
                f"Nothing can be held for {names}: the context window of {model[:80]} is not known. Take another "
                "model, or ask whoever runs this relay.",
                code="input_not_bounded",
                advice="the context window of a model is not known: set prices.*.context",
            )
        return window

    async def _reserve(self, claim: Claim, admission: Admission, fitting: Callable[[int], int | None]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self.ledger.reserve(claim)
        except OverLimit as over:
            raise over_limit(over.refused, claim, admission, fitting) from None
        except (StoreError, TimeoutError):
            if claim.terms.budget is None and claim.kept and self.ledger.passes:
                return  # no budget stands on it
            self.ledger.settle(ended(admission, REFUSED))  # it may be written yet
            raise errors.Unavailable(
                "无法记账，请稍后再试。", "What this costs can't be written down; try again later."
            ) from None
        except BaseException:
            self.ledger.settle(ended(admission, LEFT))
            raise

    # Settlement

    def release(self, admission: Admission) -> None:
        """A request that is not counted is over: nothing of it is kept."""
        self.ledger.settle(ended(admission, FINISHED)._replace(kept=False))


def ended(admission: Admission, reason: str) -> Settlement:
    """The end of a request that has cost nothing."""
    return Settlement(
        admission.request,
        admission.at,
        admission.key.id,
        admission.key.name,
        admission.upstream,
        admission.model,
        {},
        admission.path,
        reason,
        None,
        0,
        held=True,
    )


def _is_openai(upstream: Upstream) -> bool:
    return upstream.host.endswith(("openai.com", "openai.azure.com", "cognitiveservices.azure.com"))


def _pictures(upstream: Upstream, asked: Claimed) -> int:
    """Bytes of a body that are pictures, where they are known not to be counted as text."""
    maker = _is_openai(upstream) or upstream.host.endswith("anthropic.com")
    known = asked.drawn_inline and maker and claims.counts_pictures(asked.model or "")
    return asked.drawn_inline if known else 0


def _is_reasoning(model: str) -> bool:
    """Whether it is one of OpenAI's reasoning models, also as resellers call it (`openai/o3`)."""
    return model.rpartition("/")[2].startswith(_REASONING)


def _other_bound(name: str) -> str:
    return "max_tokens" if name == "max_completion_tokens" else "max_completion_tokens"


def _is_bound(key: RelayKey) -> bool:
    """Whether there is anything that a key might go round."""
    limits = (key.budget, key.requests, key.tokens, key.parallel)
    return bool(key.models or key.paths) or any(limit is not None for limit in limits)


def _check_reading(path: str, content_type: str, *, form: bool) -> None:
    """Raise RelayError where an upstream may read another path than the one that is judged, or a form in a body that
    is read as JSON."""
    if not is_plain(path):
        shown = path[:80]
        raise errors.Forbidden(
            f"此密钥不能使用 {shown}：它可能被读作另一个路径。请不要使用 `;`、`//` 和百分号编码。",
            f"This key may not use {shown}: it may be read as another path. Write it without `;`, `//` and encodings.",
            code="path_not_allowed",
        )
    if not is_of_ascii(content_type) or (not form and any(word in content_type.lower() for word in _FORMS)):
        raise errors.BadRequest(
            "请求体是 UTF-8 的 JSON，请使用 Content-Type: application/json。",
            "The body is JSON in UTF-8: say so in its Content-Type (application/json).",
            code="invalid_json",
        )


def _check_names(name: str | None) -> None:
    """Raise BadRequest for a name that may be read as another one."""
    if name is not None:
        shown = name[:80]
        raise errors.BadRequest(
            f"字段 {shown} 的大小写或写法有误，请使用小写。",
            f"The field {shown} may be read as another one: write it plainly, and in lower case.",
            code="ambiguous_field",
            param=shown,
        )


def _check_routing(name: str | None) -> None:
    """Raise BadRequest for a field by which an upstream may choose another model than the one that is priced."""
    if name is not None:
        raise errors.BadRequest(
            f"此密钥不能使用字段 {name}：它可能选用其他模型。",
            f"This key can't use the field {name}: it may choose another model.",
            code="routing_not_allowed",
            param=name,
        )


def read_claim(kind: Generation, body: bytes, content_type: str) -> Sliced[tuple[Claimed, Members | None]]:
    """What a body claims, in slices. Raises BadRequest."""
    try:
        if content_type.lower().startswith("multipart/form-data"):
            if kind not in (Generation.IMAGE, Generation.TRANSCRIPTION):
                raise NoObject("a multipart form is not taken here")
            found = yield from reading_form(body, content_type)
            _check_names(claims.ambiguous_in_form((*found.fields, *found.files)))
            return claims.of_form(kind, found, len(body)), None
        text = (yield from decoding(body)).removeprefix("\ufeff")
        members = yield from finding(text)
        _check_names(claims.ambiguous(members.spans))
        return (yield from claiming(kind, members, len(body))), members
    except UnicodeDecodeError:
        raise not_utf8() from None
    except Repeated as error:
        raise stands_twice(error.name) from None
    except Unreadable as error:
        name = str(error)
        raise errors.BadRequest(f"{name} 的值无效。", f"The value of {name} can't be read.", param=name) from None
    except NoObject as error:
        raise unreadable(str(error)) from None


def _changes(
    kind: Generation | None, asked: Claimed, members: Members, reserve: tuple[str, int] | None
) -> dict[str, object]:
    """What has to be put into a body before it goes up."""
    changes: dict[str, object] = {}
    if asked.stream and not asked.wants_usage and kind in _STREAMS_USAGE:
        options = members.value(_OPTIONS)
        changes[_OPTIONS] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    if reserve is not None:
        changes[reserve[0]] = reserve[1]
    return changes


def _written(members: Members, changes: Mapping[str, object]) -> Sliced[bytes]:
    """The body with these changes, in slices."""
    text = members.put(changes)
    if len(text) <= _SLICE:
        return text.encode()
    pieces = []
    for at in range(0, len(text), _SLICE):
        yield
        pieces.append(text[at : at + _SLICE].encode())
    return b"".join(pieces)


def _pricing(bound: Bound, choices: Sequence[Rates], factor: Decimal) -> Callable[[int], int]:
    """What a request may cost by the tokens of its output. Raises ValueError where a rate is not known."""

    def price(output: int) -> int:
        amount = worst(bound._replace(output=output), choices, factor)
        if amount is None:
            raise ValueError("a rate is missing")
        return amount

    return price


def _billed(kind: Generation | None, asked: Claimed) -> int:
    """How often a price of each request is billed."""
    return asked.answers if kind == Generation.IMAGE else 1


def _fitting(price: Callable[[int], int] | None, asked: Claimed, left: int) -> int | None:
    """The bound of an answer that would fit into what is left; None where none would."""
    if price is None or asked.output == 0 or price(0) >= left:
        return None
    fits, too_much = 0, max(1, left)
    while too_much - fits > 1:
        middle = (fits + too_much) // 2
        if price(middle * asked.answers + asked.extra_output) <= left:
            fits = middle
        else:
            too_much = middle
    return fits or None


def over_limit(
    refused: Refused, claim: Claim, admission: Admission, fitting: Callable[[int], int | None]
) -> errors.RelayError:
    """What is said to a request that was not admitted."""
    if refused.why == "budget":
        return _over_budget(refused, claim, admission, fitting)
    again = {"retry-after": str(refused.retry_after)}
    if refused.why == "parallel":
        return errors.RateLimited(
            f"此密钥同时进行的请求已达上限 {claim.terms.parallel}，请稍后再试。",
            f"This key has {claim.terms.parallel} requests under way, as many as it may: try again later.",
            headers=again,
        )
    zh, en, limit = (
        ("请求数", "requests", claim.terms.requests)
        if refused.why == "requests"
        else ("token 数", "tokens", claim.terms.tokens)
    )
    return errors.RateLimited(
        f"此密钥每分钟的{zh}已达上限 {limit}，请在 {refused.retry_after} 秒后再试。",
        f"This key has reached its limit of {limit} {en} a minute: try again in {refused.retry_after} s.",
        headers=again,
    )


def _over_budget(
    refused: Refused, claim: Claim, admission: Admission, fitting: Callable[[int], int | None]
) -> errors.RelayError:
    left, hold = max(refused.left, 0), claim.amount
    name = _bound_of(admission)
    fits = fitting(left) if name is not None else None
    day = renews(claim.terms.per, admission.at)
    zh = f"余额不足：此请求最多可能花费 ${shown(hold)}，剩余 ${shown(left)}。"
    en = f"The budget of this key does not suffice: this request may cost ${shown(hold)}, and ${shown(left)} is left."
    if fits is not None:
        zh += f"把 {name} 设为 {fits} 或更小即可。"
        en += f" {name} of {fits} would fit."
    if day is not None:
        zh += f"预算将于 {day}（UTC）更新。"
        en += f" The budget begins anew on {day} (UTC)."
    return errors.RateLimited(zh, en, code="insufficient_quota", headers={"x-should-retry": "false"})


def _bound_of(admission: Admission) -> str | None:
    """The field that would make a request fit."""
    if admission.kind is Generation.CHAT and _is_reasoning(admission.model):
        return _NEW_BOUND
    return _BOUNDS.get(admission.kind)


def shown(nano: int) -> str:
    """Nano-dollars as dollars, without needless zeros: `0.0042`."""
    text = f"{dollars(nano):f}"
    whole, _, rest = text.partition(".")
    rest = rest.rstrip("0")
    return f"{whole}.{rest.ljust(2, '0')}"


def _unbounded(what: Sequence[str]) -> errors.RelayError:
    names = ", ".join(what[:_MOST_NAMED])
    return errors.BadRequest(
        f"有预算的密钥不能使用：{names}。无法从请求得知其费用。",
        f"A key with a budget can't use this: {names}. What it costs can't be told from the request.",
        code="input_not_bounded",
    )


def _unpriced(model: str) -> errors.RelayError:
    name = model[:80]
    return errors.Forbidden(
        f"不知道模型 {name} 的价格，有预算的密钥不能使用它：请换用其他模型，或联系服务管理员。",
        f"What {name} costs is not known, so a key with a budget can't use it: take another model, or ask whoever runs "
        "this relay.",
        advice="callers with a budget ask for models without a price: set it under prices",
        code="model_not_priced",
        param="model",
    )
