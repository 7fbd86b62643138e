"""Learning from logs: what recipes make of a deployed agent's own episodes and their thumbs.

For each seed: an incumbent's traffic is distilled into the agent that is deployed (`before`). It
serves new customers of the traffic's kind at T = 1 in the real service; ids and logprobs are
recorded, and some customers leave a thumb, now and then a mistaken one. `filtered_sft`, `ppo`,
`stream` and `kto` learn from these episodes alone: no environment, no check. `filtered_sft` is
distillation of what has a thumb up, of several numbers of epochs the one that proves best, which is
more than it could know. `dpo` needs two episodes of one customer, which no log has: it gets as many
others, four of each customer; so does `reward_model`, which is no policy: `reward_model_ranks` is
how often it ranks an episode that succeeded above one of the same customer that failed, of
customers that it has not met.

Beside them stand recipes that play in a world learned from the incumbent's traffic, about as many
episodes as were logged, judged by the owner's check: GRPO with advantages centred in their group
(`grpo_mean`), over its standard deviation (`grpo_group`) or over the batch's (`grpo_global`), PPO
with a value head (`ppo_world`: normalised by values), and rejection sampling (`rft`).
`grpo_from_sft` plays on, with a budget of its own, from `checked_sft`: the incumbent's episodes
that pass the check, distilled as the demo does. `opd` learns from it as its teacher.
`sft_lora` and `sft_full` distil the same episodes into the bare base, by an adapter and by full
fine-tuning, each at several learning rates of which the best counts (LoRA Without Regret, 2025):
success, the last epoch's loss and that of held-out episodes stand for each rate, and in
docs/lora_or_full.svg. `correct_...` are what `bench correct` measured, where it was run.

Success is that of customers whom nobody has met, greedily and at T = 1: over all seeds' customers
with its 95% interval, and `..._over_seeds` with one that draws whole seeds, which with three of
them is still too narrow. `..._over_filtered_sft` is the paired difference. `..._spread_t1` is the
standard deviation over seeds, `..._collapsed` in how many the policy ended over 5 points below
where it began. `..._sampled` is how many tokens policies drew for a recipe (canaries aside, but in
`rft`), `..._learned` how many had a gradient, each pass anew.

A recipe is a function in learning_recipes. Two hours a seed on two cores, reckoned from what the
demo's stages take: what is measured is kept in docs/measured/learning and not measured again; runs
that were cut off go on from build/bench/learning.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import learned_judge
from bench.bench_correct import kept_figures
from bench.figures import Figure, figure
from bench.incumbents import run_at, service_at, traffic_of
from bench.learning_recipes import RECIPES, Setting, Trained
from bench.learning_table import DECODINGS, KINDS, lora_or_full, table
from bench.logged import logs_at, sampled_tokens
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
    more: Mapping[str, Sequence[str]] | None = None,
    out: Path = OUT,
    kept: Path = MEASURED / "learning",
    corrected: Path = MEASURED / "correct",
    plot: Path = ROOT / "docs" / "lora_or_full.svg",
) -> dict[str, Figure]:
    """`more` are settings of recipes by their names, `corrected` where `bench correct` keeps what
    it measured."""
    names = tuple(recipes) or (*RECIPES, learned_judge.NAME)
    told = [
        _measured(out / f"{level}-{s}", kept / f"{level}-{s}", s, level, traffic, logged, proof,
                  names, more or {})
        for s in seeds
    ]  # fmt: skip
    found = {
        "logged_success": figure([t["logs"]["success"] for t in told], "success"),
        "logged_thumbs": figure([t["logs"]["thumbs"] for t in told], "episodes with a thumb"),
        "logged_tokens": figure([t["logs"]["tokens"] for t in told], "sampled tokens"),
    }
    found |= table(told, ("before", *(name for name in names if name in RECIPES)))
    if learned_judge.NAME in names:
        found |= learned_judge.figures([t[learned_judge.NAME] for t in told])
    found |= {f"correct_{name}": own for name, own in kept_figures(corrected).items()}
    if set(KINDS) <= set(names):
        plot.write_text(lora_or_full(told))
    return found


def _measured(
    folder: Path, kept: Path, seed: int, level: int, traffic: int, logged: int, proof: int,
    names: Sequence[str], more: Mapping[str, Sequence[str]],
) -> dict[str, Any]:  # fmt: skip
    """What the logs are, and of each recipe what learning_table reads."""
    parts = ("logs", "before", *names)
    told = {name: measured(kept / f"{name}.json") for name in parts}
    missing = [name for name, found in told.items() if found is None]
    if not missing:
        return told
    folder.mkdir(parents=True, exist_ok=True)
    start = asyncio.run(_deployed(folder, level, seed, traffic))
    episodes = logs_at(folder, "logs", start, logged, 2_000_000 + seed)
    for name in missing:
        if name == "logs":
            told[name] = _described(episodes)
        else:
            setting = Setting(folder, seed, level, traffic, start, episodes, more)
            told[name] = _found(name, setting, proof)
        write_measured(kept / f"{name}.json", told[name])
    return told


def _found(name: str, setting: Setting, proof: int) -> dict[str, Any]:
    if name == learned_judge.NAME:
        return learned_judge.judged(setting)
    made = [Trained(setting.start, 0, None)] if name == "before" else RECIPES[name](setting)
    return {"tried": asyncio.run(_proved(setting.folder, made, proof, setting.seed))}


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
    folder: Path, made: Sequence[Trained], proof: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Of each policy, by its setting, how it fares with customers that nobody has met."""
    from understudy.demo.prove import prove

    found: dict[str, dict[str, Any]] = {}
    async with service_at(folder) as (url, _):
        for one in made:
            whole = (one.path / "config.json").exists()  # a model, not an adapter
            policies = {"policy": None if whole else one.path}
            base = str(one.path) if whole else "tiny"
            told = (await prove(url, policies, proof, seed, None, base))["policy"]
            wins = {d: {"successes": told[d]["successes"]} for d in DECODINGS}
            cost = {"sampled": one.sampled, "learned": one.learned, "loss": dict(one.loss)}
            found[one.setting] = {**wins, **cost}
    return found
