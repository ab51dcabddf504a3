"""Commands: what a person may ask relay for inside mitmproxy and mitmweb.

    relay.sessions                  the conversations among the flows
    relay.session @focus            the flows of that conversation, and nothing else in the list
    relay.forget @focus             that conversation begins anew
    relay.balance KEY               what is left on a key
    relay.replay @focus KEY         the same request again
    relay.export @filter FILE       what was recorded of these, without keys, as JSONL, HTML or OTLP
    relay.upstreams                 how the upstreams are

A key may be named instead of shown: `$OPENAI_API_KEY` is taken from the environment. One that was typed is taken out of
mitmproxy's command history.
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import Coroutine, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import mitmproxy.types
from mitmproxy import command, ctx, exceptions, flow, http
from mitmproxy.log import ALERT

from addons import errors
from addons.config.settings import Settings, Upstream
from addons.core import chat, money
from addons.core.secrets import masked
from addons.endpoints.balance import ask_balance
from addons.flow.display_path import aim
from addons.inspection import exporting
from addons.meter.prices import Prices
from addons.store import Store, StoreError, TooManyWaiting
from addons.upstreams.health import UpstreamHealth

logger = logging.getLogger(__name__)

_SHORT = 8
_WAITING = 1000
_FINGERPRINT = re.compile(r".{0,3}\*{3}[0-9a-f]{8}")
_MOST_MARKS = 8
"""Hidden keys of one request that are put back; an app sends one, a stranger may send thousands."""
_KEY_HEADERS = ("authorization", "api-key", "x-api-key")


class Served(Protocol):
    """What commands need of relay: the settings and the store in force."""

    @property
    def settings(self) -> Settings | None:
        """relay.yaml's."""

    @property
    def store(self) -> Store | None:
        """Where sessions live."""

    @property
    def health(self) -> UpstreamHealth | None:
        """What is known of the upstreams."""

    @property
    def prices(self) -> Prices | None:
        """What tokens cost."""


class Commands:
    """relay's commands, as mitmproxy's `command` module wants them."""

    name = "relay-commands"

    def __init__(self, served: Served) -> None:
        self.served = served
        self._tasks: set[asyncio.Task[None]] = set()

    @command.command("relay.sessions")
    def sessions(self) -> Sequence[str]:
        """
        List the conversations among the flows: the short hash of each session, its flows, and when it was last used.
        """
        last: dict[str, tuple[int, float]] = {}
        for each in flows_on_view():
            if (key := _session_of(each)) is not None:
                count, at = last.get(key, (0, 0.0))
                last[key] = (count + 1, max(at, each.timestamp_created))
        lines = []
        for key, (count, at) in sorted(last.items(), key=lambda item: item[1][1], reverse=True):
            clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
            lines.append(f"{key[:_SHORT]}  {count} {'flow' if count == 1 else 'flows'}  last used {clock}")
        return lines

    @command.command("relay.upstreams")
    def upstreams(self) -> Sequence[str]:
        """
        List the upstreams: how each is, for how long it is still left alone, and how many of its keys are.
        """
        health = self.served.health
        settings = self._settings()
        return [_told_health(each) for each in health.report(settings.upstreams)] if health is not None else []

    @command.command("relay.session")
    def session(self, flows: Sequence[flow.Flow]) -> None:
        """
        Show the conversation that these flows belong to, and nothing else: sets view_filter. An empty view_filter shows
        everything again.
        """
        keys = _sessions_of(flows)
        found = sum(_session_of(each) in keys for each in flows_on_view())
        ctx.options.update(view_filter="~meta '^relay.session: (" + "|".join(sorted(keys)) + ")'")
        names = ", ".join(sorted(key[:_SHORT] for key in keys))
        logger.log(ALERT, f"{found} of session {names}; without a view_filter all flows are shown again")

    @command.command("relay.forget")
    def forget(self, flows: Sequence[flow.Flow]) -> None:
        """
        Forget the session that these flows belong to: its next message begins a new conversation.
        """
        keys = _sessions_of(flows)
        store = self.served.store
        if store is None:
            raise exceptions.CommandError("relay.yaml is wrong: relay serves nothing.")
        self._begin(_forget(store, keys))

    @command.command("relay.balance")
    def balance(self, key: str = "", upstream: str = "") -> None:
        """
        Ask what is left on KEY, at the first upstream or at the one of this name, and print it. KEY may be the name of
        an environment variable, as in $OPENAI_API_KEY.
        """
        settings = self._settings()
        given = _key(key, "relay.balance KEY")
        self._begin(_balance(_upstream(settings, upstream), given, settings))

    @command.command("relay.replay")
    def replay(self, flows: Sequence[flow.Flow], key: str = "") -> None:
        """
        Send the same requests again with KEY, since records hold no key; of a message to /chat its completion. KEY may
        be the name of an environment variable, as in $OPENAI_API_KEY.
        """
        given = _key(key, "relay.replay @focus KEY")
        again = [_again(each, given) for each in flows]
        if not again:
            raise exceptions.CommandError("No flow is selected.")
        view = ctx.master.addons.get("view")
        if view is not None:
            view.add(again)
        ctx.master.commands.call("replay.client", again)

    @command.command("relay.export")
    def export(self, flows: Sequence[flow.Flow], file: mitmproxy.types.Path, form: str = "") -> None:
        """
        Write what was recorded of these flows to FILE, without keys: as JSONL, as an HTML page of their threads, or as
        spans (OTLP), as FILE ends in .jsonl, .html or .json, or as the third argument says (jsonl, html, otlp).
        """
        settings = self._settings()
        path = Path(file).expanduser().absolute()
        try:
            wanted = exporting.format_of(path, form)
            exporting.refuse_existing(path, "name another file")
        except exporting.Unfit as error:
            raise exceptions.CommandError(str(error)) from None
        if not any(isinstance(each, http.HTTPFlow) and not each.live for each in flows):
            raise exceptions.CommandError("No exchange that is over is among these flows.")
        store, prices = self.served.store, self.served.prices
        if store is None or prices is None:
            raise exceptions.CommandError("relay.yaml is wrong: relay serves nothing.")
        self._begin(_export(path, exporting.export(flows, settings, store.secret, wanted, prices)))

    def _settings(self) -> Settings:
        if self.served.settings is None:
            raise exceptions.CommandError("relay.yaml is wrong: relay serves nothing.")
        return self.served.settings

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _told_health(told: Mapping[str, object]) -> str:
    """`openai  rate limited for 12 s, 1 of 2 keys left alone (rate limited)`."""
    line = f"{told['name']}  {told['state']}"
    if told.get("for"):
        line += f" for {told['for']} s"
    if isinstance(keys := told.get("keys"), dict) and keys["aside"]:
        why = told.get("why")
        line += f", {keys['aside']} of {keys['all']} keys left alone"
        line += f" ({', '.join(why)})" if isinstance(why, list) else ""
    return line


def flows_on_view() -> list[flow.Flow]:
    """All that mitmproxy shows, whatever its filter lets through. Raises CommandError where it shows none."""
    view = ctx.master.addons.get("view")
    if view is None:
        raise exceptions.CommandError("mitmdump keeps no flows: use ./run.sh web, or mitmproxy.")
    return list(view._store.values())  # the view itself holds only what its filter lets through


def _session_of(each: flow.Flow) -> str | None:
    key = each.metadata.get("relay.session")
    return key if isinstance(key, str) and re.fullmatch("[0-9a-f]{8,64}", key) else None


def _sessions_of(flows: Sequence[flow.Flow]) -> set[str]:
    keys = {key for each in flows if (key := _session_of(each)) is not None}
    if not keys:
        raise exceptions.CommandError("No message to /chat is among the selected flows.")
    return keys


def _key(text: str, usage: str) -> str:
    """The key that was typed, or that the environment holds. What was typed leaves the history."""
    if not text:
        raise exceptions.CommandError(
            f"A key is needed, since records hold none: {usage}, or $NAME of the environment."
        )
    if text.startswith("$"):
        text, name = os.environ.get(text[1:], ""), text
        if not text:
            raise exceptions.CommandError(f"The environment has no {name}.")
    else:
        _forget_typed(text)
    try:
        return chat.read_key(text)
    except chat.Invalid as error:
        raise exceptions.CommandError(str(error)) from None


def _forget_typed(key: str) -> None:
    history = ctx.master.addons.get("commandhistory")
    if history is None or not any(key in line for line in history.history):
        return
    history.history = [line.replace(key, masked(key)) for line in history.history]
    history.set_filter("")
    try:
        file = history.history_file
        if ctx.options.command_history and file.is_file():
            file.write_text(file.read_text().replace(key, masked(key)))
    except OSError as error:
        logger.warning(f"the key is still in mitmproxy's command history: {error}")


def _upstream(settings: Settings, name: str) -> Upstream:
    for upstream in settings.upstreams:
        if name in ("", upstream.name):
            if upstream.balance is None:
                raise exceptions.CommandError(f"{upstream.name} tells no balance (upstreams[].balance is null).")
            return upstream
    names = ", ".join(upstream.name for upstream in settings.upstreams)
    raise exceptions.CommandError(f"No such upstream: {name}. There are: {names}.")


async def _balance(upstream: Upstream, key: str, settings: Settings) -> None:
    try:
        balance = (await ask_balance(upstream, key, settings, time.time())).balance
    except errors.RelayError as error:
        logger.error(f"balance at {upstream.name}: {error.en}")
        return
    text = "no limit" if balance.unlimited else money.to_json(balance)
    logger.log(ALERT, f"balance of {masked(key)} at {upstream.name}: {text}")


async def _export(path: Path, work: Coroutine[Any, Any, tuple[str, int]]) -> None:
    try:
        text, count = await work
        await asyncio.to_thread(exporting.write, path, text)
    except exporting.Unfit as error:
        logger.error(f"nothing is exported: {error}")
        return
    logger.log(ALERT, f"{count} {'exchange is' if count == 1 else 'exchanges are'} in {path}")


async def _forget(store: Store, keys: set[str]) -> None:
    for key in sorted(keys):
        try:
            # A message that is being answered would bring the session back: it comes to its end first.
            async with store.lease(key, _WAITING) as lease:
                known = await store.delete(lease)
        except (StoreError, TooManyWaiting) as error:
            logger.error(f"session {key[:_SHORT]} can't be forgotten: {error}")
            continue
        logger.log(ALERT, f"session {key[:_SHORT]} is forgotten" if known else f"there is no session {key[:_SHORT]}")


def _again(each: flow.Flow, key: str) -> http.HTTPFlow:
    """A copy of a recorded request, with a key. Raises CommandError where the record can't be sent."""
    if not isinstance(each, http.HTTPFlow) or each.websocket is not None:
        raise exceptions.CommandError("Only HTTP requests can be sent again.")
    if each.request.pretty_host == "relay.invalid" or each.request.host == "relay.invalid":
        raise exceptions.CommandError("Nothing of this flow went upstream: relay answered it. Send it to relay anew.")
    if each.live or each.request.raw_content is None:
        raise exceptions.CommandError("This request is not complete yet.")
    if "relay.upload_bytes" in each.metadata:
        raise exceptions.CommandError("The record holds only the start of this body (inspect.max_body).")
    again: http.HTTPFlow = each.copy()
    again.response = again.error = None
    again.comment = again.marked = ""
    aim(again)  # of a message to /chat the completion request
    again.metadata = {}
    request = again.request
    found = (mark[0] for name in _KEY_HEADERS for mark in _FINGERPRINT.finditer(request.headers.get(name, "")))
    shown = set(islice(found, _MOST_MARKS))
    for mark in shown:
        request.path = request.path.replace(mark, key)
        request.headers.fields = tuple(
            (name, value.replace(mark.encode(), key.encode())) for name, value in request.headers.fields
        )
    if not shown:
        request.headers["Authorization"] = f"Bearer {key}"
    request.headers.pop("cookie", None)
    if "transfer-encoding" not in request.headers:
        request.headers["Content-Length"] = str(len(request.raw_content or b""))
    return again
