"""Reinforcement learning: seconds of a GRPO step in a learned world, rollouts and training apart.

The demo's shape: a world and a distilled tiny model from the incumbent's traffic, then steps of 16
scenarios with 8 episodes each, the owner's check as the judge. Beside it the same with
`max_staleness=1`, where the next step is played while one is trained, in alternating pairs of runs.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.figures import CannotRun, Figure, figure
from bench.incumbents import check_of_the_owner

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def run(
    traffic: int = 400, steps: int = 6, scenarios: int = 16, size: int = 8, pairs: int = 3
) -> dict[str, Figure]:
    with tempfile.TemporaryDirectory() as folder:
        return _run(Path(folder), traffic, steps, scenarios, size, pairs)


def _run(
    folder: Path, traffic: int, steps: int, scenarios: int, size: int, pairs: int
) -> dict[str, Figure]:
    from traffic import conversations, write_jsonl
    from understudy.core.chat_files import import_file
    from understudy.recipes.grpo import GrpoConfig, grpo
    from understudy.recipes.sft import SftConfig, sft
    from understudy.runs.directory import Run
    from understudy.world.learn import learn

    rows = asyncio.run(conversations(folder, traffic))
    episodes = list(import_file(write_jsonl(folder / "traffic.jsonl", rows)))
    check = check_of_the_owner()
    distil = SftConfig(epochs=1, batch_episodes=4, lr=3e-3)
    with Run.create(folder / "distilled", distil) as distilled:
        start = sft(distilled, episodes, distil, quiet=True).adapter
    world = learn(episodes)

    def rows_of(staleness: int, pair: int) -> list[dict[str, Any]]:
        config = GrpoConfig(
            start=str(start), steps=steps, scenarios_per_step=scenarios, group_size=size,
            pool=400, max_staleness=staleness, seed=pair,
        )  # fmt: skip
        with Run.create(folder / f"rehearsed-{staleness}-{pair}", config) as rehearsed:
            asyncio.run(grpo(rehearsed, world, check, config, quiet=True))
            return list(rehearsed.metrics().rows[1:])

    runs = [(rows_of(0, pair), rows_of(1, pair)) for pair in range(pairs)]
    plain = [[r["step_seconds"] for r in rows] for rows, _ in runs]
    ahead = [[r["step_seconds"] for r in rows] for _, rows in runs]
    seen = [r for rows, _ in runs for r in rows if r["skipped"] is None]
    if not seen:
        raise CannotRun("no step had a group whose rewards differ: nothing was trained")
    parts = {
        "step_seconds": [seconds for own in plain for seconds in own],
        "ahead_step_seconds": [seconds for own in ahead for seconds in own],
        "ahead_ratio": [sum(a) / sum(b) for a, b in zip(plain, ahead, strict=True)],
        "rollout_seconds": [r["rollout_seconds"] for r in seen],
        "training_seconds": [r["seconds"] for r in seen],
        "rollout_tokens_per_s": [r["sampled_tokens"] / r["rollout_seconds"] for r in seen],
        "training_tokens_per_s": [r["tokens_per_s"] for r in seen],
        "computed_share": [r["tokens_computed"] / r["tokens_in_rows"] for r in seen],
    }
    units = {
        "step_seconds": f"s, {scenarios} x {size} episodes",
        "ahead_step_seconds": "s, played beside training",
        "ahead_ratio": "of whole steps, synchronous to played beside training",
        "rollout_seconds": "s",
        "training_seconds": "s",
        "rollout_tokens_per_s": "sampled tokens/s",
        "training_tokens_per_s": "row tokens/s",
        "computed_share": "of row tokens",
    }
    return {name: figure(values, units[name]) for name, values in parts.items()}
