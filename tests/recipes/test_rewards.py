"""Rewards that a step cannot use as they are: clipped, left out, said; never in silence."""

import math
from collections import Counter

import pytest

from understudy.core.types import Completion, Episode, Group, ModelRef, Request
from understudy.recipes.batches import described
from understudy.recipes.rehearsal import Played
from understudy.recipes.rewards import Silence, lowered, vetted, why_nothing

BOUND = (-10.0, 10.0)


def episode(name: str, tokens: int = 2, cut: bool = False, version: int = 0) -> Episode:
    request = Request((), ModelRef("base", "actor", version))
    ids = tuple(range(tokens))
    done = Completion(name, request, "ok", prompt_ids=(1,), output_ids=ids,
                      finish_reason="length" if cut else "stop")  # fmt: skip
    return Episode(name, (done,), ended="user_left")


def group(*rewards: float, cut: tuple[int, ...] = ()) -> Played:
    episodes = tuple(episode(f"e{n}", cut=n in cut) for n in range(len(rewards)))
    return Played(Group("s", episodes, rewards))


def test_outlier_rewards_are_clipped_and_those_that_are_no_numbers_left_out() -> None:
    (kept,), counted = vetted([group(1e6, -1e6, math.nan, math.inf, 0.5)], BOUND)
    assert kept.group.rewards == (10.0, -10.0, 0.5)
    assert [e.id for e in kept.group.episodes] == ["e0", "e1", "e4"]
    assert kept.weights is None
    assert counted == {"rewards that are not finite": 2, "rewards clipped to -10..10": 2}


def test_truncated_episodes_weigh_nothing_where_asked_and_are_counted_anyway() -> None:
    played = [group(1.0, 0.0, 0.0, cut=(1,))]
    (plain,), counted = vetted(played, BOUND)
    assert plain.weights is None
    assert counted == {"truncated episodes": 1}
    (masked,), _ = vetted(played, BOUND, mask_truncated=True)
    assert masked.weights == (1.0, 0.0, 1.0)
    assert masked.group.rewards == (1.0, 0.0, 0.0)  # the group's mean is of all


def test_a_completion_that_ran_on_costs_its_episode_what_is_asked() -> None:
    played = [group(1.0, 0.0, 1.0, cut=(0, 1)), Played(Group("s", (), None))]
    (kept, none), counted = lowered(played, 0.5)
    assert kept.group.rewards == (0.5, -0.5, 1.0)
    assert none == played[1]
    assert counted == {"rewards lowered for a completion that ran on": 2}
    assert lowered(played, 0.0) == (played, {})


def test_why_there_is_nothing_to_learn_is_said() -> None:
    failed = Played(Group("s", (), ()), Counter({"the judge timed out": 3}))
    said = why_nothing([group(0.0, 0.0), group(0.0, 0.0), group(1.0, 1.0), failed])
    assert "equal in 3 groups (2 with 0, 1 with 1)" in said
    assert "3 episodes have none (3 times: the judge timed out)" in said


def test_three_steps_without_any_reward_stop_the_run() -> None:
    silence = Silence()
    silent = [Played(Group("s", (), ()), Counter({"returned nan": 8}))]
    for _ in range(2):
        silence.heard(silent)
    silence.heard([group(0.0, 0.0)])
    for _ in range(2):
        silence.heard(silent)
    with pytest.raises(RuntimeError, match=r"3 steps in a row had a reward.*returned nan"):
        silence.heard(silent)


def test_staleness_is_over_sampled_tokens() -> None:
    fresh, stale = episode("a", tokens=30, version=7), episode("b", tokens=10, version=5)
    told = described([Played(Group("s", (fresh, stale), (1.0, 0.0)))], version=7)
    assert told["staleness_max"] == 2
    assert told["staleness_mean"] == pytest.approx(2 * 10 / 40)
    assert (told["reward"], told["success"], told["sampled_tokens"]) == (0.5, 0.5, 40)
