"""Drives openai-python 0.27 through a relay; prints what came of each case as one JSON object.

Runs in a process of its own, which sees that SDK alone. RELAY is a relay with every default, RELAY_EDGE another that
takes bodies of 1 MB and has a route /down to nothing.
"""
# mypy: ignore-errors

import asyncio
import hashlib
import io
import json
import os
import sys
import time

import openai

RELAY, RELAY_EDGE = os.environ["RELAY"], os.environ["RELAY_EDGE"]
MODEL = "gpt-3.5-turbo"
BYTES = bytes(range(251)) * 1200

openai.api_key = "sk-test-0123456789"
openai.api_base = f"{RELAY}/v1"


def said(content: str, **more: object) -> dict:
    """A chat completion's arguments."""
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "request_timeout": 15, **more}


def asked(behaviour: dict) -> dict:
    """Have the upstream behave so."""
    return {"headers": {"x-test": json.dumps(behaviour)}}


def refused(status: int) -> dict:
    """Have the upstream refuse, in OpenAI's shape."""
    error = {"message": f"refused with {status}", "type": "test", "param": None, "code": f"c{status}"}
    headers = [["content-type", "application/json"]]
    return asked({"status": status, "headers": headers, "body": json.dumps({"error": error})})


def text_of(chunks) -> str:
    """What a stream says."""
    return "".join(chunk.choices[0].delta.get("content", "") for chunk in chunks)


def chat() -> dict:
    answer = openai.ChatCompletion.create(**said("我叫小明"))
    return {"content": answer.choices[0].message.content, "finish": answer.choices[0].finish_reason}


def chat_gzipped() -> dict:
    return {
        "content": openai.ChatCompletion.create(**said("我叫小明"), **asked({"gzip": True})).choices[0].message.content
    }


def chat_awaited() -> dict:
    async def ask() -> str:
        return (await openai.ChatCompletion.acreate(**said("我叫小明"))).choices[0].message.content

    return {"content": asyncio.run(ask())}


def stream() -> dict:
    begin, arrivals, chunks = time.monotonic(), [], []
    asking = said("hello, how are you today?", stream=True, headers={"x-demo-delay-ms": "40"})
    for chunk in openai.ChatCompletion.create(**asking):
        arrivals.append(time.monotonic() - begin)
        chunks.append(chunk)
    return {"text": text_of(chunks), "chunks": len(chunks), "first": arrivals[0], "last": arrivals[-1]}


def stream_awaited() -> dict:
    async def ask() -> str:
        return text_of([chunk async for chunk in await openai.ChatCompletion.acreate(**said("我叫小红", stream=True))])

    return {"text": asyncio.run(ask())}


def stream_left() -> dict:
    answer = openai.ChatCompletion.create(
        **said("word " * 100, stream=True, headers={"x-demo-delay-ms": "100", "x-case": "left"})
    )
    for _ in range(3):
        next(answer)
    answer.close()
    openai.api_requestor._thread_context.session.close()  # its way to let go of a connection
    del openai.api_requestor._thread_context.session
    return {"chunks": 3}


def stream_broken() -> dict:
    count = 0
    try:
        for _ in openai.ChatCompletion.create(**said("hi", stream=True), **asked({"break_after": 600})):
            count += 1
    except Exception:
        return {"chunks": count, "broken": True}
    return {"chunks": count, "broken": False}


def embeddings() -> dict:
    answer = openai.Embedding.create(model="text-embedding-3-small", input=["a", "b"], encoding_format="float")
    return {"sizes": [len(one.embedding) for one in answer.data]}


def images() -> dict:
    return {"prompt": openai.Image.create(prompt="一只猫").data[0].revised_prompt}


def transcription() -> dict:
    sound = io.BytesIO(BYTES)
    sound.name = "sound.mp3"
    answer = openai.Audio.transcribe("whisper-1", sound)
    return {"text": answer.text, "same": answer.sha256 == hashlib.sha256(BYTES).hexdigest()}


def files() -> dict:
    file = openai.File.create(file=io.BytesIO(BYTES), purpose="batch", user_provided_filename="data.jsonl")
    listed = file.id in [one.id for one in openai.File.list().data]
    content = openai.File.download(file.id)
    deleted = openai.File.delete(file.id).deleted
    told = {"filename": file.filename, "bytes": file.bytes, "purpose": file.purpose}
    return {**told, "listed": listed, "same": content == BYTES, "deleted": deleted}


def models() -> dict:
    ids = [model.id for model in openai.Model.list().data]
    return {"whole": MODEL in ids, "one": openai.Model.retrieve("gpt-4o").id}


def moderations() -> dict:
    return {"flagged": openai.Moderation.create(input="violence").results[0].flagged}


CASES = {
    "version": lambda: openai.version.VERSION,
    "chat": chat,
    "chat, gzipped by upstream": chat_gzipped,
    "chat, awaited": chat_awaited,
    "stream": stream,
    "stream, awaited": stream_awaited,
    "stream, left in the middle": stream_left,
    "stream, broken by upstream": stream_broken,
    "embeddings": embeddings,
    "images": images,
    "audio, transcription": transcription,
    "files": files,
    "models": models,
    "moderations": moderations,
    "error 400": lambda: openai.ChatCompletion.create(model=MODEL, messages=[]),
    "error 401": lambda: openai.Model.list(api_key="sk-bad-0123456789"),
    "error 403": lambda: openai.Model.list(api_key="sk-403-0123456789"),
    "error 404": lambda: openai.ChatCompletion.create(**said("hi", model="no-such-model")),
    "error 404, streaming": lambda: openai.ChatCompletion.create(**said("hi", model="no-such-model", stream=True)),
    "error 404, of relay": lambda: openai.Model.list(api_base=f"{RELAY}/nowhere"),
    # It tries again for ever, unless told how long.
    "error 409": lambda: openai.ChatCompletion.create(**said("hi", timeout=0), **refused(409)),
    "error 413": lambda: openai.ChatCompletion.create(**said("hi"), **refused(413)),
    "error 413, of relay": lambda: openai.ChatCompletion.create(**said("hi" * 700_000), api_base=f"{RELAY_EDGE}/v1"),
    "error 429": lambda: openai.Model.list(api_key="sk-rate-0123456789"),
    "error 500": lambda: openai.ChatCompletion.create(**said("hi"), **refused(500)),
    "error 502": lambda: openai.ChatCompletion.create(**said("hi"), **refused(502)),
    "error 502, of relay": lambda: openai.Model.list(api_base=f"{RELAY_EDGE}/down/v1"),
    "error 503": lambda: openai.ChatCompletion.create(**said("hi"), **refused(503)),
}


def told(error: Exception) -> dict:
    """What an error tells of itself."""
    known = {"class": type(error).__name__, "message": str(error)}
    for name in ("http_status", "code"):
        if (value := getattr(error, name, None)) is not None:
            known[name] = value
    if retry_after := (getattr(error, "headers", None) or {}).get("retry-after"):
        known["retry_after"] = retry_after
    return known


def run(case) -> dict:
    """What came of one case."""
    try:
        return {"value": case()}
    except Exception as error:
        return {"error": told(error)}


json.dump({name: run(case) for name, case in CASES.items()}, sys.stdout)
