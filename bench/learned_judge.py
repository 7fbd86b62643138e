"""What `bench learning` makes of the reward model, which is no policy: a judge.

It learns from pairs that thumbs tell apart, and is then asked which of two episodes of one customer
is the better, where the service says that one succeeded: of customers that it has not met.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure, figure, interval
from bench.learning_recipes import PAIRED, Setting, learned_tokens, paired_episodes, trained
from bench.logged import logs_at

NAME = "reward_model"
CUSTOMERS = 0.15  # of the logged episodes' number, met after training


def judged(given: Setting) -> dict[str, Any]:
    """Of each customer's pair whether the better episode was ranked above, and the tokens of it."""
    from understudy.recipes.preference_data import pairs_of
    from understudy.recipes.reward_model import RewardModelConfig, reward_model
    from understudy.runs.config import load_config

    own = [f"seed={given.seed}", "split=all", "feedback=thumb", *given.more.get(NAME, ())]
    config = load_config(RewardModelConfig, None, own)

    def train(begun: Any) -> None:
        pairs, left_out = pairs_of(
            paired_episodes(given), config.feedback, config.split, config.pairs_per_scenario,
            config.seed,
        )  # fmt: skip
        reward_model(begun, pairs, config, left_out, quiet=True)

    run = trained(given, "reward-model", config, train)
    customers = max(1, round(CUSTOMERS * len(given.episodes)))
    met = logs_at(given.folder, "judged", given.start, customers, 4_000_000 + given.seed, PAIRED)
    pairs = two_of_each(met)
    right = asyncio.run(ranked(run / "adapter", pairs))
    return {"successes": right, "learned": learned_tokens(run)}


def two_of_each(episodes: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Of each customer who has both, the first episode that succeeded and the first that failed."""
    from understudy.core.types import select_reward

    met: dict[str, dict[bool, Any]] = {}
    for episode in episodes:
        succeeded = bool(select_reward(episode.feedback, "outcome"))
        met.setdefault(episode.scenario_id, {}).setdefault(succeeded, episode)
    return [(two[True], two[False]) for two in met.values() if len(two) == 2]


async def ranked(adapter: Path, pairs: Sequence[tuple[Any, Any]]) -> list[bool]:
    """Of each pair whether the first has the higher reward."""
    from understudy.core.types import Feedback, Group
    from understudy.recipes.reward_model import load_judge

    judge, engine = await load_judge(adapter)
    try:
        said = [await judge.judge(Group("pair", pair)) for pair in pairs]
    finally:
        await engine.aclose()
    values = [[v.value for v in two if isinstance(v, Feedback)] for two in said]
    return [len(two) == 2 and two[0] > two[1] for two in values]


def figures(told: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """The share of pairs that are ranked right, over all seeds' and of each, and its tokens."""
    from understudy.runs.statistics import wilson

    right = [value for seed in told for value in seed["successes"]]
    whole = wilson(sum(right), len(right))
    each = [sum(seed["successes"]) / len(seed["successes"]) for seed in told]
    return {
        f"{NAME}_ranks": interval(whole.mean, f"of {len(right)} pairs", whole.low, whole.high),
        f"{NAME}_ranks_over_seeds": figure(each, "of a seed's pairs"),
        f"{NAME}_learned": figure([seed["learned"] for seed in told], "tokens with a gradient"),
    }
