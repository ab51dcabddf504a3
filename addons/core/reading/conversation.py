"""Requests that carry a conversation: chat completions, old completions, and messages to /chat.

Of a message to /chat the record holds the completion request that relay made of it; what the app said and what relay
added stand apart.
"""

from addons.core.reading import tools, turns
from addons.core.reading.body import Body, ChatFacts, document
from addons.core.reading.messages import content_text, message
from addons.core.reading.page import Page, count
from addons.core.reading.values import objects, parameters, text_of, written

_CONTENT = frozenset({"messages", "tools", "functions", "prompt", "suffix", "model"})


def request(body: Body, page: Page) -> None:
    """Write a chat completion request."""
    value = document(body, page)
    chat = body.about.chat
    if chat is not None:
        page.comment("a message to /chat, as the completion request that relay made of it")
        page.field("session", chat.session)
        page.field("sent to", chat.went_to)
    page.field("model", value.get("model"))
    parameters(page, value, _CONTENT)
    functions = [{"function": old} for old in objects(value.get("functions"))]
    if chat is not None:
        tools.offered(page, [*objects(value.get("tools")), *functions])
        _expanded(body, page, objects(value.get("messages")), chat)
        return

    def standing() -> None:
        tools.offered(page, [*objects(value.get("tools")), *functions])

    turns.conversation(body, page, objects(value.get("messages")), "message", message, standing)
    _prompt(page, value)


def app_message(body: Body, page: Page) -> None:
    """Write a message to /chat as the app sent it: one that relay refused."""
    value = document(body, page)
    page.comment("a message to /chat")
    page.field("session", value.get("sessionId"))
    parameters(page, value, frozenset({"apiKey", "sessionId", "content"}))
    page.block("user", content_text(value.get("content")) or "")


def _messages(body: Body, page: Page, items: list[dict[str, object]]) -> None:
    turns.conversation(body, page, items, "message", message)


def _expanded(body: Body, page: Page, items: list[dict[str, object]], chat: ChatFacts) -> None:
    """What the app sent, then what relay added: its own system message, the session's earlier turns."""
    added, sent = items[:-1], items[-1:]
    page.gap()
    page.comment("--- sent by the app")
    if chat.content is not None:
        page.block("user", chat.content)
    else:
        _messages(body, page, sent)
    system = [item for item in added[:1] if item.get("role") == "system"]
    if system:
        page.gap()
        page.comment("--- added by relay: chat.system of relay.yaml")
        _messages(body, page, system)
    earlier = added[len(system) :]
    number = chat.turns if chat.turns is not None else len(earlier) // 2
    page.gap()
    if not earlier and not number:
        page.comment("--- added by relay from the session: nothing, this is its first message")
        return
    page.comment(f"--- added by relay from the session: {count(number, 'earlier turn')}")
    _messages(body, page, earlier)


def _prompt(page: Page, value: dict[str, object]) -> None:
    """The old completions' text to go on from: a string, several, or tokens."""
    prompt = value.get("prompt")
    if isinstance(prompt, str):
        page.block("prompt", prompt)
    elif isinstance(prompt, list) and all(isinstance(one, str) for one in prompt):
        for one in prompt:
            page.block("prompt", one)
    elif prompt is not None:
        written(page, "prompt", prompt)
    if suffix := text_of(value.get("suffix")):
        page.block("suffix", suffix)
