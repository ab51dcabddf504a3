"""What a completion means to the caller of `/chat`: its words, or the error that tells why there are none."""

import json

from mitmproxy import http

from addons import errors
from addons.core.completion import Completion
from addons.core.retelling import Retelling
from addons.decoding import content_of
from addons.refusals import refusal

MAX_DECODED = 64 << 20
"""Bytes of an upstream's answer once decoded; one that compresses so well is an attack."""


def is_too_long(response: http.Response) -> bool:
    """Whether upstream refuses for the length of the conversation, so that a shorter one may pass."""
    if response.status_code not in (400, 413, 422):
        return False
    body = content_of(response, MAX_DECODED)
    return b"context_length_exceeded" in body or b"maximum context length" in body


def completion_of(response: http.Response | None, key: str, model: str) -> Completion:
    """The completion in a whole answer, or the error told in its place. Raises RelayError where there is neither."""
    if response is None:
        raise errors.UpstreamFailed("上游没有回答。", "The upstream did not answer.")
    body = content_of(response, MAX_DECODED)
    if response.status_code != 200:
        raise refusal(response.status_code, body, key=key, model=model)
    try:
        return _of_stream(body) if _is_stream(response) else Completion.from_json(json.loads(body), len(body))
    except (ValueError, RecursionError):
        raise errors.UpstreamFailed(
            "上游的回答不是 JSON:请检查 relay.yaml 中的 upstreams[].url。",
            "The upstream's answer is not JSON: check upstreams[].url in relay.yaml.",
        ) from None


def _is_stream(response: http.Response) -> bool:
    """Whether an answer comes as Server-Sent Events."""
    return bool(response.headers.get("content-type", "").lower().startswith("text/event-stream"))


def _of_stream(body: bytes) -> Completion:
    """The completion in a stream that was read whole: compressed, it can't be retold piece by piece."""
    retelling = Retelling(len(body))
    retelling.feed(body)
    if not retelling.whole and retelling.completion.error is None:
        raise errors.UpstreamFailed("上游的回答不完整,请重试。", "The upstream's answer broke off; try again.")
    return retelling.completion


def words(completion: Completion, key: str, model: str) -> str:
    """What the model said. Raises the RelayError that tells why it said nothing."""
    if completion.error is not None:
        raise refusal(200, json.dumps({"error": dict(completion.error)}).encode(), key=key, model=model)
    if completion.text:
        return completion.text
    if completion.refusal:
        said = completion.refusal[:500]
        raise errors.Forbidden(f"模型拒绝回答:{said}", f"The model refused to answer: {said}", code="refused")
    if completion.tool_calls:
        raise errors.UpstreamFailed(
            "模型要求调用工具,而不是给出文字:请从 chat.params 中去掉 tools。",
            "The model called a tool instead of answering in words: take tools out of chat.params.",
        )
    if completion.finish_reason == "content_filter":
        raise errors.Forbidden("内容被上游过滤。", "The upstream's content filter removed the answer.", code="filtered")
    if completion.finish_reason == "length":
        raise errors.UpstreamFailed(
            "模型在给出文字之前就达到了长度上限:请增大 max_tokens。",
            "The model met its length limit before it said a word: raise max_tokens.",
        )
    raise errors.UpstreamFailed("模型没有给出任何文字。", "The model answered without any text.")
