"""An agent of the OpenAI Agents SDK: one tool, and a second agent to hand over to."""

import asyncio
import os
import sys
from pathlib import Path

from agents import Agent, Runner, function_tool, set_tracing_disabled

set_tracing_disabled(True)


@function_tool
def read_file(path: str) -> str:
    """Read a text file of the working folder."""
    return Path(path).read_text()


@function_tool
def list_folder(path: str) -> str:
    """List a folder."""
    return "\n".join(sorted(each.name for each in Path(path).iterdir()))


translator = Agent(name="Translator", instructions="Translate what the user gives you into French.", model="gpt-5-mini")
clerk = Agent(
    name="Clerk",
    instructions="You keep a folder of notes. Answer from the files alone, in a sentence or two. " * 40,
    model=os.environ.get("AGENT_MODEL", "gpt-5.2"),
    tools=[read_file, list_folder, translator.as_tool("translate", "Translate a text into French.")],
)


async def main() -> None:
    history: list = []
    for prompt in sys.argv[1:]:
        result = Runner.run_streamed(clerk, [*history, {"role": "user", "content": prompt}])
        async for _ in result.stream_events():
            pass
        print(result.final_output)
        history = result.to_input_list()


asyncio.run(main())
