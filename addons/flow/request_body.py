"""A request's body, where relay has to read it."""

from mitmproxy import http

from addons import errors
from addons.flow.decoding import TooLong, decoding
from addons.flow.turns import in_turns


async def read_body(request: http.Request, limit: int) -> bytes:
    """A request's body, decoded, of at most `limit` bytes. Raises RelayError."""
    encoding = request.headers.get("content-encoding", "")
    if not encoding and len(request.raw_content or b"") <= limit:
        return request.raw_content or b""
    try:
        return await in_turns(decoding(request.raw_content or b"", encoding, limit))
    except TooLong:
        raise errors.TooLarge(
            f"请求体解压后超过 {limit} 字节，请缩短内容。", f"The body is over {limit} bytes when decoded."
        ) from None
    except ValueError:
        raise errors.BadRequest(
            "请求体无法解压，请检查 Content-Encoding。", "The body can't be decompressed: check Content-Encoding."
        ) from None
