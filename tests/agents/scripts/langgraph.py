"""An agent of LangGraph with ChatOpenAI; its conversation is kept by a checkpointer."""

import asyncio
import os
import sys
from pathlib import Path

from langchain_core.messages import HumanMessage, trim_messages
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import create_react_agent


@tool
def read_file(path: str) -> str:
    """Read a text file of the working folder."""
    return Path(path).read_text()


@tool
def list_folder(path: str) -> str:
    """List a folder."""
    return "\n".join(sorted(each.name for each in Path(path).iterdir()))


RULES = "You keep a folder of notes. Answer from the files alone, in a sentence or two. " * 60
MEMORY = InMemorySaver()


def window(state):
    """The newest messages alone go to the model, as many do it to save tokens."""
    kept = trim_messages(
        state["messages"], strategy="last", token_counter=len, max_tokens=5, start_on="human", include_system=False
    )
    return {"llm_input_messages": kept}


def agent(temperature: float):
    model = ChatOpenAI(model=os.environ.get("AGENT_MODEL", "gpt-4.1"), temperature=temperature, stream_usage=True)
    hook = window if os.environ.get("AGENT_TRIMS") else None
    return create_react_agent(model, [read_file, list_folder], prompt=RULES, checkpointer=MEMORY, pre_model_hook=hook)


def edited(graph, config) -> None:
    """The user goes back to the first question and puts it in other words."""
    first = graph.get_state(config).values["messages"][0]
    graph.update_state(config, {"messages": [HumanMessage(f"{first.content} Be exact.", id=first.id)]})


async def main() -> None:
    config = {"configurable": {"thread_id": "1"}}
    warm = os.environ.get("AGENT_WARMS")
    for number, prompt in enumerate(sys.argv[1:]):
        graph = agent(0.7 if warm and number >= 2 else 0.0)
        if number == 2 and os.environ.get("AGENT_EDITS"):
            edited(graph, config)
        async for kind, value in graph.astream(
            {"messages": [("user", prompt)]}, config, stream_mode=["messages", "values"]
        ):
            if kind == "values":
                last = value["messages"][-1]
        print(last.content)


asyncio.run(main())
