"""The way in: judges by a few signs what a body is, and has it written out.

Signs, from the surest: relay's own marks, the path, the media type, the first bytes. The host says nothing: relay's
upstreams are many. What is not OpenAI's is left to others.
"""

import re
from collections.abc import Callable

from addons.core.reading import (
    answer,
    audio,
    billing,
    conversation,
    embeddings,
    events,
    form,
    images,
    openai_errors,
    relay_answers,
    responses,
)
from addons.core.reading.body import MAX_READ, About, Body, UnreadableBody, note_bounds
from addons.core.reading.page import Page

type Writer = Callable[[Body, Page], None]

_PEEK = 4096

_CHAT = re.compile(r"/(?:chat/)?completions$")
_RESPONSES = re.compile(r"/responses(?:/[\w-]+(?:/cancel)?)?$")
_EMBEDDINGS = re.compile(r"/embeddings$")
_IMAGES = re.compile(r"/images/(?:generations|edits|variations)$")
_SPEECH = re.compile(r"/audio/speech$")
_HEARING = re.compile(r"/audio/(?:transcriptions|translations)$")
_BILLING = re.compile(r"/dashboard/billing/\w+$")
_UPLOADS = re.compile(r"/(?:v\d[\w.]*|openai)/(?:files|uploads/[\w-]+/parts|audio/\w+|images/\w+)$")
_ELSEWHERE = re.compile(r"/messages$")  # Anthropic's: much like a chat, and not one

_VERSIONED = re.compile(r"/(?:v\d\w*|openai)/")

_SHAPED_ERROR = re.compile(rb'\s*\{\s*"error"\s*:\s*[{"]')
_SHAPED_ENVELOPE = re.compile(rb'\s*\{\s*"code"\s*:\s*\d{3}\s*,\s*"message"\s*:\s*"')
_SHAPED_TOLD = re.compile(rb'data: \{"(?:delta|code)": ')
_SHAPED_MESSAGES = re.compile(rb'"messages"\s*:\s*\[\s*\{\s*"(?:role|content)"')
_SHAPED_APP = re.compile(rb'"sessionId"\s*:')
_SHAPED_CHAT = re.compile(rb'"object"\s*:\s*"(?:chat\.completion|text_completion)')
_SHAPED_RESPONSE = re.compile(rb'"object"\s*:\s*"response"')
_STREAMED = re.compile(rb"\s*(?:data|event|id|retry)?:")


def writer_for(data: bytes, about: About) -> Writer | None:
    """Who can write this body out; None where it is not OpenAI's, or nothing would be won over the raw one."""
    if not data:
        return None
    path = about.path.rstrip("/")
    media = about.content_type.partition(";")[0].strip().lower()
    head = data[:_PEEK].removeprefix(b"\xef\xbb\xbf")
    if about.request:
        return _for_request(head, about, path, media)
    if head.lstrip()[:1] == b"{":  # whatever it calls itself: errors come as event streams, too
        return _for_answer(head, about, path)
    if media == "text/event-stream" or (_STREAMED.match(head) and _streams(path)):
        return _for_stream(head, about, path)
    if _SPEECH.search(path) and media.startswith(("audio/", "application/octet-stream")):
        return audio.sound
    return None


def _is_known(head: bytes, about: About, path: str) -> bool:
    """Whether a path that others may have, too, is OpenAI's."""
    if about.own or path.endswith("/chat/completions") or b'"model"' in head:
        return True
    return bool(_VERSIONED.search(path) or _BILLING.search(path))


def _streams(path: str) -> bool:
    return any(sign.search(path) for sign in (_CHAT, _RESPONSES, _IMAGES, _SPEECH, _HEARING))


def _for_request(head: bytes, about: About, path: str, media: str) -> Writer | None:
    if media == "multipart/form-data":
        return form.form if _UPLOADS.search(path) else None
    if head.lstrip()[:1] != b"{":
        return None
    if about.chat is not None:
        return conversation.request
    if _is_app_message(head, path):
        return conversation.app_message
    if not _is_known(head, about, path):
        return None
    for sign, writer in (
        (_CHAT, conversation.request),
        (_RESPONSES, responses.request),
        (_EMBEDDINGS, embeddings.request),
        (_IMAGES, images.request),
        (_SPEECH, audio.speech_request),
    ):
        if sign.search(path):
            return writer
    shaped = _SHAPED_MESSAGES.search(head) and b'"model"' in head and not _ELSEWHERE.search(path)
    return conversation.request if shaped else None


def _is_app_message(head: bytes, path: str) -> bool:
    if not _SHAPED_APP.search(head) or b'"content"' not in head or b'"messages"' in head:
        return False
    return b'"apiKey"' in head or path.endswith(("/chat", "/chat/completions"))


def _is_error(head: bytes, about: About, path: str) -> bool:
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
    if not _is_known(head, about, path):
        return None
    for sign, writer in (
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


def _tells_balance(head: bytes, path: str) -> bool:
    return path.endswith("/balance") or b'"balance":' in head


def _for_stream(head: bytes, about: About, path: str) -> Writer:
    if about.chat is not None and _SHAPED_TOLD.match(head):
        return relay_answers.stream
    if _SHAPED_CHAT.search(head):
        return answer.stream
    if not _is_known(head, about, path):
        return events.events
    for sign, writer in (
        (_CHAT, answer.stream),
        (_RESPONSES, responses.stream),
        (_IMAGES, images.stream),
        (_SPEECH, audio.stream),
        (_HEARING, audio.stream),
    ):
        if sign.search(path):
            return writer
    return events.events


def read(data: bytes, about: About, expired: Callable[[], bool] = bool, writer: Writer | None = None) -> str:
    """The text of a body. `expired` tells when the time for reading is up. Raises UnreadableBody and nothing else."""
    writer = writer or writer_for(data, about)
    if writer is None:
        raise UnreadableBody("not a body of OpenAI's API that relay knows")
    body = Body(data[:MAX_READ], about, max(0, len(data) - MAX_READ), expired)
    page = Page()
    note_bounds(body, page)
    try:
        writer(body, page)
    except UnreadableBody:
        raise
    except Exception as error:  # a shape nobody has thought of
        raise UnreadableBody(f"unexpected shape: {error!r}") from error
    return page.text()
