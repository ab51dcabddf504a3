"""The tools that programs offer, in no dialect: each dialect writes them down in its own form."""

from dataclasses import dataclass, replace
from typing import Any

from tests.support.agent_runs.dice import Dice
from tests.support.agent_runs.texts import file_name, prose

TASK = "task"
"""The tool by which a main agent sends a subagent."""


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    description: str
    parameters: dict[str, Any]

    def described(self, description: str) -> "Tool":
        return replace(self, description=description)

    def with_parameter(self, name: str, schema: dict[str, Any]) -> "Tool":
        """The same tool with one more parameter, or another schema for one."""
        properties = {**self.parameters["properties"], name: schema}
        return replace(self, parameters={**self.parameters, "properties": properties})


_PARAMETERS = {
    "read_file": ("path", "offset", "limit"),
    "write_file": ("path", "content"),
    "edit_file": ("path", "old_text", "new_text", "replace_all"),
    "shell": ("command", "timeout", "workdir"),
    "grep": ("pattern", "path", "glob", "-n"),
    "glob": ("pattern", "path"),
    "list_dir": ("path", "depth"),
    "web_fetch": ("url", "prompt"),
    "web_search": ("query", "allowed_domains"),
    "todo_write": ("todos",),
    "apply_patch": ("patch",),
    "notebook_edit": ("path", "cell", "source"),
    "view_image": ("path",),
    TASK: ("description", "prompt", "agent"),
    "mcp__tickets__search": ("query", "state"),
    "mcp__tickets__create": ("title", "body"),
    "mcp__docs__lookup": ("topic",),
}


_KINDS = ("string", "string", "integer", "boolean")


def _made(name: str, parameters: tuple[str, ...]) -> Tool:
    dice = Dice(f"tool:{name}")
    kinds = {each: "string" if each == parameters[0] or name == TASK else dice.pick(_KINDS) for each in parameters}
    properties: dict[str, Any] = {
        each: {"type": kind, "description": prose(dice, dice.between(20, 160))} for each, kind in kinds.items()
    }
    schema = {"type": "object", "properties": properties, "required": [parameters[0]], "additionalProperties": False}
    return Tool(name, prose(dice, dice.between(200, 1_500)), schema)


TOOLS = {name: _made(name, parameters) for name, parameters in _PARAMETERS.items()}


def arguments(dice: Dice, tool: Tool) -> dict[str, Any]:
    """What a model gives a tool: the first parameter, and one more where there is one."""
    names = list(tool.parameters["properties"])
    given: dict[str, Any] = {names[0]: file_name(dice)}
    if len(names) > 1 and tool.parameters["properties"][names[1]]["type"] == "string":
        given[names[1]] = prose(dice, dice.between(10, 200))
    return given
