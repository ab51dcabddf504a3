"""What a completion means to the caller of `/chat`: its words, or the error that tells why there are none."""

from collections.abc import Callable

from mitmproxy import http

from addons import errors
from addons.core import bounded_json, upstream_error
from addons.core.completion import Completion
from addons.core.retelling import Retelling
from addons.core.secrets import masked, scrub
from addons.core.slices import Sliced
from addons.core.upstream_error import UpstreamError
from addons.exchange import Exchange
from addons.flow.decoding import TooLong, Undecodable, content_of, decoding, listener
from addons.flow.upstream_errors import refusal

_BEGINNING = 64  # bytes that tell an event stream from JSON


def is_success(response: http.Response) -> bool:
    """Frameworks answer a POST with 201, proxies that transform with 203."""
    return 200 <= response.status_code < 300


def completion_of(
    response: http.Response | None, limit: int, *, ended: bool = False
) -> Sliced[Completion | UpstreamError]:
    """The completion in a whole answer, or the error told in its place, in slices.

    `limit` bounds the decoded answer, in bytes. `ended`: it was left where it said that it was over, which may be
    before its compression is. Raises RelayError where there is neither.
    """
    if response is None:
        raise errors.UpstreamFailed("上游未返回内容，请重试。", "The upstream did not answer; try again.")
    if not is_success(response):
        return upstream_error.read(response.status_code, content_of(response, upstream_error.MAX_BODY))
    body = b""
    try:
        body = yield from decoding(
            response.raw_content or b"", response.headers.get("content-encoding", ""), limit, cut=ended
        )
        if _is_stream(response, body):
            completion = yield from _of_stream(body)
        else:
            text = body.decode("utf-8").removeprefix("\ufeff")
            completion = Completion.from_json((yield from bounded_json.loading(text)), len(text))
    except (TooLong, bounded_json.TooComplex):
        raise errors.UpstreamFailed(
            f"上游响应过大：解压后超过 {limit} 字节，或包含过多的值。",
            f"The upstream's answer is too large: over {limit} bytes when decoded, or of too many values.",
        ) from None
    except Undecodable:
        raise errors.UpstreamFailed(
            "无法读取上游响应：无法按其 Content-Encoding 解压，请重试。",
            "The upstream's answer could not be read: it is not what its Content-Encoding says; try again.",
        ) from None
    except ValueError:
        if (said := upstream_error.read(200, body)).reason:
            return said  # a sentence in place of an answer
        raise errors.UpstreamFailed(
            "无法读取上游响应：不是 JSON，请联系服务管理员。",
            "The upstream's answer could not be read: it is not JSON. Ask whoever runs this relay.",
            advice="it answers what is not JSON: check upstreams[].url",
        ) from None
    return error_of(completion) or completion


def error_of(completion: Completion) -> UpstreamError | None:
    """The error that a success tells in place of an answer, or behind a part of one."""
    if completion.error is None:
        return None
    return upstream_error.read_value(200, {"error": dict(completion.error)})


def _is_stream(response: http.Response, body: bytes) -> bool:
    """Whether an answer consists of Server-Sent Events: some upstreams forget to say so, others say so of JSON."""
    if upstream_error.is_event_stream(body[:_BEGINNING].decode("utf-8", "replace")):
        return True
    is_json = body[:_BEGINNING].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")
    return response.headers.get("content-type", "").lower().startswith("text/event-stream") and not is_json


def _of_stream(body: bytes) -> Sliced[Completion]:
    """The completion in a stream that was read whole: compressed, it can't be retold piece by piece."""
    retelling = Retelling(len(body))
    yield from retelling.reading(body)
    if retelling.overflowed:
        raise TooLong("an event is too long")
    if retelling.unreadable:
        raise unreadable_event()
    if not retelling.whole and retelling.completion.error is None:
        raise errors.UpstreamFailed("上游响应不完整，请重试。", "The upstream's answer broke off; try again.")
    return retelling.completion


def unreadable_event() -> errors.UpstreamFailed:
    """A piece of a stream's text is lost: no part of the answer is told as the whole of it."""
    return errors.UpstreamFailed(
        "无法读取上游响应：流中有一个事件不是有效的 JSON，请重试。",
        "The upstream's answer could not be read: an event of its stream is not valid JSON; try again.",
    )


class Ear:
    """Hears an answer that is read whole while it comes: it says when an event stream is over, and when JSON is whole.

    It is in nobody's way: what it can't follow it stops listening to, and then the end of the body is the end.
    `whole` is called once the answer is all there, though more may follow.
    """

    def __init__(self, exchange: Exchange, encoding: str, limit: int, whole: Callable[[], object]) -> None:
        self._exchange = exchange
        self._whole = whole
        self._decode = listener(encoding)
        self._retelling = Retelling(limit)
        self._beginning: bytes | None = b""
        self._json: bounded_json.Whole | None = None

    def __call__(self, chunk: bytes) -> None:
        """Take a chunk as it came."""
        if self._decode is None:
            return
        try:
            self._hear(self._decode(chunk))
        except ValueError:
            self._decode = None

    def _hear(self, piece: bytes) -> None:
        if self._beginning is not None:
            self._beginning += piece[:_BEGINNING]
            known = self._beginning.lstrip(b"\xef\xbb\xbf \r\n")
            if known[:1] in (b"{", b"["):
                self._json = bounded_json.Whole()
            elif len(known) < len(b"event:") and len(self._beginning) < _BEGINNING:
                return
            elif not upstream_error.is_event_stream(self._beginning.decode("utf-8", "replace")):
                raise ValueError("not an event stream")
            piece, self._beginning = self._beginning + piece[_BEGINNING:], None
        if self._json is not None:
            if self._json.feed(piece):
                # Its connection may bring more requests: it is not over before upstream says so, or has had its time.
                self._is_whole()
                raise ValueError("there is nothing more to hear")
            return
        self._retelling.feed(piece)
        self._exchange.answer.over = self._retelling.over
        if self._retelling.whole or self._retelling.over:
            self._is_whole()

    def _is_whole(self) -> None:
        if not self._exchange.answer.whole:
            self._exchange.answer.whole = True
            self._whole()


def answer_text(completion: Completion, key: str, model: str) -> str:
    """What the model said. Raises the RelayError that tells why it said nothing."""
    if (error := error_of(completion)) is not None:
        raise refusal(error, key=key, model=model)
    if completion.finish_reason == "error":
        raise errors.UpstreamFailed(
            "模型中途出错，回答不完整，请重试。", "The model failed before it had answered; try again."
        )
    if completion.text:
        return completion.text
    if completion.refusal:
        said = scrub(completion.refusal.replace(key, masked(key)) if key else completion.refusal)[:300]
        raise errors.Forbidden(f"模型拒绝回答：{said}", f"The model refused to answer: {said}", code="refused")
    if completion.tool_calls:
        raise errors.UpstreamFailed(
            "模型要求调用工具，没有输出文字，请联系服务管理员。",
            "The model called a tool instead of answering in words: ask whoever runs this relay.",
            advice="a model called a tool instead of answering in words: take tools out of chat.params",
        )
    if completion.finish_reason == "content_filter":
        raise errors.Forbidden(
            "回答被上游的内容过滤移除。", "The upstream's content filter removed the answer.", code="filtered"
        )
    if completion.finish_reason == "length":
        raise errors.UpstreamFailed(
            "模型尚未输出内容就已达到长度上限：请增大 max_tokens。",
            "The model met its length limit before it said a word: raise max_tokens.",
        )
    raise errors.UpstreamFailed("模型未输出任何文字，请重试。", "The model answered without any text; try again.")
