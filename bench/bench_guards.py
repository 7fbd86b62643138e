"""Exploit guards: a world with a hole planted in it, with and without them.

Two worlds are learned from the halves of the demo's traffic. The first one is healthy, or one of
its lasting failures never comes any more (`lenient`), or the number that its listings are bounded
by is often negative (`negative`). A distilled policy is trained there by GRPO, plain and guarded by
the second world, and proved in the real service on customers that nobody has seen. Success is real
success; the run is guarded until its first alarm.
"""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure, figure, interval
from bench.incumbents import world_of
from bench.planted import never_fails, planted, turns_negative

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
HOURS = True  # most of one: by name only


WORLDS = ("healthy", "lenient", "negative")


def run(
    traffic: int = 1000,
    steps: int = 40,
    scenarios: int = 16,
    size: int = 8,
    proof: int = 300,
    worlds: Sequence[str] = WORLDS,
) -> dict[str, Figure]:
    with tempfile.TemporaryDirectory() as folder:
        return _run(Path(folder), traffic, steps, scenarios, size, proof, worlds)


def _run(
    folder: Path,
    traffic: int,
    steps: int,
    scenarios: int,
    size: int,
    proof: int,
    names: Sequence[str],
) -> dict[str, Figure]:
    from traffic import conversations, write_jsonl
    from understudy.core.chat_files import import_file
    from understudy.demo import owner_check
    from understudy.demo.prove import prove
    from understudy.judges.check import Check
    from understudy.recipes.grpo import GrpoConfig, GrpoResult, grpo
    from understudy.recipes.guarding import GuardConfig
    from understudy.recipes.sft import SftConfig, sft
    from understudy.runs.directory import Run
    from understudy.runs.launch import launch, python

    rows = asyncio.run(conversations(folder, traffic))
    episodes = list(import_file(write_jsonl(folder / "traffic.jsonl", rows)))
    second = str(folder / "second")
    world = world_of(episodes, folder / "world", Path(second))
    check = Check.from_file(str(owner_check.__file__))
    distil = SftConfig(epochs=1, batch_episodes=4, lr=3e-3, keep="check")
    with Run.create(folder / "start", distil) as distilled:
        start = sft(distilled, episodes, distil, check, quiet=True).adapter
    holes = {"lenient": never_fails, "negative": turns_negative}
    results: dict[str, GrpoResult] = {}
    for name in names:
        where = planted(world, holes[name](world)[0]) if name in holes else world
        for guarded in (False, True):
            arm = f"{name}_{'guarded' if guarded else 'plain'}"
            config = GrpoConfig(
                start=str(start),
                steps=steps,
                scenarios_per_step=scenarios,
                group_size=size,
                guards=GuardConfig(second=second) if guarded else None,
            )
            with Run.create(folder / arm, config) as rehearsed:
                results[arm] = asyncio.run(grpo(rehearsed, where, check, config, quiet=True))
    adapters = {"start": start, **{arm: r.adapter for arm, r in results.items()}}
    command = python("understudy.demo.service", "--db", str(folder / "real.db"), "--seed", "0")
    service = launch("service", command, folder / "service.log")
    try:
        found = asyncio.run(prove(service.url, adapters, proof, 0, None))
    finally:
        service.stop()
    return figures(found, results)


def figures(found: dict[str, Any], results: dict[str, Any]) -> dict[str, Figure]:
    """Real success of each policy, what the guards lose in each world, and when they stopped."""
    from understudy.runs.statistics import paired_difference

    shown: dict[str, Figure] = {}
    for arm, decodings in found.items():
        for how, entry in decodings.items():
            s = entry["success"]
            shown[f"{arm}_{how}"] = interval(s["mean"], "real success", s["low"], s["high"])
    for arm, result in results.items():
        if not arm.endswith("_guarded"):
            continue
        name = arm.removesuffix("_guarded")
        plain, guarded = found[f"{name}_plain"]["t1"], found[arm]["t1"]
        gain = paired_difference(plain["successes"], guarded["successes"])
        shown[f"{name}_guards_gain_t1"] = interval(gain.mean, "of success", gain.low, gain.high)
        shown[f"{name}_steps"] = figure([result.steps], "steps until the alarm, or the end")
        shown[f"{name}_alarm"] = figure([float(result.stopped is not None)], "1: stopped by it")
    return shown
