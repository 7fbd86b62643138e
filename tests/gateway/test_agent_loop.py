"""The agent loop over the gateway: broken calls are told to the model, failures end the episode."""

from typing import Any

from understudy.core.types import Message, ModelRef, Policy, Scenario
from understudy.engine.remote import RemoteChat
from understudy.envs import PythonTools, ScriptedUser, rollout


def find(state: None, text: str) -> dict[str, Any]:
    """Find things."""
    return {"found": text}


async def play(url: str, said: str, user: Any = None, model: str = "m") -> Any:
    opening: Message = {"role": "user", "content": said}
    scenario = Scenario("s", (opening,))
    session = await PythonTools([find], lambda scenario, seed: None).start(scenario, 0)
    policy = Policy("p", ModelRef(model))
    async with RemoteChat(url, retries=0) as chat:
        return await rollout(chat, policy, session, scenario, user, max_turns=4, seed=0)


async def test_broken_tool_json_is_told_to_the_model_and_kept_as_it_was(
    gateway: Any, stub: Any
) -> None:
    running = await gateway()
    episode = await play(running.url, "broken call")
    assert episode.ended == "done"
    (result,) = episode.results.values()
    assert result.is_error
    told = stub.bodies[-1]["messages"][-1]
    assert told["role"] == "tool"
    assert told["content"] == result.content
    assert "the arguments of find are not valid JSON: Expecting value at 9" in told["content"]
    (captured,) = running.gateway.store.read_episodes()
    first, second = captured.completions
    assert first.message["tool_calls"][0]["function"]["arguments"] == '{"text": '
    assert second.request.messages[-1] == told


async def test_an_upstream_that_fails_ends_the_episode_and_what_was_said_is_kept(
    gateway: Any,
) -> None:
    running = await gateway()
    down = await play(running.url, "hello", model="gone")
    assert (down.ended, len(down.completions)) == ("error", 1)
    assert "'down' cannot be reached" in down.completions[0].error
    later = await play(running.url, "hello", ScriptedUser(["refuse me"]))
    assert later.ended == "error"
    assert [c.status for c in later.completions] == ["ok", "upstream_error"]
    assert "slow down" in later.completions[-1].error
    assert [m["content"] for m in later.messages] == ["hello", "hello"]
    assert [m["content"] for m in later.tail] == []
    kept = running.gateway.store.find_completions(newest_first=False)
    assert [c.status for c in kept] == ["upstream_error", "ok", "upstream_error"]
