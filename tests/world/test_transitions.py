"""Each real call is one transition, however its agent's conversation was sent."""

from typing import Any

import pytest

from understudy.core.types import Completion, Episode, ModelRef, Request
from understudy.world.learn import learn
from understudy.world.traffic.transitions import custom_calls, transitions


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def called(n: int, call_id: str) -> dict[str, Any]:
    function = {"name": "find", "arguments": f'{{"n": {n}}}'}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def answered(content: str, call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def agent(
    prompts: list[str], calls: int, ids: str = "c{}", role: str = "system", answer: str = "found"
) -> list[Completion]:
    """An agent that calls a tool `calls` times, then ends: each time under the next prompt."""
    said = [user("go")]
    done = []
    for n in range(calls + 1):
        system: Any = {"role": role, "content": prompts[n % len(prompts)]}
        reply = {"role": "assistant", "content": "done"} if n == calls else called(n, ids.format(n))
        request = Request((system, *said), ModelRef("m"))
        done.append(Completion(f"{prompts[0]}{n}", request, "ok", reply))  # type: ignore[arg-type]
        said += [reply, answered(f"{answer} {n}", ids.format(n))]
    return done


def results(*completions: Completion) -> list[str]:
    return [t.content for t in transitions(Episode("e", completions))]


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("ids", ["c{}", ""])
def test_calls_under_a_prompt_that_changes_each_turn_count_once(role: str, ids: str) -> None:
    clock = [f"it is {n}" for n in range(5)]
    found = transitions(Episode("e", tuple(agent(clock, 4, ids, role))))
    assert [(t.step, t.content) for t in found] == [(n, f"found {n}") for n in range(4)]
    assert found[0].history == ({"role": role, "content": "it is 4"}, user("go"))


def test_a_system_message_put_in_on_the_way_begins_no_other_history() -> None:
    told: Any = {"role": "system", "content": "be brief"}
    first, second, last = agent(["s"], 2)
    system, go, *rest = last.request.messages
    request = Request((system, go, told, *rest), ModelRef("m"))
    last = Completion("last", request, "ok", last.message)
    assert results(first, second, last) == ["found 0", "found 1"]


@pytest.mark.parametrize("ids", ["c{}", ""])
def test_agents_that_call_alike_under_their_own_prompts_both_count(ids: str) -> None:
    a, b = agent(["a"], 2, ids), agent(["b"], 2, ids)
    interleaved = [c for pair in zip(a, b, strict=True) for c in pair]
    assert results(*interleaved) == ["found 0", "found 1"] * 2


def test_a_reply_that_was_generated_again_is_no_second_call() -> None:
    clock = agent(["one", "two", "three"], 1)
    same = agent(["two", "three"], 1)[0]
    assert results(clock[0], same, clock[1]) == ["found 0"]


@pytest.mark.parametrize(
    "more",
    [{"type": "custom", "custom": {"name": "patch", "input": "x"}}, {"type": "custom"},
     {"type": "custom", "function": "f"}],
)  # fmt: skip
def test_calls_of_custom_tools_are_left_out_and_counted(more: dict[str, Any]) -> None:
    both = called(1, "f")
    both["tool_calls"] = [{"id": "c", **more}, *both["tool_calls"]]
    said = [user("go"), both, answered("patched", "c"), answered("found", "f")]
    tools: Any = ({"type": "custom", "custom": {"name": "patch"}},)
    request = Request(tuple(said), ModelRef("m"), tools)  # type: ignore[arg-type]
    episode = Episode("e", (Completion("c", request, "ok", user("done")),))  # type: ignore[arg-type]
    assert [(t.step, t.name, t.content) for t in transitions(episode)] == [(0, "find", "found")]
    assert custom_calls(episode) == 1
    world = learn([episode])
    assert list(world.models) == ["find"]
    assert world.declared == []


async def test_a_custom_call_in_a_world_is_an_error_result(world: Any) -> None:
    custom: Any = {"id": "c", "type": "custom", "custom": {"name": "patch", "input": "free text"}}
    assert (await world.session(0).call("agent", custom)).is_error
