"""Named sets of GRPO's options, and what they make of rewards."""

import dataclasses

import pytest

from understudy.core.types import Completion, Episode, Group, ModelRef, Request
from understudy.recipes.grpo import GrpoConfig, training_rows
from understudy.recipes.objective import PRESETS, Objective
from understudy.recipes.rehearsal import Played
from understudy.runs.config import ConfigError, load_config
from understudy.train.losses import LossConfig


def episode(name: str, *turns: int) -> Episode:
    """An episode whose turns sampled so many tokens each; every turn breaks the row."""
    completions = tuple(
        Completion(
            f"{name}{n}",
            Request((), ModelRef("tiny")),
            "ok",
            prompt_ids=(n, 7),
            output_ids=tuple(range(sampled)),
            logprobs=(-1.0,) * sampled,
        )
        for n, sampled in enumerate(turns)
    )
    return Episode(name, completions)


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
