"""A listing's index finds what looking at every record finds."""

import cProfile
import pstats
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from understudy.world.known.memory import Memory
from understudy.world.known.state import State
from understudy.world.lists.query import Query, Row
from understudy.world.traffic.ids import Ids

VALUES: st.SearchStrategy[Any] = st.sampled_from(
    ["a", " A", "b", 1, 1.0, True, False, 0, 2, None, float("nan"), ["a"], {"a": 1}]
)
FIELDS = st.fixed_dictionaries({}, optional={"kind": VALUES, "size": VALUES, "place": VALUES})
ROWS = st.lists(
    st.tuples(FIELDS, st.lists(VALUES.filter(lambda v: not isinstance(v, (list, dict)))),
              st.lists(st.integers(0, 3), min_size=1, max_size=3)),
    max_size=12,
)  # fmt: skip


@given(ROWS, FIELDS, st.sets(st.integers(0, 3)))
def test_matches_are_those_of_a_scan(
    rows: list[tuple[dict[str, Any], list[Any], list[int]]], args: dict[str, Any], hidden: set[int]
) -> None:
    query = Query("rows", None, equal=[("kind", "kind"), ("kind", "size")], under=["place"])
    query.rows = [Row(n, f, {"place": under}, own) for n, (f, under, own) in enumerate(rows)]
    without = frozenset(hidden)
    scanned = [
        r for r in query.rows if set(r.episodes) - without and query.chooses(r, args)
    ]  # fmt: skip
    assert query.matches(args, without) == scanned
    assert query.matched(args, without) == bool(scanned)


def test_capitals_and_blanks_select_alike() -> None:
    query = Query("rows", None, equal=[("kind", "kind")])
    query.rows = [Row(n, {"kind": kind}) for n, kind in enumerate(["Red", " red", "blue", 1, True])]
    assert [r.key for r in query.matches({"kind": "RED "})] == [0, 1]
    assert [r.key for r in query.matches({"kind": 1.0})] == [3]
    assert [r.key for r in query.matches({"kind": True})] == [4]


def test_making_records_up_takes_no_longer_with_more_remembered_ones() -> None:
    def work(rows: int) -> tuple[int, int]:
        """How many functions run, and how many records are made up."""
        query = Query("rows", "k", equal=[("kind", "kind")], filled=1.0, paired=1.0, typical=3)
        query.rows = [Row(f"K{n:05}", {"k": f"K{n:05}", "kind": n % 9}) for n in range(rows)]
        query.answer({"kind": 1}, State(Ids(), Memory()))  # the index is made once
        with cProfile.Profile() as profile:
            made = query.answer({"kind": 99}, State(Ids(), Memory()))
        return int(pstats.Stats(profile).total_calls), len(made)  # type: ignore[attr-defined]

    few, many = work(500), work(20_000)
    assert few[1] == many[1] == 3
    assert many[0] < 1.5 * few[0]
