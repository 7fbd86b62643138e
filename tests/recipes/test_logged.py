"""Logged episodes as rows: sampled order, a turn's own reward, what counts as logged."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.types import Completion, Episode, Feedback, ModelRef, Request
from understudy.judges.check import Check
from understudy.recipes.actor_critic import Estimation, critic_rows, estimate, mini_batches
from understudy.recipes.arrivals import Pool
from understudy.recipes.logged import LogConfig, Logged, changes, logged, logged_episode
from understudy.recipes.stream import RECENT, SCENARIOS, Tracker

ANY = LogConfig(split="all")


def completion(n: int, prompt: tuple[int, ...], output: tuple[int, ...]) -> Completion:
    return Completion(
        f"c{n}",
        Request(({"role": "user", "content": "?"},), ModelRef("tiny", "a", 3)),
        "ok",
        {"role": "assistant", "content": "!"},
        prompt_ids=prompt,
        output_ids=output,
        logprobs=tuple(-0.1 * (10 * n + t) for t in range(len(output))),
    )


def said(value: Any, completion: str | None = None, at: float = 0.0) -> Feedback:
    return Feedback(
        f"{completion}{at}", "e", "thumb", value, "user", completion_id=completion, created_at=at
    )  # type: ignore[arg-type]


def two_agents(*feedback: Feedback) -> Logged:
    """A row of turns 0 and 2, and between them one of another agent."""
    episode = Episode(
        "e",
        (
            completion(0, (1, 2), (3, 4)),
            completion(1, (7, 7), (8,)),
            completion(2, (1, 2, 3, 4, 5), (6, 9, 9)),
        ),
        feedback=feedback or (said(True),),
    )
    found = logged_episode(episode, ANY)
    assert isinstance(found, Logged)
    return found


def test_tokens_are_in_the_order_in_which_they_were_sampled() -> None:
    found = two_agents()
    assert [row.ids for row in found.rows] == [(1, 2, 3, 4, 5, 6, 9, 9), (7, 7, 8)]
    assert found.lengths == [2, 1, 3]
    assert found.logprobs == pytest.approx([0, -0.1, -1.0, -2.0, -2.1, -2.2])
    assert found.start.ids == (1, 2)
    assert (found.start.entries[0].position, found.start.entries[0].target) == (1, 3)
    assert (found.version, found.scenario, found.reward) == (3, "e", 1.0)
    first, second = found.weighted([1, 2, 3, 4, 5, 6], [10, 20, 30, 40, 50, 60], [0] * 6)
    policy = [e for e in first.entries if e.stream == "rl"]
    assert [(e.position, e.target, e.weight) for e in policy] == [
        (1, 3, 1), (2, 4, 2), (4, 6, 4), (5, 9, 5), (6, 9, 6),
    ]  # fmt: skip
    values = [e for e in first.entries if e.stream == "value"]
    assert [(e.position, e.anchor, e.before) for e in values] == [
        (1, 10, 0), (2, 20, 0), (4, 40, 0), (5, 50, 0), (6, 60, 0),
    ]  # fmt: skip
    assert [(e.stream, e.weight, e.anchor) for e in second.entries] == [
        ("rl", 3, -1.0), ("value", 1.0, 30),
    ]  # fmt: skip


def test_what_was_said_of_a_completion_rewards_its_turn() -> None:
    assert two_agents(said(True)).rewards == (0, 0, 1)
    assert two_agents(said(False), said(0.5, "c1"), said(0.25, "c0")).rewards == (0.25, 0.5, 0)
    assert two_agents(said(2.0, "c1", 1.0), said(3.0, "c1", 2.0)).rewards == (0, 3, 0)
    found = two_agents(said(1.0, "c1"), said(2.0))
    returns = [e.anchor for row in critic_rows(found, Estimation()) for e in row.entries
               if e.stream == "value"]  # fmt: skip
    assert returns == [3, 3, 2, 2, 2, 3]
    (known,) = estimate([found], [[0.0] * 6], Estimation(gamma=0.5))
    assert known.returns == pytest.approx([0.25 + 2 / 32, 0.5 + 2 / 16, 1 + 2 / 8, 0.5, 1, 2])


def test_what_is_doubtful_moves_the_policy_less_and_the_values_as_much() -> None:
    both = [replace(two_agents(said(float(n))), id=f"e{n}") for n in range(2)]
    plain = estimate(both, [[0.0] * 6] * 2, Estimation())
    less = estimate(both, [[0.0] * 6] * 2, Estimation(), {"e1": 0.25})
    assert less[0] == plain[0]
    assert less[1].advantages == pytest.approx([0.25 * a for a in plain[1].advantages])
    assert less[1].returns == plain[1].returns
    assert any(plain[1].advantages)


def test_what_went_better_than_the_mean_is_imitated_too() -> None:
    found = two_agents(said(True))
    plain = found.weighted([1, 2, 3, 4, 5, 6])
    for row, before in zip(found.weighted([1, 2, 3, 4, 5, 6], imitate=0.3), plain, strict=True):
        assert tuple(e for e in row.entries if e.stream == "rl") == before.entries
        taught = [(e.position, e.target) for e in row.entries if e.stream == "ce" and not e.heard]
        assert taught == [(e.position, e.target) for e in before.entries]
        assert {e.weight for e in row.entries if e.stream == "ce"} == {0.3}


def test_what_was_all_but_certain_is_not_to_blame() -> None:
    both = [replace(two_agents(said(float(n))), id=f"e{n}") for n in range(2)]
    plain = estimate(both, [[0.0] * 6] * 2, Estimation())
    blamed = estimate(both, [[0.0] * 6] * 2, Estimation(blame=2))
    assert blamed[1] == plain[1]  # what went well
    for token, logprob in enumerate(both[0].logprobs):
        before, after = plain[0].advantages[token], blamed[0].advantages[token]
        assert before < 0
        assert after == pytest.approx(before * (1 - math.exp(logprob)) ** 2)


def test_an_episode_says_why_it_cannot_be_learned_from() -> None:
    good = completion(0, (1, 2), (3,))

    def why(*completions: Completion, feedback: Any = True, **config: Any) -> Any:
        episode = Episode("e", completions, feedback=(said(feedback),))
        return logged_episode(episode, ANY.model_copy(update=config))

    assert why() == "without a completion of its agent"
    for odd in (math.nan, math.inf, -math.inf, "fine"):
        assert why(good, feedback=odd) == "feedback named thumb that is no finite number"
    assert why(good, reward="stars") == "no feedback named stars"
    assert why(good, max_tokens=2) == "longer than max_tokens"
    for wrong in (float("nan"), float("-inf")):
        bad = replace(good, logprobs=(wrong,))
        assert why(good, bad) == "with a logprob that is not finite"
    check = Check(lambda messages, ticket: 0.5, "half")
    judged = logged_episode(Episode("e", (good,)), ANY, check)
    assert isinstance(judged, Logged)
    assert judged.reward == 0.5


def test_one_outlier_among_64_rewards_does_not_wipe_out_the_others() -> None:
    good = completion(0, (1, 2), (3,))
    values = [1e6, *(float(n % 2) for n in range(63))]
    given = [Episode(f"e{n}", (good,), feedback=(said(v),)) for n, v in enumerate(values)]
    found, left_out = logged(given, ANY)
    assert not left_out
    assert [e.reward for e in found[:3]] == [10.0, 0.0, 1.0]
    assert changes(found) == {"rewards clipped to -10..10": 1}
    advantages = [e.advantages[0] for e in estimate(found, [[0.0]] * 64, Estimation())]
    assert advantages[2] - advantages[1] > 0.5  # one standard deviation would be about 1
    wider, _ = logged(given, ANY.model_copy(update={"reward_bound": (-1e9, 1e9)}))
    assert wider[0].reward == 1e6
    assert changes(wider) == {}


def test_rewards_that_are_given_are_taken_as_they_are() -> None:
    episode = Episode("e", (completion(0, (1, 2), (3,)),), feedback=(said(1e6),))
    (found,), _ = logged([episode], ANY, rewards={"e": 12.5})
    assert found.rewards == (12.5,)
    assert changes([found]) == {}


def test_the_end_of_a_long_row_is_cut_where_asked_and_what_it_earned_stays() -> None:
    turns = (
        completion(0, (1, 2), (3, 4)),
        completion(1, (1, 2, 3, 4, 5), (6, 7, 8)),
        completion(2, (1, 2, 3, 4, 5, 6, 7, 8, 9), (6,)),
    )
    episode = Episode("e", turns, feedback=(said(0.25, "c0"), said(0.5, "c1"), said(1.0)))
    (whole,), _ = logged([episode], ANY)
    cut = ANY.model_copy(update={"max_tokens": 7, "long_rows": "cut"})
    (found,), left_out = logged([episode], cut)
    assert not left_out
    assert changes([found]) == {"rows cut to 7 tokens": 1}
    assert found.rows[0].ids == (1, 2, 3, 4, 5, 6, 7)
    assert found.rows[0].entries == whole.rows[0].entries[:4]
    assert found.lengths == [2, 2]
    assert found.rewards == (0.25, 1.5)  # the last turn is gone, what it earned is not
    beginning = ANY.model_copy(update={"max_tokens": 2, "long_rows": "cut"})
    assert logged_episode(episode, beginning) == "longer than max_tokens"


@given(st.integers(1, 40), st.integers(1, 12), st.text(max_size=3))
def test_mini_batches_hold_all_once_and_none_is_tiny(n: int, size: int, seed: str) -> None:
    batches = mini_batches(n, size, seed)
    assert sorted(i for b in batches for i in b) == list(range(n))
    assert all(len(b) * 2 >= size for b in batches) or len(batches) == 1
    assert max(map(len, batches)) < 1.5 * size


class Item:
    def __init__(self, name: str) -> None:
        self.id = name


def test_a_pool_uses_each_item_as_often_and_the_least_used_first() -> None:
    pool = Pool(passes=2, seed=1)
    pool.add([Item(str(i)) for i in range(5)])
    first = [i.id for i in pool.draw(3, 0)]
    second = [i.id for i in pool.draw(3, 1)]
    assert len({*first, *second[:2]}) == 5
    pool.add([Item("new")])
    assert "new" in [i.id for i in pool.draw(1, 2)]
    rest = [i.id for step in range(3, 9) for i in pool.draw(2, step)]
    drawn = [*first, *second, "new", *rest]
    assert all(drawn.count(name) == 2 for name in {*drawn})
    assert pool.draw(9, 99) == []
    assert pool.state() == {"uses": {}, "done": 2}  # what is done with is not kept


def test_a_pool_goes_on_with_what_was_in_it_and_with_more_passes_with_all() -> None:
    pool = Pool(passes=2, seed=1)
    pool.add([Item(name) for name in "abcd"])
    pool.draw(4, 0)
    (done,) = (i.id for i in pool.draw(1, 1))
    state = json.loads(json.dumps(pool.state()))
    assert done not in state["uses"]
    again = Pool(passes=2, seed=1)
    left = again.unfinished("abcd", state)
    assert left == {name: 1 for name in "abcd" if name != done}
    again.add([Item(name) for name in left], left)
    assert [i.id for i in again.draw(2, 2)] == [i.id for i in pool.draw(2, 2)]
    assert Pool(passes=3, seed=1).unfinished("abcd", state) == left | {done: 2}


def test_a_recurring_scenarios_baseline_leans_on_its_other_episodes() -> None:
    one, tracker = replace(two_agents(), scenario="s"), Tracker(prior=2.0)
    assert tracker.blend(one, 0.25) == 0.25
    tracker.saw(one)
    assert tracker.blend(one, 0.25) == 0.25  # its own reward is no baseline for it
    other = Logged("other", one.scenario, None, one.rows, one.turns, (0.0, 0.0, 0.0))
    assert tracker.blend(other, 0.25) == pytest.approx((2 * 0.25 + 1) / 3)
    tracker.saw(other)
    tracker.saw(other)
    assert tracker.blend(one, 0.25) == pytest.approx(0.5 / 3)
    assert Tracker(0.0).blend(other, 0.25) == 0.25


def test_scenarios_are_forgotten_in_the_order_in_which_they_were_learned_from() -> None:
    one = replace(two_agents(), scenario="s")
    tracker = Tracker(prior=2.0)
    tracker.saw(replace(one, scenario=one.id))
    assert tracker.state() == []  # no other episode is of its scenario
    for n in range(RECENT + 5):
        tracker.saw(replace(one, id=f"e{n}"))
    assert [i for i, _ in tracker.seen["s"]] == [f"e{n}" for n in range(5, RECENT + 5)]
    for n in range(SCENARIOS - 1):
        tracker.saw(replace(one, scenario=f"s{n}"))
    tracker.saw(replace(one, id="last"))
    again = Tracker(2.0, json.loads(json.dumps(tracker.state())))
    for known in (tracker, again):
        assert len(known.seen) == SCENARIOS
        for n in range(2):
            known.saw(replace(one, scenario=f"new{n}"))
        assert len(known.seen) == SCENARIOS
        assert {"s0", "s1"}.isdisjoint(known.seen)
        assert {"s", "s2", "new1"} <= known.seen.keys()
