"""Paths: counts that add up, branches, loops and dead ends that were put there, bounded pages."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from math import log2
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Call, recorded

from understudy.cli import main
from understudy.core.types import Episode, Feedback
from understudy.runs.report import render
from understudy.store import SQLiteStore
from understudy.world.describing import paths as module
from understudy.world.describing.paths import END, Node, Paths, paths
from understudy.world.describing.paths_page import page, text
from understudy.world.traffic.transitions import transitions


def depot(rng: random.Random, fails: bool) -> Any:
    """A service of three tools; `fetch` fails in some episodes, and then always."""

    def answer(tool: str, args: dict[str, Any]) -> Any:
        if tool == "find":
            return {"boxes": [{"box": f"b-{rng.randrange(10**6)}"}] if args["room"] else []}
        if tool == "fetch" and fails:
            return f"Error: box {args['box']} is stuck"
        return {"done": True}

    return answer


def episode(seed: int) -> tuple[Episode, bool]:
    """Where fetching fails the agent asks the same again, or asks for help; only help ends well.
    An empty list ends at once."""
    rng = random.Random(seed)
    empty, fails = seed % 7 == 0, seed % 3 == 0
    calls: list[Call] = [("find", {"room": 0 if empty else 1 + seed % 4})]
    if not empty:
        fetch = ("fetch", {"box": f"b-{seed}"})
        calls.append(fetch)
        helped = fails and seed % 2 == 0
        if fails:
            calls += [("help", {"what": "stuck"})] if helped else [fetch, fetch]
    well = not empty and (not fails or seed % 2 == 0)
    return recorded(f"e{seed}", calls, depot(rng, fails)), well


@pytest.fixture(scope="module")
def traffic() -> list[tuple[Episode, bool]]:
    return [episode(seed) for seed in range(210)]


@pytest.fixture(scope="module")
def found(traffic: list[tuple[Episode, bool]]) -> Paths:
    outcomes = {e.id: well for e, well in traffic}
    return paths([e for e, _ in traffic], lambda e: outcomes[e.id])


STUCK = ("fetch", "Error: box ... is stuck")
NOTHING = ("find", "ok, nothing listed")


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children.values():
        yield from nodes(child)


def test_the_tree_counts_every_episode_once(
    found: Paths, traffic: list[tuple[Episode, bool]]
) -> None:
    for node in nodes(found.tree):
        if node.children:
            inner = [child.tally for child in node.children.values()]
            assert sum(t.episodes for t in inner) == node.tally.episodes
            assert sum(t.well for t in inner) == node.tally.well
    ends = [n.children[END].tally for n in nodes(found.tree) if END in n.children]
    assert sum(t.episodes for t in ends) == len(traffic)
    assert found.tally.well == sum(well for _, well in traffic)


def test_the_largest_branch_is_where_success_parts(found: Paths) -> None:
    stuck = next(b for b in found.branches if b.after == STUCK)
    assert stuck.kind == "choice"
    rates = {way: t.rate.mean for way, t in stuck.ways.items() if t.rate}
    assert rates == {"fetch": 0.0, "help": 1.0}
    # all of success is told by the way taken: as many bits as success has
    well, n = (sum(getattr(t, a) for t in stuck.ways.values()) for a in ("well", "judged"))
    assert stuck.gain == pytest.approx(n * _bits(well / n))
    assert [b.gain for b in found.branches] == sorted(b.gain for b in found.branches)[::-1]


def _bits(p: float) -> float:
    return -p * log2(p) - (1 - p) * log2(1 - p)


def test_a_way_that_tells_nothing_is_no_branch(traffic: list[tuple[Episode, bool]]) -> None:
    rng = random.Random(4)
    by_chance = {e.id: rng.random() < 0.5 for e, _ in traffic}
    report = paths([e for e, _ in traffic], lambda e: by_chance[e.id])
    assert report.branches == report.dead_ends == []


def test_loops_are_counted_with_their_end(
    found: Paths, traffic: list[tuple[Episode, bool]]
) -> None:
    (loop,) = found.loops
    again = [e for e, _ in traffic if sum(t.name == "fetch" for t in transitions(e)) == 3]
    assert (loop.point, loop.repeats, loop.most) == (STUCK, 2 * len(again), 2)
    assert (loop.tally.episodes, loop.tally.well) == (len(again), 0)
    assert loop.ends == Counter({"(ends)": len(again)})


def test_dead_ends_are_outcomes_that_nothing_good_follows(found: Paths) -> None:
    points = {d.point: d for d in found.dead_ends}
    assert set(points) == {STUCK, NOTHING}
    nothing = points[NOTHING]
    assert nothing.tally.well == 0
    assert nothing.last == nothing.tally.episodes
    assert nothing.tally.episodes + nothing.others.episodes == found.tally.episodes


def test_tools_that_no_episode_called_after_a_failure(
    found: Paths, traffic: list[tuple[Episode, bool]]
) -> None:
    stuck = sum(any("stuck" in t.content for t in transitions(e)) for e, _ in traffic)
    assert found.unused == {STUCK: (stuck, ["find"])}


def test_rare_things_are_left_to_the_tree(traffic: list[tuple[Episode, bool]]) -> None:
    outcomes = {e.id: well for e, well in traffic}
    rare = paths([e for e, _ in traffic], lambda e: outcomes[e.id], least=10**6)
    assert (rare.branches, rare.loops, rare.dead_ends, rare.unused) == ([], [], [], {})
    assert rare.tree.children


def test_episodes_that_nobody_judged_count_without_success(
    traffic: list[tuple[Episode, bool]],
) -> None:
    report = paths([e for e, _ in traffic], lambda e: None)
    assert (report.tally.judged, report.tally.rate) == (0, None)
    assert report.branches == report.dead_ends == []
    assert report.loops
    assert "end well" not in text(report)


def test_episodes_without_calls_are_counted(traffic: list[tuple[Episode, bool]]) -> None:
    silent = recorded("silent", [], lambda name, args: None)
    report = paths([silent, *(e for e, _ in traffic)], lambda e: True)
    assert report.left_out == {"without a call that has a result": 1}
    assert report.tally.episodes == len(traffic)
    with pytest.raises(ValueError, match="there are no paths"):
        paths([silent], lambda e: True)


@given(
    st.lists(
        st.lists(st.sampled_from(["find", "fetch", "help"]), min_size=1, max_size=6), max_size=12
    )
)
def test_a_full_tree_counts_what_it_cuts(walks: list[list[str]]) -> None:
    """However small the tree, each episode ends in it or is counted as cut."""
    given_ = [
        recorded(f"e{n}", [(tool, {"n": n}) for tool in walk], lambda name, args: {"done": 1})
        for n, walk in enumerate(walks)
    ]
    if not given_:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_NODES", 5)
        patch.setattr(module, "_DEEP", 4)
        report = paths(given_, lambda e: True)
    held = list(nodes(report.tree))
    ended = sum(n.children[END].tally.episodes for n in held if END in n.children)
    assert len(held) <= 6
    assert ended + report.cut == len(walks)
    assert report.cut >= sum(len(walk) > 4 for walk in walks)


def test_pages_stay_small_and_escape_what_tools_say() -> None:
    """Thousands of different ways make a page of bounded size; no tool can write into it."""
    rng = random.Random(3)
    evil = "<script>alert(1)</script>"

    def answer(name: str, args: dict[str, Any]) -> Any:
        return f"Error: {evil} {name}" if rng.random() < 0.5 else {"x": 1}

    names = [f"tool{i}{evil}" for i in range(30)]
    walks = [
        recorded(f"e{n}", [(rng.choice(names), {"n": n}) for _ in range(8)], answer)
        for n in range(1500)
    ]
    report = paths(walks, lambda e: rng.random() < 0.5)
    html = render(page(report, "Paths"))
    assert len(html) < 2_000_000
    assert evil not in html
    assert not re.search(r"<(script|img)\b", html)
    assert len(text(report)) < 100_000


def test_the_command_reads_stores_and_files(
    traffic: list[tuple[Episode, bool]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, html = tmp_path / "store.db", tmp_path / "paths.html"
    with SQLiteStore.open(store) as db:
        for n, (e, well) in enumerate(traffic[:60]):
            db.write([e, Feedback(f"f{n}", e.id, "outcome", well, "outcome")])
    assert main(["world", "paths", str(store), "--html", str(html)]) == 0
    printed = capsys.readouterr().out
    assert "what the agent does after fetch: Error: box ... is stuck" in printed
    assert "<svg" in html.read_text()
    assert main(["world", "paths", str(store), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["episodes"], told["judged"]) == (60, 60)
    assert told["well"] == sum(well for _, well in traffic[:60])
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"messages": e.messages}) + "\n" for e, _ in traffic))
    check = tmp_path / "check.py"
    check.write_text("def check(messages, ticket):\n    return 'done' in messages[-1]['content']\n")
    assert main(["world", "paths", str(rows), "--check", str(check), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["episodes"], again["judged"]) == (len(traffic), len(traffic))
    assert again["well"] == sum(well for _, well in traffic)
    assert main(["world", "paths", str(tmp_path / "none.db")]) == 1
    assert capsys.readouterr().err.startswith("understudy: there is no store and no file")


def test_a_record_whose_tags_are_empty_lists_nothing_that_is_missing() -> None:
    calls: list[Call] = [("look", {"box": n}) for n in range(3)]
    seen = [recorded(f"e{n}", calls, lambda _, args: {**args, "tags": []}) for n in range(3)]
    assert set(paths(seen, lambda e: True).tree.children) == {("look", "ok")}
