"""The warehouse as an MCP server on stdin and stdout: `python warehouse_mcp.py SEED`."""

import asyncio
import json
import sys
from typing import Any

import mcp.types as t
import warehouse
from mcp import stdio_server
from mcp.server.lowlevel import Server

from understudy.core.types import Scenario


async def main(seed: int) -> None:
    session = await warehouse.SERVICE.start(Scenario("s", ()), seed)

    async def list_tools(ctx: Any, params: Any) -> t.ListToolsResult:
        functions = [tool["function"] for tool in session.tools()]
        return t.ListToolsResult(
            tools=[
                t.Tool(name=f["name"], description=f["description"], input_schema=f["parameters"])
                for f in functions
            ]
        )

    async def call_tool(ctx: Any, params: t.CallToolRequestParams) -> t.CallToolResult:
        function = {"name": params.name, "arguments": json.dumps(params.arguments or {})}
        result = await session.call("agent", {"id": "c", "type": "function", "function": function})  # type: ignore[arg-type]
        return t.CallToolResult(
            content=[t.TextContent(text=result.content)], is_error=result.is_error
        )

    server: Server[Any] = Server("warehouse", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
