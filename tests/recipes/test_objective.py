"""Named sets of GRPO's options, and what they make of rewards."""

import dataclasses
from typing import Any

import pytest

from understudy.core.types import Completion, Episode, Group, ModelRef, Request
from understudy.recipes.grpo import GrpoConfig, training_rows
from understudy.recipes.objective import PRESETS, Objective
from understudy.recipes.rehearsal import Played
from understudy.runs.config import ConfigError, load_config
from understudy.train.losses import LossConfig


def episode(name: str, *turns: int, broken: bool = True, purpose: Any = "agent") -> Episode:
    """An episode whose turns sampled so many tokens each; every turn breaks the row, or none."""
    completions, before = list[Completion](), tuple[int, ...]()
    for n, sampled in enumerate(turns):
        prompt = (n, 7) if broken else (*before, 7)
        output = tuple(range(sampled))
        completions.append(
            Completion(
                f"{name}{n}",
                Request((), ModelRef("tiny"), purpose=purpose),
                "ok",
                prompt_ids=prompt,
                output_ids=output,
                logprobs=(-1.0,) * sampled,
            )
        )
        before = (*prompt, *output)
    return Episode(name, tuple(completions))


GROUP = Group("s", (episode("a", 2, 3), episode("b", 1), episode("c", 4)), (1.0, 0.0, 0.5))
FLAT = Group("t", (episode("d", 2), episode("e", 2)), (1.0, 1.0))


def weights(objective: Objective) -> dict[str, list[float]]:
    rows, counted = training_rows([Played(GROUP), Played(FLAT)], objective)
    assert counted["flat groups"] == 1
    found: dict[str, list[float]] = {}
    for row in rows:
        for entry in row.entries:
            found.setdefault(entry.sample_id, []).append(entry.weight)
    return found


def test_the_default_is_the_centred_reward_on_each_token() -> None:
    assert weights(Objective()) == {"a": [0.5] * 5, "b": [-0.5], "c": [0.0] * 4}
    assert training_rows([Played(GROUP)])[0] == training_rows([Played(GROUP)], Objective())[0]


def test_advantages_and_aggregations_of_a_batch() -> None:
    alone = weights(Objective(advantage="leave_one_out"))
    assert (alone["a"][0], alone["b"][0], alone["c"][0]) == (0.75, -0.75, 0.0)
    scaled = weights(Objective(advantage="std"))
    assert scaled["a"][0] == pytest.approx(0.5 / (1 / 6) ** 0.5, rel=1e-5)
    batch = weights(Objective(advantage="batch"))
    spread = [w for values in batch.values() for w in values]
    assert sum(spread) == pytest.approx(0, abs=1e-9)
    assert sum(w * w for w in spread) / 10 == pytest.approx(1, rel=1e-5)
    by_episode = weights(Objective(aggregate="rollout"))  # two of them, six tokens are trained
    assert sum(by_episode["a"]) == pytest.approx(0.5 * 6 / 2)
    assert sum(by_episode["b"]) == pytest.approx(-0.5 * 6 / 2)
    fixed = weights(Objective(aggregate="constant", tokens=3))
    assert fixed["a"][0] == pytest.approx(0.5 * 6 / (3 * 5))  # five episodes were played


@pytest.mark.parametrize("name", PRESETS)
def test_under_every_preset_an_episode_weighs_the_same_however_its_history_breaks(
    name: str,
) -> None:
    objective = GrpoConfig(preset=name).objective  # type: ignore[arg-type]
    others = (episode("b", 4), episode("c", 7))
    found = []
    for broken in (True, False):
        group = Group("s", (episode("a", 2, 9, broken=broken), *others), (1.0, 0.0, 0.25))
        rows, _ = training_rows([Played(group)], objective)
        assert len(rows) == (4 if broken else 3)
        found.append([e.weight for row in rows for e in row.entries])
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    if name in ("grpo", "gspo"):  # the mean over episodes of the mean over each one's tokens
        values = [sum(found[0][a:b]) / 22 for a, b in ((0, 11), (11, 15), (15, 22))]
        rewards = [1.0, 0.0, 0.25]
        mean = sum(rewards) / 3
        deviation = (sum((r - mean) ** 2 for r in rewards) / 3) ** 0.5
        assert values == pytest.approx([(r - mean) / deviation / 3 for r in rewards], rel=1e-4)


def test_an_episode_in_which_only_a_simulated_user_sampled_is_not_trained_on() -> None:
    """Nor does its reward count in the group's mean."""
    talk = episode("u", 3, purpose="user")
    group = Group("s", (episode("a", 2), episode("b", 2), talk), (1.0, 0.0, 1.0))
    rows, counted = training_rows([Played(group)], Objective())
    assert [row.entries[0].weight for row in rows] == [0.5, -0.5]
    assert counted["episodes without a sampled token"] == 1
    rows, counted = training_rows(
        [Played(dataclasses.replace(group, rewards=(1.0, 1.0, 0.0)))], Objective()
    )
    assert (rows, counted["flat groups"]) == ([], 1)
    both = dataclasses.replace(
        episode("a", 2), completions=(*episode("a", 2).completions, *talk.completions)
    )
    mixed = Group("s", (both, episode("b", 2)), (1.0, 0.0))
    batch, _ = training_rows([Played(mixed)], Objective(advantage="batch"))
    assert [row.entries[0].weight for row in batch] == pytest.approx([1.0, -1.0], rel=1e-5)


def test_long_rows_are_left_out_or_cut_and_counted() -> None:
    group = Group("s", (episode("a", 2, 9), episode("b", 3)), (1.0, 0.0))  # rows of 4, 11 and 5
    rows, counted = training_rows([Played(group)], max_tokens=6)
    assert [(len(r.ids), r.entries[0].weight) for r in rows] == [(4, 0.5), (5, -0.5)]
    assert counted["rows that are too long, left out"] == 1
    rows, counted = training_rows([Played(group)], max_tokens=6, too_long="cut")
    assert [(len(r.ids), len(r.entries)) for r in rows] == [(4, 2), (6, 4), (5, 3)]
    assert counted["rows that are too long, cut"] == 1
    config = load_config(GrpoConfig, overrides=["max_row_tokens=6", "long_rows=cut"])
    assert (config.max_row_tokens, config.long_rows) == (6, "cut")


def test_every_preset_loads_and_stays_what_it_is() -> None:
    for name, options in PRESETS.items():
        config = load_config(GrpoConfig, overrides=[f"preset={name}"])
        for key, values in options.items():
            assert {k: getattr(getattr(config, key), k) for k in values} == values
        assert GrpoConfig.model_validate(config.model_dump(mode="json")) == config
    gspo = load_config(GrpoConfig, overrides=["preset=gspo"])
    assert (gspo.loss.clip_low, gspo.loss.clip_high) == (3e-4, 4e-4)
    assert GrpoConfig().objective == Objective()
    assert GrpoConfig().loss == LossConfig()


def test_what_is_given_wins_over_the_preset() -> None:
    over = ["preset=dapo", "objective.advantage=mean", "loss.clip_high=0.4"]
    config = load_config(GrpoConfig, overrides=over)
    assert config.objective == Objective(advantage="mean", aggregate="token")
    assert (config.loss.rl, config.loss.clip_high) == ("clip", 0.4)
    mine = LossConfig(difference_mask=0.2)
    assert GrpoConfig(preset="rloo", loss=mine).loss == mine


def test_an_unknown_preset_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"preset must be .*'dapo'"):
        load_config(GrpoConfig, overrides=["preset=ppo"])
    with pytest.raises(ConfigError, match="clips nothing"):
        load_config(GrpoConfig, overrides=["preset=cispo", "loss.clip_low=0.1"])


def test_episodes_that_are_not_judged_leave_nothing_to_aggregate() -> None:
    nothing = Played(dataclasses.replace(GROUP, episodes=(), rewards=()))
    assert training_rows([nothing], Objective(aggregate="constant"))[0] == []
