"""The figures of the demo's report, from what its stages found."""

from pathlib import Path
from typing import Any

from understudy.core.prices import Price, cost_of, price_of
from understudy.core.types import Usage
from understudy.demo.agent import WORKLOAD
from understudy.runs.statistics import paired_difference, wilson
from understudy.store import SQLiteStore

# an assumption: what a hosted model of seven billion parameters cost per million tokens in 2024
SMALL_MODEL = Price(1.20, 1.60, None, "hosted 7B, 2024")
LARGE_MODEL = "gpt-4o"
Results = dict[str, Any]


def time_table(stages: dict[str, float], elapsed: float) -> dict[str, float]:
    """Seconds of each stage; `other` is what no stage took (services that start, attempts that
    were interrupted and begun anew); `total` is the wall time of all attempts."""
    other = max(0.0, elapsed - sum(stages.values()))
    return {**stages, "other": round(other, 1), "total": round(elapsed, 1)}


def better_distilled(proof: Results) -> dict[str, str]:
    """decoding -> the better of the two distillations at it."""
    names = ("distilled_all", "distilled_checked")
    return {
        how: max(names, key=lambda name: proof[name][how]["success"]["mean"])
        for how in ("greedy", "t1")
    }


def gains(proof: Results, over: str) -> dict[str, dict[str, float | int]]:
    """decoding -> success of the rehearsed policy minus another's, customer by customer.

    `over` is "incumbent" or "distilled": the better distillation at the same decoding.
    """
    better = better_distilled(proof)
    found = {}
    for how in ("greedy", "t1"):
        other = proof["incumbent"]["heldout"] if over == "incumbent" else proof[better[how]][how]
        rehearsed = proof["rehearsed"][how]
        found[how] = paired_difference(other["successes"], rehearsed["successes"]).as_dict()
    return found


def success_table(traffic: Results, proof: Results) -> dict[str, dict[str, Any]]:
    """policy -> decoding -> {mean, low, high, n}. `distilled` is the better of the two
    distillations at the same decoding."""
    table: dict[str, dict[str, Any]] = {
        "incumbent": {
            "traffic": wilson(traffic["successes"], traffic["n"]).as_dict(),
            "heldout": proof["incumbent"]["heldout"]["success"],
        }
    }
    better = better_distilled(proof)
    table["distilled"] = {how: proof[name][how]["success"] for how, name in better.items()}
    for name in ("rehearsed", "distilled_all", "distilled_checked"):
        table[name] = {how: proof[name][how]["success"] for how in ("greedy", "t1")}
    return table


def failures_removed(proof: Results) -> dict[str, float | None]:
    """Of the failures that the better distillation leaves, the share that rehearsal removes."""
    removed: dict[str, float | None] = {}
    for how, better in better_distilled(proof).items():
        left = 1 - proof[better][how]["success"]["mean"]
        still = 1 - proof["rehearsed"][how]["success"]["mean"]
        removed[how] = round(1 - still / left, 3) if left > 0 else None
    return removed


def throughput(results: Results, seconds: dict[str, float], metrics: Any) -> dict[str, Any]:
    steps = [r for r in metrics.rows if "sampled_tokens" in r]
    sampled = sum(r["sampled_tokens"] for r in steps)
    training = sum(r["seconds"] for r in steps)
    return {
        "traffic_episodes_per_s": round(results["traffic"]["n"] / max(seconds["traffic"], 0.1), 1),
        "grpo_steps": len(steps),
        "grpo_step_s": round(seconds["rehearse"] / max(1, len(steps)), 2),
        "grpo_training_share": round(training / max(seconds["rehearse"], 0.1), 3),
        "sampled_tokens": sampled,
        "sampled_tokens_per_s": round(sampled / max(seconds["rehearse"] - training, 0.1)),
    }


def costs(out: Path, proof: Results) -> dict[str, Any]:
    """Dollars per 1,000 episodes at list prices; every figure of it is an assumption."""
    with SQLiteStore.open(out / "store.db") as db:
        incumbent = db.find(limit=500, newest_first=False, workload=WORKLOAD)
    prompt = sum(s.prompt_tokens for s in incumbent) / max(1, len(incumbent))
    output = sum(s.completion_tokens for s in incumbent) / max(1, len(incumbent))
    large = price_of(LARGE_MODEL)
    assert large is not None
    cell = proof["rehearsed"]["greedy"]
    n = len(cell["successes"])
    ours = Usage(round(cell["prompt_tokens"] / n), None, round(cell["completion_tokens"] / n))
    theirs = Usage(round(prompt), None, round(output))
    return {
        "assumed": f"incumbent at {LARGE_MODEL}'s {large.version} (its tokens estimated), "
        f"understudy at {SMALL_MODEL.version} prices",
        "incumbent_per_1000": round(1000 * (cost_of(theirs, large) or 0.0), 2),
        "understudy_per_1000": round(1000 * (cost_of(ours, SMALL_MODEL) or 0.0), 2),
    }
