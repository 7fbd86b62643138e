"""Models of each family end to end: loaded, played, trained, delivered."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_models import random_rows, relative_error, small_model
from test_exactness import BOUND, step_gradient

from families import RENDERER, save_model
from understudy.core.origin import ORIGIN
from understudy.core.rows import policy_rows, supervised_rows
from understudy.core.types import Completion, Episode, Message, ModelRef, Request, Sampling
from understudy.models.adapters import load_adapter
from understudy.models.loading import LoadedBase, base_of, load_base
from understudy.models.lora import LoraConfig, inject_lora
from understudy.recipes.learner import Learner, Lora, make_engine, make_learner
from understudy.recipes.sft import episode_rows
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer

torch.set_num_threads(1)
FAMILIES = ["qwen2_5", "qwen3", "llama3_1"]
TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
LORA = LoraConfig(rank=4, alpha=8, seed=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: save_model(root / family, family) for family in FAMILIES}


async def played(chat: Any, model: ModelRef, turns: int) -> Episode:
    """A talk of several turns at temperature 1; a random model says anything, special tokens
    too."""
    messages: list[Message] = [{"role": "system", "content": "Be brief."}]
    done: list[Completion] = []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"Where is it? {turn}"})
        sampling = Sampling(max_tokens=24, seed=turn)
        request = Request(tuple(messages), model, (TOOL,), sampling, episode_id="e")
        done.append(await chat.complete(request))
        assert done[-1].message is not None
        messages.append(done[-1].message)
    return Episode("e", tuple(done))


async def play(base: LoadedBase, learner: Learner, turns: int = 4) -> Episode:
    engine, chat = make_engine(base, 1)
    try:
        model = ModelRef(base.name, "it", 1)
        engine.load_weights(model, learner.tensors(), learner.lora)
        return await played(chat, model, turns)
    finally:
        await engine.aclose()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_played_and_trained(family: str, folders: dict[str, Path]) -> None:
    """The trainer's logprobs are the sampler's, before a step and after it was delivered."""
    base = load_base(str(folders[family]))
    assert base.renderer.name == RENDERER[family]
    inject_lora(base.model, LORA)
    learner = Learner(base, LORA)
    trainer = Trainer(base.model, TrainerConfig(lr=1e-2))
    seen = []
    for _ in range(2):
        episode = asyncio.run(play(base, learner))
        rows, stats = policy_rows(episode, 1.0, origin=base.origin)
        sampled = [lp for c in episode.completions for lp in c.logprobs or ()]
        assert stats.trained == len(sampled) > 0
        for row, values in zip(rows, trainer.logprobs(rows), strict=True):
            anchors = [e.anchor for e in row.entries]
            assert values == pytest.approx(anchors, abs=1e-4)
        metrics = trainer.step(rows)
        assert metrics.skipped is None
        assert metrics.ratio_mean == pytest.approx(1, abs=1e-5)
        seen.append(sampled)
    assert seen[0] != seen[1]


TALK: list[Any] = [
    {"role": "user", "content": "Where is it?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c", "content": "here"},
    {"role": "assistant", "content": "It is here."},
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_supervised_steps_with_checkpointing_are_the_same(
    family: str, precision: Any, folders: dict[str, Path]
) -> None:
    """In both precisions; bf16 is near fp32, and a few steps lower the loss."""
    losses, found = {}, {}
    for checkpointing in (False, True):
        base = load_base(str(folders[family]))
        inject_lora(base.model, LORA)
        rows, _ = supervised_rows(TALK, (TOOL,), base.renderer)
        config = {"precision": precision, "gradient_checkpointing": checkpointing}
        step_gradient(base.model, rows, **config)  # B is no longer zero, so that A has a gradient
        loss, found[checkpointing], _ = step_gradient(base.model, rows, lr=1e-2, **config)
        trainer = Trainer(base.model, TrainerConfig(lr=1e-2, **config))
        after = [trainer.step(rows).loss["ce"] for _ in range(4)]
        assert after[-1] < loss
        losses[checkpointing] = [loss, *after]
    tight = {"fp32": 1e-5, "bf16": 1e-3}[precision]
    assert losses[True] == pytest.approx(losses[False], rel=tight)
    assert relative_error(found[True], found[False]) < tight


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("layout", ["tree", "packed", "padded"])
def test_checkpointing_changes_no_gradient(kind: str, layout: Any) -> None:
    rows = random_rows(random.Random(6), count=20, longest=40)
    for dtype, bound in BOUND.items():
        plain, again = ({"layout": layout, "gradient_checkpointing": c} for c in (False, True))
        loss, whole, _ = step_gradient(small_model(kind, dtype), rows, **plain)
        model = small_model(kind, dtype)
        got_loss, got, _ = step_gradient(model, rows, **again)
        assert got_loss == pytest.approx(loss, rel=bound)
        assert relative_error(got, whole) < bound
        assert not any(m.training for m in model.modules())


def test_checkpointing_keeps_less(folders: dict[str, Path]) -> None:
    """What the backward pass is given: tensors saved between the layers, not within them."""
    rows = random_rows(random.Random(1), count=6)
    sizes = {}
    for checkpointing in (False, True):
        saved = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        model = small_model(dtype=torch.float32)
        config = TrainerConfig(gradient_checkpointing=checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            Trainer(model, config).step(rows)
        sizes[checkpointing] = saved
    assert sizes[True] < sizes[False] / 2


def test_an_adapter_of_another_template_or_base_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    qwen3 = str(folders["qwen3"])
    learner = make_learner(qwen3, Lora(rank=4), 0, renderer="qwen3-nothink")
    adapter = learner.save(tmp_path / "adapter", {})
    file = load_adapter(adapter)
    assert file.metadata[ORIGIN] == str(learner.base.origin)
    assert base_of(file).origin == learner.base.origin  # in the chat format that it was made with
    with pytest.raises(ValueError, match="chat format qwen3-nothink, and here it is qwen3"):
        make_learner(qwen3, Lora(), 0, adapter)
    with pytest.raises(ValueError, match="base qwen3, and here it is qwen2_5"):
        make_learner(str(folders["qwen2_5"]), Lora(), 0, adapter)
    base = load_base(qwen3)
    engine, _ = make_engine(base, 1)
    with pytest.raises(ValueError, match="chat format qwen3-nothink"):
        asyncio.run(engine.load(ModelRef(base.name, "a"), str(adapter)))
    engine.close()


def test_conversations_that_a_format_cannot_say_are_left_out_and_counted(
    folders: dict[str, Path],
) -> None:
    learner = make_learner(str(folders["llama3_1"]), Lora(rank=4), 0)
    several = [*TALK[:1], {**TALK[1], "tool_calls": TALK[1]["tool_calls"] * 2}, *TALK[2:3]]

    def ended(name: str, history: list[Any]) -> Episode:
        request = Request(tuple(history), ModelRef("m"), (TOOL,))
        return Episode(name, (Completion(name, request, "ok", message=TALK[3]),))

    rows, left_out = episode_rows([ended("a", TALK[:3]), ended("b", several)], learner, 4096)
    assert {e.sample_id for row in rows for e in row.entries} == {"a/0"}
    assert left_out == {"the chat format says one tool call a message, not several": 1}


def test_a_base_in_bf16_is_trained(folders: dict[str, Path]) -> None:
    base = load_base(str(folders["qwen3"]), torch.bfloat16)
    inject_lora(base.model, LORA)
    rows, _ = supervised_rows(TALK, (TOOL,), base.renderer)
    config = TrainerConfig(lr=1e-2, gradient_checkpointing=True, precision="bf16")
    trainer = Trainer(base.model, config)
    losses = [trainer.step(rows).loss["ce"] for _ in range(5)]
    assert losses[-1] < losses[0]
