"""Described tools reach the agent: in training, in trials and over MCP."""

import json
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from served import serving

from understudy.cli import main
from understudy.cli.tools_file import episodes_shown, world_shown
from understudy.core.types import Episode, Scenario
from understudy.world.model import World
from understudy.world.serving.shown import exchanged, world_with

CUSTOM: Any = {"type": "custom", "custom": {"name": "part"}}


@pytest.fixture(scope="module")
def described(world_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("told") / "tools.json"
    assert main(["world", "describe", str(world_folder), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def tools(described: Path) -> list[Any]:
    return list(json.loads(described.read_text()))


async def test_rehearsing_agents_are_shown_what_was_described(
    world: World, world_folder: Path, described: Path, tools: list[Any]
) -> None:
    shown = world_shown(world_folder, described)
    assert shown.tools() == tools != world.tools()
    scenarios, before = shown.scenarios(5), world.scenarios(5)
    assert [s.messages for s in scenarios] == [s.messages for s in before]
    for scenario in [*scenarios, Scenario("bare", ())]:
        session = await shown.start(scenario, 0)
        assert list(session.tools("agent")) == tools
    args = '{"category": "pumps"}'
    assert shown.session(3).step("find_parts", args) == world.session(3).step("find_parts", args)


def test_captured_episodes_are_taught_with_what_was_described(
    episodes: list[Episode], described: Path, tools: list[Any]
) -> None:
    for old, new in zip(episodes[:5], episodes_shown(episodes[:5], described), strict=True):
        assert list(new.tools) == (tools if old.tools else [])
        assert new.messages == old.messages
        assert all(c.prompt_ids is None for c in new.completions)
    assert any(e.tools for e in episodes[:5])
    assert episodes_shown(episodes[:5], None) == episodes[:5]


async def test_a_served_world_shows_what_was_described(
    world_folder: Path, described: Path, tools: list[Any]
) -> None:
    with serving(world_folder, "--tools", str(described)) as (url, _):
        async with Client(url) as client:
            served = (await client.list_tools()).tools
    assert {t.name: t.description for t in served} == {
        t["function"]["name"]: t["function"]["description"] for t in tools
    }


def test_only_functions_of_equal_names_are_exchanged() -> None:
    def function(name: str, **more: Any) -> Any:
        return {"type": "function", "function": {"name": name, **more}}

    offered = (function("a"), CUSTOM, function("part"))
    other = function("part", description="told")
    assert exchanged(offered, [other, function("z")]) == (offered[0], CUSTOM, other)


def test_tools_of_another_service_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match="described from it"):
        world_with(world, [CUSTOM])


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "cannot be read"), ("{", "is not JSON"), ("{}", "must be a list"),
     ("[]", "none of these tools is one of the world's")],
)  # fmt: skip
def test_a_file_of_no_tools_is_one_line(
    text: str | None, why: str, world_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file, check = tmp_path / "tools.json", tmp_path / "check.py"
    if text is not None:
        file.write_text(text)
    check.write_text("def check(messages, ticket):\n    return True\n")
    given = ["--world", str(world_folder), "--check", str(check), "--tools", str(file)]
    assert main(["world", "serve", str(world_folder), "--tools", str(file)]) == 1
    assert main(["train", "grpo", str(tmp_path / "run"), *given]) == 1
    err = capsys.readouterr().err
    assert err.count(why) == err.count("\n") == 2
    assert not (tmp_path / "run").exists()
