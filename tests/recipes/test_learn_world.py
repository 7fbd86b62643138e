"""A world learned from little, or from what cannot all be learned, and said so."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from understudy.cli import main
from understudy.core.chat_files import ImportOptions, import_file
from understudy.core.types import HELDOUT_SHARE, split_of
from understudy.recipes.sft import SftConfig, select
from understudy.recipes.world import learn_world
from understudy.world.model import World

CALLS = 4


def row(scenario: str, calls: int = CALLS, custom: bool = False) -> dict[str, Any]:
    """A conversation of an agent that looks things up; with `custom`, patches one too."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"go {scenario}"}]
    made = [
        ("find", f"c{n}", f'{{"found": {n}}}',
         {"type": "function", "function": {"name": "find", "arguments": f'{{"n": {n}}}'}})
        for n in range(calls)
    ]  # fmt: skip
    if custom:
        made.append(("patch", "x", "patched",
                     {"type": "custom", "custom": {"name": "patch", "input": "x"}}))  # fmt: skip
    for _, call_id, result, call in made:
        messages.append({"role": "assistant", "tool_calls": [{"id": call_id, **call}]})
        messages.append({"role": "tool", "tool_call_id": call_id, "content": result})
    messages.append({"role": "assistant", "content": "done"})
    return {"messages": messages, "scenario": scenario}


def scenarios(split: str, n: int, heldout: float = HELDOUT_SHARE) -> list[str]:
    """The first names whose episodes are learned from (`train`) or kept aside (`heldout`)."""
    names = (f"s{i}" for i in range(1000))
    found = [name for name in names if split_of(name, heldout) == split]
    return found[:n]


@pytest.fixture
def learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Learns from rows by command: what it said, the fidelity file and what `report` says."""

    def learn(rows: list[dict[str, Any]], *more: str) -> tuple[str, dict[str, Any], str]:
        file, store = tmp_path / "rows.jsonl", str(tmp_path / "s.db")
        file.write_text("".join(json.dumps(r) + "\n" for r in rows))
        world = tmp_path / "world"
        assert main(["import", str(file), "--store", store]) == 0
        capsys.readouterr()
        assert main(["world", "learn", str(world), "--store", store, *more]) == 0
        said = capsys.readouterr().out
        assert (world / "world.json").exists()
        assert main(["world", "report", str(world)]) == 0
        reported = capsys.readouterr().out
        return said, json.loads((world / "fidelity.json").read_text()), reported

    return learn


def test_calls_of_custom_tools_are_left_out_of_the_world_and_counted(learned: Any) -> None:
    rows = [row(s, custom=True) for s in (*scenarios("train", 3), *scenarios("heldout", 2))]
    said, fidelity, reported = learned(rows)
    for text in (said, reported):
        assert "fidelity on 2 held-out episodes, 8 calls" in text
        assert "left out: 5 calls, of custom tools, which take free text" in text
    assert fidelity["left_out"] == {"of custom tools, which take free text": 5}
    assert list(fidelity["tools"]) == ["find"]


NOTHING = "fidelity: not measured, nothing was kept aside to measure it on"


@pytest.mark.parametrize(
    ("kept", "calls", "more", "why"),
    [
        (("train",), CALLS, (), NOTHING),
        (("train", "heldout"), CALLS, ("--heldout", "0"), NOTHING),
        (("heldout",), CALLS, (), "fidelity: not measured, all calls with results are in the 2"),
        (("train", "heldout"), 0, (), f"{NOTHING}: none of these 2 episodes has a tool call"),
    ],
)
def test_a_world_that_nothing_can_measure_is_learned_and_said_to_be_unmeasured(
    learned: Any, kept: tuple[str, ...], calls: int, more: tuple[str, ...], why: str
) -> None:
    rows = [
        row(s, calls if split == "heldout" else CALLS)
        for split in kept
        for s in scenarios(split, 2)
    ]
    said, fidelity, reported = learned(rows, *more)
    assert said.startswith(why)
    assert reported.startswith(why)
    assert f"fidelity: {fidelity['unmeasured']}" in said
    assert (fidelity["calls"], fidelity["overall"]) == (0, {})


def test_where_no_call_has_a_result_nothing_is_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, store = tmp_path / "rows.jsonl", str(tmp_path / "s.db")
    file.write_text(json.dumps(row("s", 0)) + "\n")
    assert main(["import", str(file), "--store", store]) == 0
    capsys.readouterr()
    assert main(["world", "learn", str(tmp_path / "world"), "--store", store]) == 1
    assert "no tool call with a result in these episodes" in capsys.readouterr().err
    assert not (tmp_path / "world").exists()


def test_arrival_order_and_episode_ids_change_neither_split_nor_scenarios(tmp_path: Path) -> None:
    file = tmp_path / "traffic.jsonl"
    file.write_text("".join(json.dumps(row(s)) + "\n" for s in scenarios("train", 20)))
    arrived = list(import_file(file, ImportOptions()))
    runs = []
    for number, episodes in enumerate((arrived, arrived[::-1])):
        renamed = [replace(e, id=f"{number}-{k}") for k, e in enumerate(episodes)]
        learn_world(renamed, tmp_path / str(number))
        kept, _ = select(renamed, SftConfig(keep="all"), None)
        drawn = World.load(tmp_path / str(number)).scenarios(5, 0, "train")
        runs.append(([e.scenario_id for e in kept], [s.id for s in drawn]))
    assert runs[0] == runs[1]
