"""The whole loop: `understudy demo` from three seeds, each from nothing.

Success is the share of customers served well in the real service; value is the mean of the seeds,
low and high the worst and the best of them. The first seed's picture becomes docs/demo.svg.
"""

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure, interval

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "bench"
UNITS = {"demo_seconds": "s", "demo_peak_rss_mb": "MB"}


def run(seeds: Sequence[int] = (0, 1, 2), quick: bool = False) -> dict[str, Figure]:
    """Runs the demos; a quick one leaves the picture alone."""
    reports = [_demo(seed, quick) for seed in seeds]
    if not quick:
        shutil.copyfile(_folder(seeds[0]) / "success.svg", ROOT / "docs" / "demo.svg")
    return figures(reports)


def figures(reports: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """The figures of several runs' report.json, over their seeds. A share that a run leaves
    undefined (failures removed, where there were none) counts in no figure."""
    seen: dict[str, list[float | None]] = {
        "demo_seconds": [r["seconds"]["total"] for r in reports],
        "demo_peak_rss_mb": [r["peak_rss_mb"] for r in reports],
    }
    for who, cells in reports[0]["success"].items():
        for how in cells:
            seen[f"success_{who}_{how}"] = [r["success"][who][how]["mean"] for r in reports]
    for how in reports[0]["failures_removed"]:
        seen[f"failures_removed_{how}"] = [r["failures_removed"][how] for r in reports]
    found: dict[str, Figure] = {}
    for name, all_values in seen.items():
        values = [v for v in all_values if v is not None]
        if values:
            low, high = min(values), max(values)
            mean = min(max(statistics.fmean(values), low), high)  # rounding may leave the range
            found[name] = interval(mean, UNITS.get(name, "share"), low, high)
    return found


def _folder(seed: int, quick: bool = False) -> Path:
    return OUT / f"demo-{'quick-' if quick else ''}{seed}"


def _demo(seed: int, quick: bool) -> Mapping[str, Any]:
    folder = _folder(seed, quick)
    command = [sys.executable, "-m", "understudy.cli", "demo", "--fresh", *["--quick"] * quick]
    subprocess.run([*command, "--seed", str(seed), "--out", str(folder)], check=True)
    report: Mapping[str, Any] = json.loads((folder / "report.json").read_text())
    return report
