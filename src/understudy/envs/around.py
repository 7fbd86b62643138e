"""What sessions that stand before another one share."""

from typing import Any

from understudy.core.protocols import Session
from understudy.core.types import Feedback, Tool, ToolCall, ToolResult


class AroundSession:
    """A session before another one, which answers everything; the calls are to be overridden."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def tools(self, role: str = "agent") -> tuple[Tool, ...]:
        return self.session.tools(role)

    async def call(self, role: str, tool_call: ToolCall) -> ToolResult:
        return await self.session.call(role, tool_call)

    async def snapshot(self) -> Any:
        return await self.session.snapshot()

    async def outcome(self) -> list[Feedback]:
        return await self.session.outcome()

    async def aclose(self) -> None:
        await self.session.aclose()
