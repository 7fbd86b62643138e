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


EARLIER = "earlier-"  # a run's copies of the logs of the model that it went on from


def keep_earlier(run: Path, docs: Path) -> None:
    """Copy the logs of the package's model into the run that goes on from it."""
    for name in ("metrics.jsonl", "evals.jsonl"):
        if (docs / name).exists():
            shutil.copy(docs / name, run / (EARLIER + name))


def history(run: Path, name: str) -> list[dict[str, Any]]:
    """A log's rows after those of the runs before it, tokens and seconds counted through."""
    earlier = _rows(run / (EARLIER + name))
    told = _rows(run / (EARLIER + "metrics.jsonl"))
    tokens, seconds = (told[-1]["tokens"], told[-1]["seconds"]) if told else (0, 0.0)
    rows = []
    for row in _rows(run / name):
        if "splits" in row:
            row = {k: row[k] for k in ("tokens", "train_seconds")} | row["splits"]["new"]
        took = "seconds" if "seconds" in row else "train_seconds"
        rows.append({**row, "tokens": row["tokens"] + tokens, took: row[took] + seconds})
    return earlier + rows


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(t) for t in path.read_text().splitlines()] if path.exists() else []


def plot(run: Path, docs: Path) -> None:
    """Curves of loss and of the probes over tokens seen, and a copy of the log."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = history(run, "metrics.jsonl")
    evals = history(run, "evals.jsonl")
    for name, found in (("metrics.jsonl", rows), ("evals.jsonl", evals)):
        (docs / name).write_text("".join(json.dumps(e) + "\n" for e in found))
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), constrained_layout=True)
    left.plot([r["tokens"] / 1e6 for r in rows], [r["loss"] for r in rows], lw=1)
    left.set(xlabel="million tokens", ylabel="loss per weighted token", yscale="log")
    left.set_title("training loss")
    for name in ("valid", "copy", "bind", "lookup", "choice", "rule", "correction", "compare"):
        found = [(e["tokens"] / 1e6, e["figures"].get(name)) for e in evals]
        points = [(tokens, figure["mean"]) for tokens, figure in found if figure]
        if points:
            right.plot(*zip(*sorted(points), strict=True), marker="o", ms=3, label=name)
    right.set(xlabel="million tokens", ylabel="right, held-out APIs, greedy", ylim=(0, 1.02))
    right.set_title("probes")
    right.legend(loc="lower right")
    figure.savefig(docs / "curves.png", dpi=110)
    plt.close(figure)
