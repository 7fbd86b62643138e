"""Free-running rollouts: survival, and the state after them, on orders (test_world_relations)."""

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import test_world_bench as rows
import test_world_effects as effects
import test_world_relations as relations
from recorded import Call, recorded
from typer.testing import CliRunner

from understudy.cli import app
from understudy.core.types import Episode
from understudy.world.fidelity.freerun import AT, KINDS, LENGTH, free_runs
from understudy.world.learn import learn
from understudy.world.traffic.transitions import transitions


@pytest.fixture(scope="module")
def train() -> list[Episode]:
    return [relations.played(seed) for seed in range(80)]


@pytest.fixture(scope="module")
def figures(train: list[Episode]) -> dict[str, Any]:
    return free_runs(learn(train), train, [relations.played(seed) for seed in range(80, 100)])


def test_every_start_with_enough_calls_after_it_counts(figures: dict[str, Any]) -> None:
    lengths = [len(transitions(relations.played(seed))) for seed in range(80, 100)]
    assert figures["n"] == sum(max(0, n - LENGTH + 1) for n in lengths) > 0
    for who in ("world", "floor"):
        for n in AT:
            assert all(figures[who]["survival"][str(n)][k]["n"] == figures["n"] for k in KINDS)
        by = figures[who]["state_diff"]
        assert by["1"]["n"] + by["2-4"]["n"] + by["5+"]["n"] == by["changed"]["n"]
        assert by["0"]["n"] + by["changed"]["n"] == figures["n"]


def test_survival_falls_with_the_steps_and_rises_with_what_is_left_aside(
    figures: dict[str, Any],
) -> None:
    for who in ("world", "floor"):
        by = [[figures[who]["survival"][str(n)][k]["value"] for k in KINDS] for n in AT]
        assert all(exact <= known <= flag for exact, known, flag in by)
        assert all(later[k] <= sooner[k] for sooner, later in pairwise(by) for k in range(3))


def test_a_world_outlives_the_floor_and_knows_the_state_better(figures: dict[str, Any]) -> None:
    world, floor = figures["world"], figures["floor"]
    for kind in KINDS:
        assert world["survival"]["1"][kind]["value"] > floor["survival"]["1"][kind]["value"]
    assert world["survival"]["5"]["flag"]["value"] > floor["survival"]["5"]["flag"]["value"]
    assert world["state_diff"]["changed"]["value"] > floor["state_diff"]["changed"]["value"] + 0.2


def test_what_a_call_makes_may_have_any_id() -> None:
    """Where a field names it, the world's own made-up id stands for the real one."""

    def lent(seed: int) -> Episode:
        library = effects.Library(seed)
        member = next(iter(library.members))
        look: Call = ("member", {"member": member})
        calls = [look, look, look, ("lend", library.lending(member)), look, look, look]
        return recorded(f"e{seed}", calls, library.call)

    known = [lent(seed) for seed in range(60)]
    found = free_runs(learn(known), known, [lent(seed) for seed in range(60, 80)])
    changed = found["world"]["state_diff"]["changed"]
    assert changed["n"] == 60  # one of three starts before the member is known
    assert 0.6 < changed["value"] <= 2 / 3


def counter(name: str, start: int, sizes: list[int]) -> Episode:
    """A counter that is read, raised by each size, and read again."""
    held = {"counter": name, "value": start, "kind": "plain"}

    def answer(tool: str, args: dict[str, Any]) -> dict[str, Any]:
        held["value"] += args.get("by", 0)  # type: ignore[operator]
        return dict(held)

    raised = [("raise", {"counter": name, "by": by}) for by in sizes]
    calls = [("read", {"counter": name}), *raised, ("read", {"counter": name})]
    return recorded(f"{name}-{start}", calls, answer)


def test_a_world_that_knows_all_survives_and_one_change_is_one() -> None:
    made = [counter(f"N{100 + n}", 7 * n, [n % 5 + 1, n % 3 + 1, n % 4 + 1]) for n in range(60)]
    found = free_runs(learn(made[:50]), made[:50], made[:50])
    assert found["n"] == 50
    assert found["world"]["survival"]["5"]["exact"]["value"] > 0.9
    assert found["world"]["state_diff"]["1"] == found["world"]["state_diff"]["changed"]
    assert found["world"]["state_diff"]["1"]["n"] == 50
    assert found["world"]["state_diff"]["1"]["value"] > 0.9
    assert found["floor"]["survival"]["5"]["exact"]["value"] < 0.5  # it reads what it read before
    assert found["world"]["state_diff"]["0"] == {"value": None, "low": None, "high": None, "n": 0}


def test_what_nobody_could_know_is_left_aside() -> None:
    made = [
        recorded(f"e{n}", [("stamp", {"n": k}) for k in range(5)],
                 lambda _, args, n=n: {"ok": "yes", "code": f"c{n}{args['n']}q"})
        for n in range(30)
    ]  # fmt: skip
    found = free_runs(learn(made[:20]), made[:20], made[20:])["world"]["survival"]["5"]
    assert found["exact"]["value"] == 0
    assert found["known"]["value"] == 1


def test_every_second_start(train: list[Episode]) -> None:
    world, test = learn(train), [relations.played(90)]
    starts = max(0, len(transitions(test[0])) - LENGTH + 1)
    found = free_runs(world, train, test, every=2)
    assert found["n"] == (starts + 1) // 2
    one = found["world"]["survival"]["1"]["exact"]
    assert (one["low"], one["high"]) == (None, None)  # one scenario says nothing of others


def test_world_bench_prints_one_line_of_json(tmp_path: Path) -> None:
    given = [rows._row(seed, "train" if seed < 30 else "test") for seed in range(34)]
    with gzip.open(tmp_path / "replays.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in given)
    command = ["world", "bench", str(tmp_path), "--predictions", str(tmp_path / "out.jsonl")]
    printed = CliRunner().invoke(app, command).output
    assert printed.count("\n") == 1
    assert json.loads(printed)["rollouts"]["length"] == LENGTH
