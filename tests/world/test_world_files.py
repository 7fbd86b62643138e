"""A world on disk, and episodes that are no easy reading."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from understudy.core.types import Completion, Episode, ModelRef, Request, ToolResult
from understudy.world import files
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.traffic.transitions import transitions


def play(world: World, seed: int) -> list[ToolResult]:
    session = world.session(seed)
    steps = [
        ("find_parts", {"category": "seals", "max_price": 77}),
        ("reserve", {"sku": "P1037", "count": 3}),
        ("reserve", {"sku": "P1037", "count": 3}),
        ("settle", {"reservation": "R-11111", "method": "invoice"}),
        ("nothing", {}),
    ]
    return [session.step(name, json.dumps(arguments)) for name, arguments in steps]


def test_a_saved_world_answers_as_before(world: World, tmp_path: Path) -> None:
    world.save(tmp_path)
    again = World.load(tmp_path)
    for seed in range(40):
        assert play(again, seed) == play(world, seed)
    assert again.scenarios(20, 3) == world.scenarios(20, 3)
    assert world.book.exchanges
    assert again.book.exchanges == world.book.exchanges
    assert again.book.kinds == world.book.kinds
    for name in ("counts", "totals", "words"):
        assert getattr(world.book.votes, name)
        assert getattr(again.book.votes, name) == getattr(world.book.votes, name)


def test_no_world_and_a_newer_world_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="world learn"):
        World.load(tmp_path)
    (tmp_path / "world.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="99"):
        World.load(tmp_path)


@pytest.mark.parametrize("limit", [10**9, 0], ids=["plain", "packed"])
@pytest.mark.parametrize("name", ["world", "fidelity"])
def test_files_that_are_cut_off_are_named(
    world: World, name: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LARGE", limit)
    replace(world, fidelity={"columns": []}).save(tmp_path)
    (file,) = tmp_path.glob(f"{name}.json*")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"{file.name} is damaged.*learn the world again"):
        World.load(tmp_path)


def episode(messages: list[Any], name: str = "e", **more: Any) -> Episode:
    request = Request(messages=tuple(messages), model=ModelRef("m"))
    return Episode(name, (Completion(id=name, request=request, status="ok"),), **more)


def called(name: str, arguments: str, call_id: str = "c") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def answered(content: str, call_id: str = "c") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_results_are_found_though_call_ids_recur() -> None:
    found = transitions(
        episode([called("a", "{}"), answered("one"), called("b", "{}"), answered("two")])
    )
    assert [(t.name, t.content) for t in found] == [("a", "one"), ("b", "two")]


def test_a_growing_conversation_counts_every_call_once() -> None:
    start = [{"role": "user", "content": "go"}]
    first = called("a", '{"n": 1}', "x1")
    second = called("a", '{"n": 2}', "x2")
    completions = []
    for n, (messages, message) in enumerate([
        (start, first),
        ([*start, first, answered("one", "x1")], second),
        ([*start, first, answered("one", "x1"), second, answered("two", "x2")],
         {"role": "assistant", "content": "done"}),
    ]):  # fmt: skip
        request = Request(messages=tuple(messages), model=ModelRef("m"))  # type: ignore[arg-type]
        completions.append(
            Completion(id=str(n), request=request, status="ok", message=message)  # type: ignore[arg-type]
        )
    found = transitions(Episode("e", tuple(completions)))
    assert [(t.step, t.content) for t in found] == [(0, "one"), (1, "two")]
    assert found[1].history[-1]["role"] == "tool"


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"a": ' * 50, "x" * 1_000_000, "\u202e\u0000 \ud83d\ude00", "null", "[]",
     '[1, "a", {}]', "{}", '{"a": {"b": [[{"c": null}]]}}', "1e999", '"text"', "{{}} {0} {name}"],
)  # fmt: skip
def test_odd_results_are_learned_from_without_a_crash(content: str) -> None:
    odd = [
        episode([called("t", a), answered(content)], f"e{n}")
        for n, a in enumerate(
            ['{"id": "A-1"}', "not json", "[]", '{"id": null}', '{"x": {"y": []}}']
        )
    ]
    world = learn(odd)
    for arguments in ('{"id": "A-1"}', '{"id": "B-9"}', "{}", "oops"):
        assert isinstance(world.session(0).step("t", arguments).content, str)


def test_no_calls_at_all_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="nothing to learn"):
        learn([episode([{"role": "user", "content": "hi"}])])
