"""What a world still says exactly where a part of a call, or of its past, is unknown to it."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
import test_world_bench as benched
from hypothesis import given
from hypothesis import strategies as st
from recorded import Call, recorded
from typer.testing import CliRunner

from understudy.cli import app
from understudy.core.types import Episode
from understudy.world.data.formats import formats, has_format
from understudy.world.data.values import parse
from understudy.world.fidelity.compare import leaf_counts, leaf_f1
from understudy.world.hard import Trail, mine_hard
from understudy.world.known.context import ToolFacts
from understudy.world.known.memory import Memory
from understudy.world.known.state import State, Thing
from understudy.world.learn import learn
from understudy.world.lists.query import Query, Row
from understudy.world.model import World
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import steps, transitions

HALLS = [f"hall {a}{b}" for a in "abcdefghijkl" for b in "vwxyz"]
NEW = "hall zz"  # that no traffic shows
DAYS = [f"2031-{m:02}-{d:02}" for m in (3, 4) for d in range(10, 28)]


class Depot:
    """Each hall stocks parts of its own, with prices by day and size; orders name part and day."""

    def __init__(self) -> None:
        rng = random.Random(5)
        self.parts = {
            hall: [f"P{rng.randrange(10**4, 10**5)}" for _ in range(3)] for hall in [*HALLS, NEW]
        }
        self.hall = {p: hall for hall, parts in self.parts.items() for p in parts}
        self.orders = 0

    def price(self, part: str, day: str, size: str) -> int:
        return random.Random(f"{part} {day} {size}").randrange(100, 100_000)

    def call(self, name: str, args: dict[str, Any]) -> Any:
        if name == "stock":
            day, hall = args["day"], args["hall"]
            sizes = ("small", "large")
            return [
                {"part": p, "hall": hall, "prices": {s: self.price(p, day, s) for s in sizes}}
                for p in self.parts[hall]
            ]
        if name == "where":
            return {"part": args["part"], "hall": self.hall[args["part"]], "shelf": 4}
        if name == "keeper":
            first, last, _ = args["keeper"].split("-")
            named = {"first": first.capitalize(), "last": last.capitalize()}
            return {"keeper": args["keeper"], "name": named, "badge": len(first)}
        if len(args["remark"]) > 60:
            return f"Error: remark='{args['remark'][:12]}...{args['remark'][-9:]}' is too long"
        self.orders += 1
        size = args["size"]
        lines = [
            {**x, "hall": self.hall[x["part"]], "price": self.price(x["part"], x["day"], size)}
            for x in args["lines"]
        ]
        return {"order": f"R{self.orders:04}", "size": size, "lines": lines}


def words(rng: random.Random, n: int) -> str:
    return " ".join("".join(rng.choices("abcdefghij", k=5)) for _ in range(n))


def buy(rng: random.Random, lines: list[dict[str, Any]], remark: str = "as ever") -> Call:
    size = rng.choice(("small", "large"))
    return "buy", {"lines": lines, "size": size, "remark": remark}


def sitting(seed: int) -> Episode:
    """Two halls looked at; an order of what was seen, and one of a part that was not."""
    rng, depot = random.Random(seed), Depot()
    looks: list[Call] = [
        ("stock", {"hall": rng.choice(HALLS), "day": rng.choice(DAYS)}) for _ in range(2)
    ]
    seen = [{"part": rng.choice(depot.parts[a["hall"]]), "day": a["day"]} for _, a in looks]
    other = {"part": rng.choice(depot.parts[rng.choice(HALLS)]), "day": rng.choice(DAYS)}
    remark = words(rng, 14) if rng.random() < 0.3 else "as ever"
    keeper = f"{rng.choice(('ann', 'bo', 'cy'))}-{rng.choice(('lee', 'ray', 'fox'))}-{seed}"
    looks += [("where", {"part": other["part"]}), ("keeper", {"keeper": keeper})]
    calls = [*looks, buy(rng, seen), buy(rng, [seen[0], other]), buy(rng, seen, remark)]
    return recorded(f"e{seed}", calls, depot.call)


@pytest.fixture(scope="module")
def world() -> World:
    return learn([sitting(seed) for seed in range(60)])


def said(world: World, past: list[Call], name: str, args: dict[str, Any]) -> tuple[Any, Any]:
    """(what the world says to a call after others, what the depot says)."""
    session, depot = world.session(3), Depot()
    for tool, told in past:
        session.observe(tool, told, json.dumps(depot.call(tool, told)), False)
    content, real = (
        session.step(name, json.dumps(args), greedy=True).content,
        depot.call(name, args),
    )
    return content if isinstance(real, str) else json.loads(content), real


def test_a_line_without_a_known_price_keeps_all_else_that_is_known(world: World) -> None:
    depot = Depot()
    parts = [depot.parts[HALLS[0]][0], depot.parts[HALLS[1]][1]]
    lines = [{"part": p, "day": "2031-05-02"} for p in parts]
    name, args = buy(random.Random(0), lines)
    past: list[Call] = [("stock", {"hall": HALLS[0], "day": "2031-05-02"})]
    told, real = said(world, past, name, args)
    first, second = told["lines"]
    assert first == real["lines"][0]
    assert second | {"price": None} == real["lines"][1] | {"price": None}
    assert isinstance(second["price"], int)
    again, _ = said(world, past, name, args)
    assert again["lines"] == told["lines"]


def test_a_made_up_price_is_doubted_as_the_result_whose_part_it_is(world: World) -> None:
    part, depot = Depot().parts[HALLS[0]][0], Depot()
    doubts = []
    for looked in (False, True):
        session, look = world.session(3), {"hall": HALLS[0], "day": "2031-05-02"}
        if looked:
            session.observe("stock", look, json.dumps(depot.call("stock", look)), False)
        _, args = buy(random.Random(0), [{"part": part, "day": "2031-05-02"}])
        model, c = world.models["buy"], world.models["buy"].context(session.state, args)
        (label,) = [k for k in model.shapes if k.startswith("ok")]
        doubts.append(model.render(label, c, random.Random(0), True)[4])
    assert doubts[0] >= 0.5 > doubts[1]


def test_what_the_session_listed_is_listed_again_on_another_day(world: World) -> None:
    past: list[Call] = [("stock", {"hall": NEW, "day": DAYS[0]})]
    told, real = said(world, past, "stock", {"hall": NEW, "day": DAYS[1]})
    assert [(r["part"], r["hall"]) for r in told] == [(r["part"], r["hall"]) for r in real]
    newest: list[Call] = [*past, ("stock", {"hall": NEW, "day": DAYS[1]})]
    assert said(world, newest, "stock", {"hall": NEW, "day": DAYS[1]})[0] == real


def test_a_search_of_what_nobody_searched_lists_what_belongs_there(world: World) -> None:
    part = Depot().parts[NEW][1]
    asked = {"hall": NEW, "day": DAYS[0]}
    told, _ = said(world, [("where", {"part": part})], "stock", asked)
    assert part in {r["part"] for r in told}
    assert len(told) == 3
    assert part not in {r["part"] for r in said(world, [], "stock", asked)[0]}


def test_things_of_the_traffic_are_found_by_a_field_of_any_version() -> None:
    held = [(0, {"hall": "x", "stock": [1]}), (3, {"hall": "y"})]
    memory = Memory({"part": {"a": held, "b": [(1, {"hall": "x"})]}})
    assert memory.having("part", "hall", "x") == ["a", "b"]
    assert memory.having("part", "hall", "y") == ["a"]
    assert memory.having("part", "stock", [1]) == memory.having("other", "hall", "x") == []


def test_a_name_is_read_from_the_words_of_an_identifier(world: World) -> None:
    told, real = said(world, [], "keeper", {"keeper": "eve-moss-77"})
    assert told["name"] == real["name"]


def test_a_day_that_is_none_lists_nothing(world: World) -> None:
    told, _ = said(world, [], "stock", {"hall": HALLS[0], "day": "2031-03-10 or so"})
    assert told == []
    assert said(world, [], "stock", {"hall": HALLS[0], "day": "2031-05-30"})[0] != []


def test_a_quote_whose_middle_is_left_out_is_made_of_the_argument(world: World) -> None:
    long = words(random.Random("new"), 15)
    name, args = buy(random.Random(0), [{"part": "P1", "day": DAYS[0]}], long)
    told, real = said(world, [], name, args | {"remark": long})
    if not told.startswith("Error"):  # the world need not know what is too long
        model = world.models["buy"]
        (label,) = [k for k in model.texts if k.startswith("err")]
        c = model.context(world.session(0).state, args)
        told = model.texts[label].render(c, 0.0)[0]
    assert told == real


@given(st.lists(st.tuples(st.from_regex(r"[A-Z]{1,2}[0-9]{1,3}", fullmatch=True),
                          st.integers(0, 9))))  # fmt: skip
def test_what_was_seen_has_one_of_its_formats(seen: list[tuple[str, int]]) -> None:
    known = formats(seen)
    assert not known or all(has_format(text, known) for text, _ in seen)


def test_a_longer_number_has_the_format_of_shorter_ones() -> None:
    counted = formats([(f"#{n}", n % 40) for n in range(1, 1000)])
    assert has_format("#1000", counted)
    assert not has_format("#1000 or so", counted)
    coded = formats([(f"#{n}", n % 40) for n in range(100, 1000)])
    assert has_format("#123", coded)
    assert not has_format("#1000", coded)
    assert has_format("#1000", formats([("#123", 0), ("#456", 1)]))  # too few to show a width


def test_codes_that_all_look_different_have_no_format() -> None:
    rng = random.Random(0)
    codes = ["".join(rng.choices("ABC0123", k=6)) for _ in range(30)]
    assert formats([(code, n) for n, code in enumerate(codes) for _ in range(10)]) == []


def trail(*calls: tuple[dict[str, Any], bool]) -> Trail:
    asked: list[Call] = [("pay", args) for args, _ in calls]
    answers = iter("no such card" if fails else {"paid": True} for _, fails in calls)
    found = steps(transitions(recorded("e", asked, lambda *_: next(answers))), 0, FAILURES)
    return [(s, "err:no" if s.failed else "ok:{paid}") for s in found]


FAILURES = learn([sitting(0)]).failures


@pytest.mark.parametrize(
    ("second", "scope"),
    [
        (({"order": "R1", "card": "k2"}, True), ["order"]),
        (({"order": "R1", "card": "k2"}, False), ["card"]),
    ],
)
def test_a_failure_hangs_on_an_argument_only_where_calls_show_it(
    second: tuple[dict[str, Any], bool], scope: list[str]
) -> None:
    facts = ToolFacts("pay", ["order", "card"], ["order", "card"])
    ids = Ids(args={"pay": {"order": "d0", "card": "d1"}})
    memory = Memory({"d0": {"R1": []}, "d1": {"k1": []}})
    memory.versions["d0"]["R1"].append((0, {}))
    once: tuple[dict[str, Any], bool] = ({"order": "R1", "card": "k1"}, True)
    assert mine_hard("pay", [trail(once)], facts, ids, memory)["err:no"].scope == []
    assert mine_hard("pay", [trail(once, second)], facts, ids, memory)["err:no"].scope == scope


def crate(seed: int) -> Episode:
    """A crate is looked at, marked alike some times and looked at; later ones are marked first."""
    rng = random.Random(seed % 20)
    code, weight = f"K{rng.randrange(10**5, 10**6)}", rng.randrange(500)
    state = {"crate": code, "label": "none", "seals": 0, "weight": weight}

    def answer(name: str, args: Any) -> Any:
        if name == "mark":
            state.update(label=args["label"], seals=int(str(state["seals"])) + 1)
        return dict(state)

    look: Call = ("look", {"crate": code})
    mark: Call = ("mark", {"crate": code, "label": f"box {seed}"})
    return recorded(f"e{seed}", [look, *4 * [mark], look] if seed < 20 else [mark, look], answer)


def test_what_a_call_changed_is_not_how_the_thing_was() -> None:
    world = learn([crate(seed) for seed in range(40)])
    held = [f for things in world.memory.versions.values() for own in things.values() for f in own]
    assert len(held) == 40
    assert all(fields.get("seals", 0) == 0 for _, fields in held)
    assert all(fields.get("label", "none") == "none" for _, fields in held)
    assert all("weight" in fields for _, fields in held)


def test_a_listed_record_names_the_later_of_two_calls_as_its_source() -> None:
    query = Query("rows", "k", "d0", rows=[Row("a", {"k": "a", "x": 1, "y": 2}, {}, [0])])
    state = State(Ids(), Memory())
    fields: Any = {"x": (1, "observed", "call 9"), "y": (2, "observed", "call 10")}
    state.things["d0", "a"] = Thing(fields)
    ((_, mark),) = query.answer({}, state)
    assert mark.source == "call 10"


def test_the_bound_is_the_truth_of_all_but_what_nothing_showed(tmp_path: Path) -> None:
    rows = [benched._row(seed, "train") for seed in range(60)]
    rows += [benched._row(seed, "test") for seed in range(60, 70)]
    with gzip.open(tmp_path / "replays.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    out = tmp_path / "out.jsonl"
    command = ["world", "bench", str(tmp_path), "--bound", "--predictions", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    told = {
        (row["episode"], step): message["content"]
        for row in rows[60:]
        for step, message in enumerate(m for m in row["messages"] if m["role"] == "tool")
    }
    found = {(p["episode"], p["step"]): p for p in map(json.loads, out.read_text().splitlines())}
    assert found.keys() == told.keys()
    unknown = json.loads(result.output)["unknowable"]
    # every sitting begins with a look at an order that no other sitting has
    assert unknown["successes"]["order thing"] >= 10
    assert all(found[row["episode"], 0]["content"] != told[row["episode"], 0] for row in rows[60:])
    again = CliRunner().invoke(app, [*command, "--hindsight"])
    assert json.loads(again.output) == json.loads(result.output)
    best = {(p["episode"], p["step"]): p for p in map(json.loads, out.read_text().splitlines())}

    def right(rows: dict[Any, Any], k: tuple[str, int]) -> float:
        return leaf_f1(*(leaf_counts(parse(v)) for v in (rows[k]["content"], told[k])))

    assert all(right(best, k) >= right(found, k) for k in told)
    assert any(right(best, k) > right(found, k) for k in told)
    wrong = sum(found[k]["content"] != told[k] for k in told)
    assert wrong <= sum(n for reasons in unknown.values() for n in reasons.values())


def test_the_bound_takes_no_random_names(tmp_path: Path) -> None:
    (tmp_path / "replays.jsonl.gz").touch()
    command = ["world", "bench", str(tmp_path), "--bound", "--rename", "1", "--predictions", "x"]
    assert "--bound" in str(CliRunner().invoke(app, command).exception)
