"""Groups of episodes in an environment, judged by a check: what GRPO and evaluation both do."""

import asyncio
import dataclasses
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.core.protocols import Chat, Environment, Session, User
from understudy.core.types import Episode, Feedback, Group, JudgeFailed, Policy, Scenario
from understudy.envs.rollout import rollout
from understudy.judges.check import Check
from understudy.recipes.doubt import Doubt, Truncated, WatchedSession, again, flagged

MakeUser = Callable[[Scenario, int], User | None]


@dataclass(frozen=True, slots=True)
class Played:
    """A group with its rewards; episodes that could not be judged, or whose reward is withheld
    (recipes.guarding), are left out and counted. `weights` are those of its episodes in training:
    1 where there are none."""

    group: Group
    failed: Counter[str] = field(default_factory=Counter)
    weights: tuple[float, ...] | None = None
    withheld: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """The share of episodes with full reward."""
        rewards = self.group.rewards or ()
        return sum(r >= 1.0 for r in rewards) / len(rewards) if rewards else 0.0

    @property
    def without_reward(self) -> Counter[str]:
        """Episodes that could not be judged, or whose reward is withheld, by the reason."""
        counted = Counter({f"unjudged: {why}": n for why, n in self.failed.items()})
        return counted + Counter({f"withheld: {why}": n for why, n in self.withheld.items()})


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
    doubt: Doubt | None = None,
) -> Played:
    """`size` episodes of one scenario from one start: the same life of the environment and the
    same user, so that only the policy's own sampling differs (common random numbers).

    Without a check the reward is the session's own `outcome` feedback. `doubt` says what becomes
    of doubtful steps; see recipes.doubt.
    """
    doubt = doubt or Doubt()

    async def one(number: int) -> tuple[Episode | None, Feedback | JudgeFailed]:
        life = seed if same_life else seed * 1009 + number
        session: Session = await environment.start(scenario, life)
        if doubt.policy not in ("truncate", "branch"):
            return await play(chat, session, life, number)
        watched = WatchedSession(session, doubt)
        try:
            episode, verdict = await play(chat, watched, life, number)
        except Truncated as truncated:
            return None, JudgeFailed("", str(truncated))
        if watched.doubtful is None:
            return episode, verdict
        retold = await again(chat, environment, scenario, life, watched, episode)
        return _worse((episode, verdict), await play(*retold, life, number))

    async def play(
        chat: Chat, session: Session, life: int, number: int
    ) -> tuple[Episode, Feedback | JudgeFailed]:
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
    weights: list[float] = []
    failed: Counter[str] = Counter()
    for episode, verdict in played:
        if isinstance(verdict, JudgeFailed):
            failed[verdict.reason] += 1
        elif episode is not None:
            weight, doubted = flagged(episode, doubt)
            said_of = dataclasses.replace(verdict, episode_id=episode.id)
            said = (*episode.feedback, *([doubted] if doubted else []), said_of)
            kept.append(dataclasses.replace(episode, feedback=said))
            rewards.append(float(verdict.value))
            weights.append(weight)
    group = Group(scenario.id, tuple(kept), tuple(rewards))
    return Played(group, failed, tuple(weights) if doubt.policy == "flag" else None)


_Judged = tuple[Episode, Feedback | JudgeFailed]


def _worse(one: _Judged, other: _Judged) -> _Judged:
    """The episode of the lower reward, the first of equals; one without a verdict is the worst."""
    values = [
        -math.inf if isinstance(v, JudgeFailed) or not isinstance(v.value, (bool, int, float))
        else float(v.value)
        for _, v in (one, other)
    ]  # fmt: skip
    return other if values[1] < values[0] else one


async def gather(work: Sequence[Awaitable[Any]]) -> list[Any]:
    """asyncio.gather that cancels the rest when one fails."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(_as_coroutine(item)) for item in work]
    return [task.result() for task in started]


async def _as_coroutine(item: Awaitable[Any]) -> Any:
    return await item
