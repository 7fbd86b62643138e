"""Looking ahead as an MCP server: a running agent asks, beside the tools that it works with, what a
call would return and which of several plans ends well. Each question stands alone: it brings the
conversation so far, and changes nothing."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mcp import stdio_server
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_loop
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
)
from mcp.types import Tool as ServedTool

from understudy.core.openai_wire import message_problem
from understudy.core.types import Message
from understudy.world.language.filler import Answering
from understudy.world.serving.lookahead import Judge, foresee, look_ahead, read_plans

FORESEE, COMPARE = "foresee_call", "compare_plans"
_MESSAGES = {
    "type": "array",
    "items": {"type": "object"},
    "description": "The conversation so far: OpenAI chat messages with tool calls and results.",
}
_CALL = {
    "name": {"type": "string", "description": "The tool."},
    "arguments": {"type": "object", "description": "Its arguments."},
}
TOOLS = [
    ServedTool(
        name=FORESEE,
        description="What a tool call would return if it were made now, with the chance of each "
        "outcome, what it would change, and how doubtful that is. Nothing is really called.",
        input_schema={
            "type": "object",
            "properties": {"messages": _MESSAGES, **_CALL},
            "required": ["messages", "name", "arguments"],
        },
    ),
    ServedTool(
        name=COMPARE,
        description="Which of several plans, lists of tool calls, ends well most often: each with "
        "its share of success (95% interval), where it fails, and a verdict. Nothing is really "
        "called.",
        input_schema={
            "type": "object",
            "properties": {
                "messages": _MESSAGES,
                "plans": {
                    "type": "object",
                    "description": "Calls by the plan's name, in order. A text argument $N/PATH is "
                    "the value at a JSON pointer of the result of the plan's N-th call, counted "
                    "from 1: $1/items/0/id. A text that begins with a dollar sign is written with "
                    "two.",
                    "additionalProperties": {
                        "type": "array",
                        "items": {"type": "object", "properties": _CALL, "required": ["name"]},
                    },
                },
                "metadata": {
                    "type": "object",
                    "description": "What the check that says what ends well is given: a ticket.",
                },
            },
            "required": ["messages", "plans"],
        },
    ),
]


def make_server(
    world: Answering, judge: Judge | None = None, *, n: int = 50, retries: int = 0, seed: int = 0
) -> Server[Any]:
    """An MCP server of the two questions. A plan ends well where `judge` says so, without one
    where no call fails; it is rolled out n times. A question that makes no sense is answered with
    an error of one line."""
    one = asyncio.Lock()  # a question takes a core

    async def list_tools(
        ctx: ServerRequestContext[Any, Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(tools=TOOLS)

    async def call_tool(
        ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams
    ) -> CallToolResult:
        try:
            async with one:
                found = await asyncio.to_thread(answer, params.name, params.arguments or {})
        except ValueError as wrong:
            return CallToolResult(content=[TextContent(text=f"Error: {wrong}")], is_error=True)
        return CallToolResult(content=[TextContent(text=json.dumps(found))])

    def answer(question: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        if question not in (FORESEE, COMPARE):
            raise ValueError(f"no question {question}; there are {FORESEE} and {COMPARE}")
        messages = _messages(asked.get("messages"))
        if question == FORESEE:
            name, arguments = asked.get("name"), asked.get("arguments")
            if not isinstance(name, str) or not isinstance(arguments, dict):
                raise ValueError("give the tool as `name` and its arguments as an object")
            return asdict(foresee(world, messages, name, arguments))
        metadata = asked.get("metadata")
        plans = read_plans(asked.get("plans"))
        found = look_ahead(
            world,
            messages,
            plans,
            judge,
            n=n,
            seed=seed,
            retries=retries,
            metadata=metadata if isinstance(metadata, dict) else None,
        )
        return found.to_json()

    return Server(
        "understudy-ahead",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        get_tool_input_schema=lambda name: None,
    )


async def serve_stdio(server: Server[Any]) -> None:
    """Serve one client on this process's stdin and stdout, until it closes them."""
    async with stdio_server() as (read, write):
        await serve_loop(server, read, write, lifespan_state={})


def _messages(given: Any) -> list[Message]:
    if not isinstance(given, list):
        raise ValueError("give the conversation so far as `messages`, a list")
    for i, message in enumerate(given):
        problem = message_problem(message)
        if problem is not None:
            raise ValueError(f"message {i} {problem}")
    return given
