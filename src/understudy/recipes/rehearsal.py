"""Groups of episodes in an environment, judged by a check: what GRPO and evaluation both do."""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.core.protocols import Chat, Environment, User
from understudy.core.types import Episode, Feedback, Group, JudgeFailed, Policy, Scenario
from understudy.envs.rollout import rollout
from understudy.judges.check import Check

MakeUser = Callable[[Scenario, int], User | None]


@dataclass(frozen=True, slots=True)
class Played:
    """A group with its rewards; episodes that could not be judged are left out and counted."""

    group: Group
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """The share of episodes with full reward."""
        rewards = self.group.rewards or ()
        return sum(r >= 1.0 for r in rewards) / len(rewards) if rewards else 0.0


async def play_group(
    chat: Chat,
    policy: Policy,
    environment: Environment,
    make_user: MakeUser,
    scenario: Scenario,
    size: int,
    seed: int,
    *,
    check: Check | None,
    max_turns: int,
    workload: str,
    purpose: Any = "agent",
    same_life: bool = True,
) -> Played:
    """`size` episodes of one scenario from one start: the same life of the environment and the
    same user, so that only the policy's own sampling differs (common random numbers).

    Without a check the reward is the session's own `outcome` feedback.
    """

    async def one(number: int) -> tuple[Episode, Feedback | JudgeFailed]:
        life = seed if same_life else seed * 1009 + number
        session = await environment.start(scenario, life)
        try:
            episode = await rollout(
                chat,
                policy,
                session,
                scenario,
                make_user(scenario, life),
                max_turns=max_turns,
                seed=seed * 1009 + number,
                workload=workload,
                purpose=purpose,
            )
            if episode.ended == "error":  # the model did not answer: no verdict, and no zero
                why = episode.completions[-1].error or "the model did not answer"
                return episode, JudgeFailed(episode.id, why)
            if check is not None:
                return episode, check.judge_episode(episode)
            said = await session.outcome()
        finally:
            await session.aclose()
        found = [f for f in said if f.name == "outcome"]
        verdict = found[-1] if found else JudgeFailed(episode.id, "the session knows no outcome")
        return episode, verdict

    played = await gather([one(number) for number in range(size)])
    kept: list[Episode] = []
    rewards: list[float] = []
    failed: Counter[str] = Counter()
    for episode, verdict in played:
        if isinstance(verdict, JudgeFailed):
            failed[verdict.reason] += 1
        else:
            said_of = dataclasses.replace(verdict, episode_id=episode.id)
            kept.append(dataclasses.replace(episode, feedback=(*episode.feedback, said_of)))
            rewards.append(float(verdict.value))
    return Played(Group(scenario.id, tuple(kept), tuple(rewards)), failed)


async def gather(work: Sequence[Awaitable[Any]]) -> list[Any]:
    """asyncio.gather that cancels the rest when one fails."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(_as_coroutine(item)) for item in work]
    return [task.result() for task in started]


async def _as_coroutine(item: Awaitable[Any]) -> Any:
    return await item
