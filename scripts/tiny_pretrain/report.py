"""The evaluation as a table, the run as a plot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any


def table(result: dict[str, Any]) -> str:
    """Figures with their intervals, one a line."""
    lines = [f"tokens {(result['tokens'] or 0) / 1e6:.2f} M, {result['eval_seconds']} s"]
    for split, scores in result["splits"].items():
        for name, f in [*scores["figures"].items(), *scores["families"].items()]:
            mean, low, high = (100 * f[k] for k in ("mean", "low", "high"))
            lines.append(f"{split} {name:34s} {mean:6.2f}  [{low:5.1f}, {high:5.1f}]  n={f['n']}")
    return "\n".join(lines)


def plot(run: Path, docs: Path) -> None:
    """Curves of loss and of the probes over tokens seen, and a copy of the log."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [json.loads(t) for t in (run / "metrics.jsonl").read_text().splitlines()]
    shutil.copy(run / "metrics.jsonl", docs / "metrics.jsonl")
    path = run / "evals.jsonl"
    evals = [json.loads(t) for t in path.read_text().splitlines()] if path.exists() else []
    if evals:
        slim = [{k: e[k] for k in ("tokens", "train_seconds")} | e["splits"]["new"] for e in evals]
        (docs / "evals.jsonl").write_text("".join(json.dumps(e) + "\n" for e in slim))
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), constrained_layout=True)
    left.plot([r["tokens"] / 1e6 for r in rows], [r["loss"] for r in rows], lw=1)
    left.set(xlabel="million tokens", ylabel="loss per weighted token", yscale="log")
    left.set_title("training loss")
    for name in ("valid", "copy", "bind", "lookup", "choice", "rule", "correction", "compare"):
        found = [(e["tokens"] / 1e6, e["splits"]["new"]["figures"].get(name)) for e in evals]
        points = [(tokens, figure["mean"]) for tokens, figure in found if figure]
        if points:
            right.plot(*zip(*sorted(points), strict=True), marker="o", ms=3, label=name)
    right.set(xlabel="million tokens", ylabel="right, held-out APIs, greedy", ylim=(0, 1.02))
    right.set_title("probes")
    right.legend(loc="lower right")
    figure.savefig(docs / "curves.png", dpi=110)
    plt.close(figure)
