"""What every recipe leaves: an adapter that knows its prompts, and a run that knows its tokens."""

import asyncio
import gc
import shutil
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.generated import episode, first
from logs import thumbed

from understudy.core.binding import Binding
from understudy.core.trained import Trained
from understudy.core.types import Episode, Message, ModelRef, Request, Sampling, Tool
from understudy.judges.check import Check
from understudy.models.adapters import adapter_metadata, load_adapter
from understudy.models.full import metadata_of
from understudy.models.loading import load_base
from understudy.models.size import parameters_of
from understudy.recipes.arrivals import Given
from understudy.recipes.checkpoints import find_checkpoint, fork_run, step_of
from understudy.recipes.correct import CorrectConfig, correct
from understudy.recipes.dpo import DpoConfig, dpo
from understudy.recipes.grpo import GrpoConfig, grpo
from understudy.recipes.kto import KtoConfig, kto
from understudy.recipes.learner import Lora, make_engine
from understudy.recipes.opd import OpdConfig, opd
from understudy.recipes.ppo import PlayConfig, PpoConfig, ppo
from understudy.recipes.ppo_world import ppo_in_world
from understudy.recipes.preference_data import Pair, Said, Thumb
from understudy.recipes.reward_model import RewardModelConfig, reward_model
from understudy.recipes.sft import SftConfig, sft
from understudy.recipes.stream import StreamConfig, stream
from understudy.runs.directory import Run
from understudy.runs.usage import usage_of
from understudy.world.model import World

SMALL: dict[str, Any] = {"lora": Lora(rank=2), "precision": "fp32"}
PLAY: dict[str, Any] = {
    "steps": 1, "scenarios_per_step": 2, "pool": 12, "max_turns": 2, "max_tokens": 12,
    "guards": None,
}  # fmt: skip
ANY = Check(lambda messages, ticket: float(len(str(messages)) % 7), "any")
TOOL: Tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
Asked = tuple[tuple[Message, ...], tuple[Tool, ...]]


def said(n: int, word: str) -> Said:
    prompt: tuple[Message, ...] = (
        {"role": "system", "content": f"You help {n}, and nobody else.\nBe brief."},
        {"role": "user", "content": "Which is it?"},
    )
    return Said(f"{word}{n}", prompt, ({"role": "assistant", "content": word},), (TOOL,))


PAIRS = [Pair(said(n, "the left one"), said(n, "the right one")) for n in range(4)]
OF_PAIRS: list[Asked] = [(p.chosen.prompt, p.chosen.tools) for p in PAIRS]


@pytest.fixture(scope="module")
def logs(world: World) -> list[Episode]:
    torch.set_num_threads(1)
    return asyncio.run(thumbed(world, 6))


def asked_of(episodes: list[Episode]) -> list[Asked]:
    return [(c.request.messages, c.request.tools) for e in episodes for c in e.completions]


Recipe = Callable[[Run, World, list[Episode], list[Episode]], tuple[Any, list[Asked]]]


def _reviewed() -> list[Episode]:
    return [episode(turn, corrected=True) for turn in first(2, "retries", "train")]


def in_world(world: World) -> list[Asked]:
    return [(s.messages, s.tools or tuple(world.tools())) for s in world.scenarios(12, 0)]


RECIPES: dict[str, Recipe] = {
    "sft": lambda run, world, traffic, logs: (
        sft(run, traffic[:6], SftConfig(**SMALL, split="all", epochs=1), quiet=True),
        asked_of(traffic[:6]),
    ),
    "dpo": lambda run, *_: (dpo(run, PAIRS, DpoConfig(**SMALL), quiet=True), OF_PAIRS),
    "kto": lambda run, *_: (
        kto(run, [Thumb(p.chosen, n > 1) for n, p in enumerate(PAIRS)], KtoConfig(**SMALL),
            quiet=True),
        OF_PAIRS,
    ),
    "reward_model": lambda run, *_: (
        reward_model(run, PAIRS, RewardModelConfig(**SMALL), quiet=True),
        OF_PAIRS,
    ),
    "ppo": lambda run, world, traffic, logs: (
        ppo(run, logs, PpoConfig(**SMALL, log={"split": "all"}, epochs=1), quiet=True),
        asked_of(logs),
    ),
    "stream": lambda run, world, traffic, logs: (
        stream(run, Given(logs),
               StreamConfig(**SMALL, log={"split": "all"}, passes=1, value_steps=1), quiet=True),
        asked_of(logs),
    ),
    "correct": lambda run, *_: (
        correct(run, _reviewed(), CorrectConfig(**SMALL, split="all", steps=1, turns_per_step=1,
                                                samples=1, max_tokens=8), threads=1, quiet=True),
        asked_of(_reviewed()),
    ),
    "opd": lambda run, world, traffic, logs: (
        opd(run, OpdConfig(**SMALL, steps=1, scenarios_per_step=1, group_size=1, max_turns=1,
                           max_tokens=8, pool=12, teacher_prompt="Be brief."), world, threads=1,
            quiet=True),
        in_world(world),
    ),
    "grpo": lambda run, world, *_: (
        grpo(run, world, ANY, GrpoConfig(**SMALL, **PLAY, group_size=2), threads=1, quiet=True),
        in_world(world),
    ),
    "ppo_world": lambda run, world, *_: (
        ppo_in_world(run, world, ANY, PpoConfig(**SMALL, play=PlayConfig(**PLAY, epochs=2)),
                     threads=1, quiet=True),
        in_world(world),
    ),
}  # fmt: skip
PLAYS = {"correct", "opd", "grpo", "ppo_world"}  # the others sample nothing


@pytest.mark.parametrize("name", RECIPES)
async def test_an_adapter_knows_its_prompts_and_its_run_the_tokens(
    name: str, world: World, traffic: list[Episode], logs: list[Episode], tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    path = tmp_path / "run"
    with Run.create(path, {"base": "tiny"}) as run:
        result, asked = RECIPES[name](run, world, traffic, logs)
        result = await result if isinstance(result, Awaitable) else result
    binding = Binding.read(load_adapter(result.adapter).metadata)
    assert binding is not None
    assert binding.templates
    assert [a for a in asked if binding.differs(*a)] == []
    messages, tools = asked[0]
    other: Any = {"role": "system", "content": "Sing. Dance. Do not work."}
    assert "system" in binding.differs((other, *messages), tools)
    changed: Any = {"type": "function", "function": {"name": "another"}}
    assert binding.differs(messages, (*tools, changed)) == ("tools",)

    tokens = usage_of(path).tokens
    assert tokens.trained > 0
    own = Trained(run.id, name.split("_world")[0], tokens.trained, parameters_of("tiny"))
    assert Trained.read(adapter_metadata(result.adapter)) == (own,)
    assert (tokens.sampled > 0, tokens.prompt > 0) == (name in PLAYS, name in PLAYS)


async def test_a_run_counts_an_engine_and_does_not_keep_it(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", {"base": "tiny"}) as run:
        engine, chat = make_engine(load_base("tiny"), threads=1, run=run)
        message: Message = {"role": "user", "content": "Hello"}
        asked = Request((message,), ModelRef("tiny"), sampling=Sampling(max_tokens=4))
        await chat.complete(asked)
        await engine.aclose()
        kept = weakref.ref(engine)  # with its keys and values
        del engine, chat
        gc.collect()
        assert kept() is None
        run.log(0)
    tokens = usage_of(tmp_path / "run").tokens
    assert 0 < tokens.sampled <= 4
    assert tokens.prompt > 0


def test_a_stream_that_goes_on_still_knows_the_first_prompts(
    logs: list[Episode], tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    config = StreamConfig(**SMALL, log={"split": "all"}, passes=1, value_steps=1)

    def under(prompt: str, e: Episode) -> Episode:
        system: Message = {"role": "system", "content": prompt}
        return replace(
            e,
            id=f"{e.id}-{prompt}",
            completions=tuple(
                replace(c, id=f"{c.id}-{prompt}",
                        request=replace(c.request, messages=(system, *c.request.messages[1:])))
                for c in e.completions
            ),
        )  # fmt: skip

    before = [under("You do one thing, well, at once.", e) for e in logs[:3]]
    after = [under("Whatever else is asked of anybody.", e) for e in logs[3:]]
    with Run.create(tmp_path / "run", config) as run:
        stream(run, Given(before), config, quiet=True)
    with fork_run(tmp_path / "then", config, 0, str(tmp_path / "run")) as run:
        result = stream(run, Given([*before, *after]), config, quiet=True)
    binding = Binding.read(load_adapter(result.adapter).metadata)
    assert binding is not None
    assert [a for a in asked_of([*before, *after]) if binding.differs(*a)] == []
    assert len(binding.templates) == 2


def test_an_adapter_knows_what_the_runs_before_it_trained_on(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    first = DpoConfig(**SMALL, batch=2, epochs=2)
    with Run.create(tmp_path / "a", first) as a:
        begun = dpo(a, PAIRS, first, quiet=True).adapter
    second = KtoConfig(**SMALL, batch=2, checkpoint_every=1, start=str(begun))
    thumbs = [Thumb(p.chosen, n > 1) for n, p in enumerate(PAIRS)]
    with Run.create(tmp_path / "b", second) as b:
        adapter = kto(b, thumbs, second, quiet=True).adapter
    size = parameters_of("tiny")
    of_a = Trained(a.id, "dpo", usage_of(a.path).tokens.trained, size)
    of_b = Trained(b.id, "kto", usage_of(b.path).tokens.trained, size)
    assert Trained.read(adapter_metadata(adapter)) == (of_a, of_b)

    shutil.rmtree(a.path)  # what went into it stays known
    third = KtoConfig(**SMALL, batch=2, checkpoint_every=1, epochs=2)
    with fork_run(tmp_path / "c", third, 0, f"{b.path}@1") as c:
        assert step_of(find_checkpoint(str(c.path))) == 1
        adapter = kto(c, thumbs, third, quiet=True).adapter
    until = b.metrics().rows[0]["used"]["trained"]
    assert 0 < until < of_b.tokens
    of_c = Trained(c.id, "kto", usage_of(c.path).tokens.trained, size)
    assert Trained.read(adapter_metadata(adapter)) == (of_a, replace(of_b, tokens=until), of_c)


def test_what_begins_with_a_whole_model_knows_what_that_was_trained_on(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    first = DpoConfig(**SMALL, tune="full", lr=1e-5)
    with Run.create(tmp_path / "a", first) as a:
        model = dpo(a, PAIRS, first, quiet=True).adapter
    (of_a,) = Trained.read(metadata_of(model)) or ()
    assert of_a.tokens == usage_of(a.path).tokens.trained
    second = DpoConfig(**SMALL, base=str(model))
    with Run.create(tmp_path / "b", second) as b:
        adapter = dpo(b, PAIRS, second, quiet=True).adapter
    found = Trained.read(adapter_metadata(adapter)) or ()
    assert [t.run for t in found] == [a.id, b.id]
    assert found[0] == of_a
