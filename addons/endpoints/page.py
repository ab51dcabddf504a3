"""Page: what a person sees who opens relay's address in a browser.

One answer without anything beside it: style and script stand in the page itself, allowed by their hashes, so it needs
no path but `/` and asks nobody else for anything. Its files are static/page.html, .css and .js, markdown.js, and the
library that this is written for; static/vendor/vendor.json says where that came from. All are read when relay starts.
What the page knows of the settings is in it as JSON; where relay is, it knows from its own address.
"""

import hashlib
import json
import re
from base64 import b64encode
from pathlib import Path

from mitmproxy import http

from addons.config.settings import Settings
from addons.core.paths import PAGE
from addons.errors import MethodNotAllowed
from addons.exchange import Kind, ongoing
from addons.flow.answers import answer, refuse

_STATIC = Path(__file__).resolve().parent / "static"
_SCRIPTS = {"library": "vendor/markdown-it.min.js", "markdown": "markdown.js", "script": "page.js"}
"""By their places in page.html."""
_MAP = re.compile(r"^//# sourceMappingURL=.*\n?", re.MULTILINE)  # relay has no such path
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def facts(settings: Settings) -> dict[str, object]:
    """What the page tells of the settings: bounds, paths and a model; no addresses. Sizes in bytes, times in seconds.

    `chat` and `balance` are None where the default upstream, or nobody, answers them.
    """
    chat, balance, upstream = settings.chat, settings.balance, settings.upstreams[0]
    shown: dict[str, object] = {
        "model": upstream.model or chat.model,
        "max_body": settings.limits.body,
        "idle": settings.limits.idle,
        "chat": None,
        "balance": None,
    }
    if chat.paths:
        shown["chat"] = {
            "path": chat.paths[0],
            "max_content": chat.max_content,
            "max_body": chat.max_body,
            "session_ttl": chat.session_ttl,
            "timeout": chat.timeout,
            "max_turns": chat.context.max_turns,
            "max_tokens": chat.context.max_tokens,
            "chooses": "model" in chat.allow,
        }
    if balance.paths and (upstream.balance is not None or upstream.keys or settings.keys.list):
        shown["balance"] = {"path": balance.paths[0], "window_days": balance.window_days}
    return shown


def inert(value: object) -> str:
    """JSON that can stand in a script element: nothing in it ends the element, or is a comment's beginning."""
    text = json.dumps(value)  # ASCII: no line breaks that only JavaScript knows, no lone surrogates
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def render(settings: Settings) -> tuple[bytes, str]:
    """The page under these settings, and the Content-Security-Policy that lets nothing but itself run in it."""
    style = _read("page.css")
    scripts = {place: _MAP.sub("", _read(name)) for place, name in _SCRIPTS.items()}
    parts = {"style": style, "settings": inert(facts(settings)), **scripts}
    page = _PLACE.sub(lambda place: parts[place[1]], _read("page.html"))
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hash, scripts.values())),
        "style-src": _hash(style),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }
    return page.encode(), "; ".join(f"{name} {source}" for name, source in policy.items())


def _read(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a policy names an inline element: https://www.w3.org/TR/CSP3/#grammardef-hash-source"""
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Page:
    """Answers `/`, unless relay.yaml has switched that off."""

    serves = (Kind.OWN,)

    def __init__(self, settings: Settings) -> None:
        self.body, policy = render(settings)
        self.etag = f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'
        self.headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
            "ETag": self.etag,
        }

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Answer at once."""
        exchange = ongoing(flow, Kind.OWN)
        if exchange is None or exchange.path != PAGE:
            return
        if flow.request.method not in ("GET", "HEAD"):
            refuse(flow, exchange, MethodNotAllowed(flow.request.method, "GET"))
            return
        known = flow.request.headers.get("if-none-match", "")
        if known.strip() == "*" or self.etag in known:
            unchanged = http.Response.make(304, b"", self.headers)
            del unchanged.headers["Content-Length"]  # it would be that of the page: RFC 9110, 8.6
            answer(flow, unchanged)
        else:
            answer(flow, http.Response.make(200, self.body, self.headers))
