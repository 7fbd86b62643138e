"""What callers do with judges: ask one about many groups, and turn feedback into rewards."""

import asyncio
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from understudy.core.protocols import Judge
from understudy.core.types import Feedback, Group, JudgeFailed, select_reward, why_no_reward


@dataclass(frozen=True, slots=True)
class Judged:
    """Groups whose episodes all have a reward, and the episodes left out, with reasons."""

    groups: tuple[Group, ...]
    failed: tuple[JudgeFailed, ...]


def with_feedback(group: Group, verdicts: Iterable[Feedback | JudgeFailed]) -> Group:
    """The group with the verdicts' feedback added to its episodes."""
    added: dict[str, list[Feedback]] = {}
    for verdict in verdicts:
        if isinstance(verdict, Feedback):
            added.setdefault(verdict.episode_id, []).append(verdict)
    episodes = tuple(
        dataclasses.replace(e, feedback=(*e.feedback, *added.get(e.id, ()))) for e in group.episodes
    )
    return dataclasses.replace(group, episodes=episodes)


def rewarded(group: Group, name: str) -> tuple[Group, list[JudgeFailed]]:
    """The group with the reward that `name` selects from each episode's feedback.

    Episodes without such feedback are left out and returned as JudgeFailed.
    """
    selected = [(e, select_reward(e.feedback, name)) for e in group.episodes]
    missing = [JudgeFailed(e.id, why_no_reward(e.feedback, name)) for e, r in selected if r is None]
    kept = [(e, r) for e, r in selected if r is not None]
    rewards = tuple(r for _, r in kept)
    return Group(group.scenario_id, tuple(e for e, _ in kept), rewards), missing


async def judge_groups(
    judge: Judge, groups: Sequence[Group], name: str, concurrency: int = 8
) -> Judged:
    """Judges groups, at most `concurrency` at a time, and selects their rewards by `name`.

    An episode that the judge failed on is left out of its group and reported; so is one without
    a verdict. Groups keep their order; one that loses all its episodes is left out.
    """
    slots = asyncio.Semaphore(concurrency)

    async def one(group: Group) -> tuple[Group, list[JudgeFailed]]:
        async with slots:
            verdicts = await judge.judge(group)
        said = {v.episode_id: v for v in verdicts if isinstance(v, JudgeFailed)}
        kept = [e for e in group.episodes if e.id not in said]
        rest = dataclasses.replace(group, episodes=tuple(kept), rewards=None)
        done, missing = rewarded(with_feedback(rest, verdicts), name)
        return done, [*said.values(), *missing]

    results = await asyncio.gather(*(one(group) for group in groups))
    return Judged(
        groups=tuple(group for group, _ in results if group.episodes),
        failed=tuple(failure for _, failures in results for failure in failures),
    )
