import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.rows import Entry, Row
from understudy.core.token_tree import STREAMS, build, build_apart


@st.composite
def row_lists(draw):
    rows = []
    for r in range(draw(st.integers(1, 8))):
        ids = tuple(draw(st.lists(st.integers(0, 2), min_size=1, max_size=9)))
        positions = draw(st.lists(st.integers(0, len(ids) - 1), max_size=4))
        entries = tuple(
            Entry(
                p, draw(st.integers(0, 2)), draw(st.sampled_from(STREAMS)), float(i), None, f"{r}"
            )
            for i, p in enumerate(positions)
        )
        rows.append(Row(ids, entries))
    return rows


@given(row_lists())
def test_a_leafs_path_is_its_row(rows):
    for tree in (build(rows), build_apart(rows)):
        for row, leaf in zip(rows, tree.leaf_R, strict=True):
            path = tree.path(int(leaf))
            assert tuple(tree.tokens_N[path]) == row.ids
            assert tree.depth_N[path].tolist() == list(range(len(row.ids)))


@given(row_lists())
def test_each_entry_is_in_exactly_one_place_the_one_of_its_position(rows):
    for tree in (build(rows), build_apart(rows)):
        expected = [(r, e) for r, row in enumerate(rows) for e in row.entries]
        assert tree.row_E.tolist() == [r for r, _ in expected]
        assert tree.target_E.tolist() == [e.target for _, e in expected]
        assert tree.weight_E.tolist() == [e.weight for _, e in expected]
        assert [STREAMS[s] for s in tree.stream_E] == [e.stream for _, e in expected]
        assert np.isnan(tree.anchor_E).all()
        for (r, e), node in zip(expected, tree.node_E, strict=True):
            assert node == tree.path(int(tree.leaf_R[r]))[e.position]


@given(row_lists())
def test_distinct_beginnings_are_stored_once(rows):
    beginnings = {row.ids[:n] for row in rows for n in range(1, len(row.ids) + 1)}
    tree = build(rows)
    assert len(tree) == len(beginnings)
    assert (
        len(tree) <= tree.row_tokens == sum(len(row.ids) for row in rows) == len(build_apart(rows))
    )


@given(row_lists())
def test_attention_sees_ancestors_only(rows):
    for tree in (build(rows), build_apart(rows)):
        mask = tree.ancestor_mask()
        for node in range(len(tree)):
            assert np.flatnonzero(mask[node]).tolist() == tree.path(node).tolist()
        covered = [n for start, stop in tree.chains_C2 for n in range(start, stop)]
        assert covered == list(range(len(tree)))
        for start, stop in tree.chains_C2:
            assert tree.parent_N[start + 1 : stop].tolist() == list(range(start, stop - 1))


def test_a_branch_inside_a_turn():
    tree = build([Row((5, 6, 7)), Row((5, 6, 8, 9)), Row((4,))])
    assert tree.tokens_N.tolist() == [4, 5, 6, 7, 8, 9]
    assert tree.parent_N.tolist() == [-1, -1, 1, 2, 2, 4]
    assert tree.end_N.tolist() == [1, 6, 6, 4, 6, 6]
    assert tree.leaf_R.tolist() == [3, 5, 0]


def test_no_rows_and_empty_rows():
    assert len(build([])) == 0
    with pytest.raises(ValueError, match="without tokens"):
        build([Row(())])
