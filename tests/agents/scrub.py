"""Takes out of a recording what is of the machine that it was made on: the same everywhere, the structure stays."""

import os
import platform
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tests.agents.recording import Exchange, Headers

HOME, PROJECT = "/home/dev", "/home/dev/notes"
_SLUG = re.compile(r"[^A-Za-z0-9]")
_SYSTEM = re.compile(r"\b[Dd]ebian(?: GNU/Linux)?[ _]\d+(?:\.\d+)*|\bLinux[ -]\d+\.\d+\.\d+[\w.+-]*")
_LENGTH = "content-length"


class Scrub:
    """`folders`: what each folder of the run, or of the agent, is called instead, the inner ones first."""

    def __init__(self, folders: Mapping[Path, str], hosts: Mapping[str, str]) -> None:
        names = {str(path): name for path, name in folders.items()}
        # Claude Code names a project's folder so.
        names |= {_SLUG.sub("-", path): _SLUG.sub("-", name) for path, name in names.items()}
        kernel, machine = os.uname(), socket.gethostname()
        names |= {machine: "machine", kernel.release: "6.1.0", kernel.version: "#1 SMP", platform.version(): "#1 SMP"}
        self._names = sorted({**names, **hosts}.items(), key=lambda each: -len(each[0]))

    def text(self, text: str) -> str:
        for name, other in self._names:
            text = text.replace(name, other)
        return _SYSTEM.sub("Linux 6.1.0", text)

    def body(self, data: bytes) -> bytes:
        try:
            return self.text(data.decode()).encode()
        except UnicodeDecodeError:
            return data

    def exchange(self, each: Exchange) -> Exchange:
        body, answer = self.body(each.body), self.body(each.answer)
        return replace(
            each,
            path=self.text(each.path),
            headers=self._headers(each.headers, len(body)),
            body=body,
            answer_headers=self._headers(each.answer_headers, len(answer)),
            answer=answer,
            messages=tuple((at, sent, self.text(text)) for at, sent, text in each.messages),
        )

    def _headers(self, headers: Sequence[tuple[str, str]], length: int) -> Headers:
        return tuple((name, str(length) if name.lower() == _LENGTH else self.text(value)) for name, value in headers)
