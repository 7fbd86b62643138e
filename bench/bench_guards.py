"""Exploit guards: what they lose in a healthy world, and what they see of a hole planted in one.

`healthy`: from each seed's traffic of the demo's incumbent two worlds are learned, each from one
half of it. The demo's whole recipe runs in the first, plain and guarded by the second, and both
agents meet 1,000 customers that nobody has seen in the real service; `guards_gain` is over all
seeds, paired. Each seed is kept in docs/measured/guards and not measured again.

Then a hole is planted in such a world: one of its lasting failures never comes any more
(`lenient`), or the number that its listings are bounded by is often negative (`negative`). A
distilled policy is trained there by GRPO, plain, and guarded until the first alarm: real success,
and the steps until the alarm.
"""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure, figure, interval
from bench.incumbents import check_of_the_owner, run_at, service_at, traffic_of, world_of
from bench.measured import MEASURED, measured_once
from bench.planted import never_fails, planted, turns_negative
from bench.rehearsing import rehearsed, reinforced

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "bench" / "guards"
HOURS = True  # most of one: by name only
HOLES = {"lenient": never_fails, "negative": turns_negative}
ARMS = ("plain", "guarded")


def run(
    traffic: int = 1000,
    steps: int = 40,
    scenarios: int = 16,
    size: int = 8,
    proof: int = 300,
    holes: Sequence[str] = tuple(HOLES),
    seeds: Sequence[int] = (0, 1, 2),
    healthy_proof: int = 1000,
    rft: Sequence[str] = (),
    grpo: Sequence[str] = (),
    out: Path = OUT,
    kept: Path = MEASURED / "guards",
) -> dict[str, Figure]:
    told = []
    for seed in seeds:
        setting = {"traffic": traffic, "proof": healthy_proof, "rft": [*rft], "grpo": [*grpo]}

        def measure(n: int = seed) -> Any:
            folder = out / str(n)
            folder.mkdir(parents=True, exist_ok=True)
            return asyncio.run(_healthy(folder, n, traffic, healthy_proof, rft, grpo))

        told.append(measured_once(kept / f"healthy-{seed}.json", setting, measure))
    found = _of_healthy(told)
    with tempfile.TemporaryDirectory() as folder:
        own = (f"steps={steps}", f"scenarios_per_step={scenarios}", f"group_size={size}")
        played = asyncio.run(_holed(Path(folder), traffic, own, proof, holes))
    return found | _of_holes(*played)


async def _healthy(
    folder: Path, seed: int, traffic: int, proof: int, rft: Sequence[str], grpo: Sequence[str]
) -> dict[str, Any]:
    """Both agents of the demo's recipe in a healthy world, in the real service."""
    from understudy.demo.prove import prove

    episodes = await traffic_of(folder, 50, seed, traffic)
    second = folder / "second"
    world, check = world_of(episodes, folder / "world", second), check_of_the_owner()
    adapters = {}
    for arm in ARMS:
        guards = _guards(arm, second)
        own = [*rft, guards], [*grpo, guards]
        adapters[arm] = await rehearsed(folder, arm, world, episodes, check, seed, *own)
    async with service_at(folder) as (url, _):
        found = await prove(url, adapters, proof, seed, None)
    for entry in found.values():
        entry["greedy"].pop("conversations", None)
    sampled = json.loads((folder / "guarded-sampled" / "artefacts" / "rft.json").read_text())
    alarms = len(sampled["alarms"]) + _steps_and_alarms(folder / "guarded-rehearsed")[1]
    return found | {"alarms": alarms, "left_out": sampled["left_out"]}


async def _holed(
    folder: Path, traffic: int, own: Sequence[str], proof: int, holes: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Real success of each arm in each holed world, and the guarded ones' steps, with whether an
    alarm ended them."""
    from understudy.demo.prove import prove
    from understudy.recipes.sft import SftConfig, sft

    episodes = await traffic_of(folder, 50, 0, traffic)
    second = folder / "second"
    world, check = world_of(episodes, folder / "world", second), check_of_the_owner()
    distil = SftConfig(epochs=1, batch_episodes=4, lr=3e-3, keep="check")
    with run_at(folder / "start", distil, 0) as distilled:
        start = sft(distilled, episodes, distil, check, quiet=True).adapter
    adapters, steps = {"start": start}, {}
    for hole in holes:
        where = planted(world, HOLES[hole](world)[0])
        for arm in ARMS:
            name, settings = f"{hole}_{arm}", [*own, _guards(arm, second)]
            adapters[name] = await reinforced(folder, name, where, check, 0, start, settings)
        steps[hole] = _steps_and_alarms(folder / f"{hole}_guarded")
    async with service_at(folder) as (url, _):
        return await prove(url, adapters, proof, 0, None), steps


def _guards(arm: str, second: Path) -> str:
    """An arm's setting."""
    return "guards=null" if arm == "plain" else f"guards.second={second}"


def _steps_and_alarms(path: Path) -> tuple[int, int]:
    """Of a guarded run."""
    from understudy.runs.directory import Run

    with Run.open(path, read_only=True) as run:
        rows = run.metrics().rows
    return len(rows), rows[-1]["guards"]["alarms"]


def _of_healthy(told: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    """Success by arm, median and range over seeds, and what the guards lose."""
    shown: dict[str, Figure] = {}
    for how in ("greedy", "t1"):
        for arm in ARMS:
            rates = [t[arm][how]["success"]["mean"] for t in told]
            shown[f"healthy_{arm}_{how}"] = figure(rates, "real success")
        wins = [[w for t in told for w in t[arm][how]["successes"]] for arm in ARMS]
        shown[f"healthy_guards_gain_{how}"] = _gain(*wins)
    shown["healthy_alarms"] = figure([float(t["alarms"]) for t in told], "alarms")
    return shown


def _of_holes(found: dict[str, Any], steps: dict[str, Any]) -> dict[str, Figure]:
    """Real success of each policy, what guards gain in each world, and when they stopped."""
    shown: dict[str, Figure] = {}
    for arm, decodings in found.items():
        for how, entry in decodings.items():
            s = entry["success"]
            shown[f"{arm}_{how}"] = interval(s["mean"], "real success", s["low"], s["high"])
    for hole, (count, alarms) in steps.items():
        wins = [found[f"{hole}_{arm}"]["t1"]["successes"] for arm in ARMS]
        shown[f"{hole}_guards_gain_t1"] = _gain(*wins)
        shown[f"{hole}_steps"] = figure([count], "steps until the alarm, or the end")
        shown[f"{hole}_alarm"] = figure([float(alarms > 0)], "1: stopped by it")
    return shown


def _gain(plain: Sequence[bool], guarded: Sequence[bool]) -> Figure:
    """How much more of the same customers the guarded agent serves, in points."""
    from understudy.runs.statistics import paired_difference

    by = paired_difference([float(w) for w in plain], [float(w) for w in guarded])
    return interval(100 * by.mean, "points", 100 * by.low, 100 * by.high)
