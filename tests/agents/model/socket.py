"""Responses over a websocket, as Codex asks for them where its provider is OpenAI.

Each message of the client is a request's body with `"type": "response.create"`, each of the model's an event. A request
that names an earlier response of the same socket brings what is new alone.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import wsproto
from wsproto.events import AcceptConnection, CloseConnection, Ping, Request, TextMessage

type Item = dict[str, Any]
type Answers = Callable[[dict[str, Any]], Iterator[dict[str, Any]]]
"""For a request's body, whole: the events of its answer."""


class Socket:
    """One connection. `answers` is asked for each request."""

    def __init__(self, send: Callable[[bytes], object], answers: Answers) -> None:
        self._connection = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        self._send = send
        self._answers = answers
        self._kept: dict[str, list[Item]] = {}
        self._text = ""

    def feed(self, data: bytes) -> bool:
        """What has come, the head first; whether the connection goes on."""
        self._connection.receive_data(data)
        return all([self._take(event) for event in self._connection.events()])

    def _take(self, event: wsproto.events.Event) -> bool:
        match event:
            case Request():
                self._send(self._connection.send(AcceptConnection()))
            case Ping() | CloseConnection():
                self._send(self._connection.send(event.response()))
            case TextMessage():
                self._text += event.data
                if event.message_finished:
                    text, self._text = self._text, ""
                    self._answer(json.loads(text))
        return not isinstance(event, CloseConnection)

    def _answer(self, asked: dict[str, Any]) -> None:
        before = self._kept.get(asked.get("previous_response_id") or "", [])
        whole = {**asked, "stream": True, "input": [*before, *asked["input"]]}
        for event in self._answers(whole):
            self._send(self._connection.send(TextMessage(json.dumps(event))))
            if event["type"] == "response.completed":
                response = event["response"]
                self._kept[response["id"]] = [*whole["input"], *response["output"]]
