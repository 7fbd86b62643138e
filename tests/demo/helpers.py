"""Episodes without HTTP: the same parts as in production, joined by hand."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from understudy.core.chatml import call_error
from understudy.core.types import Message, Scenario
from understudy.demo.agent import MAX_TURNS, SYSTEM_PROMPT, TOOLS
from understudy.demo.booking import BookingSystem
from understudy.demo.customers import Customer
from understudy.demo.outcome import Verdict, judge_outcome

Decide = Callable[[list[Message]], Message]


def play(
    system: BookingSystem, scenario: Scenario, decide: Decide
) -> tuple[list[Message], Verdict]:
    """One episode; `decide` is the agent."""
    session = system.open_session(scenario.seed, {"existing": scenario.goal["existing"]})
    customer = Customer(scenario)
    messages: list[Message] = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": customer.first},
    ]
    for _ in range(MAX_TURNS):
        said = decide(messages)
        messages.append(said)
        for call in said.get("tool_calls") or ():
            function = call["function"]
            wrong = call_error(call, TOOLS)
            body: dict[str, Any] = {"error": wrong}
            if wrong is None:
                arguments = json.loads(function["arguments"])
                body = system.call(session, function["name"], arguments)[1]
            content = json.dumps(body)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
        if not said.get("tool_calls"):
            reply = asyncio.run(customer.reply(messages))
            if reply is None:
                break
            messages.append(reply)
    ticket = scenario.metadata["ticket"]
    return messages, judge_outcome(system.outcome(session), ticket)


def new_system(folder: Path, seed: int = 0, **rates: Any) -> BookingSystem:
    from understudy.demo.catalogue import Rates

    return BookingSystem(folder / f"stays-{len(list(folder.iterdir()))}.db", seed, Rates(**rates))
