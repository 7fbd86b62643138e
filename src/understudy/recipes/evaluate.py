"""How often a policy succeeds: in a learned world, or in any other environment."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from understudy.core.protocols import Chat, Environment
from understudy.core.types import Episode, Policy, Scenario
from understudy.judges.check import Check
from understudy.recipes.agents import Agent
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
