"""What becomes of rewards and episodes that a step cannot use as they are. Nothing is changed
without being counted."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator

from understudy.core.types import Completion, Episode
from understudy.recipes.rehearsal import Played


def _ordered(bound: tuple[float, float]) -> tuple[float, float]:
    if not bound[0] < bound[1]:
        raise ValueError("must be [low, high], the first below the second")
    return bound


Bound = Annotated[tuple[float, float], AfterValidator(_ordered)]  # [low, high]
BOUND = (-10.0, 10.0)  # where nothing else is said
SILENT = 3  # steps in a row without any reward, after which a run stops


def clipped(rewards: Sequence[float], bound: Bound) -> tuple[list[float], Counter[str]]:
    """The rewards, those outside of the bound as its nearer end; how many those are."""
    inside = [min(max(reward, bound[0]), bound[1]) for reward in rewards]
    changed = sum(a != b for a, b in zip(rewards, inside, strict=True))
    return inside, +Counter({f"rewards clipped to {bound[0]:g}..{bound[1]:g}": changed})


def vetted(
    played: Sequence[Played], bound: Bound, mask_truncated: bool = False
) -> tuple[list[Played], Counter[str]]:
    """The groups as a step can use them, and what was done to them.

    A reward that is no finite number leaves its episode out of the group; one outside of `bound`
    counts as the nearer end. With `mask_truncated`, episodes that were cut off weigh nothing; their
    rewards still count in the group's mean (DAPO's overlong filtering, arXiv 2503.14476).
    """
    found: list[Played] = []
    counted: Counter[str] = Counter()
    for item in played:
        rewards = item.group.rewards or ()
        able = [n for n, reward in enumerate(rewards) if math.isfinite(reward)]
        counted["rewards that are not finite"] += len(rewards) - len(able)
        inside, changed = clipped([rewards[n] for n in able], bound)
        counted += changed
        episodes = [item.group.episodes[n] for n in able]
        weights = [item.weights[n] if item.weights else 1.0 for n in able]
        cut = [truncated(e) for e in episodes]
        counted["truncated episodes"] += sum(cut)
        if mask_truncated:
            weights = [0.0 if c else w for c, w in zip(cut, weights, strict=True)]
        group = replace(item.group, episodes=tuple(episodes), rewards=tuple(inside))
        plain = item.weights is None and all(w == 1.0 for w in weights)
        found.append(replace(item, group=group, weights=None if plain else tuple(weights)))
    return found, +counted


def lowered(played: Sequence[Played], cost: float) -> tuple[list[Played], Counter[str]]:
    """The groups, an episode in which a completion of the agent's ran into its limit of tokens with
    so much less reward; how many those are."""
    if not cost:
        return list(played), Counter()
    found: list[Played] = []
    counted: Counter[str] = Counter()
    for item in played:
        rewards = item.group.rewards
        if rewards is not None:
            endless = [any(map(ran_on, e.made_for("agent"))) for e in item.group.episodes]
            less = tuple(r - cost * e for r, e in zip(rewards, endless, strict=True))
            item = replace(item, group=replace(item.group, rewards=less))
            counted["rewards lowered for a completion that ran on"] += sum(endless)
        found.append(item)
    return found, +counted


def ran_on(completion: Completion) -> bool:
    """Whether it was cut off at its limit of tokens."""
    return completion.finish_reason == "length"


def truncated(episode: Episode) -> bool:
    """Whether it was cut off: at the most turns, or in the middle of one."""
    cut = any(map(ran_on, episode.completions))
    return cut or episode.ended == "max_turns"


def means(played: Sequence[Played]) -> tuple[float, float]:
    """The mean reward, and the share of episodes with full reward."""
    rewards = [r for item in played for r in item.group.rewards or ()]
    n = max(1, len(rewards))
    return sum(rewards) / n, sum(r >= 1.0 for r in rewards) / n


def why_nothing(played: Sequence[Played]) -> str:
    """Why groups hold nothing to learn, in words."""
    failed: Counter[str] = sum((item.failed + item.withheld for item in played), Counter())
    alike = Counter(r[0] for item in played if (r := item.group.rewards) and len(set(r)) == 1)
    said = [f"{n} with {value:g}" for value, n in alike.most_common(3)]
    parts = []
    if alike:
        parts.append(f"all rewards are equal in {alike.total()} groups ({', '.join(said)})")
    if failed:
        reason, count = failed.most_common(1)[0]
        parts.append(f"{failed.total()} episodes have none ({count} times: {reason})")
    return "; ".join(parts) or "no episode has a trained token"


class Silence:
    """Counts steps in a row in which no episode had a reward."""

    def __init__(self) -> None:
        self.steps = 0

    def heard(self, played: Sequence[Played]) -> None:
        """One step's groups. Raises RuntimeError after `SILENT` such steps in a row."""
        self.steps = 0 if any(item.group.rewards for item in played) else self.steps + 1
        if self.steps >= SILENT:
            raise RuntimeError(
                f"no episode of {self.steps} steps in a row had a reward: {why_nothing(played)}; "
                "mend the check or the world, then resume"
            )
