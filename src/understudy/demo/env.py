"""The real booking service as an environment: what the proof runs policies in."""

import time
from typing import Any

from understudy.core.chatml import call_error
from understudy.core.ids import uuid7
from understudy.core.types import Feedback, Scenario, Tool, ToolCall, ToolResult
from understudy.demo.agent import TOOLS, ServiceClient
from understudy.demo.outcome import judge_outcome


class ServiceSession:
    """core.protocols.Session over one of the service's sessions."""

    def __init__(self, service: ServiceClient, session: str, scenario: Scenario) -> None:
        self._service, self.session, self._scenario = service, session, scenario

    def tools(self, role: str = "agent") -> tuple[Tool, ...]:
        return TOOLS if role == "agent" else ()

    async def call(self, role: str, tool_call: ToolCall) -> ToolResult:
        problem = call_error(tool_call, self.tools(role))
        if problem is not None:
            return ToolResult(f"Error: {problem}", is_error=True)
        return await self._service.call(self.session, tool_call)

    async def snapshot(self) -> Any:
        raise NotImplementedError("a real service cannot be copied; start a session anew")

    async def outcome(self) -> list[Feedback]:
        """One entry: name "outcome", success from the database, the reason as its comment."""
        found = await self._service.outcome(self.session)
        verdict = judge_outcome(found, self._scenario.metadata["ticket"])
        return [
            Feedback(
                id=uuid7(),
                episode_id="",
                name="outcome",
                value=verdict.success,
                source="outcome",
                comment=verdict.reason,
                created_at=time.time(),
            )
        ]

    async def aclose(self) -> None:
        """Nothing to do: the service keeps the session's rows."""


class ServiceEnvironment:
    """core.protocols.Environment over the booking service.

    A scenario's world is fixed by the scenario's own seed, so that every policy meets the same
    one; the `seed` of an attempt changes nothing here. Snapshots are refused.
    """

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    async def start(
        self, scenario: Scenario, seed: int, snapshot: Any | None = None
    ) -> ServiceSession:
        if snapshot is not None:
            raise ValueError("the booking service takes no snapshot")
        session = await self._service.open_session(scenario)
        return ServiceSession(self._service, session, scenario)
