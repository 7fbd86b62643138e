"""Learning from logs: what recipes make of a deployed agent's own episodes and their thumbs.

For each seed: an incumbent's traffic is distilled into the agent that is deployed (`before`). It
serves new customers of the traffic's kind at T = 1 in the real service; ids and logprobs are
recorded, and some customers leave a thumb, now and then a mistaken one. Each recipe learns from
these episodes alone, so all have the same sampled tokens: no environment, no check. `filtered_sft`
is distillation of what has a thumb up, of several numbers of epochs the one that proves best, which
is more than it could know. Success is that of customers whom nobody has met, greedily and at T = 1,
over all seeds; `..._over_filtered_sft` is the paired difference with its 95% interval.

Beside them stand recipes that play in a world learned from the incumbent's traffic, as many
episodes as were logged, judged by the owner's check: GRPO with advantages centred in their group
(`grpo_mean`), over its standard deviation (`grpo_group`) or over the batch's (`grpo_global`), and
PPO with a value head (`ppo_world`). `sft_lora` and `sft_full` distil the incumbent's episodes that
pass the check into the bare base, by an adapter and by full fine-tuning, at several learning rates
of which the best counts (LoRA Without Regret, 2025). `..._spread_t1` is the standard deviation over
seeds, `..._collapsed` in how many of them the policy ended over 5 points below the deployed one.

A recipe is a function in learning_recipes. Hours on two cores: what is measured is kept in
docs/measured/learning and not measured again; runs that were cut off go on from
build/bench/learning.
"""

import asyncio
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure, figure, interval
from bench.incumbents import run_at, service_at, traffic_of
from bench.learning_recipes import RECIPES, Setting
from bench.logged import play_logged, sampled_tokens
from bench.measured import MEASURED, measured, write_measured

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "bench" / "learning"
HOURS = True  # by name only


def run(
    seeds: Sequence[int] = (0, 1, 2),
    level: int = 50,
    traffic: int = 1000,
    logged: int = 3000,
    proof: int = 1000,
    recipes: Sequence[str] = (),
    more: Sequence[str] = (),
    out: Path = OUT,
    kept: Path = MEASURED / "learning",
) -> dict[str, Figure]:
    names = tuple(recipes) or tuple(RECIPES)
    told = [
        _measured(out / f"{level}-{s}", kept / f"{level}-{s}", s, level, traffic, logged, proof,
                  names, more)
        for s in seeds
    ]  # fmt: skip
    found = {
        "logged_success": figure([t["logs"]["success"] for t in told], "success"),
        "logged_thumbs": figure([t["logs"]["thumbs"] for t in told], "episodes with a thumb"),
        "logged_tokens": figure([t["logs"]["tokens"] for t in told], "sampled tokens"),
    }
    for name in ("before", *names):
        for decoding in ("greedy", "t1"):
            shares = [_mean(t[name][decoding]) for t in told]
            found[f"{name}_{decoding}"] = figure(shares, "success")
        if name != "before":
            ends = [(_mean(t[name]["t1"]), _mean(t["before"]["t1"])) for t in told]
            lost = sum(after < before - 0.05 for after, before in ends)
            found[f"{name}_collapsed"] = figure([lost], f"of {len(told)} seeds")
            spread = statistics.pstdev([after for after, _ in ends])
            found[f"{name}_spread_t1"] = figure([100 * spread], "points, standard deviation")
        if "filtered_sft" in names and name != "filtered_sft":
            both = [
                [w for t in told for w in t[n]["t1"]["successes"]] for n in ("filtered_sft", name)
            ]
            found[f"{name}_over_filtered_sft_t1"] = _over(*both)
    return found


def _mean(proved: Mapping[str, Sequence[bool]]) -> float:
    return sum(proved["successes"]) / len(proved["successes"])


def _over(before: Sequence[bool], after: Sequence[bool]) -> Figure:
    from understudy.runs.statistics import paired_difference

    by = paired_difference([float(w) for w in before], [float(w) for w in after])
    return interval(100 * by.mean, "points", 100 * by.low, 100 * by.high)


def _measured(
    folder: Path, kept: Path, seed: int, level: int, traffic: int, logged: int, proof: int,
    names: Sequence[str], more: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """Successes of each policy by decoding, and what the logs are."""
    parts = ("logs", "before", *names)
    told = {name: measured(kept / f"{name}.json") for name in parts}
    missing = [name for name, found in told.items() if found is None]
    if not missing:
        return told
    folder.mkdir(parents=True, exist_ok=True)
    start = asyncio.run(_deployed(folder, level, seed, traffic))
    episodes = asyncio.run(_logs(folder, start, logged, seed))
    for name in missing:
        if name == "logs":
            told[name] = _described(episodes)
        else:
            setting = Setting(folder, seed, level, traffic, start, episodes, more)
            adapters = [start] if name == "before" else RECIPES[name](setting)
            found = asyncio.run(_proved(folder, adapters, proof, seed))
            told[name] = max(found, key=lambda f: _mean(f["t1"]))
        write_measured(kept / f"{name}.json", told[name])
    return told


async def _deployed(folder: Path, level: int, seed: int, traffic: int) -> Path:
    """The agent distilled from all of an incumbent's traffic."""
    from understudy.demo.size import FULL
    from understudy.recipes.sft import SftConfig, sft
    from understudy.runs.config import load_config

    adapter = folder / "deployed" / "adapter"
    if not adapter.exists():
        episodes = await traffic_of(folder, level, seed, traffic)
        config = load_config(SftConfig, None, [*FULL.sft, f"seed={seed}", "epochs=2"])
        with run_at(folder / "deployed", config, seed) as begun:
            sft(begun, episodes, config, None, quiet=True)
    return adapter


async def _logs(folder: Path, start: Path, n: int, seed: int) -> list[Any]:
    """The deployed agent's episodes, in a store."""
    from understudy.store import SQLiteStore

    file, new = folder / "logs.db", Path(tempfile.mkdtemp(dir=folder)) / "logs.db"
    if not file.exists():
        async with service_at(folder) as (_, service):
            episodes = await play_logged(service, start, n, 2_000_000 + seed)
        with SQLiteStore.open(new) as db:
            db.write(episodes)
        new.rename(file)
    with SQLiteStore.open(file) as db:
        return list(db.read_episodes())


def _described(episodes: Sequence[Any]) -> dict[str, float]:
    from understudy.core.types import select_reward

    outcomes = [select_reward(e.feedback, "outcome") or 0.0 for e in episodes]
    thumbs = [select_reward(e.feedback, "thumb") for e in episodes]
    return {
        "success": sum(outcomes) / len(outcomes),
        "thumbs": sum(t is not None for t in thumbs),
        "tokens": sampled_tokens(episodes),
    }


async def _proved(
    folder: Path, adapters: Sequence[Path], proof: int, seed: int
) -> list[dict[str, Any]]:
    from understudy.demo.prove import prove

    found: list[dict[str, Any]] = []
    async with service_at(folder) as (url, _):
        for path in adapters:
            whole = (path / "config.json").exists()  # a model, not an adapter
            policies = {"policy": None if whole else path}
            told = await prove(url, policies, proof, seed, None, str(path) if whole else "tiny")
            found.append(
                {d: {"successes": told["policy"][d]["successes"]} for d in ("greedy", "t1")}
            )
    return found
