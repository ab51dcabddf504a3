"""An agent of Pydantic AI, over chat completions; its system prompt says the time of each run."""

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel

RULES = "You keep a folder of notes. Answer from the files alone, in a sentence or two. " * 60
agent = Agent(OpenAIChatModel(os.environ.get("AGENT_MODEL", "gpt-4.1")), model_settings={"temperature": 0.2})


@agent.instructions
def instructions() -> str:
    return f"The time is {datetime.now(UTC):%Y-%m-%d %H:%M:%S}. {RULES}"


@agent.tool_plain
def read_file(path: str) -> str:
    """Read a text file of the working folder."""
    return Path(path).read_text()


@agent.tool_plain
def list_folder(path: str) -> str:
    """List a folder."""
    return "\n".join(sorted(each.name for each in Path(path).iterdir()))


async def main() -> None:
    history = None
    for prompt in sys.argv[1:]:
        async with agent.run_stream(prompt, message_history=history) as result:
            print(await result.get_output())
        history = result.all_messages()
        await asyncio.sleep(1.1)


asyncio.run(main())
