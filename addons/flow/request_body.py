"""A request's body, where relay has to read it: what it says, what is said of one that can't be read, and another one
in its place."""

from mitmproxy import http

from addons import errors
from addons.flow.decoding import TooLong, decoding
from addons.flow.turns import in_turns

_OF_THE_BODY = ("content-encoding", "content-md5", "content-digest", "repr-digest", "digest")
"""Headers that are true of one body alone (RFC 9530; RFC 1864)."""


async def read_body(request: http.Request, limit: int) -> bytes:
    """A request's body, decoded, of at most `limit` bytes. Raises RelayError."""
    encoding = request.headers.get("content-encoding", "")
    if not encoding and len(request.raw_content or b"") <= limit:
        return request.raw_content or b""
    try:
        return await in_turns(decoding(request.raw_content or b"", encoding, limit))
    except TooLong:
        raise errors.TooLarge(
            f"请求体解压后超过 {limit} 字节，请缩短内容。", f"The body is over {limit} bytes when decoded: shorten it."
        ) from None
    except ValueError:
        raise errors.BadRequest(
            "请求体无法解压，请检查 Content-Encoding。", "The body can't be decompressed: check Content-Encoding."
        ) from None


def replace_body(request: http.Request, body: bytes) -> None:
    """Send another body, unencoded."""
    for name in _OF_THE_BODY:
        request.headers.pop(name, None)
    request.content = body


def not_utf8() -> errors.BadRequest:
    """The error for a body in another charset."""
    return errors.BadRequest("请求体不是 UTF-8 编码。", "The body is not UTF-8.")


def stands_twice(name: str) -> errors.BadRequest:
    """The error for a field that stands twice at the top level: which of them counts, parsers disagree on."""
    shown = name[:80]
    return errors.BadRequest(
        f"字段 {shown} 重复出现，请只保留一个。",
        f"The field {shown} stands twice in the body: send it once.",
        code="duplicate_field",
        param=shown,
    )


def unreadable(why: str) -> errors.BadRequest:
    """The error for a body that is neither an object of JSON nor a form."""
    return errors.BadRequest("请求体不是有效的 JSON 对象。", f"The body can't be read: {why}.", code="invalid_json")
