"""The agent loop, as real agents run it: complete, carry out the tool calls, talk to the user."""

import hashlib
from dataclasses import replace
from typing import Any

from understudy.core.chatml import call_error
from understudy.core.ids import uuid7
from understudy.core.protocols import Chat, ChatError, Session, User
from understudy.core.types import (
    Completion,
    Episode,
    Message,
    Policy,
    Purpose,
    Request,
    Scenario,
    ToolCall,
    ToolResult,
    call_parts,
    is_function,
)


async def rollout(
    chat: Chat,
    policy: Policy,
    session: Session,
    scenario: Scenario,
    user: User | None,
    *,
    max_turns: int,
    seed: int,
    purpose: Purpose = "agent",
    workload: str = "default",
) -> Episode:
    """One episode of a policy in a session; the session stays open.

    A turn is one completion. Calls of one message are carried out in their order; what comes of
    unknown tools and wrong arguments the session says, as its system would. A message without
    calls goes to the user.

    `Episode.ended` says why it ended: `done` (a message without calls and no user to read it),
    `user_left`, `max_turns`, or `error` (a completion whose status is not ok: its `error` says
    what went wrong, and what was said before it is kept). Errors of the session are raised.
    """
    episode_id = uuid7()
    tools = session.tools("agent")
    messages = _opening(scenario, policy)
    completions: list[Completion] = []
    results: dict[str, ToolResult] = {}
    ended, sent = "max_turns", len(messages)
    if user is not None and not any(m["role"] == "user" for m in messages):
        first = await user.reply(tuple(messages))
        if first is None:
            return Episode(episode_id, (), scenario.id, workload, dict(scenario.metadata),
                           ended="user_left")  # fmt: skip
        messages.append(first)
    for turn in range(max_turns):
        request = Request(
            messages=tuple(messages),
            model=policy.model,
            tools=tools,
            sampling=replace(policy.sampling, seed=turn_seed(seed, turn)),
            purpose=purpose,
            workload=workload,
            episode_id=episode_id,
            scenario_id=scenario.id,
            metadata=dict(scenario.metadata),
        )
        try:
            completion = await chat.complete(request)
        except ChatError as failed:
            completion = failed.completion
        if completion.status != "ok" or completion.message is None:
            completions.append(completion)
            ended, sent = "error", len(messages)
            break
        completion = _unique_ids(completion, results, turn)
        completions.append(completion)
        message = completion.message
        assert message is not None
        messages.append(message)
        sent = len(messages)
        calls = message.get("tool_calls") or []
        for call in calls:
            result = await carry_out(session, call, tools)
            results[call["id"]] = result
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result.content})
        if calls:
            continue
        if user is None:
            ended = "done"
            break
        reply = await user.reply(tuple(messages))
        if reply is None:
            ended = "user_left"
            break
        messages.append(reply)
    return Episode(
        id=episode_id,
        completions=tuple(completions),
        scenario_id=scenario.id,
        workload=workload,
        metadata=dict(scenario.metadata),
        results=results,
        tail=tuple(messages[sent:]),
        ended=ended,
    )


def turn_seed(seed: int, turn: int) -> int:
    """The sampling seed of a turn: 31 bits, independent between seeds and turns."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{turn}".encode()).digest()[:4]) >> 1


def _opening(scenario: Scenario, policy: Policy) -> list[Message]:
    messages = list(scenario.messages)
    if policy.prompt is None:
        return messages
    rest = [m for m in messages if m["role"] not in ("system", "developer")]
    return [{"role": "system", "content": policy.prompt}, *rest]


async def carry_out(session: Session, call: ToolCall, tools: Any) -> ToolResult:
    """The session's answer to a call, unknown tools and wrong arguments included; an error where
    it is no call of a function, which no system is asked."""
    if not is_function(call) or not call_parts(call)[0]:
        return ToolResult(f"Error: {call_error(call, tools)}", is_error=True)
    return await session.call("agent", call)


def _unique_ids(completion: Completion, used: dict[str, ToolResult], turn: int) -> Completion:
    """The completion with call ids that no earlier turn has: results are kept by id."""
    message = completion.message
    assert message is not None
    calls = message.get("tool_calls") or []
    ids = [c["id"] for c in calls]
    if len(set(ids)) == len(ids) and not any(i in used for i in ids):
        return completion
    renamed: list[ToolCall] = [{**call, "id": f"call_{turn}_{n}"} for n, call in enumerate(calls)]
    return replace(completion, message={**message, "tool_calls": renamed})
