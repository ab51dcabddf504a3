"""What was asked and answered, in the form that spans have it: messages with a role and parts.

https://github.com/open-telemetry/semantic-conventions/blob/v1.41.1/docs/gen-ai/gen-ai-input-messages.json
A body of another shape, or one that is cut, is one part of text.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from addons.core.sse import Parser

LONGEST = 16 << 10
"""Characters of all texts together."""
_READ = 1 << 16
"""Bytes of a body that are read."""
_MOST_MESSAGES = 200


def asked(body: bytes) -> str:
    """`gen_ai.input.messages` of a request's body, as JSON."""
    read = _json(body)
    if isinstance(read, Mapping):
        said = read.get("messages", read.get("input", read.get("prompt")))
        if isinstance(said, str):
            return _told([("user", said)])
        if isinstance(said, list):
            return _told([message for each in said[:_MOST_MESSAGES] for message in _message(each)])
    return _told([("user", _text(body))])


def answered(body: bytes, *, stream: bool) -> str:
    """`gen_ai.output.messages` of an answer's body, as JSON."""
    if stream:
        return _told([("assistant", "".join(_pieces(body[:_READ])))])
    read = _json(body)
    if isinstance(read, Mapping):
        texts = list(_choices(read, "message"))
        if texts:
            return _told([("assistant", text) for text in texts])
        if isinstance(data := read.get("data"), str):  # of /chat's envelope
            return _told([("assistant", data)])
        if isinstance(items := read.get("output"), list):
            return _told([message for each in items[:_MOST_MESSAGES] for message in _message(each)])
    return _told([("assistant", _text(body))])


def _told(messages: Sequence[tuple[str, str]]) -> str:
    left, told = LONGEST, []
    for role, text in messages:
        part = {"type": "text", "content": text[:left]}
        told.append({"role": role, "parts": [part]})
        left -= len(part["content"])
    return json.dumps(told, ensure_ascii=False)


def _message(said: object) -> Iterator[tuple[str, str]]:
    if isinstance(said, str):
        yield "user", said
    elif isinstance(said, Mapping) and "content" in said:
        yield str(said.get("role", "user"))[:40], _content(said["content"])


def _content(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "\n".join(text if isinstance(text, str) else "[...]" for text in texts)


def _choices(read: Mapping[str, object], name: str) -> Iterator[str]:
    choices = read.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, Mapping):
            inner = choice.get(name)
            text = inner.get("content") if isinstance(inner, Mapping) else choice.get("text")
            if isinstance(text, str):
                yield text


def _pieces(body: bytes) -> Iterator[str]:
    """What a stream has spelt: of chat completions, of the Responses API, of messages, and of /chat."""
    for event in Parser().feed(body):
        read = _json(event.data.encode())
        if not isinstance(read, Mapping):
            continue
        yield from _choices(read, "delta")
        delta = read.get("delta")
        if isinstance(delta, Mapping):
            delta = delta.get("text")
        if isinstance(delta, str):
            yield delta


def _json(body: bytes) -> object:
    if len(body) > _READ:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _text(body: bytes) -> str:
    return body[: 4 * LONGEST].decode("utf-8", "replace")
