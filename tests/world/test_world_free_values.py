"""What nobody could know, and things that nobody knew: how a fidelity report judges them."""

import json
import re
from html import unescape
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.runs.report import render
from understudy.world.fidelity.consistency import consistency
from understudy.world.fidelity.floor import Floor
from understudy.world.fidelity.page import page
from understudy.world.fidelity.report import FidelityReport, fidelity
from understudy.world.fidelity.scoring import disjoint, world_values
from understudy.world.language.plausible import Plausible
from understudy.world.learn import learn
from understudy.world.model import World


def played(n: int, box: int) -> Episode:
    """A box is shown, sent under a fresh number, and the parcel shown."""

    def answer(tool: str, args: Any) -> Any:
        if tool == "show":
            return {"box": args["box"], "weight": 7 * int(args["box"][2:]), "on": "2031-02-03"}
        return {"parcel": f"P-{1000 + n}", "box": f"B-{box}", "fee": 3}

    calls: list[Call] = [("show", {"box": f"B-{box}"}), ("send", {"box": f"B-{box}"})]
    calls += [("parcel", {"parcel": f"P-{1000 + n}"})] * 2 + [("show", {"box": f"B-{box}"})]
    return recorded(f"e{n}", calls, answer)


@pytest.fixture(scope="module")
def train() -> list[Episode]:
    return [played(n, 10 + n % 30) for n in range(90)]


@pytest.fixture(scope="module")
def learned(train: list[Episode]) -> World:
    return learn(train)


@pytest.fixture(scope="module")
def measured(learned: World, train: list[Episode]) -> FidelityReport:
    return fidelity(learned, [played(500 + n, 12 + n) for n in range(14)], train)


@pytest.mark.parametrize(
    ("path", "value", "fits"),
    [
        ("/weight", 100, True), ("/weight", 290, True), ("/weight", 4000, False),
        ("/weight", "100", False), ("/box", "B-99", True), ("/box", "box 99", False),
        ("/on", "2044-12-31", True), ("/on", "3 Feb", False), ("/nowhere", 1, False),
        ("/weight", None, False),
    ],
)  # fmt: skip
def test_a_value_is_like_the_traffics_or_not(
    learned: World, train: list[Episode], path: str, value: Any, fits: bool
) -> None:
    ranges = Plausible(Floor.of(train, learned.failures), learned.failures)
    assert ranges.plausible("show", path, value) == fits
    assert ranges.share("show", [(path, 0)], {path[1:]: value}) == float(fits)
    assert ranges.share("show", [], {path[1:]: value}) is None


def test_a_world_keeps_to_a_number_that_it_made_up(learned: World) -> None:
    new = [played(500 + n, 12 + n) for n in range(8)]
    kept = consistency(learned, new, world_values(learned))
    assert kept["n"] == 16  # each parcel is shown twice more
    assert kept["value"] == 1.0
    for model in learned.models.values():
        assert model.facts.name  # a world is never changed by measuring it


def test_a_number_that_two_tools_make_up_apart_is_not_kept() -> None:
    def answer(tool: str, args: Any) -> Any:
        nonlocal n
        n += 1
        return {"code": f"{tool}-{70000 + 37 * n % 9999}"}

    n = 0
    apart = [recorded(f"e{k}", [("ask", {}), ("tell", {})], answer) for k in range(60)]
    same = [recorded(f"t{k}", [("ask", {}), ("tell", {})], lambda t, a: {"code": "ask-99999"})
            for k in range(3)]  # fmt: skip
    world = learn(apart)
    kept = consistency(world, same, world_values(world))
    assert (kept["n"], kept["value"]) == (3, 0.0)


def test_where_things_are_new_what_the_traffic_showed_of_them_is_forgotten(
    learned: World, measured: FidelityReport
) -> None:
    first, *later = disjoint(learned, played(500, 12), 0)
    assert first["exact"] == 0.0  # the weight of a box that only the traffic showed
    assert [scores["determined_f1"] for scores in later] == [1.0] * 4
    assert measured.disjoint["exact"]["n"] == measured.calls
    assert measured.disjoint["exact"]["value"] < measured.overall["exact"]["value"]


def test_the_page_tells_of_each_tool_whether_its_flags_and_changes_are_right(
    measured: FidelityReport,
) -> None:
    html = unescape(render(page(measured)))
    heads = re.findall(r"<th[^>]*>([^<]*)", html)
    for name in ("flag AUROC", "flag ECE", "changes F1", "+ rules, new things"):
        assert name in heads
    assert "free: like the traffic's" in html
    assert measured.overall["free_range"]["n"] > 0
    assert measured.overall["free_kept"]["value"] == 1.0
    json.dumps(measured.to_json(), allow_nan=False)
