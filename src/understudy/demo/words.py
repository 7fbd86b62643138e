"""What the demo says on the terminal."""

from collections import Counter
from typing import Any

from rich.console import Console

from understudy.runs.statistics import wilson

console = Console(stderr=True, highlight=False)


def headline(number: int, text: str) -> None:
    console.print(f"\n[bold]{number}  {text}[/bold]")


def say_traffic(traffic: dict[str, Any]) -> None:
    rate = wilson(traffic["successes"], traffic["n"])
    captured = traffic["captured"]
    console.print(
        f"  {captured['episodes']} episodes, {sum(captured['completions'].values())} completions, "
        f"{captured['feedback']} thumbs in the store; the incumbent (a scripted stand-in for a "
        f"large model) succeeds in {rate.mean:.0%} [{rate.low:.0%}, {rate.high:.0%}]"
    )
    for reason, count in Counter(traffic["reasons"]).most_common(5):
        console.print(f"    {count:4d}  {reason}")


def say_results(report: dict[str, Any]) -> None:
    console.print("\n[bold]What came of it[/bold] (success in the real service)")
    for name, cells in report["success"].items():
        for how, leaf in cells.items():
            console.print(
                f"  {name:>18} {how:>8}  {leaf['mean']:6.1%}  "
                f"[{leaf['low']:.1%}, {leaf['high']:.1%}]  n={leaf['n']}"
            )
    for how in ("greedy", "t1"):
        leaf, removed = report["gain_over_distilled"][how], report["failures_removed"][how]
        line = "" if removed is None else f"; {removed:.0%} of its failures removed"
        console.print(
            f"  rehearsed - better distilled {how:>8}  {100 * leaf['mean']:+.1f} points "
            f"[{100 * leaf['low']:+.1f}, {100 * leaf['high']:+.1f}], paired{line}"
        )
    console.print(f"  {report['seconds']['total']:.0f} s, {report['peak_rss_mb']:.0f} MB at most")


def say_calls(calls: dict[str, int]) -> bool:
    """Whether learning and rehearsal left the real service alone; says so where they did not."""
    seen = {k: calls[k] for k in ("learning", "rehearsal") if calls[k]}
    for stage, count in seen.items():
        console.print(f"  the real service saw {count} calls during {stage}: it must see none")
    return not seen
