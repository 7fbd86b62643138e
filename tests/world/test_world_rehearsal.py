"""The same agent in the world and in the service that the world was learned from."""

from typing import Any

import warehouse

from understudy.core.types import Episode, ModelRef, Policy, Scenario
from understudy.envs import ScriptedUser, rollout
from understudy.world.model import World

POLICY = Policy("script", ModelRef("script"))


async def rehearse(environment: Any, scenario: Scenario, user: Any, seed: int) -> Episode:
    agent = warehouse.ScriptedAgent(seed)
    session = await environment.start(scenario, seed)
    return await rollout(agent, POLICY, session, scenario, user, max_turns=20, seed=seed)


def paid(episode: Episode) -> bool:
    return any('"status": "paid"' in r.content for r in episode.results.values())


async def test_an_agent_fares_in_the_world_as_in_the_service(world: World) -> None:
    n, inside, outside, turns_in, turns_out = 300, 0, 0, 0, 0
    for seed, scenario in enumerate(world.scenarios(n, seed=8)):
        episode = await rehearse(world, scenario, world.user(scenario, seed), 50_000 + seed)
        inside += paid(episode)
        turns_in += len(episode.completions)
        assert episode.ended in ("user_left", "max_turns")
        real = warehouse.customer(90_000 + seed)
        episode = await rehearse(warehouse.SERVICE, real, ScriptedUser(["Thanks!"]), 70_000 + seed)
        outside += paid(episode)
        turns_out += len(episode.completions)
    assert 0.2 < outside / n < 0.95
    assert abs(inside - outside) / n < 0.10  # two samples of 300 differ by 0.08 one time in forty
    assert abs(turns_in / turns_out - 1) < 0.15
