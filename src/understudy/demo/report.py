"""The demo's results as `report.json` and as one self-contained page."""

from pathlib import Path
from typing import Any

from understudy.demo.figures import (
    Results,
    better_distilled,
    costs,
    failures_removed,
    gains,
    success_table,
    throughput,
)
from understudy.demo.situations import SITUATIONS
from understudy.runs.conversations import Conversation
from understudy.runs.directory import Run, write_json
from understudy.runs.machine import machine
from understudy.runs.plots import Bar, BarChart, LineChart, Series, percent
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


def write_demo_report(
    out: Path, results: Results, seconds: dict[str, float], peak_mb: float, setting: dict[str, Any]
) -> dict[str, Any]:
    """Writes report.json, report.html and success.svg; returns what report.json holds."""
    proof, traffic = results["prove"], results["traffic"]
    with Run.open(out / "runs" / "rehearsed", read_only=True) as run:
        metrics = run.metrics()
    report = {
        "setting": setting,
        "seconds": seconds,
        "peak_rss_mb": round(peak_mb),
        "success": success_table(traffic, proof),
        "better_distilled": better_distilled(proof),
        "gain_over_distilled": gains(proof, "distilled"),
        "gain_over_incumbent": gains(proof, "incumbent"),
        "failures_removed": failures_removed(proof),
        "failures_by_situation": {
            "incumbent": {"heldout": proof["incumbent"]["heldout"]["situations"]},
            **{
                name: {how: proof[name][how]["situations"] for how in ("greedy", "t1")}
                for name in ("distilled_all", "distilled_checked", "rehearsed")
            },
        },
        "fidelity": results["learn"]["fidelity"]["overall"],
        "fidelity_floor": results["learn"]["fidelity"]["floor"],
        "throughput": throughput(results, seconds, metrics),
        "service_calls": {
            "traffic": traffic["service_calls"],
            "learning": results["learn"]["service_calls"],
            "rehearsal": sum(results[k]["service_calls"] for k in ("sample", "rehearse")),
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
        "From those alone a world was learned. A tiny model learned from the episodes that passed "
        f"in it, and from {report['throughput']['grpo_steps']} steps of reinforcement learning in "
        f"it. Then it met {n} "
        "customers that nobody had seen, in the real service.",
        (
            Headline("Success, greedy", percent(greedy["mean"]), _interval(greedy), before),
            Headline("Success at T = 1", percent(t1["mean"]), _interval(t1), before),
            Headline("Time, all of it", f"{minutes}:{rest:02d}", "minutes; no GPU"),
            Headline("Memory", f"{report['peak_rss_mb'] / 1024:.1f} GB", "all processes, at most"),
        ),
        (
            Section("Proof", _proof_blocks(report), PROOF_LEAD),
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


def _proof_blocks(report: dict[str, Any]) -> tuple[Any, ...]:
    rows = [
        (NAMES[name], HOW[how], f"{leaf['mean']:.1%}", _interval(leaf))
        for name, cells in report["success"].items()
        for how, leaf in cells.items()
    ]
    return (
        Plot(success_chart(report["success"]), "Means with 95% Wilson intervals."),
        Table(("policy", "decoding", "success", "95% interval"), rows),
        Table(
            ("rehearsed, compared with", "decoding", "points of success", "95% interval, paired"),
            _gain_rows(report),
            "What rehearsal adds",
            "The same customers meet every policy, so differences are taken customer by customer. "
            "Of the failures that the better distillation leaves, rehearsal removes "
            f"{_removed_said(report)}.",
        ),
        Plot(
            situations_chart(report),
            "Of the conversations that met a situation, the share that failed, with 95% Wilson "
            "intervals. A conversation may meet several.",
        ),
    )


def _gain_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    better = report["better_distilled"]
    compared = [
        *((NAMES[better[how]], how, report["gain_over_distilled"][how]) for how in better),
        *(("Incumbent, unseen", how, report["gain_over_incumbent"][how]) for how in better),
    ]
    return [
        (name, HOW[how], f"{100 * leaf['mean']:+.1f}",
         f"{100 * leaf['low']:+.1f} to {100 * leaf['high']:+.1f}, n = {leaf['n']}")
        for name, how, leaf in compared
    ]  # fmt: skip


def _removed_said(report: dict[str, Any]) -> str:
    said = [
        f"{percent(share)} ({HOW[how]})"
        for how, share in report["failures_removed"].items()
        if share is not None
    ]
    return " and ".join(said) or "none: it leaves none"


def situations_chart(report: dict[str, Any]) -> BarChart:
    """At temperature 1; the distillation is the better one at that decoding."""
    found, better = report["failures_by_situation"], report["better_distilled"]["t1"]
    policies = (
        ("Incumbent, unseen customers", found["incumbent"]["heldout"]),
        (f"{NAMES[better]}, T = 1", found[better]["t1"]),
        ("Rehearsed, T = 1", found["rehearsed"]["t1"]),
    )
    bars = [
        Bar(s, leaf[s]["mean"], leaf[s]["low"], leaf[s]["high"], policy, f"of {leaf[s]['n']}")
        for policy, leaf in policies
        for s in SITUATIONS
        if s in leaf
    ]
    return BarChart("Failures by situation", tuple(bars), top=1.0)


def calls_said(calls: dict[str, int]) -> str:
    """What the service's count says of learning and rehearsal, whichever it is."""
    counted = f"({calls['learning']} and {calls['rehearsal']} calls)"
    if calls["learning"] or calls["rehearsal"]:
        return f"Learning and rehearsal reached the real service {counted}: they must not."
    return f"Neither learning nor rehearsal called the real service {counted}, by its own count."


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
            f"Points are steps; lines a moving mean of five. {calls_said(report['service_calls'])}",
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
        Plot(
            fidelity_chart(fidelity),
            "Each call of held-out episodes predicted with its true history; 95% intervals by "
            "bootstrap over episodes.",
        ),
        Table(
            ("tool", "calls", "exact", "exact but free values", "knowable leaves", "error flag"),
            rows,
            "Fidelity on held-out episodes",
            "Each call predicted with its true history. Free values are those that nobody could "
            "know, such as a new id.",
        ),
    )


def fidelity_chart(fidelity: dict[str, Any]) -> BarChart:
    tools = {
        "all tools": fidelity["overall"],
        **dict(sorted(fidelity["tools"].items())),
        "nearest logged call": fidelity["floor"],
    }
    kinds = {"exact_but_free": "Exact but for free values", "flag": "Error flag right"}
    bars = [
        Bar(tool, f[kind]["value"], f[kind]["low"], f[kind]["high"], heading)
        for kind, heading in kinds.items()
        for tool, f in tools.items()
        if f.get(kind, {}).get("n")
    ]
    return BarChart("Fidelity per tool", tuple(bars), top=1.0)


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
