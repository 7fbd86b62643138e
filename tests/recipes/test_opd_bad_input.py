"""On-policy distillation of what it cannot learn from: left out, counted, and said."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from logs import play

from understudy.core.rows import rows_of
from understudy.core.types import Completion, ModelRef
from understudy.engine.torch_engine import TorchEngine
from understudy.recipes.learner import Lora, make_learner, training
from understudy.recipes.opd import OpdConfig, opd, taught
from understudy.recipes.teacher import Teacher
from understudy.runs.directory import Run
from understudy.train.optimiser import TrainerConfig
from understudy.world.model import World

LORA = Lora(rank=4, alpha=8)
PLAY: dict[str, Any] = {
    "lora": LORA, "scenarios_per_step": 2, "group_size": 2, "pool": 12, "max_turns": 2,
    "max_tokens": 24, "precision": "fp32", "checkpoint_every": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


async def test_logged_episodes_that_cannot_be_learned_from_are_left_out_with_the_reason(
    world: World, tmp_path: Path
) -> None:
    good, other = await play(world, 2)
    first, *rest = good.completions
    odd = {
        "mixed": replace(first, logprobs=None),
        "cooler": sampled(first, temperature=0.7),
        "nucleus": sampled(first, top_p=0.9),
        "likeliest": sampled(first, top_k=5),
        "biased": sampled(first, logit_bias=((7, 1.0),)),
        "held": replace(first, request=replace(first.request, parallel_tool_calls=False)),
        "somewhere": replace(first, request=replace(first.request, tool_choice={"type": "new"})),
        "long": replace(first, prompt_ids=(5,) * 5000),
    }
    episodes = [good, other]
    episodes += [replace(good, id=name, completions=(c, *rest)) for name, c in odd.items()]
    config = OpdConfig(**PLAY | {"steps": 1}, teacher_base="tiny", split="all")
    with Run.create(tmp_path / "run", config) as run:
        result = await opd(run, config, None, episodes, threads=1, quiet=True)
        (step,) = run.metrics().rows
    assert result.left_out == {
        "without logprobs": 1,
        "sampled at another temperature than 1": 1,
        "sampled with top_p or top_k, which logprobs do not show": 2,
        "sampled with a logit bias or held to a form, which the policy's logprobs do not know": 3,
        "longer than the teacher's context": 1,
    }
    assert step["skipped"] is None
    alone = [replace(good, completions=(odd["long"],))]
    with (
        Run.create(tmp_path / "none", config) as run,
        pytest.raises(ValueError, match=r"all 1 episodes are longer than the teacher's context"),
    ):
        await opd(run, config, None, alone, threads=1, quiet=True)


def sampled(completion: Completion, **how: Any) -> Completion:
    """The completion as one that was sampled otherwise."""
    request = completion.request
    return replace(completion, request=replace(request, sampling=replace(request.sampling, **how)))


async def test_rows_that_a_teacher_cannot_read_are_left_out_and_counted(world: World) -> None:
    episodes = await play(world, 3)
    lengths = sorted(len(row.ids) for e in episodes for row in rows_of(e.completions)[0])
    config = OpdConfig(**PLAY, teacher_base="tiny")
    learner = make_learner("tiny", LORA, 0)
    base, stop = learner.base, learner.base.renderer.stop_ids
    engine = TorchEngine(base.model, base.name, stop, context=lengths[-1], threads=1)
    teacher = Teacher(engine, ModelRef("tiny"))
    with training(learner, TrainerConfig(), cores=1) as trainer:
        rows, gap, stats, _ = await taught(episodes, learner, trainer, teacher, config, fresh=True)
    await engine.aclose()
    fitting = sum(n < lengths[-1] for n in lengths)
    assert 0 < len(rows) == stats.rows == fitting < len(lengths)
    assert stats.refused_rows == len(lengths) - fitting
    assert gap == pytest.approx(0, abs=1e-4)  # the teacher is the student


async def test_a_run_whose_teacher_can_read_nothing_stops_and_says_so(
    world: World, tmp_path: Path
) -> None:
    config = OpdConfig(**PLAY | {"steps": 5}, teacher_prompt="Be brief. " * 3000)
    with (
        Run.create(tmp_path / "run", config) as run,
        pytest.raises(RuntimeError, match=r"^3 steps in a row had nothing to teach .*context"),
    ):
        await opd(run, config, world, threads=1, quiet=True)
    counted = [row["counted"]["rows longer than the teacher's context"]
               for row in run.metrics().rows]  # fmt: skip
    assert len(counted) == 3
    assert all(counted)
