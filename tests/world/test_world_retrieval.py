"""Tools whose nearest remembered calls are right more often than their rules answer by them."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.fidelity.crossfit import calibrated
from understudy.world.fidelity.likelier import LEAST, Compared, Near, Right, choose, quantile
from understudy.world.fidelity.page import page
from understudy.world.fidelity.report import FidelityReport, fidelity
from understudy.world.model import World
from understudy.world.retrieval import LEVELS, Retrieval, Tally, remembered_calls
from understudy.world.traffic.transitions import steps, transitions

SHEETS = [f"S-{n:02d}" for n in range(100, 130)]
WORDS = ["oak", "elm", "ash", "fir", "yew", "bay", "fig", "may", "box", "tea"]


def text_of(sheet: str) -> str:
    """What a sheet says: nothing about it tells, and it stays."""
    fixed = random.Random(sheet)
    rows = (" ".join(fixed.choices(WORDS, k=4)) for _ in range(fixed.randrange(2, 5)))
    return "\n".join(rows)


def answer(tool: str, args: dict[str, Any], names: dict[str, str]) -> Any:
    if tool == "read_sheet":
        return {"text": text_of(args["sheet"])} if args["sheet"] in SHEETS else "no such sheet"
    if tool == "copy_out":
        return [text_of(args["sheet"])]
    if tool == "cost":
        return {"pages": args["pages"], "total": args["pages"] * 3, "paid": False}
    card = args["card"]
    if tool == "rename":
        names[card] = args["name"]
        return {"done": True}
    return {"card": card, "name": names.get(card, f"name of {card}"), "row": int(card[-2:]) % 7}


def episode(seed: int) -> Episode:
    rng = random.Random(seed)
    names: dict[str, str] = {}
    calls: list[Call] = []
    for _ in range(3):
        sheet, width = rng.choice(SHEETS), rng.randrange(40, 10_000)
        calls.append(("copy_out", {"sheet": sheet, "width": width}))
        calls.append(("cost", {"pages": rng.randrange(2, 500)}))
    card = f"C-{rng.randrange(200, 240)}"
    calls += [("get_card", {"card": card})] * rng.randrange(3)
    if rng.random() < 0.5:
        calls += [("rename", {"card": card, "name": f"new {seed}"}), ("get_card", {"card": card})]
    return recorded(f"e{seed}", calls, lambda tool, args: answer(tool, args, names))


@pytest.fixture(scope="module")
def learned_from() -> list[Episode]:
    return [episode(seed) for seed in range(120)]


@pytest.fixture(scope="module")
def desk(learned_from: list[Episode]) -> World:
    return calibrated(learned_from)


@pytest.fixture(scope="module")
def measured(desk: World, learned_from: list[Episode]) -> FidelityReport:
    return fidelity(desk, [episode(seed) for seed in range(1000, 1030)], learned_from)


def test_what_no_rule_tells_but_memory_knows_is_answered_from_memory(
    desk: World, measured: FidelityReport
) -> None:
    assert [name for name, model in desk.models.items() if model.retrieval] == ["copy_out"]
    assert measured.tools["copy_out"]["exact"]["value"] == 1.0
    told = desk.session().step("copy_out", json.dumps({"sheet": "S-107", "width": 77_777}))
    assert json.loads(told.content) == [text_of("S-107")]
    assert {(p.kind, p.source.split()[0], p.source.split()[2]) for p in told.provenance} == {
        ("remembered", "episode", "call")
    }
    name = told.provenance[0].source.split()[1]
    assert name in desk.episode_ids


def test_where_rules_win_they_answer(desk: World, measured: FidelityReport) -> None:
    assert desk.models["cost"].retrieval is None
    assert measured.tools["cost"]["exact"]["value"] == 1.0
    assert desk.models["get_card"].retrieval is None


def test_doubt_is_that_of_the_nearest_calls_level(desk: World) -> None:
    known, new = (
        desk.session().step("copy_out", json.dumps({"sheet": sheet, "width": 5000})).doubt
        for sheet in ("S-107", "S-999")
    )
    assert (known or 0.0) < 0.1 < (new or 0.0)


def test_report_and_page_say_which_tools_and_why(desk: World, measured: FidelityReport) -> None:
    how = desk.models["copy_out"].retrieval
    assert how is not None
    assert how.rules < how.nearest <= how.calls
    why = f"rules {how.rules}, nearest {how.nearest} of {how.calls} exact on held-out calls"
    assert measured.retrieved == {"copy_out": why}
    assert why in measured.table()
    assert why in str(page(measured))


def test_a_saved_world_answers_from_memory_too(desk: World, tmp_path: Path) -> None:
    desk.save(tmp_path)
    again = World.load(tmp_path)
    args = json.dumps({"sheet": "S-119", "width": 61})
    assert again.session().step("copy_out", args) == desk.session().step("copy_out", args)


def by_memory(desk: World, tool: str, found: list[Episode], whole: bool = False) -> World:
    """The world with a tool that answers from memory, whatever is better."""
    held = remembered_calls(
        steps(transitions(e), n, desk.failures) for n, e in enumerate(found)
    )[tool]  # fmt: skip
    levels = [Tally() for _ in LEVELS]
    desk.models[tool].retrieval = Retrieval(whole, True, True, levels, 0, 0, 0, held)
    return desk


@pytest.mark.parametrize("whole", [False, True])
def test_what_the_session_did_stands_above_memory(
    learned_from: list[Episode], tmp_path: Path, desk: World, whole: bool
) -> None:
    desk.save(tmp_path)
    world = by_memory(World.load(tmp_path), "get_card", learned_from, whole)
    session = world.session()
    first = session.step("get_card", '{"card": "C-211"}')
    assert json.loads(first.content)["name"] == "name of C-211"
    assert {p.kind for p in first.provenance} == {"remembered"}
    session = world.session()
    session.step("rename", '{"card": "C-211", "name": "other"}')
    assert json.loads(session.step("get_card", '{"card": "C-211"}').content)["name"] == "other"
    session.step("rename", '{"card": "C-211", "name": "third"}')
    assert json.loads(session.step("get_card", '{"card": "C-211"}').content)["name"] == "third"


GOOD, BAD = Right(True, 1.0, 1.0, True), Right(False, 0.0, 0.5, True)


def near(right: Right) -> dict[tuple[bool, bool], Near]:
    return {(False, True): Near(right, 0, False, "ok:{}", 1.0)}


def test_few_scenarios_or_a_world_whose_rules_are_better_decide_for_the_rules() -> None:
    def won(scenarios: int, world: int = 0) -> list[Compared]:
        names = [f"s{n}" for n in range(scenarios)]
        return [Compared("t", name, world, BAD, near(GOOD)) for name in names]

    assert not choose(won(LEAST - 1) * 20)
    assert choose(won(LEAST))["t"].way == (False, True, True)
    lost = [Compared("t", f"l{n}", 1, GOOD, near(BAD)) for n in range(2)]
    assert not choose(won(50) + lost)
    assert choose(won(50) + [Compared("t", f"l{n}", 0, GOOD, near(BAD)) for n in range(2)])


def test_the_quantile_is_students() -> None:
    table = {4: 2.132, 10: 1.812, 30: 1.697, 120: 1.658}
    assert {n: round(quantile(n), 2) for n in table} == pytest.approx(table, abs=0.03)
