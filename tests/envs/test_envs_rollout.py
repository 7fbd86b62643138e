"""The agent loop and its environments."""

import json
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from understudy.core.types import (
    Completion,
    Message,
    ModelRef,
    Policy,
    Request,
    Sampling,
    Scenario,
)
from understudy.envs import PythonTools, Replay, ScriptedUser, rollout
from understudy.envs.python_tools import ToolFailed, tool_of
from understudy.envs.rollout import turn_seed


def add(state: list[int], number: int, note: str | None = None) -> dict[str, Any]:
    """Add a number."""
    if number < 0:
        raise ToolFailed("no negative numbers")
    state.append(number)
    return {"sum": sum(state)}


TALLY = PythonTools([add], lambda scenario, seed: [])
POLICY = Policy("p", ModelRef("m"), sampling=Sampling(temperature=0.7))
SCENARIO = Scenario(
    "s", ({"role": "system", "content": "old"}, {"role": "user", "content": "go"}),
    metadata={"ticket": 1},
)  # fmt: skip


class Lines:
    """Stand-in for a model: says prepared messages."""

    def __init__(self, lines: Sequence[Message | None]) -> None:
        self.lines, self.requests = list(lines), []  # type: ignore[var-annotated]

    async def complete(self, request: Request) -> Completion:
        self.requests.append(request)
        message = self.lines.pop(0)
        status: Literal["ok", "timeout"] = "ok" if message else "timeout"
        return Completion(
            id=str(len(self.requests)), request=request, status=status, message=message
        )


def says(text: str) -> Message:
    return {"role": "assistant", "content": text}


def calls(*arguments: str, name: str = "add", call_id: str = "call_0") -> Message:
    made = [
        {"id": call_id if len(arguments) == 1 else f"{call_id}{n}", "type": "function",
         "function": {"name": name, "arguments": a}}
        for n, a in enumerate(arguments)
    ]  # fmt: skip
    return {"role": "assistant", "content": None, "tool_calls": made}  # type: ignore[typeddict-item]


async def run(
    lines: Sequence[Message | None], user: Any = None, turns: int = 9, **more: Any
) -> Any:
    chat = Lines(lines)
    session = await TALLY.start(SCENARIO, 0)
    policy = more.pop("policy", POLICY)
    return await rollout(
        chat, policy, session, SCENARIO, user, max_turns=turns, seed=3, **more
    ), chat


async def test_parallel_calls_are_carried_out_in_order_and_kept_by_id() -> None:
    episode, chat = await run([calls('{"number": 2}', '{"number": 3}'), says("5")])
    assert [json.loads(r.content)["sum"] for r in episode.results.values()] == [2, 5]
    assert [m["role"] for m in chat.requests[1].messages[-3:]] == ["assistant", "tool", "tool"]
    assert episode.ended == "done"
    assert episode.metadata == {"ticket": 1}
    assert episode.scenario_id == "s"


@pytest.mark.parametrize(
    ("bad", "says_why"),
    [
        (calls("{"), "not valid JSON"),
        (calls("{}"), "needs number"),
        (calls('{"number": "two"}'), "type integer"),
        (calls('{"number": 1}', name="subtract"), "unknown tool"),
        (calls('{"number": 1, "x": 2}'), "no parameter x"),
        (calls('{"number": -1}'), "no negative numbers"),
    ],
)
async def test_bad_calls_are_told_to_the_model(bad: Message, says_why: str) -> None:
    episode, chat = await run([bad, says("sorry")])
    (result,) = episode.results.values()
    assert result.is_error
    assert says_why in result.content
    assert chat.requests[1].messages[-1]["content"] == result.content


async def test_call_ids_that_recur_are_made_unique_everywhere() -> None:
    episode, chat = await run([calls('{"number": 2}'), calls('{"number": 3}'), says("ok")])
    assert len(episode.results) == 2
    message = episode.completions[1].message
    assert message is not None
    (made,) = [c["id"] for c in message["tool_calls"]]
    assert made in episode.results
    assert chat.requests[2].messages[-1]["tool_call_id"] == made
    assert chat.requests[2].messages[-2] == episode.completions[1].message


async def test_endings() -> None:
    user = ScriptedUser(["more", "bye"])
    episode, _ = await run([says("a"), says("b"), says("c")], user)
    assert (episode.ended, len(episode.completions)) == ("user_left", 3)
    assert [m["content"] for m in episode.messages if m["role"] == "user"] == ["go", "more", "bye"]
    episode, _ = await run([calls('{"number": 1}')] * 3, turns=3)
    assert episode.ended == "max_turns"
    assert episode.tail[-1]["role"] == "tool"
    episode, _ = await run([calls('{"number": 1}'), None])
    assert episode.ended == "error"
    assert [m["role"] for m in episode.messages][-1] == "assistant"


async def test_seeds_and_prompt() -> None:
    policy = Policy("p", ModelRef("m"), prompt="new", sampling=Sampling(temperature=0.7))
    _, chat = await run([calls('{"number": 1}'), says("x")], policy=policy, purpose="evaluation")
    seeds = [r.sampling.seed for r in chat.requests]
    assert seeds == [turn_seed(3, 0), turn_seed(3, 1)]
    assert seeds[0] != seeds[1]
    assert [r.messages[0]["content"] for r in chat.requests] == ["new", "new"]
    assert {r.purpose for r in chat.requests} == {"evaluation"}
    assert {r.sampling.temperature for r in chat.requests} == {0.7}


async def test_a_replay_answers_as_the_recording_did() -> None:
    lines = [calls('{"number": 2}'), calls('{"number":2}'), says("ok")]
    episode, _ = await run(lines)
    session = await Replay(episode).start(SCENARIO, 0)
    again = await rollout(
        Lines([*lines[:2], calls('{"number": 9}'), says("ok")]), POLICY, session, SCENARIO, None,
        max_turns=9, seed=0,
    )  # fmt: skip
    got = [(r.content, r.is_error) for r in again.results.values()]
    assert got[:2] == [('{"sum": 2}', False), ('{"sum": 4}', False)]
    assert got[2][1]


def test_schemas_come_from_signatures() -> None:
    def find(
        state: Any, name: str, kinds: list[str], by: Literal["a", "b"] = "a", top: int | None = None
    ) -> str:
        """Find things."""
        return ""

    parameters = tool_of(find)["function"]["parameters"]
    assert parameters["required"] == ["name", "kinds"]
    assert parameters["properties"] == {
        "name": {"type": "string"},
        "kinds": {"type": "array", "items": {"type": "string"}},
        "by": {"type": "string", "enum": ["a", "b"]},
        "top": {"type": "integer"},
    }


async def test_a_custom_call_is_answered_with_an_error_and_kept_as_it_is() -> None:
    made: Any = {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "free text"}}
    custom: Message = {"role": "assistant", "content": None, "tool_calls": [made]}
    episode, _ = await run([custom, custom, says("5")])
    assert {r.content for r in episode.results.values()} == {
        "Error: patch is a custom call; call functions alone, with JSON arguments"
    }
    kept = [c.message["tool_calls"][0] for c in episode.completions[:2]]
    assert [c["custom"] for c in kept] == [made["custom"]] * 2
    assert kept[0]["id"] != kept[1]["id"]
    session = await Replay(episode).start(SCENARIO, 0)
    assert (await session.call("agent", made)).content.startswith("Error: patch is a custom call")
    other = {**made, "custom": {"name": "patch", "input": "other"}}
    assert "no such call of patch" in (await session.call("agent", other)).content
    assert (await (await TALLY.start(SCENARIO, 0)).call("agent", made)).is_error
