"""Transfer: an agent that trained only in a learned world, in the real service.

For incumbents of four qualities and three seeds: 1,000 episodes of traffic, a world learned from
them; then the agent before (distilled from the episodes that pass the owner's check), after the
demo's recipe in the world, and after the same recipe in the real service with new customers of the
traffic's kind. All three meet customers that nobody has seen in the real service, greedily and at
T = 1. `behind_reality` is how far the world's agent is behind, one-sided 95%, over all seeds.

At the levels in `ablated` the first seed's agent also trains in lesser worlds, the rows of the
fidelity report: docs/transfer.svg plots what it then reaches against how right each row is about
held-out calls. At the levels in `alone` GRPO also goes on from that agent before by itself, in the
world and without the rest of the recipe: it stalls, for groups that fail as a whole teach nothing.

Hours on two cores: what is measured is kept in docs/measured/transfer and not measured again; runs
that were cut off go on from build/bench/transfer.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import Figure, figure, interval
from bench.incumbents import check_of_the_owner, run_at, service_at, traffic_of, world_of
from bench.measured import MEASURED, measured, write_measured
from bench.places import Reality, Retrieval
from bench.rehearsing import rehearsed, reinforced

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "bench" / "transfer"
HOURS = True  # by name only
ROWS = ("nearest", "floor", "entities")  # lesser worlds
PLACES = (*ROWS, "world", "reality")
NAMES = {
    "nearest": "nearest call",
    "floor": "retrieval",
    "entities": "retrieval and state",
    "world": "the world",
    "reality": "reality",
}


def run(
    levels: Sequence[int] = (50, 35, 20, 65),
    seeds: Sequence[int] = (0, 1, 2),
    proof: int = 1000,
    traffic: int = 1000,
    rft: Sequence[str] = (),
    grpo: Sequence[str] = (),
    grpo_alone: Sequence[str] = (),
    out: Path = OUT,
    kept: Path = MEASURED / "transfer",
    ablated: Sequence[int] = (50,),
    alone: Sequence[int] = (35,),
    plot: Path = ROOT / "docs" / "transfer.svg",
) -> dict[str, Figure]:
    size = Size(proof, traffic, tuple(rft), tuple(grpo), tuple(grpo_alone))
    found: dict[str, Figure] = {}
    for level in levels:
        told = []
        for seed in seeds:
            folder = out / f"{level}-{seed}"
            once = seed == seeds[0]  # lesser worlds and GRPO alone are not asked of every seed
            parts = {"ablation": once and level in ablated, "alone": once and level in alone}
            wanted = [p for p, on in parts.items() if on]
            told.append(_measured(folder, kept, level, seed, size, wanted))
        found[f"incumbent_{level}_traffic"] = figure([t["traffic"] for t in told], "success")
        for decoding in ("greedy", "t1"):
            for who in ("before", "world", "reality"):
                found[f"incumbent_{level}_{who}_{decoding}"] = _success(told, who, decoding)
            wins = [
                [w for t in told for w in t[who][decoding]["successes"]]
                for who in ("world", "reality")
            ]
            found[f"incumbent_{level}_behind_reality_{decoding}"] = _behind(*wins)
            if level in alone:
                name = f"incumbent_{level}_grpo_alone_{decoding}"
                found[name] = _success(told[:1], "alone", decoding)
        if level in ablated:
            found |= _by_fidelity(level, told[:1], plot)
    return found


def _by_fidelity(level: int, told: Sequence[dict[str, Any]], plot: Path) -> dict[str, Figure]:
    """How right each place was about held-out calls, and what training there came to; the plot."""
    from understudy.runs.plots import percent
    from understudy.runs.scatter import Point, ScatterChart

    found: dict[str, Figure] = {}
    points = []
    for place in PLACES:
        known = figure([100 * t["fidelity"][place] for t in told], "% of knowable leaves")
        found[f"incumbent_{level}_{place}_known_f1"] = known
        for decoding, name in (("greedy", "greedy"), ("t1", "T = 1")):
            own = _success(told, place, decoding)
            if place in ROWS:  # the others are told over all seeds
                found[f"incumbent_{level}_{place}_{decoding}"] = own
            bounds = own["low"], own["high"]
            points.append(Point(NAMES[place], known["value"], own["value"], *bounds, name))
    chart = ScatterChart(
        "Success in the real service after training in each place",
        tuple(points),
        x_label="how right each place is about held-out calls: leaf F1 on knowable leaves, %",
        form=percent,
    )
    plot.write_text(chart.svg())
    return found


def _success(told: Sequence[dict[str, Any]], who: str, decoding: str) -> Figure:
    """Over seeds the median and range; of one seed its customers' share and interval."""
    from understudy.runs.statistics import wilson

    each = [t[who][decoding]["successes"] for t in told]
    if len(each) > 1:
        return figure([sum(wins) / len(wins) for wins in each], "success")
    found = wilson(sum(each[0]), len(each[0]))
    return interval(found.mean, "success", found.low, found.high)


def _behind(world: Sequence[bool], reality: Sequence[bool]) -> Figure:
    """Reality's success less the world's in points, with the one-sided 95% bound as `high`."""
    from understudy.runs.statistics import paired_difference

    by = paired_difference([float(w) for w in world], [float(r) for r in reality], confidence=0.9)
    return interval(100 * by.mean, "points", 100 * by.low, 100 * by.high)


@dataclass(frozen=True, slots=True)
class Size:
    """How many customers prove and how many came before; settings of the recipes."""

    proof: int
    traffic: int
    rft: tuple[str, ...]
    grpo: tuple[str, ...]
    alone: tuple[str, ...]  # of GRPO by itself


def _measured(
    folder: Path, kept: Path, level: int, seed: int, size: Size, parts: Sequence[str]
) -> dict[str, Any]:
    """What one incumbent's traffic makes of the agent: success by place and decoding; `parts` are
    "ablation" (the lesser worlds too, and the fidelity of each) and "alone" (GRPO by itself)."""
    folder.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {}
    places = {"found": ("world", "reality"), "ablation": ROWS, "alone": ("alone",)}
    for name in ("found", *parts):
        file = kept / f"{level}-{seed}-{name}.json"
        if (found := measured(file)) is None:
            found = asyncio.run(_train_and_prove(folder, level, seed, size, places[name]))
            write_measured(file, found)
        told |= found
    return told


async def _train_and_prove(
    folder: Path, level: int, seed: int, size: Size, places: Sequence[str]
) -> dict[str, Any]:
    from understudy.core.types import HELDOUT_SHARE, parted
    from understudy.demo.prove import prove
    from understudy.demo.size import FULL
    from understudy.recipes.sft import SftConfig, sft
    from understudy.runs.config import load_config
    from understudy.world.fidelity.report import fidelity

    episodes = await traffic_of(folder, level, seed, size.traffic)
    train, aside = parted(episodes, HELDOUT_SHARE)
    check = check_of_the_owner()
    world, adapters = world_of(train, folder / "world"), {}
    if "world" in places:
        own = [*FULL.sft, "keep=check", f"seed={seed}", f"epochs={FULL.sft_epochs[1]}"]
        config = load_config(SftConfig, None, own)
        with run_at(folder / "before", config, seed) as begun:
            adapters["before"] = begun.path / "adapter"
            if not adapters["before"].exists():
                sft(begun, episodes, config, check, quiet=True)
    async with service_at(folder) as (url, service):
        answers: dict[str, Any] = {"world": world, "reality": Reality(service, world)}
        answers |= {row: Retrieval(world, train, row) for row in ROWS}
        for where in places:
            if where == "alone":
                start, own = folder / "before" / "adapter", ("max_turns=12", *size.alone)
                adapters[where] = await reinforced(folder, where, world, check, seed, start, own)
                continue
            unguarded = () if where == "world" else ("guards=null",)  # guards: of learned worlds
            own = (*size.rft, *unguarded), (*size.grpo, *unguarded)
            place = answers[where]
            adapters[where] = await rehearsed(folder, where, place, episodes, check, seed, *own)
        found = await prove(url, adapters, size.proof, seed, None)
    for entry in found.values():
        entry["greedy"].pop("conversations", None)
    if "world" in places:
        rewards = [bool(f.value) for e in episodes for f in e.feedback if f.name == "outcome"]
        return found | {"traffic": sum(rewards) / len(rewards)}
    if "alone" in places:
        return found
    report = fidelity(world, aside, train)
    row = {"nearest": report.nearest, "floor": report.floor, "entities": report.entities,
           "world": report.overall}  # fmt: skip
    known = {where: own["known_f1"]["value"] for where, own in row.items()}
    return found | {"fidelity": known | {"reality": 1.0}}
