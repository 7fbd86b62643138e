"""How often a policy succeeds: in a learned world, or in any other environment."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from understudy.core.protocols import Chat, Environment
from understudy.core.types import Episode, ModelRef, Policy, Scenario
from understudy.judges.check import Check
from understudy.recipes.agents import Agent, agent_of
from understudy.recipes.rehearsal import MakeUser, Played, gather, play_group
from understudy.runs.directory import Run
from understudy.runs.statistics import Interval, wilson
from understudy.world.model import World

if TYPE_CHECKING:
    from understudy.recipes.learner import Learner


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
    at_once: int | None = None,
    each: Callable[[Played], None] = lambda played: None,
) -> list[Played]:
    """One episode of each scenario, all at once or `at_once` at a time; `each` is called after
    each. The seed of an environment's life and of the user is the scenario's place in the list,
    the same for every policy: results are paired."""
    gate = asyncio.Semaphore(at_once) if at_once else nullcontext()

    async def one(number: int, scenario: Scenario) -> Played:
        async with gate:
            played = await play_group(
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
        each(played)
        return played

    return await gather([one(n, scenario) for n, scenario in enumerate(scenarios)])


def success(played: Sequence[Played]) -> Interval:
    """The share of scenarios that succeeded; one that could not be judged has failed."""
    return wilson(sum(item.rate >= 1.0 for item in played), len(played))


def episodes_of(played: Sequence[Played]) -> list[Episode]:
    return [episode for item in played for episode in item.group.episodes]


async def evaluate_in_world(
    agent: Agent,
    world: World,
    check: Check,
    scenarios: int,
    seed: int,
    *,
    environment: Environment | None = None,
    users: MakeUser | None = None,
    workload: str = "default",
    at_once: int | None = None,
    each: Callable[[Played], None] = lambda played: None,
) -> list[Played]:
    """An agent's episodes on scenarios of the world's held-out split, judged.

    Policies are not trained on those; the world itself has learned from all episodes, theirs too.
    `environment` may stand for the world (one whose gaps a model fills), and `users` for its users.
    """
    drawn = world.scenarios(scenarios, seed, "heldout")
    return await play_scenarios(
        agent.chat,
        agent.policy,
        environment or world,
        users or world.user,
        drawn,
        seed=seed,
        check=check,
        workload=workload,
        at_once=at_once,
        each=each,
    )


def evaluation(
    world: World, check: Check, scenarios: int, seed: int, threads: int | None = None
) -> "Callable[[Learner, Run], Interval]":
    """How often what a recipe trains succeeds now, greedy, on held-out scenarios of a world: for
    recipes that train without one. The run counts the tokens. Not inside of a running event loop.

    Raises ValueError where the world has no such scenario.
    """
    from understudy.recipes.learner import make_engine, tokens_of

    if not world.scenarios(1, seed, "heldout"):
        raise ValueError("the world has no held-out scenario to evaluate on: evaluate_every=0")

    async def evaluate(learner: "Learner", run: Run) -> Interval:
        engine, chat = make_engine(learner.base, threads)
        model = ModelRef(learner.base.name, "evaluated", 1)
        try:
            engine.load_weights(model, learner.tensors(), learner.lora)
            agent = agent_of("evaluated", chat, model, 0.0)
            return success(await evaluate_in_world(agent, world, check, scenarios, seed))
        finally:
            await engine.aclose()
            run.use(**tokens_of(engine.counters()))

    return lambda learner, run: asyncio.run(evaluate(learner, run))
