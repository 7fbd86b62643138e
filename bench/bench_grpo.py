"""Reinforcement learning: seconds of a GRPO step in a learned world, rollouts and training apart.

The demo's shape: a world and a distilled tiny model from the incumbent's traffic, then steps of 16
scenarios with 8 episodes each, the owner's check as the judge.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from bench.figures import CannotRun, Figure, figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def run(
    traffic: int = 400, steps: int = 6, scenarios: int = 16, size: int = 8
) -> dict[str, Figure]:
    with tempfile.TemporaryDirectory() as folder:
        return _run(Path(folder), traffic, steps, scenarios, size)


def _run(folder: Path, traffic: int, steps: int, scenarios: int, size: int) -> dict[str, Figure]:
    from traffic import conversations, write_jsonl
    from understudy.core.chat_files import import_file
    from understudy.demo import owner_check
    from understudy.judges.check import Check
    from understudy.recipes.grpo import GrpoConfig, grpo
    from understudy.recipes.sft import SftConfig, sft
    from understudy.runs.directory import Run
    from understudy.world.learn import learn

    rows = asyncio.run(conversations(folder, traffic))
    episodes = list(import_file(write_jsonl(folder / "traffic.jsonl", rows)))
    check = Check.from_file(str(owner_check.__file__))
    distil = SftConfig(epochs=1, batch_episodes=4, lr=3e-3)
    with Run.create(folder / "distilled", distil) as distilled:
        start = sft(distilled, episodes, distil, quiet=True).adapter
    config = GrpoConfig(
        start=str(start), steps=steps, scenarios_per_step=scenarios, group_size=size, pool=400
    )
    with Run.create(folder / "rehearsed", config) as rehearsed:
        asyncio.run(grpo(rehearsed, learn(episodes), check, config, quiet=True))
        seen = [r for r in rehearsed.metrics().rows[1:] if r["skipped"] is None]
    if not seen:
        raise CannotRun("no step had a group whose rewards differ: nothing was trained")
    parts = {
        "step_seconds": [r["rollout_seconds"] + r["seconds"] for r in seen],
        "rollout_seconds": [r["rollout_seconds"] for r in seen],
        "training_seconds": [r["seconds"] for r in seen],
        "rollout_tokens_per_s": [r["sampled_tokens"] / r["rollout_seconds"] for r in seen],
        "training_tokens_per_s": [r["tokens_per_s"] for r in seen],
        "computed_share": [r["tokens_computed"] / r["tokens_in_rows"] for r in seen],
    }
    units = {
        "step_seconds": f"s, {scenarios} x {size} episodes",
        "rollout_seconds": "s",
        "training_seconds": "s",
        "rollout_tokens_per_s": "sampled tokens/s",
        "training_tokens_per_s": "row tokens/s",
        "computed_share": "of row tokens",
    }
    return {name: figure(values, units[name]) for name, values in parts.items()}
