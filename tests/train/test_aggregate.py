"""Aggregation by re-weighting: what the trainer's mean over tokens becomes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.rows import Entry, Row
from understudy.train.advantages import group_advantages, normalised
from understudy.train.aggregate import aggregate, heard_apart, undivided

lengths = st.lists(st.integers(0, 6), min_size=1, max_size=6)


def rows_of(counts, weight_of=lambda r, t: 1.0 + r + t / 10, sample=lambda r: f"e{r % 2}"):
    return [
        Row(
            tuple(range(n + 1)),
            tuple(Entry(t, t + 1, "rl", weight_of(r, t), -1.0, sample(r)) for t in range(n)),
        )
        for r, n in enumerate(counts)
    ]


def trainers_mean(rows):
    """What the trainer makes of terms that are the weights themselves."""
    found = [e.weight for row in rows for e in row.entries if e.weight]
    return math.fsum(found) / len(found) if found else 0.0


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values) if values else 0.0


@given(lengths)
def test_each_aggregation_is_its_own_mean(counts):
    rows = rows_of(counts)
    episodes = {}
    for row in rows:
        for e in row.entries:
            episodes.setdefault(e.sample_id, []).append(e.weight)
    flat = [t for terms in episodes.values() for t in terms]
    close = {"rel": 1e-12, "abs": 1e-12}
    assert trainers_mean(aggregate(rows, "token")) == pytest.approx(mean(flat), **close)
    by_episode = mean(mean(e) for e in episodes.values())
    assert trainers_mean(aggregate(rows, "rollout")) == pytest.approx(by_episode, **close)
    fixed = trainers_mean(aggregate(rows, "constant", tokens=17))
    assert fixed == pytest.approx(math.fsum(flat) / 17, **close)
    assert trainers_mean(undivided(rows, "rl")) == pytest.approx(math.fsum(flat), **close)


@given(lengths, st.integers(0, 5))
def test_an_episode_in_several_rows_weighs_as_in_one(counts, cut):
    whole = rows_of([sum(counts) + 1, 4], sample=lambda r: f"e{r}")
    first = whole[0].entries
    parts = [Row(whole[0].ids, first[:cut]), Row(whole[0].ids, first[cut:]), whole[1]]
    one, several = aggregate(whole, "rollout"), aggregate(parts, "rollout")
    assert [e for row in one for e in row.entries] == [e for row in several for e in row.entries]


def test_entries_of_weight_zero_and_of_other_streams_are_not_looked_at():
    rows = rows_of([3, 2])
    other = Entry(0, 1, "ce", 5.0, None, "e0")
    extra = [
        Row(rows[0].ids, (*rows[0].entries, other)),
        rows[1],
        *rows_of([4], lambda r, t: 0.0),
    ]
    for how in ("rollout", "constant"):
        plain, got = (aggregate(given, how, tokens=9) for given in (rows, extra))
        assert [e for r in got for e in r.entries if e.stream == "rl" and e.weight] == [
            e for r in plain for e in r.entries
        ]
        assert other in got[0].entries


def with_heard(rows, counts, weight=0.3):
    return [
        Row(r.ids, (*r.entries, *(Entry(0, 1, "ce", weight, None, "e", heard=True),) * n))
        for r, n in zip(rows, counts, strict=True)
    ]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=5))
def test_what_was_heard_has_a_mean_of_its_own(counts):
    said = [
        Row(r.ids, tuple(e._replace(stream="ce") for e in r.entries))
        for r in rows_of([n for n, _ in counts])
    ]
    heard = [m for _, m in counts]
    found = heard_apart(with_heard(said, heard))
    assert trainers_mean(found) == pytest.approx(trainers_mean(said) + 0.3 * any(heard), rel=1e-12)
    kept = [e for r in found for e in r.entries]
    assert sum(e.heard for e in kept) == sum(heard)
    if not any(heard):
        assert found == said


def test_what_was_heard_stays_as_it_is_beside_other_streams_and_where_weights_are_undivided():
    rows = with_heard(rows_of([3, 2]), [2, 4])
    assert heard_apart(rows) == rows
    said = [Row(r.ids, tuple(e._replace(stream="ce") for e in r.entries)) for r in rows]
    summed = undivided(said, "ce")
    assert {e.weight for r in summed for e in r.entries if e.heard} == {0.3}
    for whole, row in zip(summed, rows, strict=True):
        plain = [e.weight * 5 for e in row.entries if not e.heard]
        assert [e.weight for e in whole.entries if not e.heard] == pytest.approx(plain)


def test_what_an_aggregation_lacks_is_said():
    with pytest.raises(ValueError, match="number of tokens"):
        aggregate(rows_of([2]), "constant")
    with pytest.raises(ValueError, match="without a sample id"):
        aggregate(rows_of([2], sample=lambda r: ""), "rollout")


def test_leave_one_out_is_the_reward_less_the_mean_of_the_others():
    rewards = [1.0, 0.0, 4.0, 9.0]
    found = group_advantages(rewards, [True, True, True, False], leave_one_out=True)
    assert found.values == pytest.approx((1 - 2, 0 - 2.5, 4 - 0.5, None))
    assert group_advantages([2.0], leave_one_out=True).values == (0.0,)


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 9)), min_size=2, max_size=8))
def test_normalised_advantages_have_mean_0_and_deviation_1_over_tokens(drawn):
    values, tokens = [v / 10 for v, _ in drawn], [n for _, n in drawn]
    spread = [
        advantage
        for advantage, n in zip(normalised(values, tokens, eps=0.0), tokens, strict=True)
        for _ in range(n)
    ]
    assert mean(spread) == pytest.approx(0, abs=1e-9)
    assert mean(a * a for a in spread) == pytest.approx(float(len(set(values)) > 1), rel=1e-9)


def test_advantages_that_cannot_be_normalised():
    assert normalised([3.0, 3.0], [1, 5]) == [0.0, 0.0]
    assert normalised([]) == []
    with pytest.raises(ValueError, match="not finite"):
        normalised([math.nan, 1.0])
    with pytest.raises(ValueError, match="2 advantages and 1"):
        normalised([1.0, 2.0], [3])
