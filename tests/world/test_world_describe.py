"""Descriptions of tools whose names say nothing: what is told is true, and most truths are told."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import warehouse
from recorded import Call, recorded

from understudy.cli import main
from understudy.core.openai_wire import tools_problem
from understudy.core.types import Completion, Episode, ModelRef, Request
from understudy.runs.statistics import wilson
from understudy.world.describing.describe import describe, described_tools
from understudy.world.describing.facts import Bar, Fact
from understudy.world.known.evidence import Evidence
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.traffic.renaming import Renaming
from understudy.world.traffic.transitions import transitions

# What warehouse.py does, by hand: tool, argument or field, and a text that says it. Names in
# backticks are the service's own; values that are data keep their words.
TRUE = [
    ("find_parts", "category", 'One of "pumps"'),
    ("find_parts", "category", "Only records with this `category`, which other tools show"),
    ("find_parts", "max_price", "Optional"),
    ("find_parts", "max_price", "Only records whose `price` is at most this are listed."),
    ("find_parts", "order", 'With "price" records come by `price`, from the lowest.'),
    ("find_parts", "order", 'With "grade" records come by `grade`, from the highest.'),
    ("find_parts", "", "Lists at most 5 records."),
    ("find_parts", "parts", "Lists records under `parts`, each with `sku`, `price`, `grade`."),
    ("find_parts", "count", "`count` is the number of records under `parts`."),
    ("find_parts", "unknown_category", "When `category` is none of the values"),
    ("find_parts", "rate_limited", "Passes"),
    ("part", "sku", "`sku` in `parts` of an earlier result of `find_parts`."),
    ("part", "", "Gives `sku`, `category`, `price`, `grade`."),
    ("part", "", "Shows records as earlier results did"),
    ("part", "discontinued", "Fails in 8% of calls"),
    ("reserve", "sku", "`sku` in `parts` of an earlier result of `find_parts`."),
    ("reserve", "count", "Required."),
    ("reserve", "total", "`total` is `count` times `price` of the record that `sku` names."),
    ("reserve", "status", '`status` was always "held".'),
    ("reserve", "reservation", "Makes a new `reservation` at each call."),
    ("reserve", "reservation", "`settle` takes it as `reservation`"),
    ("reserve", "bad_count", "`count` is 0"),
    ("reserve", "no_such_part", "When the `sku` given is in no result"),
    ("reserve", "rate_limited", "Passes"),
    ("settle", "reservation", "`reservation` of an earlier result of `reserve`."),
    ("settle", "reservation", "Call `reserve` before"),
    ("settle", "method", 'One of "invoice", "prepaid", "voucher"'),
    ("settle", "status", 'Sets `status` of the record that `reservation` names to "paid".'),
    ("settle", "status", "`lookup` shows this `status` afterwards."),
    ("settle", "confirmation", "Makes a new `confirmation` at each call."),
    ("settle", "not_open", '`status` of the record that `reservation` names is not "held"'),
    ("settle", "not_open", "Stays"),
    ("settle", "declined", '`method` is "invoice"; then in 34% of calls'),
    ("settle", "no_such_reservation", "When the `reservation` given is in no result"),
    ("lookup", "reservation", "`reservation` of an earlier result of `reserve`."),
    ("lookup", "", "Gives `reservation`, `status`, `total`."),
    ("lookup", "", "Shows records as earlier results did"),
    ("release", "reservation", "Call `reserve` before"),
    ("release", "status", 'Sets `status` of the record that `reservation` names to "released".'),
    ("release", "status", "`lookup` shows this `status` afterwards."),
]
UNTOLD = {
    # the calls of the traffic that pay never repeat: nothing tells it from a thing that was found
    ("settle", "confirmation", "Makes a new `confirmation` at each call."),
}
"""Truths that the traffic does not bear."""


def renamed(episodes: list[Episode], seed: int) -> tuple[list[Episode], Renaming]:
    """The episodes under random names, without schemas, and the way back."""
    rows: list[dict[str, Any]] = []
    for e in episodes:
        messages: list[dict[str, Any]] = []
        for t in transitions(e):
            call = {"id": f"c{t.step}", "type": "function",
                    "function": {"name": t.name, "arguments": t.arguments}}  # fmt: skip
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": f"c{t.step}", "content": t.content})
        rows.append({"id": e.id, "scenario": e.scenario_id, "messages": messages})
    names = Renaming(rows, seed)
    found = []
    for row in map(names.row, rows):
        request = Request(messages=tuple(row["messages"]), model=ModelRef("recorded"))
        completion = Completion(id=row["id"], request=request, status="ok")
        found.append(Episode(row["id"], (completion,), row["scenario"]))
    return found, names


def said(facts: dict[str, list[Fact]], old: dict[str, str]) -> list[tuple[str, str, str, Fact]]:
    """(tool, about, text, statement) under the names of before."""

    def back(text: str) -> str:
        for new, name in old.items():
            text = text.replace(new, name)
        return text

    return [(back(t), back(f.about), back(f.text), f) for t, own in facts.items() for f in own]


@pytest.fixture(scope="module")
def strange(episodes: list[Episode]) -> tuple[World, Renaming]:
    """A world learned from random names without schemas."""
    found, names = renamed(episodes, 11)
    return learn(found), names


def test_of_random_names_nearly_all_truths_are_told(strange: tuple[World, Renaming]) -> None:
    world, names = strange
    told = said(describe(world), names.old)
    untold = {
        (tool, about, text)
        for tool, about, text in TRUE
        if not any(tool == t and about in a and text in x for t, a, x, _ in told)
    }
    assert untold == UNTOLD


def test_nothing_is_told_that_the_service_does_not_do(strange: tuple[World, Renaming]) -> None:
    """Whatever is stated of sources, values, changes, order and reasons is one of these."""
    world, names = strange
    known = {(tool, text) for tool, _, text in TRUE}
    more = {
        ("find_parts", "Gives `parts`, `count`."),
        ("find_parts", '"price", "grade"; no other'),
        ("find_parts", "`part` takes it as `sku`, `reserve` takes it as `sku`"),
        ("part", "Call `find_parts` before"),
        ("reserve", "Call `find_parts` before"),
        ("reserve", "Gives `reservation`, `sku`, `count`, `total`, `status` in "),
        ("settle", "Gives `reservation`, `confirmation`, `status`, `total`."),
        ("settle", '`status` was always "paid".'),
        ("lookup", "Call `reserve` before"),
        ("release", "`reservation` of an earlier result of `reserve`."),
        ("release", "Gives `reservation`, `status`."),
        ("release", '`status` was always "released".'),
        # a failure whose own key is not told by its name any more: a result of another form
        ("reserve", "Gives `status`, `reason`, `sku` in "),
        ("reserve", 'In results with `reason`, `status` was always "error".'),
        ("reserve", 'In results with `reason`, `reason` was always "sold_out".'),
    }
    true_of_any = (  # the shares are counts of the traffic
        "Required.", "Optional: left out in ", "In the traffic between ", "Of the form ",
        "Fails in ", "Passes: repeated, ", "Stays: ", "No sign of it was found beforehand.",
    )  # fmt: skip
    false = [
        (tool, text)
        for tool, _, text, _ in said(describe(world), names.old)
        if not text.startswith(true_of_any)
        and not any(tool == t and x in text for t, x in known | more)
    ]
    assert false == []


def test_each_statement_has_the_calls_that_the_bar_asks_for(
    strange: tuple[World, Renaming],
) -> None:
    for bar in (Bar(5, 0.95), Bar(100, 0.99)):
        for own in describe(strange[0], bar).values():
            for f in own:
                assert f.agree >= bar.least, f
                assert f.agree >= 0.9 * f.calls, f
    assert not any(describe(strange[0], Bar(10**6)).values())


def test_the_shares_of_failures_are_those_of_the_traffic(
    episodes: list[Episode], world: World
) -> None:
    calls = [t for e in episodes for t in transitions(e) if t.name == "reserve"]
    sold = sum("sold_out" in t.content for t in calls)
    text = f"Fails in {100 * sold / len(calls):.0f}% of calls with"
    (fact,) = [f for f in describe(world)["reserve"] if "sold_out" in f.text]
    assert fact.text.startswith(text)
    assert fact.calls == sold
    assert '"sku": "<sku>"' in fact.text
    known = wilson(sold, len(calls))
    assert fact.text.endswith(f"(95% interval {100 * known.low:.0f} to {100 * known.high:.0f}%).")


def test_a_failure_without_a_sign_is_said_to_have_none(world: World) -> None:
    said = [f.text for f in describe(world)["reserve"] if "sold_out" in f.about]
    assert said[1:] == ["No sign of it was found beforehand."]


def shelves(seed: int, known: float) -> Episode:
    """A code that a list shows, in this share of episodes; `look` shows the code that it is given;
    what `take` is given is the list's code, or another one."""
    rng = random.Random(seed)
    code, other = f"c-{rng.randrange(10**6)}", f"c-{rng.randrange(10**6)}"
    taken = code if rng.random() < known else other
    calls: list[Call] = [("look", {"code": taken}), ("list", {}), ("take", {"code": taken})]

    def answer(tool: str, args: dict[str, Any]) -> Any:
        return {"codes": [{"code": code}]} if tool == "list" else {**args, "done": True}

    return recorded(f"e{seed}", calls, answer)


@pytest.mark.parametrize("known", [1.0, 0.8])
def test_an_origin_is_told_where_nearly_all_calls_have_it(known: float) -> None:
    """What only repeats an argument is no origin of it."""
    told = describe(learn([shelves(seed, known) for seed in range(120)]))
    origins = [f.text for f in told["take"] if "of an earlier result" in f.text]
    assert origins == ["`code` in `codes` of an earlier result of `list`."] * (known == 1)


def test_tools_are_schemas_that_an_agent_can_be_given(strange: tuple[World, Renaming]) -> None:
    world, names = strange
    tools = described_tools(world, describe(world))
    assert tools_problem(tools) is None
    back = {names.old[t["function"]["name"]]: t["function"] for t in tools}
    spec = back["find_parts"]["parameters"]
    properties = {names.old.get(p, p): schema for p, schema in spec["properties"].items()}
    assert [names.old.get(p, p) for p in spec["required"]] == ["category"]
    assert properties["max_price"]["type"] == "integer"
    assert set(properties["order"]["enum"]) == {"price", "grade"}
    assert set(properties["category"]["enum"]) == set(warehouse.CATEGORIES)
    assert "enum" not in back["reserve"]["parameters"]["properties"][names.new["sku"]]
    assert all(t["function"]["description"] for t in tools)


def test_what_was_declared_stays(world: World) -> None:
    facts = describe(world)
    tools = {t["function"]["name"]: t["function"] for t in described_tools(world, facts)}
    declared = {t["function"]["name"]: t["function"] for t in world.declared}
    assert tools.keys() == declared.keys()
    for name, own in declared.items():
        assert tools[name]["description"].startswith(own["description"] + " ")
        assert tools[name]["parameters"]["required"] == own["parameters"]["required"]
        for p, schema in own["parameters"]["properties"].items():
            assert schema.items() <= tools[name]["parameters"]["properties"][p].items()


def test_a_saved_world_is_described_alike(world: World, world_folder: Path) -> None:
    assert describe(World.load(world_folder)) == describe(world)


def test_the_command_writes_tools_and_says_counts(
    world_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tools.json"
    assert main(["world", "describe", str(world_folder), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "`reservation` of an earlier result of `reserve`. [" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert tools_problem(json.loads(out.read_text())) is None
    assert main(["world", "describe", str(world_folder), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(World.load(world_folder).models)


def test_a_world_without_counts_says_what_to_do(world: World) -> None:
    bare = {n: replace(m, evidence=Evidence()) for n, m in world.models.items()}
    with pytest.raises(ValueError, match="learn it again"):
        describe(replace(world, models=bare))
