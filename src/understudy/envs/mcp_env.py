"""An environment of an MCP server's tools, over the official client."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mcp import MCPError
from mcp.types import CallToolResult, ContentBlock, TextContent, TextResourceContents
from mcp.types import Tool as ServerTool

from understudy.core import strict_json
from understudy.core.serial import RESULT_META, tool_result_from_json
from understudy.core.types import (
    Feedback,
    FunctionSpec,
    Scenario,
    Tool,
    ToolCall,
    ToolResult,
    call_parts,
)
from understudy.envs.mcp_connection import Connection, Server, ServerFailed

__all__ = ["McpTools", "McpToolsSession", "ServerFailed", "result_of", "tool_of"]


class McpTools:
    """Environment of the tools of an MCP server: a command line (it speaks on stdin and stdout) or
    a URL (streamable HTTP).

    Each session is a client session of its own with the server; a command is started anew for
    each. `{seed}` in the command line or the URL stands for the session's seed. A command gets
    `env` besides the few variables that the official client passes on, a URL gets `headers`.
    """

    def __init__(
        self,
        server: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        start_timeout_s: float = 60.0,
    ) -> None:
        self.server = Server.named(server, env or {}, headers or {})
        self.timeout_s, self.start_timeout_s = timeout_s, start_timeout_s

    async def start(
        self, scenario: Scenario, seed: int, snapshot: Any | None = None
    ) -> "McpToolsSession":
        """A session that is connected. Raises ServerFailed where the server cannot be reached,
        ValueError for a snapshot: there are none."""
        if snapshot is not None:
            raise ValueError("an MCP server takes no snapshot")
        connection = Connection(self.server.seeded(seed), self.start_timeout_s)
        await connection.open()
        return McpToolsSession(connection, self.timeout_s)


class McpToolsSession:
    """One client session. Its tools are those that the server listed when it began.

    What the server answers is a result, its errors included; so is a call that it does not answer
    in time, as an agent would be told. A server that is lost raises ServerFailed.
    """

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s
        self._tools = tuple(tool_of(t) for t in connection.tools)

    def tools(self, role: str = "agent") -> tuple[Tool, ...]:
        return self._tools

    async def call(self, role: str, tool_call: ToolCall) -> ToolResult:
        """Let the server carry out a call. Raises ServerFailed."""
        name, text = call_parts(tool_call)
        try:
            arguments = strict_json.loads(text or "{}")
        except ValueError as error:
            problem = strict_json.problem(error)
            return _failed(f"the arguments of {name} are not valid JSON: {problem}")
        if not isinstance(arguments, dict):
            return _failed(f"the arguments of {name} must be a JSON object")
        if not strict_json.is_unicode(name + json.dumps(arguments, ensure_ascii=False)):
            return _failed(f"the arguments of {name} are not valid Unicode")
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._connection.call(name, arguments)
        except TimeoutError:
            result = _failed(f"{name} did not answer within {self._timeout_s:g} s")
        except MCPError as error:
            result = _failed(error.message)
        else:
            result = result_of(answer)
        return replace(result, latency_s=time.perf_counter() - began)

    async def snapshot(self) -> Any:
        raise NotImplementedError("an MCP server cannot be copied; start a session anew")

    async def outcome(self) -> list[Feedback]:
        """Nothing: the protocol knows no outcome."""
        return []

    async def aclose(self) -> None:
        """End the session, and the server where it was started for it."""
        await self._connection.aclose()


def tool_of(tool: ServerTool) -> Tool:
    """A server's tool in OpenAI's format."""
    function: FunctionSpec = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def result_of(answer: CallToolResult) -> ToolResult:
    """A server's answer: its text, or its structured content where it has no text; blocks that are
    no text are named. A served world's own doubt and provenance are kept."""
    said = [_words(block) for block in answer.content]
    if answer.structured_content is not None and not any(
        isinstance(block, TextContent) for block in answer.content
    ):
        said.insert(0, json.dumps(answer.structured_content, ensure_ascii=False))
    result = ToolResult("\n".join(said), answer.is_error)
    known = (answer.meta or {}).get(RESULT_META)
    if not isinstance(known, dict):
        return result
    try:
        of_world = tool_result_from_json({**known, "content": ""})
        return replace(result, provenance=of_world.provenance, doubt=float(of_world.doubt))
    except (ValueError, TypeError):  # some other server's
        return result


def _words(block: ContentBlock) -> str:
    """A block as text: what is no text is named in brackets."""
    if isinstance(block, TextContent):
        return block.text
    if block.type == "resource_link":
        return f"[resource {block.uri}]"
    if block.type == "resource":
        named = f"[resource {block.resource.uri}]"
        inside = block.resource
        return f"{named}\n{inside.text}" if isinstance(inside, TextResourceContents) else named
    return f"[{block.type} {block.mime_type}]"


def _failed(text: str) -> ToolResult:
    return ToolResult(f"Error: {text}", is_error=True)
