"""The demo's results as `report.json` and as one self-contained page."""

from collections import Counter
from pathlib import Path
from typing import Any

from understudy.core.prices import Price, cost_of, price_of
from understudy.core.types import Usage
from understudy.runs.conversations import Conversation
from understudy.runs.directory import Run, write_json
from understudy.runs.machine import machine
from understudy.runs.plots import Bar, BarChart, LineChart, Series, StackedBars, percent
from understudy.runs.report import (
    Comparison,
    Headline,
    Notes,
    Plot,
    Report,
    Section,
    Share,
    Table,
    machine_section,
    write_report,
)
from understudy.runs.statistics import wilson
from understudy.store import SQLiteStore

# an assumption: what a hosted model of seven billion parameters cost per million tokens in 2024
SMALL_MODEL = Price(1.20, 1.60, None, "hosted 7B, 2024")
LARGE_MODEL = "gpt-4o"
Results = dict[str, Any]


def write_demo_report(
    out: Path, results: Results, seconds: dict[str, float], peak_mb: float, setting: dict[str, Any]
) -> dict[str, Any]:
    """Writes report.json, report.html and success.svg; returns what report.json holds."""
    proof, traffic = results["prove"], results["traffic"]
    with Run.open(out / "runs" / "rehearsed", read_only=True) as run:
        metrics = run.metrics()
    report = {
        "setting": setting,
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "peak_rss_mb": round(peak_mb),
        "success": success_table(traffic, proof),
        "failures_removed": failures_removed(proof),
        "fidelity": results["learn"]["fidelity"]["overall"],
        "fidelity_floor": results["learn"]["fidelity"]["floor"],
        "throughput": throughput(results, seconds, metrics),
        "service_calls": {
            "traffic": traffic["service_calls"],
            "learning": results["learn"]["service_calls"],
            "rehearsal": results["rehearse"]["service_calls"],
        },
        "cost": costs(out, proof),
        "served": results["serve"],
        "machine": machine().as_dict(),
        "reward": "an owner's check of at most 40 lines (owner_check.py): the episode's tool calls "
        "and results against the ticket; the agent's text is not read",
    }
    write_json(out / "report.json", report)
    chart = success_chart(report["success"])
    (out / "success.svg").write_text(chart.svg(760))
    write_report(page(report, results, metrics), out / "report.html")
    return report


def success_table(traffic: Results, proof: Results) -> dict[str, dict[str, Any]]:
    """policy -> decoding -> {mean, low, high, n}. `distilled` is the better of the two
    distillations at the same decoding."""
    table: dict[str, dict[str, Any]] = {
        "incumbent": {
            "traffic": wilson(traffic["successes"], traffic["n"]).as_dict(),
            "heldout": proof["incumbent"]["heldout"]["success"],
        }
    }
    both = [proof["distilled_all"], proof["distilled_checked"]]
    table["distilled"] = {
        how: max((b[how]["success"] for b in both), key=lambda s: s["mean"])
        for how in ("greedy", "t1")
    }
    for name in ("rehearsed", "distilled_all", "distilled_checked"):
        table[name] = {how: proof[name][how]["success"] for how in ("greedy", "t1")}
    return table


def failures_removed(proof: Results) -> dict[str, float | None]:
    """Of the failures that the better distillation leaves, the share that rehearsal removes."""
    table = success_table({"successes": 0, "n": 1}, proof)
    removed: dict[str, float | None] = {}
    for how in ("greedy", "t1"):
        left = 1 - table["distilled"][how]["mean"]
        still = 1 - table["rehearsed"][how]["mean"]
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
        incumbent = db.find(limit=500, newest_first=False)
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


# -- the page ----------------------------------------------------------------------------------

NAMES = {
    "incumbent": "Incumbent",
    "distilled": "Distilled",
    "rehearsed": "Rehearsed",
    "distilled_all": "Distilled, all traffic",
    "distilled_checked": "Distilled, checked traffic",
}
HOW = {"traffic": "its traffic", "heldout": "unseen", "greedy": "greedy", "t1": "T = 1"}


def success_chart(success: dict[str, dict[str, Any]]) -> BarChart:
    bars = [
        Bar(HOW[how], leaf["mean"], leaf["low"], leaf["high"], NAMES[name])
        for name in ("incumbent", "distilled", "rehearsed")
        for how, leaf in success[name].items()
    ]
    return BarChart("Success in the real service", tuple(bars), top=1.0)


def page(report: dict[str, Any], results: Results, metrics: Any) -> Report:
    success, n = report["success"], report["success"]["rehearsed"]["greedy"]["n"]
    greedy, t1 = success["rehearsed"]["greedy"], success["rehearsed"]["t1"]
    before = percent(success["incumbent"]["traffic"]["mean"])
    minutes, rest = divmod(round(report["seconds"]["total"]), 60)
    return Report(
        "An understudy takes over a booking agent",
        f"{results['traffic']['n']:,} conversations with the incumbent went through the gateway. "
        "From those alone a world was learned, and a tiny model rehearsed in it for "
        f"{report['throughput']['grpo_steps']} steps of reinforcement learning. Then it met {n} "
        "customers that nobody had seen, in the real service.",
        (
            Headline("Success, greedy", percent(greedy["mean"]), _interval(greedy), before),
            Headline("Success at T = 1", percent(t1["mean"]), _interval(t1), before),
            Headline("Time, all of it", f"{minutes}:{rest:02d}", "minutes; no GPU"),
            Headline("Memory", f"{report['peak_rss_mb'] / 1024:.1f} GB", "all processes, at most"),
        ),
        (
            Section("Proof", _proof_blocks(report, results), PROOF_LEAD),
            Section("Rehearsal", _rehearsal_blocks(report, metrics)),
            Section("The world", _world_blocks(results)),
            Section("Before and after", _comparisons(results)),
            Section("Read this too", (Notes(_notes(report)),)),
            machine_section(machine()),
        ),
    )


PROOF_LEAD = (
    "Success is read from the service's database. Greedy decoding votes the incumbent's minority "
    "flaws away by itself, and that is not learning: so both decodings are shown, beside the rate "
    "of the traffic that was learned from."
)


def _proof_blocks(report: dict[str, Any], results: Results) -> tuple[Any, ...]:
    proof = results["prove"]
    rows = [
        (NAMES[name], HOW[how], f"{leaf['mean']:.1%}", _interval(leaf))
        for name, cells in report["success"].items()
        for how, leaf in cells.items()
    ]
    cells = [
        ("Incumbent, unseen customers", proof["incumbent"]["heldout"]["reasons"]),
        ("Distilled, T = 1", proof["distilled_checked"]["t1"]["reasons"]),
        ("Rehearsed, T = 1", proof["rehearsed"]["t1"]["reasons"]),
        ("Rehearsed, greedy", proof["rehearsed"]["greedy"]["reasons"]),
    ]
    total: Counter[str] = Counter()
    for _, reasons in cells:
        total.update(reasons)
    parts = [reason for reason, _ in total.most_common(5)]
    stacked = tuple(
        (
            name,
            (
                *(float(reasons.get(p, 0)) for p in parts),
                float(sum(v for k, v in reasons.items() if k not in parts)),
            ),
        )
        for name, reasons in cells
    )
    return (
        Plot(success_chart(report["success"]), "Means with 95% Wilson intervals."),
        Plot(
            StackedBars("Failures by situation", (*parts, "other"), stacked),
            f"Of {report['success']['rehearsed']['t1']['n']} customers each.",
        ),
        Table(("policy", "decoding", "success", "95% interval"), rows),
    )


def _rehearsal_blocks(report: dict[str, Any], metrics: Any) -> tuple[Any, ...]:
    series = []
    for name in ("reward", "success"):
        x, y = metrics.series(name)
        series.append(Series(name, tuple(x), tuple(y), smooth=5))
    x, y = metrics.series("entropy")
    seconds = {k: v for k, v in report["seconds"].items() if k != "total"}
    bars = tuple(Bar(name, value) for name, value in seconds.items())
    return (
        Plot(
            LineChart(
                "Learning in the world, at T = 1",
                tuple(series),
                x_label="GRPO step",
                form=percent,
                bottom=0.0,
                top=1.0,
            ),
            "Points are steps; lines a moving mean of five. No call reached the real service "
            f"meanwhile: it counted {report['service_calls']['rehearsal']}.",
        ),
        Plot(
            LineChart("Entropy", (Series("nats", tuple(x), tuple(y), smooth=3),), "GRPO step"),
            "Per sampled token.",
            half=True,
        ),
        Plot(
            BarChart("Seconds by stage", bars, form=lambda s: f"{s:.0f} s"),
            "On this machine.",
            half=True,
        ),
    )


def _world_blocks(results: Results) -> tuple[Any, ...]:
    fidelity = results["learn"]["fidelity"]
    rows = [_fidelity_row("all tools", fidelity["overall"])]
    rows += [_fidelity_row(tool, f) for tool, f in sorted(fidelity["tools"].items())]
    rows.append(_fidelity_row("nearest logged call (floor)", fidelity["floor"]))
    return (
        Table(
            ("tool", "calls", "exact", "exact but free values", "knowable leaves", "error flag"),
            rows,
            "Fidelity on held-out episodes",
            "Each call predicted with its true history. Free values are those that nobody could "
            "know, such as a new id.",
        ),
    )


def _fidelity_row(name: str, figures: dict[str, Any]) -> tuple[Any, ...]:
    n = int(figures.get("exact", {}).get("n", 0))
    cells = [figures.get(k) for k in ("exact", "exact_but_free", "known_f1", "flag")]
    return (name, n, *(Share(c["value"]) if c and c["n"] else None for c in cells))


def _comparisons(results: Results) -> tuple[Comparison, ...]:
    """Three customers whom the incumbent failed and the understudy served, failing differently."""
    proof = results["prove"]
    old, new = proof["incumbent"]["heldout"], proof["rehearsed"]["greedy"]
    found: list[Comparison] = []
    lengths: set[int] = set()
    shown = min(len(old["conversations"]), len(new["conversations"]))
    for i in range(shown):
        better = new["successes"][i] and not old["successes"][i]
        length = len(new["conversations"][i])
        if not better or (length in lengths and shown - i > 10):
            continue
        lengths.add(length)
        pair = (
            Conversation("Incumbent", tuple(old["conversations"][i]), "failed", False),
            Conversation("Rehearsed", tuple(new["conversations"][i]), "succeeded", True),
        )
        found.append(Comparison(f"Customer {i + 1}", pair))
        if len(found) == 3:
            break
    return tuple(found)


def _notes(report: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    cost = report["cost"]
    return (
        (
            "stand-in",
            "The incumbent is a scripted agent with stated flaw rates, a stand-in for a large "
            "model. The understudy is the tiny model that is shipped with the package, for tests "
            "and this demo; it is not for real work.",
        ),
        ("reward", f"The rehearsal's reward is {report['reward']}."),
        (
            "assumption",
            f"Costs per 1,000 conversations: incumbent ${cost['incumbent_per_1000']:.2f}, "
            f"understudy ${cost['understudy_per_1000']:.2f}; {cost['assumed']}. Nobody was billed.",
        ),
        (
            "latency",
            f"The understudy took {report['served']['turn_ms_median']:.0f} ms a turn (median) when "
            "served through the gateway, on this machine. The incumbent's is a script's and says "
            "nothing.",
        ),
    )


def _interval(leaf: dict[str, Any]) -> str:
    return f"{leaf['low']:.1%} to {leaf['high']:.1%}, n = {leaf['n']}"
