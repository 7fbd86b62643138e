"""Where and how recipes compute: device, types of numbers, layout of rows."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from understudy.core.types import Episode
from understudy.judges.check import Check
from understudy.models.adapters import load_adapter
from understudy.models.devices import device_of
from understudy.recipes import correct, grpo, opd, ppo, preferring, sft, stream
from understudy.recipes.agents import trained_agent
from understudy.recipes.computing import Computing
from understudy.recipes.dpo import DpoConfig
from understudy.recipes.grpo import GrpoConfig
from understudy.recipes.kto import KtoConfig
from understudy.recipes.learner import Lora, make_engine, make_learner
from understudy.recipes.reward_model import RewardModelConfig
from understudy.recipes.rft import RftConfig, _sft_config
from understudy.recipes.sft import SftConfig
from understudy.recipes.teach_language import LanguageConfig
from understudy.recipes.user import UserConfig
from understudy.runs.config import Config, ConfigError, load_config
from understudy.runs.directory import Run
from understudy.train.optimiser import TrainerConfig
from understudy.world.model import World

LORA = Lora(rank=4, alpha=8)
TEACHER = {"teacher_prompt": "Be brief."}
# of each training recipe, its configuration and what makes the trainer's of it
RECIPES: dict[str, tuple[type[Config], dict[str, Any], Callable[[Any], TrainerConfig]]] = {
    "sft": (SftConfig, {}, lambda c: sft.trainer_config(c, 4)),
    "user": (UserConfig, {}, lambda c: sft.trainer_config(c, 4)),
    "world": (LanguageConfig, {}, lambda c: sft.trainer_config(c, 4)),
    "rft": (RftConfig, {}, lambda c: sft.trainer_config(_sft_config(c, 1, 4), 4)),
    "grpo": (GrpoConfig, {}, grpo._trainer_config),
    "ppo": (ppo.PpoConfig, {}, ppo.trainer_config),
    "stream": (stream.StreamConfig, {}, stream._trainer_config),
    "dpo": (DpoConfig, {}, lambda c: preferring.trainer_config(c, 4)),
    "kto": (KtoConfig, {}, lambda c: preferring.trainer_config(c, 4)),
    "reward-model": (RewardModelConfig, {}, lambda c: preferring.trainer_config(c, 4)),
    "correct": (correct.CorrectConfig, {}, correct._trainer_config),
    "opd": (opd.OpdConfig, TEACHER, opd._trainer_config),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_the_options_and_gives_its_trainer_the_layout(recipe: str) -> None:
    kind, needed, made = RECIPES[recipe]
    chosen = ["device=cpu", "dtype=bf16", "precision=fp32", "layout=packed", "compile=true"]
    config: Any = load_config(kind, overrides=chosen, values=needed)
    assert isinstance(config, Computing)
    trainer = made(config)
    assert (trainer.layout, trainer.precision, trainer.compile) == ("packed", "fp32", True)
    again = ["gradient_checkpointing=true", "compile=false"]
    assert made(load_config(kind, overrides=again, values=needed)).gradient_checkpointing
    assert not trainer.gradient_checkpointing
    with pytest.raises(ConfigError, match=r"^device: must be auto, cpu, cuda or cuda:N, not 'gpu'"):
        load_config(kind, overrides=["device=gpu"], values=needed)
    with pytest.raises(ConfigError, match="layout must be 'tree', 'packed' or 'padded'"):
        load_config(kind, overrides=["layout=flat"], values=needed)


def test_the_distillations_of_rft_are_on_its_device_in_its_type() -> None:
    inner = _sft_config(
        RftConfig(device="cuda:3", dtype="bf16", layout="padded", compile=False), 1, 4
    )
    assert (inner.device, inner.dtype, inner.layout) == ("cuda:3", "bf16", "padded")
    assert inner.compile is False


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_one_line() -> None:
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match=rf"^device={name}: PyTorch .* here; take device=cpu$"):
            make_learner("tiny", LORA, 0, computing=Computing(device=name))
    assert make_learner("tiny", LORA, 0, computing=Computing()).base.device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu_the_base_is_bf16_and_the_adapter_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = make_learner("tiny", LORA, 0, computing=Computing()).base
    assert (base.device.type, base.dtype) == ("cuda", torch.bfloat16)
    whole = make_learner("tiny", LORA, 0, tune="full", computing=Computing()).base
    assert (whole.device.type, whole.dtype) == ("cuda", torch.float32)
    with pytest.raises(ValueError, match="this machine's last GPU is cuda:"):
        device_of("cuda:99")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one GPU for several processes; take device=cuda"):
        device_of("cuda:0")


def test_weights_that_are_trained_themselves_are_float32() -> None:
    on_cpu = Computing(device="cpu", dtype="bf16")
    with pytest.raises(ValueError, match="leave dtype=bf16 out"):
        make_learner("tiny", LORA, 0, tune="full", computing=on_cpu)
    learner = make_learner("tiny", LORA, 0, computing=on_cpu)
    assert learner.base.dtype == torch.bfloat16
    assert {t.dtype for t in learner.tensors().values()} == {torch.float32}
    engine, _ = make_engine(learner.base, 1)
    engine.close()
    assert engine._weights.embed.dtype == torch.bfloat16


def distilled(run: Path, episodes: list[Episode], **options: Any) -> tuple[Any, dict[str, Any]]:
    """One step of all episodes' rows: what its checkpoint holds of the gradient, and its metrics.
    AdamW's first moment after a first step is a tenth of it."""
    config = SftConfig(lora=LORA, epochs=1, batch_episodes=1000, split="all", **options)
    with Run.create(run, config) as opened:
        sft.sft(opened, episodes, config, quiet=True)
        (row,) = opened.metrics().rows
    (file,) = run.glob("checkpoints/*/optimiser.safetensors")
    moments = {n: t for n, t in load_file(file).items() if n.startswith("exp_avg:")}
    return torch.cat([moments[n].flatten() for n in sorted(moments)]), row


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_gradients_agree_between_layouts(traffic: list[Episode], tmp_path: Path) -> None:
    """Through the recipe: from captured episodes to what the optimiser was given."""
    found = {
        layout: distilled(
            tmp_path / layout, traffic[:6], precision="fp32", dtype="fp32", layout=layout
        )
        for layout in ("tree", "packed", "padded")
    }
    tree, row = found["tree"]
    assert float(tree.norm()) > 0
    for other, seen in (found["packed"], found["padded"]):
        assert apart(other, tree) < 1e-5
        assert seen["loss"]["ce"] == pytest.approx(row["loss"]["ce"], rel=1e-5)
    computed = [found[name][1]["tokens_computed"] for name in ("tree", "packed", "padded")]
    assert computed == sorted(computed)
    assert len(set(computed)) == 3


def test_a_distillation_on_a_bf16_base_is_near_and_its_adapter_float32(
    traffic: list[Episode], tmp_path: Path
) -> None:
    wanted, row = distilled(tmp_path / "fp32", traffic[:6], precision="fp32")
    for precision in ("fp32", "bf16"):
        where = tmp_path / f"bf16-{precision}"
        got, seen = distilled(where, traffic[:6], dtype="bf16", device="cpu", precision=precision)
        assert apart(got, wanted) < 0.1
        assert seen["loss"]["ce"] == pytest.approx(row["loss"]["ce"], rel=0.02)
        tensors = load_adapter(where / "adapter").tensors.values()
        assert {t.dtype for t in tensors} == {torch.float32}


def test_rehearsal_on_a_bf16_base(world: World, tmp_path: Path) -> None:
    """Engine and trainer are of one base: what was sampled is about as likely to the trainer. The
    rewards differ within groups, whatever was said."""
    (tmp_path / "check.py").write_text(
        "def check(messages, ticket):\n    return len(str(messages)) % 2\n"
    )
    config = GrpoConfig(
        lora=LORA, steps=2, scenarios_per_step=3, group_size=6, pool=12, max_turns=3,
        max_tokens=24, dtype="bf16", device="cpu", guards=None, evaluate_every=2,
        evaluate_scenarios=2,
    )  # fmt: skip
    check = Check.from_file(tmp_path / "check.py")
    with Run.create(tmp_path / "run", config) as run:
        result = asyncio.run(grpo.grpo(run, world, check, config, threads=1, quiet=True))
        rows = run.metrics().rows
    assert [row["skipped"] for row in rows] == [None, None]
    for row in rows:
        assert row["ratio_mean"] == pytest.approx(1, abs=0.05)
        assert row["kl"] < 0.01
    assert "mean" in rows[-1]["evaluation"]
    assert {t.dtype for t in load_adapter(result.adapter).tensors.values()} == {torch.float32}


async def test_an_agent_is_evaluated_where_it_is_told(
    traffic: list[Episode], tmp_path: Path
) -> None:
    distilled(tmp_path / "run", traffic[:2])
    async with trained_agent(tmp_path / "run" / "adapter", 0.0, 1, "cpu") as agent:
        assert agent.policy.model.adapter == "played"
    with pytest.raises(ValueError, match=r"^device must be auto, cpu, cuda or cuda:N, not 'gpu'$"):
        async with trained_agent(tmp_path / "run" / "adapter", 0.0, 1, "gpu"):
            pass
