"""relay's commands where nobody looks. What they do in mitmweb is held by live/test_commands.py."""

from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import exceptions
from mitmproxy.addons.command_history import CommandHistory
from mitmproxy.test import taddons, tflow

from addons.core.candidates import Candidate
from addons.core.unbilled import Refusal, Scope
from addons.inspection.commands import Commands
from addons.upstreams.health import UpstreamHealth
from tests.support import flows

KEY = "sk-test-commands-0123456789"
NOTHING = SimpleNamespace(settings=None, store=None, health=None)


def test_a_key_that_was_typed_leaves_the_history(tmp_path: Any) -> None:
    commands, history = Commands(NOTHING), CommandHistory()
    with taddons.context(commands, history) as context:
        context.options.update(confdir=str(tmp_path))
        history.add_command(f"relay.replay @focus {KEY}")
        with pytest.raises(exceptions.CommandError, match="No flow"):
            commands.replay([], KEY)
        assert history.get_history() == ["relay.replay @focus sk-***"]
        assert history.history_file.read_text() == "relay.replay @focus sk-***\n"


def test_without_a_view_there_is_nothing_to_list() -> None:
    commands = Commands(NOTHING)
    with taddons.context(commands), pytest.raises(exceptions.CommandError, match="mitmdump keeps no flows"):
        commands.sessions()
    with taddons.context(commands), pytest.raises(exceptions.CommandError, match="Only HTTP"):
        commands.replay([tflow.ttcpflow()], KEY)


def test_how_the_upstreams_are() -> None:
    settings = flows.settings(upstreams=[{"name": "one", "url": "https://one.example", "keys": ["sk-a", "sk-b"]}])
    health = UpstreamHealth(b"", lambda: 0.0)
    ticket = health.take([Candidate("one", health.hash_of("sk-a"))], "m")
    assert ticket is not None
    commands = Commands(SimpleNamespace(settings=settings, store=None, health=health))
    assert commands.upstreams() == ["one  ok"]
    health.refused(ticket, Refusal("rate limited", Scope.KEY, 10))
    assert commands.upstreams() == ["one  ok, 1 of 2 keys left alone (rate limited)"]
    health.unreached(health.ask(Candidate("one", ""), ""))
    assert commands.upstreams() == ["one  not reached for 1 s, 1 of 2 keys left alone (rate limited)"]
