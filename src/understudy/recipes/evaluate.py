"""How often a policy succeeds: in a learned world, or in any other environment."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from understudy.core.protocols import Chat, Environment
from understudy.core.types import Episode, ModelRef, Policy, Sampling, Scenario
from understudy.judges.check import Check
from understudy.models.adapters import load_adapter
from understudy.models.loading import load_base
from understudy.recipes.learner import Learner, make_engine
from understudy.recipes.rehearsal import MakeUser, Played, gather, play_group
from understudy.runs.statistics import Interval, wilson
from understudy.world.model import World


async def play_scenarios(
    chat: Chat,
    policy: Policy,
    environment: Environment,
    make_user: MakeUser,
    scenarios: Sequence[Scenario],
    *,
    seed: int,
    check: Check | None = None,
    max_turns: int = 16,
    workload: str = "default",
) -> list[Played]:
    """One episode of each scenario, all at once. The seed of an environment's life and of the
    user is the scenario's place in the list, the same for every policy: results are paired."""
    return await gather(
        [
            play_group(
                chat,
                policy,
                environment,
                make_user,
                scenario,
                1,
                seed=seed + number,
                check=check,
                max_turns=max_turns,
                workload=workload,
                purpose="evaluation",
            )
            for number, scenario in enumerate(scenarios)
        ]
    )


def success(played: Sequence[Played]) -> Interval:
    """The share of scenarios that succeeded; one that could not be judged has failed."""
    return wilson(sum(item.rate >= 1.0 for item in played), len(played))


def episodes_of(played: Sequence[Played]) -> list[Episode]:
    return [episode for item in played for episode in item.group.episodes]


async def evaluate_in_world(
    trained: Path,
    world: World,
    check: Check,
    scenarios: int,
    temperature: float,
    seed: int,
    threads: int | None = None,
) -> Interval:
    """Success of an adapter, or of a whole model in Hugging Face format, on scenarios of the
    world's held-out split.

    Policies are not trained on those; the world itself has learned from all episodes, theirs too.
    """
    whole = (trained / "config.json").exists()
    base = load_base(str(trained) if whole else load_adapter(trained).base or "tiny")
    engine, chat = make_engine(base, threads)
    model = ModelRef(base.name) if whole else ModelRef(base.name, "evaluated", 1)
    try:
        if not whole:
            await engine.load(model, str(trained))
        return await _success(chat, model, world, check, scenarios, temperature, seed)
    finally:
        await engine.aclose()


def evaluation(
    world: World, check: Check, scenarios: int, seed: int, threads: int | None = None
) -> Callable[[Learner], Interval]:
    """How often what a recipe trains succeeds now, greedy, on held-out scenarios of a world: for
    recipes that train without one. Not inside of a running event loop.

    Raises ValueError where the world has no such scenario.
    """
    if not world.scenarios(1, seed, "heldout"):
        raise ValueError("the world has no held-out scenario to evaluate on: evaluate_every=0")

    async def evaluate(learner: Learner) -> Interval:
        engine, chat = make_engine(learner.base, threads)
        model = ModelRef(learner.base.name, "evaluated", 1)
        try:
            engine.load_weights(model, learner.tensors(), learner.lora)
            return await _success(chat, model, world, check, scenarios, 0.0, seed)
        finally:
            await engine.aclose()

    return lambda learner: asyncio.run(evaluate(learner))


async def _success(
    chat: Chat,
    model: ModelRef,
    world: World,
    check: Check,
    scenarios: int,
    temperature: float,
    seed: int,
) -> Interval:
    policy = Policy("evaluated", model, sampling=Sampling(temperature=temperature))
    drawn = world.scenarios(scenarios, seed, "heldout")
    return success(
        await play_scenarios(chat, policy, world, world.user, drawn, seed=seed, check=check)
    )
