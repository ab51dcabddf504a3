"""The way in: judges by a few signs what a body is, and has it written out.

Signs, from the surest: relay's own marks, the path, the media type, the first bytes. The host says nothing: relay's
upstreams are many. What is none of these APIs' is left to others.
"""

import re
from collections.abc import Callable

from addons.core.reading import (
    answer,
    anthropic,
    anthropic_answer,
    audio,
    batches,
    billing,
    conversation,
    embeddings,
    events,
    form,
    gemini,
    gemini_answer,
    images,
    openai_errors,
    relay_answers,
    responses,
)
from addons.core.reading.body import MAX_READ, TAIL, About, Body, UnreadableBody, note_bounds
from addons.core.reading.page import Page

type Writer = Callable[[Body, Page], None]

_PEEK = 4096

_CHAT = re.compile(r"/(?:chat/)?completions$")
_RESPONSES = re.compile(r"/responses(?:/[\w-]+(?:/(?:cancel|input_items))?)?$")
_EMBEDDINGS = re.compile(r"/embeddings$")
_IMAGES = re.compile(r"/images/(?:generations|edits|variations)$")
_SPEECH = re.compile(r"/audio/speech$")
_HEARING = re.compile(r"/audio/(?:transcriptions|translations)$")
_BILLING = re.compile(r"/dashboard/billing/\w+$")
_UPLOADS = re.compile(r"/(?:v\d[\w.]*|openai)/(?:files|uploads/[\w-]+/parts|audio/\w+|images/\w+)$")
_MESSAGES = re.compile(r"/messages(?:/count_tokens)?$")
_ASSISTANTS = re.compile(r"/threads/")  # their messages are others
_MANY_MESSAGES = re.compile(r"/messages/batches$")
_BATCHES = re.compile(r"/batches(?:/[\w-]+(?:/cancel)?)?$")
_LINES = re.compile(r"/(?:files/[\w-]+/content|batches/[\w-]+/results)$")
_GEMINI = re.compile(
    r"/models/[\w.@%-]{1,120}:(?:\w{0,20}[gG]enerateContent|countTokens|(?:batchE|e)mbedContents?)$|/v1internal:\w+$"
)
_REALTIME = re.compile(r"/(?:realtime|responses)$")

_SHAPED_ANTHROPIC = re.compile(rb'"type"\s*:\s*"message"')
_SHAPED_BLOCKS = re.compile(rb'\s*(?:event: ?message_start\s+)?data: ?\{"type"\s*:\s*"message_start"')
_SHAPED_LINES = re.compile(rb'\s*\{[^\r\n]{0,4096}"custom_id"')
_SHAPED_PIECES = re.compile(rb'\s*\[\s*\{\s*"(?:candidates|usageMetadata|promptFeedback|modelVersion|error)"')

_VERSIONED = re.compile(r"/(?:v\d\w*|openai)/")

_SHAPED_ERROR = re.compile(rb'\s*\{\s*"error"\s*:\s*[{"]')
_SHAPED_ANTHROPIC_ERROR = re.compile(rb'\s*\{\s*"type"\s*:\s*"error"\s*,\s*"error"\s*:\s*\{')
_SHAPED_ENVELOPE = re.compile(rb'\s*\{\s*"code"\s*:\s*\d{3}\s*,\s*"message"\s*:\s*"')
_SHAPED_TOLD = re.compile(rb'data: \{"(?:delta|code)": ')
_SHAPED_MESSAGES = re.compile(rb'"messages"\s*:\s*\[\s*\{\s*"(?:role|content)"')
_SHAPED_APP = re.compile(rb'"sessionId"\s*:')
_SHAPED_CHAT = re.compile(rb'"object"\s*:\s*"(?:chat\.completion|text_completion)')
_SHAPED_RESPONSE = re.compile(rb'"object"\s*:\s*"response"')
_STREAMED = re.compile(rb"\s*(?:data|event|id|retry)?:")


def writer_for(data: bytes, about: About) -> Writer | None:
    """Who can write this body out; None where nobody knows it, or nothing would be won over the raw one."""
    if not data:
        return None
    path = about.path.rstrip("/")
    media = about.content_type.partition(";")[0].strip().lower()
    head = data[:_PEEK].removeprefix(b"\xef\xbb\xbf")
    if about.request:
        return _for_request(head, about, path, media)
    if _LINES.search(path) and _SHAPED_LINES.match(head):
        return batches.lines
    if head.lstrip()[:1] == b"{":  # whatever it calls itself: errors come as event streams, too
        return _for_answer(head, about, path)
    if _GEMINI.search(path) and _SHAPED_PIECES.match(head):
        return gemini_answer.whole
    if media == "text/event-stream" or (_STREAMED.match(head) and _streams(path)):
        return _for_stream(head, about, path)
    if _SPEECH.search(path) and media.startswith(("audio/", "application/octet-stream")):
        return audio.sound
    return None


def _is_known(head: bytes, about: About, path: str) -> bool:
    """Whether a path that others may have, too, is that of a model's API."""
    if about.own or path.endswith("/chat/completions") or b'"model"' in head:
        return True
    return bool(_VERSIONED.search(path) or _BILLING.search(path))


def _streams(path: str) -> bool:
    return any(sign.search(path) for sign in (_CHAT, _RESPONSES, _MESSAGES, _GEMINI, _IMAGES, _SPEECH, _HEARING))


def _for_request(head: bytes, about: About, path: str, media: str) -> Writer | None:
    if media == "multipart/form-data":
        return form.form if _UPLOADS.search(path) else None
    if head.lstrip()[:1] != b"{":
        return None
    if about.chat is not None:
        return conversation.request
    if _is_app_message(head, path):
        return conversation.app_message
    if _GEMINI.search(path):
        return gemini.request
    if not _is_known(head, about, path):
        return None
    for sign, writer in (
        (_MANY_MESSAGES, batches.requests),
        (_BATCHES, batches.status),
        (_CHAT, conversation.request),
        (_RESPONSES, responses.request),
        (_EMBEDDINGS, embeddings.request),
        (_IMAGES, images.request),
        (_SPEECH, audio.speech_request),
    ):
        if sign.search(path):
            return writer
    if _MESSAGES.search(path):
        return None if _ASSISTANTS.search(path) else anthropic.request
    return conversation.request if _SHAPED_MESSAGES.search(head) and b'"model"' in head else None


def _is_app_message(head: bytes, path: str) -> bool:
    if not _SHAPED_APP.search(head) or b'"content"' not in head or b'"messages"' in head:
        return False
    return b'"apiKey"' in head or path.endswith(("/chat", "/chat/completions"))


def _is_error(head: bytes, about: About, path: str) -> bool:
    if _SHAPED_ANTHROPIC_ERROR.match(head):
        return True
    if not _SHAPED_ERROR.match(head):
        return False
    return _is_known(head, about, path) or (b'"message"' in head and b'"type"' in head)


def _for_answer(head: bytes, about: About, path: str) -> Writer | None:
    if _is_error(head, about, path):
        return openai_errors.error
    if _SHAPED_ENVELOPE.match(head):
        if about.chat is not None:
            return relay_answers.chat
        if about.own and "/v1/" not in path:
            return relay_answers.balance if _tells_balance(head, path) else relay_answers.chat
    if _SHAPED_CHAT.search(head):
        return answer.whole
    if _SHAPED_RESPONSE.search(head):
        return responses.whole
    if _GEMINI.search(path):
        return gemini_answer.whole
    if _MESSAGES.search(path) and not _ASSISTANTS.search(path) and (about.own or _is_messages(head)):
        return anthropic_answer.whole
    if not _is_known(head, about, path):
        return None
    for sign, writer in (
        (_BATCHES, batches.status),
        (_CHAT, answer.whole),
        (_RESPONSES, responses.whole),
        (_EMBEDDINGS, embeddings.answer),
        (_IMAGES, images.answer),
        (_HEARING, audio.transcript),
        (_BILLING, billing.billing),
    ):
        if sign.search(path):
            return writer
    return None


def _is_messages(head: bytes) -> bool:
    """Whether an answer is one of Anthropic's: a message, or a count."""
    return _SHAPED_ANTHROPIC.search(head) is not None or head.lstrip(b" \r\n\t{").startswith(b'"input_tokens"')


def _tells_balance(head: bytes, path: str) -> bool:
    return path.endswith("/balance") or b'"balance":' in head


def _for_stream(head: bytes, about: About, path: str) -> Writer:
    if about.chat is not None and _SHAPED_TOLD.match(head):
        return relay_answers.stream
    if _SHAPED_CHAT.search(head):
        return answer.stream
    if _GEMINI.search(path):
        return gemini_answer.stream
    if _SHAPED_BLOCKS.match(head):
        return anthropic_answer.stream
    if not _is_known(head, about, path):
        return events.events
    for sign, writer in (
        (_MESSAGES, anthropic_answer.stream),
        (_CHAT, answer.stream),
        (_RESPONSES, responses.stream),
        (_IMAGES, images.stream),
        (_SPEECH, audio.stream),
        (_HEARING, audio.stream),
    ):
        if sign.search(path):
            return writer
    return events.events


def is_realtime(path: str) -> bool:
    """Whether the messages of a websocket at this path are events of OpenAI's."""
    return _REALTIME.search(path.rstrip("/")) is not None


def is_talk(path: str) -> bool:
    """Whether such events are pieces of a conversation; those of Responses each hold a request or an answer whole."""
    return path.rstrip("/").endswith("/realtime")


def read(data: bytes, about: About, expired: Callable[[], bool] = bool, writer: Writer | None = None) -> str:
    """The text of a body. `expired` tells when the time for reading is up. Raises UnreadableBody and nothing else."""
    writer = writer or writer_for(data, about)
    if writer is None:
        raise UnreadableBody("not a body of an API that relay knows")
    beyond = max(0, len(data) - MAX_READ)
    body = Body(data[:MAX_READ], about, beyond, data[-min(TAIL, beyond) :] if beyond else b"", expired)
    page = Page()
    note_bounds(body, page)
    try:
        writer(body, page)
    except UnreadableBody:
        raise
    except Exception as error:  # a shape nobody has thought of
        raise UnreadableBody(f"unexpected shape: {error!r}") from error
    return page.text()
