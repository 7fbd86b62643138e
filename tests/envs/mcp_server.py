"""An MCP server for the tests: `python mcp_server.py stdio|http [options]`. Over HTTP it prints a
line of JSON with its URL. `--lifeline PORT` connects to a listener of the test, which sees what
happens here, and the end of the connection when this process is no more."""

import argparse
import asyncio
import json
import os
import socket
import sys
from typing import Any

import anyio
import mcp.types as t
import uvicorn
from mcp import MCPError, stdio_server
from mcp.server.lowlevel import Server

NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
ANY = {"type": "object"}
TOOLS = [
    t.Tool(name="add", description="Add a number.", input_schema={**NUMBER, "$comment": "kept"}),
    *(t.Tool(name=n, input_schema=ANY) for n in ("kinds", "structured", "refuse", "protocol")),
    *(t.Tool(name=n, input_schema=ANY) for n in ("hang", "die", "whoami")),
    t.Tool(name="unkept", input_schema=ANY, output_schema={"type": "object", "required": ["x"]}),
]
PIXEL = "aGVsbG8="


class Told:
    """What this process tells the test."""

    def __init__(self, port: int | None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port)) if port else None

    def say(self, word: str) -> None:
        if self.socket is not None:
            self.socket.sendall(f"{word}\n".encode())

    def wait_for_the_end(self) -> None:
        """Until the test is no more."""
        assert self.socket is not None
        self.socket.recv(1)


class Service:
    """Sums, one for each client session."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.told = options, Told(options.lifeline)
        self.sums: dict[str, int] = {}

    async def list_tools(self, ctx: Any, params: Any) -> t.ListToolsResult:
        """Two tools a page; with --circle the last page leads back to the first."""
        start = int(params.cursor) if params is not None and params.cursor else 0
        more = start + 2 < len(TOOLS)
        cursor = str(start + 2) if more else "2" if self.options.circle else None
        return t.ListToolsResult(tools=TOOLS[start : start + 2], next_cursor=cursor)

    async def call_tool(self, ctx: Any, params: t.CallToolRequestParams) -> t.CallToolResult:
        arguments = params.arguments or {}
        tool = getattr(self, f"tool_{params.name}", None)
        if tool is None:
            raise MCPError(t.INVALID_PARAMS, f"Unknown tool: {params.name}")
        answer = await tool(ctx, arguments)
        if isinstance(answer, t.CallToolResult):
            return answer
        return t.CallToolResult(content=[t.TextContent(text=answer)])

    async def tool_add(self, ctx: Any, arguments: dict[str, Any]) -> str:
        seed, client = self.options.seed, ""
        if ctx.request is not None:
            seed = int(ctx.request.query_params.get("seed", seed))
            client = ctx.request.headers.get("mcp-session-id", "")
        self.sums[client] = self.sums.get(client, seed) + arguments["number"]
        return json.dumps({"sum": self.sums[client]})

    async def tool_kinds(self, ctx: Any, arguments: dict[str, Any]) -> t.CallToolResult:
        note = t.TextResourceContents(uri="file:///note.txt", text="a note")
        blob = t.BlobResourceContents(uri="file:///b.pdf", mime_type="application/pdf", blob=PIXEL)
        return t.CallToolResult(
            content=[
                t.TextContent(text="two"),
                t.TextContent(text="texts"),
                t.ImageContent(data=PIXEL, mime_type="image/png"),
                t.AudioContent(data=PIXEL, mime_type="audio/wav"),
                t.ResourceLink(name="list", uri="file:///list.csv"),
                t.EmbeddedResource(resource=note),
                t.EmbeddedResource(resource=blob),
            ],
            structured_content={"not": "shown"},
        )

    async def tool_structured(self, ctx: Any, arguments: dict[str, Any]) -> t.CallToolResult:
        image = t.ImageContent(data=PIXEL, mime_type="image/png")
        return t.CallToolResult(content=[image], structured_content={"größe": [1, 2]})

    async def tool_refuse(self, ctx: Any, arguments: dict[str, Any]) -> t.CallToolResult:
        return t.CallToolResult(content=[t.TextContent(text="not today")], is_error=True)

    async def tool_protocol(self, ctx: Any, arguments: dict[str, Any]) -> str:
        raise MCPError(arguments["code"], f"error {arguments['code']}")

    async def tool_hang(self, ctx: Any, arguments: dict[str, Any]) -> str:
        self.told.say("called")
        try:
            with anyio.CancelScope(shield=bool(arguments.get("stubborn"))):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.told.say("cancelled")
            raise
        return ""

    async def tool_die(self, ctx: Any, arguments: dict[str, Any]) -> str:
        print("out of paper", file=sys.stderr, flush=True)
        os._exit(3)

    async def tool_whoami(self, ctx: Any, arguments: dict[str, Any]) -> str:
        sent = "" if ctx.request is None else ctx.request.headers.get("authorization", "")
        return json.dumps({"env": os.environ.get("WHO", ""), "sent": sent, "pid": os.getpid()})

    async def tool_unkept(self, ctx: Any, arguments: dict[str, Any]) -> str:
        return "no structured content"


async def no_handshake(ctx: Any, call_next: Any) -> Any:
    """As a server of the protocol without sessions."""
    if ctx.method == "initialize":
        raise MCPError(t.METHOD_NOT_FOUND, "Method not found")
    return await call_next(ctx)


async def serve_stdio(server: Server[Any], service: Service) -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
    if service.options.linger:
        service.told.say("lingers")
        service.told.wait_for_the_end()


async def serve_http(server: Server[Any], options: argparse.Namespace) -> None:
    listening = socket.create_server(("127.0.0.1", options.port))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
    print(json.dumps({"url": url}), flush=True)
    app = server.streamable_http_app(json_response=options.json)
    config = uvicorn.Config(app, log_level="critical")
    await uvicorn.Server(config).serve(sockets=[listening])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("over", choices=["stdio", "http"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--lifeline", type=int)
    for flag in ("--circle", "--json", "--linger", "--modern"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    service = Service(options)
    server: Server[Any] = Server(
        "sums", on_list_tools=service.list_tools, on_call_tool=service.call_tool
    )
    if options.modern:
        server.middleware.append(no_handshake)
    if options.over == "http":
        asyncio.run(serve_http(server, options))
    else:
        asyncio.run(serve_stdio(server, service))


if __name__ == "__main__":
    main()
