"""The entity store without rules: a row of the fidelity report, and a place to train in."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Episode, Scenario
from understudy.runs.report import render
from understudy.world.fidelity.floor import Floor
from understudy.world.fidelity.page import page
from understudy.world.fidelity.report import fidelity
from understudy.world.fidelity.stored import Stored
from understudy.world.learn import learn
from understudy.world.model import World

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.places import Retrieval


def played(n: int, box: int) -> Episode:
    lids: dict[str, str] = {}

    def answer(tool: str, args: Any) -> Any:
        own = args["box"]
        if tool == "turn":
            lids[own] = args["lid"]
        shown = {"box": own, "lid": lids.get(own, "shut"), "weight": 7 * int(own[2:])}
        return shown if int(own[2:]) < 60 else f"no box {own}"

    one = {"box": f"B-{box}"}
    calls: list[Call] = [("show", one), ("turn", {**one, "lid": "open"}), ("show", one)]
    return recorded(f"e{n}", calls, answer)


@pytest.fixture(scope="module")
def train() -> list[Episode]:
    return [played(n, 10 + n % 40) for n in range(80)] + [played(80 + n, 65 + n) for n in range(5)]


@pytest.fixture(scope="module")
def learned(train: list[Episode]) -> World:
    return learn(train)


def show(stored: Stored, box: str) -> Any:
    text, flag = stored.answer("show", {"box": box})
    assert not flag
    return json.loads(text)


def test_it_says_of_the_thing_that_is_named_what_is_known_of_it(
    learned: World, train: list[Episode]
) -> None:
    stored = Stored(learned, Floor.of(train, learned.failures))
    assert show(stored, "B-13") == {"box": "B-13", "lid": "shut", "weight": 91}
    shown = {"box": "B-55", "lid": "torn", "weight": 3}  # no episode of the traffic had it
    stored.observe("turn", {"box": "B-55", "lid": "torn"}, json.dumps(shown), False)
    before = stored.copy()
    assert show(stored, "B-55") == shown
    stored.observe("turn", {"box": "B-55", "lid": "none"}, json.dumps(shown | {"lid": "x"}), False)
    assert show(stored, "B-55") == shown | {"lid": "x"}
    assert show(before, "B-55") == shown


def test_it_has_no_rules(learned: World, train: list[Episode]) -> None:
    floor = Floor.of(train, learned.failures)
    stored = Stored(learned, floor)
    for tool, args in (("show", {"box": "B-70"}), ("turn", {"box": "B-13"}), ("nosuch", {})):
        assert stored.answer(tool, args)[1] == floor.nearest(tool, args).said[1]


def test_its_row_stands_between_floor_and_world(learned: World, train: list[Episode]) -> None:
    new = [played(100 + n, 12 + n) for n in range(12)] + [played(200, 77)]
    report = fidelity(learned, new, train)
    assert report.entities["exact"]["n"] == report.floor["exact"]["n"]
    values = [row["exact"]["value"] for row in (report.floor, report.entities, report.overall)]
    assert values[0] < values[1] < values[2]
    assert report.floor["revealing"]["value"] == 0 < report.entities["revealing"]["value"]
    lines = report.table().splitlines()
    order = [next(i for i, line in enumerate(lines) if name in line)
             for name in ("nearest call", "retrieval floor", "+ state", " world ")]  # fmt: skip
    assert order == sorted(order)
    heads = re.findall(r"<th[^>]*>([^<]*)", render(page(report)))
    assert (
        heads.index("retrieval floor") + 1 == heads.index("+ state") == heads.index("+ rules") - 1
    )


@pytest.mark.parametrize(
    ("row", "lids"), [("nearest", ("shut", "shut")), ("floor", ("shut", "shut")),
                      ("entities", ("shut", "open"))],
)  # fmt: skip
def test_lesser_worlds_are_places_to_train_in(
    learned: World, train: list[Episode], row: str, lids: tuple[str, str]
) -> None:
    async def lived() -> list[Any]:
        place = Retrieval(learned, train, row)
        scenario = Scenario("s", (), tools=tuple(learned.tools()))
        session = await place.start(scenario, 0)
        first = await session.call("agent", call("show", {"box": "B-21"}))
        known = await session.snapshot()
        await session.call("agent", call("turn", {"box": "B-21", "lid": "open"}))
        again = await place.start(scenario, 0, known)
        told = [first]
        for s in (session, again):
            told.append(await s.call("agent", call("show", {"box": "B-21"})))
        return [json.loads(t.content)["lid"] for t in told]

    first, after, from_snapshot = asyncio.run(lived())
    assert (first, after) == lids
    assert from_snapshot == "shut"


def call(name: str, args: dict[str, Any]) -> Any:
    return {
        "id": "c",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(args)},
    }


def test_an_argument_of_a_wrong_type_names_no_thing(learned: World, train: list[Episode]) -> None:
    stored = Stored(learned, Floor.of(train, learned.failures))
    text, _ = stored.answer("show", {"box": ["B-12"]})
    assert isinstance(text, str)
