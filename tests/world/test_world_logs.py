"""Numbers that two numbers of a call move, numbers that count up, lists that calls add to."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.data import amounts
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.results import logs
from understudy.world.results.rules import Rule
from understudy.world.traffic import counters

NAMES = [f"TK-{n}" for n in range(500, 512)]


class Cellar:
    """Tanks with a level; pouring from one into another loses a part, and both tanks list it."""

    def __init__(self, rng: random.Random) -> None:
        self.levels = {name: 100.0 + 7 * n for n, name in enumerate(NAMES)}
        self.lines: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
        self.next = rng.randrange(4000, 9000)

    def enter(self, tank: str, what: str, litres: float) -> int:
        self.next += 1
        self.levels[tank] = round(self.levels[tank] + litres, 2)
        line = {"line": self.next, "what": what, "litres": litres, "level": self.levels[tank]}
        self.lines[tank].append(line)
        return self.next

    def call(self, name: str, args: dict[str, Any]) -> Any:
        tank = args["tank"]
        if tank not in self.levels:
            return f"Error: no tank {tank}"
        if name == "gauge":
            return {"tank": tank, "level": self.levels[tank], "kind": "oak"}
        if name == "book":
            return {"tank": tank, "lines": list(self.lines[tank]), "now": self.levels[tank]}
        if name == "label":
            return {"tank": tank, "note": args["note"]}
        loss = round(0.05 * args["litres"], 2)
        line = self.enter(tank, "out", round(-args["litres"] - loss, 2))
        self.enter(args["into"], "in", args["litres"])
        return {"line": line, "loss": loss, "moved": args["litres"], "drawn": args["litres"] + loss}


def calls(rng: random.Random) -> list[Call]:
    made: list[Call] = []
    pair = rng.sample(NAMES, 3)
    made += [("gauge", {"tank": t}) for t in (pair[0], *pair)]
    for _ in range(3):
        one, other = rng.sample(pair, 2)
        if rng.random() < 0.3:
            made.append(("book", {"tank": one}))
        if rng.random() < 0.3:
            made.append(("label", {"tank": one, "note": rng.choice("abc")}))
        litres = rng.choice([5, 10, 12.5, 20, 31, 44])
        made.append(("pour", {"tank": one, "into": other, "litres": litres}))
        for tank in (one, other):
            tool = rng.choice(["gauge", "book", "book", "label"])
            made.append((tool, {"tank": tank} | ({"note": "d"} if tool == "label" else {})))
    return made


def played(seed: int) -> Episode:
    rng = random.Random(seed)
    return recorded(f"e{seed}", calls(rng), Cellar(rng).call)


@pytest.fixture(scope="module")
def world() -> World:
    return learn([played(seed) for seed in range(70)])


@pytest.mark.parametrize("saved", [False, True])
def test_what_is_listed_runs_on_with_what_is_left(
    world: World, tmp_path: Path, saved: bool
) -> None:
    if saved:
        world.save(tmp_path)
        world = World.load(tmp_path)
    session, cellar = world.session(1), Cellar(random.Random(77))

    def make(name: str, **args: Any) -> Any:
        real = cellar.call(name, args)
        session.observe(name, args, json.dumps(real), False)
        return real

    make("gauge", tank="TK-500")
    make("gauge", tank="TK-505")
    make("pour", tank="TK-500", into="TK-505", litres=17)
    args = {"tank": "TK-505", "into": "TK-500", "litres": 23}
    said = session.step("pour", json.dumps(args), greedy=True)
    assert json.loads(said.content) == cellar.call("pour", args)
    for tool in ("book", "gauge"):
        for tank in ("TK-500", "TK-505"):
            told = session.step(tool, json.dumps({"tank": tank}), greedy=True)
            assert json.loads(told.content) == cellar.call(tool, {"tank": tank}), tank
    lines = session.state.things[session.state.calls[0].ids[0]].fields["lines"]
    assert lines[1] == "inferred"


def test_a_call_that_lists_nothing_adds_nothing(world: World) -> None:
    log = {t for t, m in world.models.items() for e in m.effects if "lines" in e.rules}
    assert log == {"pour"}
    session = world.session(1)
    session.observe(
        "book", {"tank": "TK-501"}, '{"tank": "TK-501", "lines": [], "now": 107.0}', False
    )
    session.step("label", '{"tank": "TK-501", "note": "a"}', greedy=True)
    told = session.step("book", '{"tank": "TK-501"}', greedy=True).content
    assert json.loads(told)["lines"] == []


def test_a_record_that_is_not_explained_is_not_made() -> None:
    made = logs.Made({"n": 2}, {}, {}, {})
    way = [("", "n", Rule("set", ("arg", "/n"))), ("", "of", Rule("own", ("level",)))]
    assert logs.grown([], Rule("log", inner=way), made) is None
    made.after["level"] = 9
    assert logs.grown([{"n": 1}], Rule("log", inner=way), made) == ([{"n": 1}, {"n": 2, "of": 9}],)


numbers = st.integers(1, 500)


@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=12, max_size=12, unique=True))
def test_two_numbers_move_a_third_where_no_one_of_them_does(seen: list[tuple[int, ...]]) -> None:
    names = [("arg", "/a"), ("res", "/b"), ("res", "/c")]
    pairs = [(dict(zip(names, row, strict=True)), -float(row[0] + row[1])) for row in seen]
    found = amounts.moved_by(pairs)
    assert found is not None
    assert all(
        (amounts.amount(found[1], values) or 0) * (1 if found[0] == "+" else -1) == delta
        for values, delta in pairs
    )
    alone = amounts.moved_by([(values, float(values["arg", "/a"])) for values, _ in pairs])
    assert alone == ("+", ("arg", "/a"))
    assert amounts.moved_by(pairs[:3]) is None or len(set(seen)) < 12  # too few for two


def test_a_counter_goes_on_from_where_the_session_is(world: World) -> None:
    assert world.ids.counters["pour"]["/line"][1] == 2
    session = world.session(3)
    session.observe(
        "pour", {"tank": "TK-500", "into": "TK-505", "litres": 5},
        '{"line": 20001, "loss": 0.25, "moved": 5, "drawn": 5.25}', False,
    )  # fmt: skip
    said = session.step("pour", '{"tank": "TK-500", "into": "TK-505", "litres": 5}', greedy=True)
    assert json.loads(said.content)["line"] == 20003


def test_numbers_that_fall_or_leap_are_no_counter() -> None:
    def made(seed: int, step: int) -> Episode:
        at = iter(range(1000 * seed + 500, 0, step) if step < 0 else range(seed, 10**6, step))
        return recorded(f"e{seed}", [("mark", {"at": "x"})] * 4, lambda *_: {"n": next(at)})

    for step, counts in ((1, True), (3, True), (-1, False), (900, False)):
        found = learn([made(seed, step) for seed in range(12)]).ids.counters
        assert (found.get("mark", {}).get("/n", ("", 0))[1] == step) is counts
    assert list(counters.numbers({"n": 1, "rows": [{"n": 2}], "b": True})) == [("/n", 1)]
