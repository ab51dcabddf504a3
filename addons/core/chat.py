"""What a message to `/chat` is, and the completion request it becomes."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from addons.core import lenient
from addons.core.sessions import Message
from addons.core.slices import Sliced, at_once

_KEY = re.compile(r"[\x21-\x7e]+")

_LONGEST_MODEL = 256
_OWN = {"apiKey", "sessionId", "content", "stream", "reset", "messages", "stream_options"}

_UNREADABLE = {
    "not_utf8": ("请求体不是 UTF-8 编码。", "The body is not UTF-8"),
    "not_json": ("请求体不是有效的 JSON。", "The body is not JSON"),
    "not_object": ("请求体应为 JSON 对象。", "The body is not a JSON object"),
    "too_deep": ("JSON 嵌套过深。", "The JSON is nested too deep"),
    "too_many": ("JSON 中的值过多。", "The JSON holds too many values"),
    "bad_number": ("JSON 中的数字无效。", "The JSON holds an invalid number"),
}


class Invalid(ValueError):
    """A body that is no message: says in Chinese and English what is wrong with which field."""

    def __init__(self, zh: str, en: str) -> None:
        super().__init__(en)
        self.zh = zh
        self.en = en


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message of a caller."""

    api_key: str
    session_id: str
    content: str
    stream: bool = False
    """Answer as Server-Sent Events, piece by piece."""
    reset: bool = False
    """Forget the session first."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Further fields of the completion request, those that relay.yaml allows."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The longest fields that are taken, in Unicode code points."""

    api_key: int
    session_id: int
    content: int


def read(body: bytes, bearer: str | None, bounds: Bounds, allowed: Collection[str] = ()) -> Incoming:
    """`reading` without a pause."""
    return at_once(reading(body, bearer, bounds, allowed))


def reading(body: bytes, bearer: str | None, bounds: Bounds, allowed: Collection[str] = ()) -> Sliced[Incoming]:
    """Read a message, in slices; the key may come as bearer instead. Raises Invalid, which names the field.

    Of further fields those in `allowed` are taken over, the others are ignored.
    """
    try:
        fields = yield from lenient.loading_object(body)
    except lenient.Unreadable as error:
        zh, en = _UNREADABLE.get(error.reason, _UNREADABLE["not_json"])
        shape = '{"apiKey": ..., "sessionId": ..., "content": ...}'
        raise Invalid(f"{zh}请发送 {shape}。", f"{en}: send {shape}. ({error})") from None
    if fields.get("apiKey") is None and bearer:
        fields["apiKey"] = bearer
    return Incoming(
        read_key(_text(fields, "apiKey", bounds.api_key)),
        _text(_with_text(fields, "sessionId"), "sessionId", bounds.session_id),
        _text(fields, "content", bounds.content),
        _flag(fields, "stream"),
        _flag(fields, "reset"),
        _options(fields, allowed, bounds),
    )


def _flag(fields: Mapping[str, object], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise Invalid(f"{name} 应为 true 或 false。", f"{name} must be true or false.")
    return bool(value)


def _options(fields: Mapping[str, object], allowed: Collection[str], bounds: Bounds) -> dict[str, object]:
    options = {
        name: fields[name] for name in fields if name in allowed and name not in _OWN and fields[name] is not None
    }
    for name, longest in (("model", _LONGEST_MODEL), ("system", bounds.content)):
        if name in options:
            _text(options, name, longest)
    return options


def read_key(text: str) -> str:
    """A key as it goes into a header; what surrounds it was pasted along. Raises Invalid."""
    key = text.strip()
    if not _KEY.fullmatch(key):
        raise Invalid(
            "apiKey 含有无效字符，请检查是否复制正确。",
            "apiKey holds characters that no key has: check how it was copied.",
        )
    return key


def read_bearer(authorization: str) -> str | None:
    """The key in an Authorization header, or None."""
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def _with_text(fields: Mapping[str, object], name: str) -> Mapping[str, object]:
    """The fields with a number as the text it was written as, which is what PHP and JavaScript send for an id."""
    value = fields.get(name)
    if isinstance(value, lenient.Written):
        return {**fields, name: value.text}
    return {**fields, name: str(value)} if isinstance(value, int) and not isinstance(value, bool) else fields


def _text(fields: Mapping[str, object], name: str, longest: int) -> str:
    value = fields.get(name)
    if value is None:
        raise Invalid(f"缺少 {name}，应为非空字符串。", f"{name} is missing: it must be a non-empty string.")
    if not isinstance(value, str):
        zh, en = ("字符串或数字", "a string or a number") if name == "sessionId" else ("字符串", "a string")
        raise Invalid(f"{name} 应为{zh}。", f"{name} must be {en}.")
    if not value:
        raise Invalid(f"{name} 不能为空。", f"{name} must not be empty.")
    if len(value) > longest:
        raise Invalid(
            f"{name} 过长：{len(value)} 个字符，上限 {longest}。",
            f"{name} is too long: {len(value)} characters, at most {longest} are taken.",
        )
    return value


def completion_request(
    model: str, params: Mapping[str, object], messages: Sequence[Message], *, stream: bool = False
) -> bytes:
    """The body of the chat completion: relay's own fields win over `params`. A stream is asked to tell its usage."""
    body = {**params, "model": model, "messages": list(messages)}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    else:
        body.pop("stream", None)
    return json.dumps(body).encode()
