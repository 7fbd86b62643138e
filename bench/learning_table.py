"""The table of `bench learning`, and its picture of LoRA beside full fine-tuning.

What was measured of a recipe in one seed is `{"tried": {setting: of one policy}}`; of a policy that
is `{"greedy"|"t1": {"successes": [...]}, "sampled", "learned", "loss": {name: nats}}`.
"""

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.figures import Figure, figure, interval
from bench.learning_recipes import STARTS

Told = Sequence[Mapping[str, Any]]  # of each seed, what was found of each part
DECODINGS = ("greedy", "t1")
LOST = 0.05  # under where it began, from which a policy has collapsed
KINDS = {"sft_lora": "LoRA", "sft_full": "full"}
LOSSES = {"heldout_loss": "held-out loss at the end", "loss": "loss of the last epoch"}


def table(told: Told, names: Sequence[str]) -> dict[str, Figure]:
    """The rows of these recipes, each of the best of its policies in each seed."""
    found: dict[str, Figure] = {}
    for name in names:
        best = [best_of(seed[name]) for seed in told]
        found |= successes(name, best)
        found |= tokens(name, best)
        start = STARTS.get(name, "before")
        if name != "before" and start is not None and all(start in seed for seed in told):
            ends = [(mean(now), mean(best_of(s[start]))) for now, s in zip(best, told, strict=True)]
            lost = sum(after < before - LOST for after, before in ends)
            found[f"{name}_collapsed"] = figure([lost], f"of {len(told)} seeds")
        if name not in ("before", "filtered_sft") and "filtered_sft" in names:
            others = [best_of(seed["filtered_sft"]) for seed in told]
            found |= over("filtered_sft", name, others, best)
        settings = list(told[0][name]["tried"])
        if len(settings) > 1:
            for setting in settings:
                each = [seed[name]["tried"][setting] for seed in told]
                found |= successes(f"{name}_{setting}", each, seeds=False)
                found |= losses(f"{name}_{setting}", each)
    return found


def best_of(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a recipe's policies the one that proves best at T = 1."""
    tried: list[Mapping[str, Any]] = list(part["tried"].values())
    return max(tried, key=mean)


def mean(policy: Mapping[str, Any], decoding: str = "t1") -> float:
    wins = policy[decoding]["successes"]
    return float(sum(wins) / len(wins))


def successes(name: str, policies: Told, seeds: bool = True) -> dict[str, Figure]:
    """Success over all seeds' customers with its 95% interval, as if these policies were all that
    there are; and (`..._over_seeds`) with the interval that draws whole seeds."""
    from understudy.runs.statistics import clustered_mean, wilson

    found: dict[str, Figure] = {}
    for decoding in DECODINGS:
        wins = [p[decoding]["successes"] for p in policies]
        pooled, seed_of = _pooled(wins)
        of_all = wilson(int(sum(pooled)), len(pooled))
        found[f"{name}_{decoding}"] = interval(of_all.mean, "success", of_all.low, of_all.high)
        if seeds and len(wins) > 1:
            by = clustered_mean(pooled, seed_of)
            label = f"{name}_{decoding}_over_seeds"
            found[label] = interval(by.mean, "success", *_around(by.mean, by.low, by.high))
    if seeds and len(policies) > 1:
        spread = 100 * statistics.stdev(mean(p) for p in policies)
        found[f"{name}_spread_t1"] = figure([spread], "points, standard deviation over seeds")
    return found


def _pooled(each: Sequence[Sequence[bool]]) -> tuple[list[float], list[int]]:
    """All seeds' values in a row, and the seed of each."""
    values = [float(w) for wins in each for w in wins]
    return values, [n for n, wins in enumerate(each) for _ in wins]


def _around(value: float, low: float, high: float) -> tuple[float, float]:
    """The ends of an interval; rounding may have left the value outside."""
    return min(low, value), max(high, value)


def tokens(name: str, policies: Told) -> dict[str, Figure]:
    """What its policies cost in tokens, the median and the range over seeds."""
    found: dict[str, Figure] = {}
    for what, unit in (("sampled", "tokens"), ("learned", "tokens with a gradient")):
        known = [p[what] for p in policies if p.get(what) is not None]
        if known:
            found[f"{name}_{what}"] = figure(known, unit)
    return found


def losses(name: str, policies: Told) -> dict[str, Figure]:
    """The median and the range over seeds."""
    return {
        f"{name}_{what}": figure([p["loss"][what] for p in policies], "nats a token")
        for what in policies[0]["loss"]
    }


def over(other: str, name: str, before: Told, after: Told) -> dict[str, Figure]:
    """By how many points success at T = 1 is above another recipe's, over the same customers."""
    from understudy.runs.statistics import paired_difference

    sides = [_pooled([p["t1"]["successes"] for p in side]) for side in (before, after)]
    (was, seed_of), (now, _) = sides
    found: dict[str, Figure] = {}
    for label, clusters in (("", None), ("_over_seeds", seed_of)):
        if clusters is None or len(after) > 1:
            by = paired_difference(was, now, clusters)
            low, high = _around(by.mean, by.low, by.high)
            label = f"{name}_over_{other}_t1{label}"
            found[label] = interval(100 * by.mean, "points", 100 * low, 100 * high)
    return found


def lora_or_full(told: Told) -> str:
    """An SVG: success at T = 1 and final loss over the learning rate, of adapters and of full
    fine-tuning. Bands are the 95% interval over customers, and the range over seeds."""
    from understudy.runs.plots import LineChart, number, percent
    from understudy.runs.svg import document

    axis = "learning rate, as a power of ten"
    loss = _loss(told)
    charts = [
        LineChart(
            "Success over the learning rate",
            tuple(_curve(told, name, "t1") for name in KINDS),
            x_label=axis,
            y_label="success in the real service at T = 1",
            form=percent,
            bottom=0.0,
        ),
        LineChart(
            "Loss over the learning rate",
            tuple(_curve(told, name, loss) for name in KINDS),
            x_label=axis,
            y_label=f"{LOSSES[loss]}, nats a token, as a power of ten",
            form=number,
        ),
    ]
    parts, below = [], 0.0
    for chart in charts:
        svg = chart.svg()
        parts.append(svg.replace("<svg ", f'<svg y="{below:g}" ', 1))
        height = re.search(r' height="([\d.]+)"', svg)
        assert height is not None
        below += float(height.group(1)) + 16
    said = " ".join(chart.title + "." for chart in charts)
    return document(720, below, "LoRA beside full fine-tuning", said, parts)


def _loss(told: Told) -> str:
    """Held-out, unless no held-out episode passes."""
    some = next(iter(told[0]["sft_lora"]["tried"].values()))
    return "heldout_loss" if "heldout_loss" in some["loss"] else "loss"


def _curve(told: Told, name: str, what: str) -> Any:
    from understudy.runs.plots import Series

    points = []
    for setting in told[0][name]["tried"]:
        each = [seed[name]["tried"][setting] for seed in told]
        own = successes("", each, seeds=False) if what == "t1" else losses("", each)
        points.append((math.log10(float(setting.removeprefix("lr_"))), own[f"_{what}"]))
    points.sort(key=lambda p: p[0])
    x = tuple(p[0] for p in points)
    scale: Callable[[float], float] = float if what == "t1" else math.log10  # a rate may diverge
    y, low, high = (tuple(scale(p[1][k]) for p in points) for k in ("value", "low", "high"))  # type: ignore[literal-required]
    return Series(KINDS[name], x, y, low, high)
