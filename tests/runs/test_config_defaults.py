"""What a recipe sets in a nested configuration stays where something else of it is given."""

import pytest

from understudy.recipes.grpo import GrpoConfig
from understudy.recipes.ppo import PpoConfig
from understudy.runs.config import ConfigError, load_config


def test_what_is_not_given_stays_the_recipes_own() -> None:
    own, found = (
        PpoConfig(),
        load_config(PpoConfig, None, ["value.lr_scale=3", "loss.clip_high=0.7"]),
    )
    assert own.value.share > 0
    assert found.value == own.value.model_copy(update={"lr_scale": 3.0})
    assert found.loss == own.loss.model_copy(update={"clip_high": 0.7})


def test_another_surrogate_has_its_own_defaults() -> None:
    ppo = load_config(PpoConfig, None, ["loss.rl=gspo"])
    assert ppo.loss == load_config(GrpoConfig, None, ["loss.rl=gspo"]).loss
    with pytest.raises(ConfigError, match="cispo clips nothing"):
        load_config(PpoConfig, None, ["loss.rl=cispo", "loss.clip_low=0.1"])


def test_a_preset_wins_over_defaults_and_what_is_given_over_both() -> None:
    found = load_config(GrpoConfig, None, ["preset=dapo", "loss.clip_high=0.5"])
    preset = load_config(GrpoConfig, None, ["preset=dapo"])
    assert found.loss == preset.loss.model_copy(update={"clip_high": 0.5})
    assert preset.loss.clip_high != 0.5
