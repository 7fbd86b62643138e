"""The recipes of `bench learning`, each at a small size, and the table that they are told in."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import bench.learning_recipes as recipes
import pytest
from bench import learned_judge
from bench.incumbents import check_of_the_owner, traffic_of
from bench.learning_recipes import PAIRED, RECIPES, Setting, counting, heldout_loss
from bench.learning_table import best_of, lora_or_full, table
from bench.logged import logs_at, sampled_tokens

from understudy.core.types import HELDOUT_SHARE, Feedback, parted
from understudy.judges.check import Check
from understudy.recipes.sft import SftConfig, select
from understudy.store import SQLiteStore

PLAY = ("steps=1", "scenarios_per_step=2", "group_size=2", "pool=12", "max_turns=3")
MORE = {
    "checked_sft": ("epochs=1",),
    "ppo": ("epochs=1",),
    "stream": ("passes=1",),
    "grpo_mean": PLAY,
    "grpo_group": PLAY,
    "grpo_global": PLAY,
    "grpo_from_sft": PLAY,
    "opd": PLAY,
    "ppo_world": ("play.scenarios_per_step=4", "play.steps=1", "play.pool=12", "play.max_turns=3"),
    "rft": ("scenarios=4", "reader_warmup_epochs=0", "reader_epochs=1", "readings=1",
            "max_turns=3", "attempts=1"),
    "sft_lora": ("epochs=1",),
    "sft_full": ("epochs=1",),
}  # fmt: skip


def liked(episodes: Sequence[Any]) -> list[Any]:
    """The episodes, of which every second has a thumb up and the others one down."""
    found = []
    for n, episode in enumerate(episodes):
        thumb = Feedback(f"{episode.id}/t", episode.id, "thumb", bool(n % 2), "user")
        kept = [f for f in episode.feedback if f.name != "thumb"]
        found.append(replace(episode, feedback=(*kept, thumb)))
    return found


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """A deployed agent and its episodes, also in pairs; thumbs that say something."""
    folder = tmp_path_factory.mktemp("learning")
    start = folder / "checked" / "adapter"
    given = Setting(folder, 0, 50, 40, start, [], MORE)
    RECIPES["checked_sft"](given)
    episodes = liked(logs_at(folder, "logs", start, 8, 2_000_000))
    pairs = logs_at(folder, "pairs", start, 2, 3_000_000, PAIRED)
    (folder / "pairs.db").unlink()
    with SQLiteStore.open(folder / "pairs.db") as store:
        store.write(liked(pairs))
    return replace(given, episodes=episodes)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_trains_a_policy_and_says_what_it_cost(
    name: str, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "EPOCHS", (1, 3))
    monkeypatch.setattr(recipes, "RATES", {"lora": (1e-3, 3e-3), "full": (1e-4,)})
    made = RECIPES[name](setting)
    assert all(
        (one.path / file).exists()
        for one in made
        for file in (["config.json"] if name == "sft_full" else ["adapter_config.json"])
    )
    assert len({one.setting for one in made}) == len(made)
    if name in ("filtered_sft", "ppo", "stream", "kto"):
        assert {one.sampled for one in made} == {sampled_tokens(setting.episodes)}
    elif name in ("checked_sft", "sft_lora", "sft_full"):
        assert {one.sampled for one in made} == {0}
    else:
        assert all(one.sampled > 0 for one in made)
    if name == "filtered_sft":
        assert made[1].learned == 3 * (made[0].learned or 0) > 0
    if name in ("dpo", "kto", "opd", "rft", "ppo", "checked_sft"):
        assert all(one.learned for one in made)
    if name.startswith("sft_"):
        assert all({"loss", "heldout_loss"} >= set(one.loss) >= {"loss"} for one in made)
    again = RECIPES[name](setting)
    assert again == made


@pytest.mark.slow
def test_paired_episodes_are_of_one_customer_and_are_played_once(setting: Setting) -> None:
    episodes = logs_at(setting.folder, "pairs", setting.start, 2, 3_000_000, PAIRED)
    scenarios = [e.scenario_id for e in episodes]
    assert sorted(scenarios) == sorted([*set(scenarios)] * PAIRED)
    for scenario in set(scenarios):
        own = [e for e in episodes if e.scenario_id == scenario]
        assert len({str(e.completions[0].request.messages) for e in own}) == 1
        assert len({e.completions[0].output_ids for e in own}) > 1
    assert {f.value for e in episodes for f in e.feedback if f.name == "thumb"} == {True, False}


@pytest.mark.slow
def test_heldout_loss_is_what_training_would_say_of_the_same_episodes(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recipes, "RATES", {"lora": (1e-9,)})  # nothing is learned
    given = replace(setting, folder=tmp_path)
    one = RECIPES["sft_lora"](given)[0]
    episodes = asyncio.run(traffic_of(tmp_path, 50, 0, 40))
    check = check_of_the_owner()
    train, _ = parted(episodes, HELDOUT_SHARE)
    passing, _ = select(train, _kept(), check)
    assert heldout_loss(one.path, passing) == pytest.approx(one.loss["loss"], rel=0.02)


def _kept() -> SftConfig:
    return SftConfig(keep="check")


@pytest.mark.slow
def test_sampled_tokens_of_an_episode_are_counted_once(setting: Setting, tmp_path: Path) -> None:
    check = Check(lambda messages, ticket: len(messages) > 3)
    counted = counting(check, tmp_path / "counted.txt")
    captured = asyncio.run(traffic_of(setting.folder, 50, 0, 40))[0]  # nobody has its ids
    one, other = setting.episodes[:2]
    for episode in (one, one, captured, other):
        assert counted.judge_episode(episode).value == check.judge_episode(episode).value
    lines = (tmp_path / "counted.txt").read_text().split()
    assert lines == [str(sampled_tokens([one])), str(sampled_tokens([other]))]


@pytest.mark.slow
def test_the_reward_model_is_asked_of_two_episodes_of_one_customer(setting: Setting) -> None:
    episodes = logs_at(setting.folder, "pairs", setting.start, 2, 3_000_000, PAIRED)
    turned = [
        replace(e, feedback=(Feedback(f"{e.id}/o", e.id, "outcome", n % 4 == 2, "owner"),))
        for n, e in enumerate(episodes)
    ]
    pairs = learned_judge.two_of_each(turned)
    assert [two[0].scenario_id for two in pairs] == [turned[0].scenario_id, turned[4].scenario_id]
    assert [(turned.index(a) % 4, turned.index(b) % 4) for a, b in pairs] == [(2, 0)] * 2
    told = learned_judge.judged(setting)
    assert told["learned"] > 0
    assert set(told["successes"]) <= {True, False}


def test_the_judge_is_told_over_all_pairs_and_by_seed() -> None:
    found = learned_judge.figures(
        [{"successes": [True] * 3 + [False], "learned": 5}, {"successes": [True], "learned": 7}]
    )
    assert found["reward_model_ranks"]["value"] == pytest.approx(0.8)
    assert found["reward_model_ranks"]["unit"] == "of 5 pairs"
    seeds = found["reward_model_ranks_over_seeds"]
    assert (seeds["low"], seeds["high"]) == (0.75, 1.0)


def policy(wins: int, n: int = 10, sampled: int = 5, **loss: float) -> dict[str, Any]:
    successes = [i < wins for i in range(n)]
    won = {"greedy": {"successes": [True] * n}, "t1": {"successes": successes}}
    return {**won, "sampled": sampled, "learned": 2 * sampled, "loss": loss}


def part(*wins: int, **loss: float) -> dict[str, Any]:
    return {"tried": {f"lr_0.0{n + 1}": policy(w, **loss) for n, w in enumerate(wins)}}


def test_the_table_is_over_all_customers_and_over_seeds() -> None:
    told = [
        {"before": part(5), "filtered_sft": part(6), "ppo": part(8), "checked_sft": part(9),
         "grpo_from_sft": part(8)},
        {"before": part(5), "filtered_sft": part(6), "ppo": part(4), "checked_sft": part(7),
         "grpo_from_sft": part(9)},
    ]  # fmt: skip
    found = table(told, list(told[0]))
    own, seeds = found["ppo_t1"], found["ppo_t1_over_seeds"]
    assert own["value"] == seeds["value"] == pytest.approx(0.6)
    assert own["low"] < 0.6 < own["high"]
    assert (seeds["low"], seeds["high"]) == (0.4, 0.8)
    assert found["ppo_spread_t1"]["value"] == pytest.approx(100 * 0.08**0.5)
    assert found["ppo_collapsed"]["value"] == 1
    assert found["grpo_from_sft_collapsed"]["value"] == 1  # of where it began, not of `before`
    assert "checked_sft_collapsed" not in found
    assert found["ppo_over_filtered_sft_t1"]["value"] == pytest.approx(0.0)
    assert found["ppo_over_filtered_sft_t1_over_seeds"]["high"] == pytest.approx(20)
    assert found["ppo_sampled"]["value"] == 5
    assert found["ppo_learned"]["value"] == 10
    one = table(told[:1], list(told[0]))
    assert not [label for label in one if label.endswith(("over_seeds", "spread_t1"))]


def test_tokens_that_nobody_counted_are_no_figure() -> None:
    uncounted = {"tried": {"": policy(5) | {"learned": None}}}
    found = table([{"before": part(5), "ppo_world": uncounted}], ("before", "ppo_world"))
    assert "ppo_world_learned" not in found
    assert "ppo_world_sampled" in found
    assert found["ppo_world_collapsed"]["value"] == 0


def test_each_rate_is_told_and_the_best_counts() -> None:
    swept = part(3, 7, 5, loss=0.5, heldout_loss=0.75)
    assert best_of(swept) == swept["tried"]["lr_0.02"]
    found = table([{"before": part(5), "sft_lora": swept}], ("before", "sft_lora"))
    assert found["sft_lora_t1"]["value"] == pytest.approx(0.7)
    each = [found[f"sft_lora_lr_0.0{n}_t1"]["value"] for n in (1, 2, 3)]
    assert each == pytest.approx([0.3, 0.7, 0.5])
    assert found["sft_lora_lr_0.01_heldout_loss"]["value"] == 0.75
    assert "before_lr_0.01_t1" not in found


def test_the_picture_has_both_curves_of_success_and_of_loss() -> None:
    told = [
        {"sft_lora": part(3, 7, 5, loss=0.5, heldout_loss=0.75),
         "sft_full": part(4, 6, 2, loss=0.5, heldout_loss=0.5)}
    ]  # fmt: skip
    picture = ElementTree.fromstring(lora_or_full(told))
    name = "{http://www.w3.org/2000/svg}"
    charts = picture.findall(f"{name}svg")
    assert [chart.get("y") for chart in charts] == ["0", "316"]
    for chart in charts:
        words = [text.text for text in chart.iter(f"{name}text")]
        assert {"LoRA", "full"} <= set(words)
        assert "learning rate, as a power of ten" in words
    assert "held-out loss at the end, nats a token, as a power of ten" in [
        t.text for t in charts[1].iter(f"{name}text")
    ]
    assert float(picture.get("height") or 0) >= 616
