"""Places that an agent trains in, in a learned world's stead: the real service, and lesser worlds.

Scenarios, users and what reads their messages are the world's everywhere (the real service has its
own customers); only who answers the calls differs.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any


class Reality:
    """The real service with new customers of the traffic's kind.

    A session is copied by making its calls again in a new one, which the service answers alike.
    """

    def __init__(self, service: Any, world: Any) -> None:
        from understudy.demo.env import ServiceEnvironment

        self.environment, self.world, self.notes = ServiceEnvironment(service), world, world.notes
        self.fidelity = world.fidelity  # what training warns of is the world's
        self.customers: dict[str, Any] = {}

    def scenarios(self, n: int, seed: int = 0) -> list[Any]:
        from understudy.demo.agent import SYSTEM_PROMPT, TOOLS
        from understudy.demo.customers import scenarios

        system = {"role": "system", "content": SYSTEM_PROMPT}
        made = scenarios("traffic", n, 1_000_000 + seed)
        self.customers |= {s.id: s for s in made}
        return [
            replace(s, messages=(system, *s.messages), tools=TOOLS, goal=dict(s.metadata))
            for s in made
        ]

    def tools(self) -> tuple[Any, ...]:
        from understudy.demo.agent import TOOLS

        return tuple(TOOLS)

    def user(self, scenario: Any, seed: int = 0) -> Any:
        from understudy.demo.customers import Customer

        return Customer(self.customers[scenario.id])

    def fields(self, episode: Any) -> dict[str, Any]:
        told: dict[str, Any] = self.world.fields(episode)
        return told

    async def start(self, scenario: Any, seed: int, snapshot: Any | None = None) -> Any:
        session = await self.environment.start(self.customers[scenario.id], seed)
        again = Repeatable(session)
        for role, call in snapshot or ():
            await again.call(role, call)
        return again


class Repeatable:
    """A session of the service that remembers its calls."""

    def __init__(self, session: Any) -> None:
        self.session, self.calls = session, []
        self.tools, self.outcome, self.aclose = session.tools, session.outcome, session.aclose

    async def call(self, role: str, tool_call: Any) -> Any:
        self.calls.append((role, tool_call))
        return await self.session.call(role, tool_call)

    async def snapshot(self) -> Any:
        return list(self.calls)


class Retrieval:
    """A lesser world, a row of the fidelity report (world.fidelity.report): `nearest`, `floor` or
    `entities`."""

    def __init__(self, world: Any, episodes: Sequence[Any], row: str) -> None:
        from understudy.world.fidelity.floor import Floor

        self.world, self.notes, self.fidelity = world, world.notes, world.fidelity
        self.scenarios, self.user, self.fields = world.scenarios, world.user, world.fields
        self.tools = world.tools
        self.floor, self.row = Floor.of(episodes, world.failures), row

    async def start(self, scenario: Any, seed: int, snapshot: Any | None = None) -> Any:
        from understudy.world.fidelity.stored import Stored

        shown, stored = snapshot or ({}, Stored(self.world, self.floor, seed))
        return Retrieved(self, scenario.tools, dict(shown), stored.copy())


class Retrieved:
    """One life of it: `shown` is what it has answered so far, by call; `stored` what it knows."""

    def __init__(self, owner: Retrieval, tools: Any, shown: dict[str, Any], stored: Any) -> None:
        self.owner, self.listed, self.shown, self.stored = owner, tuple(tools), shown, stored

    def tools(self, role: str = "agent") -> Any:
        return self.listed

    async def call(self, role: str, tool_call: Any) -> Any:
        from understudy.core.types import ToolResult, call_parts
        from understudy.world.data.values import call_key, parse

        name, arguments = call_parts(tool_call)
        read = parse(arguments or "{}")
        args = read if isinstance(read, dict) else {}
        if self.owner.row == "entities":
            content, flag = self.stored.answer(name, args)
            self.stored.observe(name, args, content, flag)
            return ToolResult(content, flag)
        content, flag = self.owner.floor.nearest(name, args).said
        if self.owner.row == "floor":
            content, flag = self.shown.setdefault(call_key(name, args), (content, flag))
        return ToolResult(content, flag)

    async def snapshot(self) -> Any:
        return dict(self.shown), self.stored.copy()

    async def outcome(self) -> list[Any]:
        return []

    async def aclose(self) -> None:
        return None
