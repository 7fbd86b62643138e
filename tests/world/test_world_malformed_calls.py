"""Calls that are wrong get what the real system says of them, in a rehearsal too."""

import json
from dataclasses import replace
from typing import Any

import pytest

from understudy.core.chatml import call_error
from understudy.core.types import Episode, Scenario, Tool
from understudy.envs.rollout import carry_out
from understudy.recipes.doubt import Doubt, WatchedSession
from understudy.recipes.slips import Slips
from understudy.world.learn import learn
from understudy.world.model import World, WorldSession
from world.recorded import recorded

SHOW: Tool = {
    "type": "function",
    "function": {
        "name": "show",
        "parameters": {
            "type": "object",
            "properties": {"item": {"type": "string"}},
            "required": ["item"],
        },
    },
}
KEEP: Tool = {"type": "function", "function": {"name": "keep", "parameters": {"type": "object"}}}


def answer(tool: str, args: dict[str, Any]) -> Any:
    if tool == "muse":  # no schema names it, and it works
        return {"heard": args["about"]}
    if tool not in ("show", "keep"):
        return f"E404 there is no {tool}"
    if "item" not in args:
        return "E422 item is wanted"
    return {"item": args["item"], "kept": tool == "keep"}


def traffic() -> list[Episode]:
    found = []
    for n in range(40):
        calls: list[tuple[str, dict[str, Any]]] = [
            ("show", {"item": f"i{n}"}),
            ("muse", {"about": f"what {n} is"}),
            ("show", {}) if n % 3 else ("shew", {"item": f"i{n}"}),
            ("keep", {"item": f"i{n}"}),
        ]
        episode = recorded(f"e{n}", calls, answer)
        (completion,) = episode.completions
        request = replace(completion.request, tools=(SHOW, KEEP))
        found.append(replace(episode, completions=(replace(completion, request=request),)))
    return found


@pytest.fixture(scope="module")
def world() -> World:
    return learn(traffic())


def call(name: str, args: Any) -> Any:
    text = args if isinstance(args, str) else json.dumps(args)
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": text}}


async def session_of(world: World, *tools: Tool) -> WorldSession:
    return await world.start(Scenario("s", (), tools=tools), 0)


async def test_wrong_calls_are_answered_in_the_words_of_the_system(world: World) -> None:
    session = await session_of(world, SHOW, KEEP)
    for name, args in (("show", {}), ("shewn", {"item": "i3"})):
        result = await carry_out(session, call(name, args), session.tools())
        assert (result.content, result.is_error) == (answer(name, args), True)
        assert result.content != call_error(call(name, args), session.tools())


async def test_what_no_system_is_asked_is_answered_by_the_loop(world: World) -> None:
    session = await session_of(world, SHOW, KEEP)
    custom = {"id": "c", "type": "custom", "custom": {"name": "show", "input": "i3"}}
    for broken in (call("", {}), custom):
        result = await carry_out(session, broken, session.tools())  # type: ignore[arg-type]
        assert result.is_error
        assert result.content == f"Error: {call_error(broken, session.tools())}"  # type: ignore[arg-type]
    assert not session.state.calls


async def test_a_tool_that_no_schema_names_answers_as_in_the_traffic(world: World) -> None:
    session = await session_of(world, SHOW, KEEP)
    result = await carry_out(session, call("muse", {"about": "why"}), session.tools())
    assert (json.loads(result.content), result.is_error) == ({"heard": "why"}, False)


async def test_a_tool_that_is_withheld_is_unknown(world: World) -> None:
    session = await session_of(world, SHOW)
    result = await carry_out(session, call("keep", {"item": "i3"}), session.tools())
    assert (result.content, result.is_error) == (answer("kep", {}).replace("kep", "keep"), True)
    offered = await session_of(world, SHOW, KEEP)
    assert not (await offered.call("agent", call("keep", {"item": "i3"}))).is_error


ODD = ["", "{", '{"item": ', "[1]", '"x"', "null", '{"item": {"a": [1]}}', '{"item": NaN}',
       '{"item": "\\ud800"}', '{"item": 1, "item": "i3"}', '{"": ""}', "{}" * 3]  # fmt: skip


@pytest.mark.parametrize("arguments", ODD)
async def test_whatever_is_called_is_answered(world: World, arguments: str) -> None:
    plain = await session_of(world, SHOW, KEEP)
    slipping = await Slips(world, 0.9, 0).start(Scenario("s", (), tools=(SHOW, KEEP)), 0)
    watched = WatchedSession(await session_of(world, SHOW, KEEP), Doubt(policy="flag"))
    for session in (plain, slipping, watched):
        for name in ("show", "muse", "shew", "\ud800"):
            result = await carry_out(session, call(name, arguments), session.tools())
            assert result.content
