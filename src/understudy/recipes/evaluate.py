"""How often a policy succeeds: in a learned world, or in any other environment."""

from collections.abc import Sequence
from pathlib import Path

from understudy.core.protocols import Chat, Environment
from understudy.core.types import Episode, ModelRef, Policy, Sampling, Scenario
from understudy.judges.check import Check
from understudy.models.adapters import load_adapter
from understudy.models.loading import base_of
from understudy.recipes.learner import make_engine
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
    adapter: Path,
    world: World,
    check: Check,
    scenarios: int,
    temperature: float,
    seed: int,
    threads: int | None = None,
) -> Interval:
    """Success of an adapter on scenarios of the world's held-out split.

    Policies are not trained on those; the world itself has learned from all episodes, theirs too.
    """
    file = load_adapter(adapter)
    base = base_of(file)
    engine, chat = make_engine(base, threads)
    model = ModelRef(base.name, "evaluated", 1)
    try:
        await engine.load(model, str(adapter))
        policy = Policy("evaluated", model, sampling=Sampling(temperature=temperature))
        drawn = world.scenarios(scenarios, seed, "heldout")
        return success(
            await play_scenarios(chat, policy, world, world.user, drawn, seed=seed, check=check)
        )
    finally:
        await engine.aclose()
