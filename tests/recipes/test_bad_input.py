"""What training says of input that it cannot use: one line that says what to do, or a count."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from understudy.cli.running import say_skipped
from understudy.core.rows import Entry, Row
from understudy.core.types import (
    HELDOUT_SHARE,
    Completion,
    Episode,
    Feedback,
    Message,
    ModelRef,
    Request,
    parted,
)
from understudy.judges.check import Check
from understudy.models.adapters import load_adapter
from understudy.models.loading import TINY
from understudy.recipes.arrivals import Given
from understudy.recipes.batches import take_step
from understudy.recipes.grpo import GrpoConfig, grpo
from understudy.recipes.kto import KtoConfig, kto
from understudy.recipes.learner import Lora, make_learner, make_value_head
from understudy.recipes.logged import LogConfig
from understudy.recipes.opd import OpdConfig, opd
from understudy.recipes.ppo import PlayConfig, PpoConfig, ppo
from understudy.recipes.ppo_world import of_the_world, ppo_in_world
from understudy.recipes.preference_data import Said, Thumb
from understudy.recipes.rft import RftConfig, rft
from understudy.recipes.sft import SftConfig
from understudy.recipes.stream import StreamConfig, stream
from understudy.runs.config import ConfigError, load_config
from understudy.runs.directory import Run
from understudy.train.losses import LossConfig
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import NonFiniteError, Trainer
from understudy.world.learn import learn
from understudy.world.model import World

LORA = Lora(rank=2, alpha=4)


def test_dropout_is_refused_and_adapters_trained_with_it_elsewhere_are_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^lora: dropout is not applied: .* leave lora.dropout"):
        load_config(SftConfig, None, ["lora.dropout=0.1"])
    older = {"lora": {"rank": 2, "alpha": 4.0, "dropout": 0.0}}  # as a run's file has it
    assert load_config(SftConfig, None, (), older).lora == Lora(rank=2, alpha=4)
    folder = make_learner("tiny", Lora(rank=2), seed=0).save(tmp_path / "adapter", {})
    file = folder / "adapter_config.json"
    told = json.loads(file.read_text())
    assert told["lora_dropout"] == 0.0  # PEFT's own key
    file.write_text(json.dumps(told | {"lora_dropout": 0.1}))
    assert load_adapter(folder).config.rank == 2


def test_a_step_after_which_weights_are_not_finite_ends_the_run(tmp_path: Path) -> None:
    trainer = Trainer(make_learner("tiny", LORA, seed=0).base.model, TrainerConfig(lr=3e38))
    with Run.create(tmp_path / "run", {}) as run:
        with pytest.raises(NonFiniteError, match=r"left weights .*lower it, .*the rows of step 0"):
            take_step(run, trainer, [Row((1, 2, 3), (Entry(1, 3, "ce", 1.0),))], 0)


def test_a_preference_run_whose_reference_is_broken_says_so(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][0] = math.nan
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    asked: tuple[Message, ...] = ({"role": "user", "content": "?"},)
    said = [
        Thumb(Said(answer, asked, ({"role": "assistant", "content": answer},)), answer == "x")
        for answer in "xy"
    ]
    config = KtoConfig(base=str(base), lora=LORA)
    with (
        Run.create(tmp_path / "run", config) as run,
        pytest.raises(ValueError, match="the reference's logprobs are not finite"),
    ):
        kto(run, said, config, quiet=True)


def changed(file: str, **values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        told = json.loads((folder / file).read_text()) | values
        kept = {key: value for key, value in told.items() if value is not None}
        (folder / file).write_text(json.dumps(kept))

    return change


def written(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content)


def cut(file: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / file).write_bytes((folder / file).read_bytes()[:-9])

    return change


def spoiled(file: str, how: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / file)
        how(tensors)
        save_file(tensors, folder / file, metadata={"format": "pt"})

    return change


def no_number(tensors: dict[str, Tensor]) -> None:
    tensors[max(tensors)][0, 0] = math.inf


ADAPTER, SETTINGS, TOLD = "adapter_model.safetensors", "adapter_config.json", "understudy.json"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (cut(ADAPTER), "is corrupt: "),
        (spoiled(ADAPTER, no_number), "is corrupt: .* is not finite"),
        (written(SETTINGS, b"[]"), "is corrupt: adapter_config.json holds no JSON object"),
        (written(SETTINGS, b"{"), "is corrupt: "),
        (written(SETTINGS, b"\xff"), "is corrupt: "),
        (changed(SETTINGS, r=None), "is corrupt: adapter_config.json has r=None"),
        (changed(SETTINGS, r=0), "is corrupt: adapter_config.json has r=0"),
        (changed(SETTINGS, r=3), "is corrupt: .* is not of rank 3"),
        (changed(SETTINGS, lora_alpha="4"), "is corrupt: .* lora_alpha='4'"),
        (written(TOLD, b"[]"), "is corrupt: understudy.json holds no JSON object"),
        (changed(TOLD, ids_origin=3), "3 is no origin"),
    ],
)
def test_a_corrupt_adapter_is_named_in_one_line(
    spoil: Callable[[Path], object], why: str, tmp_path: Path
) -> None:
    folder = make_learner("tiny", LORA, seed=0).save(tmp_path / "adapter", {})
    spoil(folder)
    with pytest.raises(ValueError, match=why) as told:
        make_learner("tiny", LORA, seed=0, start=folder)
    assert "\n" not in str(told.value)


def test_a_corrupt_value_head_is_named_in_one_line(tmp_path: Path) -> None:
    learner = make_learner("tiny", LORA, seed=0)
    folder = learner.save(tmp_path / "adapter", {}, make_value_head(learner))
    file = folder / "value_head.safetensors"
    spoiled(file.name, lambda tensors: tensors[max(tensors)].fill_(math.nan))(folder)
    with pytest.raises(ValueError, match=r"value_head.safetensors is corrupt: .* not finite"):
        make_value_head(learner, folder)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"value_head.safetensors cannot be read"):
        make_value_head(learner, folder)


WEIGHTS = "model.safetensors"
LACKS = r"lacks 1 of its model's weights, .*norm.weight is the first.* download it again"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (cut(WEIGHTS), "cannot be read: "),
        (written(WEIGHTS, b""), "cannot be read: "),
        (written("config.json", b"{"), "cannot be read: "),
        (changed("config.json", model_type="t5"), "cannot be read: "),
        (written("tokenizer.json", b"{"), "cannot be read: "),
        (written("tokenizer.json", b"{}"), "cannot be read: "),
        (spoiled(WEIGHTS, lambda tensors: tensors.pop("model.norm.weight")), LACKS),
        (spoiled(WEIGHTS, lambda t: t.update({"model.norm.weight": torch.ones(3)})), LACKS),
    ],
)
def test_a_base_that_is_not_whole_is_named_in_one_line(
    spoil: Callable[[Path], object], why: str, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    spoil(base)
    with pytest.raises(ValueError, match=f"{base}.*{why}") as told:
        make_learner(str(base), LORA, seed=0)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500


def logged(name: str, thumb: float, logprob: float = -1.0) -> Episode:
    """An episode of one turn of two tokens, with its thumb."""
    request = Request(({"role": "user", "content": "?"},), ModelRef("tiny"))
    said: Message = {"role": "assistant", "content": name}
    turn = Completion(name, request, "ok", said, prompt_ids=(5, 6), output_ids=(7, 8),
                      logprobs=(logprob, -2.0))  # fmt: skip
    return Episode(name, (turn,), feedback=(Feedback("f", name, "thumb", thumb, "user"),))


PPO: dict[str, Any] = {
    "lora": LORA, "precision": "fp32", "log": LogConfig(split="all"), "batch_episodes": 1,
    "epochs": 1, "loss": LossConfig(rl="clip"),
}  # fmt: skip
NOT_FINITE = "the loss or its gradient is not finite"


def test_ppo_says_which_steps_it_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes = [logged("a", 1.0), logged("b", 0.0), logged("c", 0.0, -1e4), logged("d", 0.5)]
    config = PpoConfig(**PPO)
    with Run.create(tmp_path / "run", config) as run:
        ppo(run, episodes, config)
        skipped = [row["step"] for row in run.metrics().rows if row["skipped"]]
        err = capsys.readouterr().err
        say_skipped(run)
    assert 0 < len(skipped) < 4
    for step in skipped:
        assert f"step {step}: no update, {NOT_FINITE}" in " ".join(err.split())
    assert f"without an update: {len(skipped)} of 4 steps, {NOT_FINITE}" in capsys.readouterr().out


def test_ppo_refuses_episodes_that_nobody_tells_apart_and_leaves_broken_logprobs_out(
    tmp_path: Path,
) -> None:
    config = PpoConfig(**PPO)
    liked = [logged("a", 1.0), logged("b", 1.0), logged("c", 0.0, math.nan)]
    with (
        Run.create(tmp_path / "run", config) as run,
        pytest.raises(ValueError, match=r"all 2 episodes have the reward 1: .*nothing to tell"),
    ):
        ppo(run, liked, config, quiet=True)
    with Run.create(tmp_path / "more", config) as run:
        result = ppo(run, [*liked, logged("d", 0.0)], config, quiet=True)
    assert result.left_out == {"with a logprob that is not finite": 1}


def test_ppo_in_a_world_refuses_what_is_of_logs_alone() -> None:
    assert of_the_world(PpoConfig(schedule="constant", seed=3)).play.seed == 3
    with pytest.raises(ValueError, match="schedule is linear or constant, not cosine"):
        of_the_world(PpoConfig(schedule="cosine"))
    with pytest.raises(ValueError, match="imitate is of logs"):
        of_the_world(PpoConfig(imitate=0.3))


async def test_a_world_without_scenarios_is_refused_in_one_line(
    traffic: list[Episode], tmp_path: Path
) -> None:
    """One that was learned from held-out episodes alone."""
    _, apart = parted(traffic, HELDOUT_SHARE)
    check = Check(lambda messages, ticket: 1.0, "any")
    config = GrpoConfig(lora=Lora(rank=2))
    why = "no captured episode belongs to the split .train."
    with pytest.raises(ValueError, match=why), Run.create(tmp_path / "run", config) as run:
        await grpo(run, learn(apart), check, config, quiet=True)


async def test_ppo_in_a_world_says_why_a_step_had_nothing_to_learn(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play = PlayConfig(
        steps=1, scenarios_per_step=6, pool=12, max_turns=2, max_tokens=16, guards=None, epochs=1,
        cut_off_cost=0.0,
    )  # fmt: skip
    config = PpoConfig(**PPO | {"play": play})
    alike = Check(lambda messages, ticket: 0.25, "any")
    with Run.create(tmp_path / "alike", config) as run:
        await ppo_in_world(run, world, alike, config, threads=1)
    assert "all rewards are 0.25, none is better than another" in capsys.readouterr().err
    none = Check(lambda messages, ticket: math.nan, "any")
    with Run.create(tmp_path / "none", config) as run:
        await ppo_in_world(run, world, none, config, threads=1)
        (row,) = run.metrics().rows
    assert row["skipped"] == "nothing to learn from"
    assert "step 0: no update, nothing to learn from: " in capsys.readouterr().err


async def test_rejection_sampling_says_why_no_captured_episode_passes(
    traffic: list[Episode], world: World, tmp_path: Path
) -> None:
    broken = Check(lambda messages, ticket: messages[99], "mine")
    with (
        Run.create(tmp_path / "run", RftConfig()) as run,
        pytest.raises(ValueError, match=r"mine raised IndexError: .*of the held-out split"),
    ):
        await rft(run, world, traffic, broken, RftConfig(), quiet=True)


@pytest.mark.parametrize(("ids", "odd"), [((5, 1 << 20), 1 << 20), ((5, -1), -1)])
async def test_ids_that_the_base_has_not_are_of_another_model(
    ids: tuple[int, ...], odd: int, tmp_path: Path
) -> None:
    episode = logged("a", 0.0)
    (turn,) = episode.completions
    wrong = replace(episode, completions=(replace(turn, prompt_ids=ids),))
    why = f"completion a holds the token id {odd}, and tiny has .* tokens: another model"
    with (
        Run.create(tmp_path / "ppo", PpoConfig(**PPO)) as run,
        pytest.raises(ValueError, match=why),
    ):
        ppo(run, [wrong, logged("b", 1.0)], PpoConfig(**PPO), quiet=True)
    follow = StreamConfig(lora=LORA, log=LogConfig(split="all"))
    with Run.create(tmp_path / "stream", follow) as run, pytest.raises(ValueError, match=why):
        stream(run, Given([wrong]), follow, quiet=True)
    distil = OpdConfig(lora=LORA, split="all", teacher_base="tiny")
    with Run.create(tmp_path / "opd", distil) as run, pytest.raises(ValueError, match=why):
        await opd(run, distil, None, [wrong], threads=1, quiet=True)
