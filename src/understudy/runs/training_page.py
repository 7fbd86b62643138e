"""A training run as one page: its curves, what was left out and why, its configuration."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from understudy.runs.directory import Run, read_json
from understudy.runs.metrics import numbers
from understudy.runs.plots import Format, LineChart, Series, number, percent
from understudy.runs.report import Block, Cell, Headline, Notes, Plot, Report, Section, Table
from understudy.runs.statistics import Interval

MOST = 24  # charts of figures that no group of curves knows


@dataclass(frozen=True, slots=True)
class _Curves:
    """A chart: its lines' names and the metrics that they are of."""

    title: str
    lines: Mapping[str, str]
    form: Format = number
    caption: str = ""


_LEARNING = (
    _Curves("Reward", {"reward": "reward"}, caption="The mean of a step's episodes."),
    _Curves(
        "Success", {"while sampling": "success", "held out": "evaluation/mean"}, percent,
        "Of a step's episodes; and greedy on held-out scenarios, with its 95% interval.",
    ),
    _Curves("Loss", {"rl": "loss/rl", "ce": "loss/ce", "kl": "loss/kl", "value": "loss/value"}),
    _Curves("Entropy", {"entropy": "entropy"}, caption="Nats a trained token."),
)  # fmt: skip
_STABILITY = (
    _Curves("Importance ratio", {"mean": "ratio_mean", "max": "ratio_max"}),
    _Curves("KL", {"kl": "kl"}, caption="Of the policy from the sampler, a trained token."),
    _Curves("Clipped", {"share": "clipped_share"}, percent, "Of the trained tokens."),
    _Curves("Gradient norm", {"norm": "grad_norm"}, caption="Before clipping."),
    _Curves("Learning rate", {"rate": "lr"}),
    _Curves(
        "Staleness", {"mean": "staleness_mean", "max": "staleness_max"},
        caption="Versions between sampling and training, over sampled tokens.",
    ),
)  # fmt: skip
_SPEED = (
    _Curves("Tokens per second", {"training": "tokens_per_s", "sampled": "sampled_per_s"}),
    _Curves(
        "Seconds", {"step": "step_seconds", "rollouts": "rollout_seconds", "training": "seconds"},
        caption="Where playing and training overlap, rollouts are what training waited for.",
    ),
    _Curves("Turns", {"turns": "turns"}, caption="An episode."),
    _Curves("Tokens", {"in rows": "tokens_in_rows", "computed": "tokens_computed"}),
)  # fmt: skip
_KNOWN = {m for group in (_LEARNING, _STABILITY, _SPEED) for c in group for m in c.lines.values()}
_ASIDE = ("step", "time", "count/", "counted/", "ended/", "microbatches", "sampled_tokens",
          "evaluation/")  # fmt: skip


def page(run: Run) -> Report:
    """The page's content (see runs.report). Raises MetricsError where the metrics are damaged."""
    rows = [_figures(row) for row in run.metrics().rows]
    sections = [
        Section(title, _plots(rows, group), lead)
        for title, group, lead in (
            ("Learning", _LEARNING, ""),
            ("Stability", _STABILITY, ""),
            ("Speed", _SPEED, ""),
            ("Other figures", _others(rows), ""),
        )
    ]
    sections += [
        Section("Left out, and why", _left_out(run), "Nothing is dropped without being counted."),
        Section("Checkpoints", _checkpoints(run)),
        Section("Configuration", (Table(("key", "value"), _configuration(run.config)),)),
    ]
    reason = f" ({run.reason})" if run.reason else ""
    return Report(
        f"Training run {run.path.resolve().name}",
        f"{len(rows)} steps logged; the run is {run.state}{reason}.",
        _headlines(run, rows),
        tuple(s for s in sections if s.blocks),
    )


def charts(run: Run) -> list[LineChart]:
    """All curves of a run, those without a value left off."""
    rows = [_figures(row) for row in run.metrics().rows]
    groups = (*_LEARNING, *_STABILITY, *_SPEED, *_others(rows))
    return [chart for curves in groups if (chart := _chart(rows, curves)) is not None]


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
    """A step's numbers, and those that follow from them."""
    found = numbers(row)
    if found.get("rollout_seconds") and "sampled_tokens" in found:
        seconds = found.get("step_seconds", found["rollout_seconds"])
        found["sampled_per_s"] = found["sampled_tokens"] / seconds
    return found


def _others(rows: list[dict[str, float]]) -> tuple[_Curves, ...]:
    """A chart for each figure that a recipe of its own logs."""
    names = dict.fromkeys(name for row in rows for name in row)
    new = [n for n in names if n not in _KNOWN and not n.startswith(_ASIDE)]
    return tuple(_Curves(n.replace("/", ": ").replace("_", " "), {"": n}) for n in new[:MOST])


def _plots(rows: list[dict[str, float]], group: tuple[_Curves, ...]) -> tuple[Block, ...]:
    drawn = [(curves, _chart(rows, curves)) for curves in group]
    return tuple(Plot(chart, curves.caption, half=True) for curves, chart in drawn if chart)


def _chart(rows: list[dict[str, float]], curves: _Curves) -> LineChart | None:
    series = [s for name, m in curves.lines.items() if (s := _series(rows, name, m)) is not None]
    if not series:
        return None
    top = 1.0 if curves.form is percent else None
    bottom = 0.0 if curves.form is percent else None
    return LineChart(curves.title, tuple(series), "step", form=curves.form, bottom=bottom, top=top)


def _series(rows: list[dict[str, float]], name: str, metric: str) -> Series | None:
    having = [row for row in rows if metric in row]
    if not having:
        return None
    steps = tuple(row["step"] for row in having)
    values = tuple(row[metric] for row in having)
    if metric != "evaluation/mean":
        return Series(name, steps, values, smooth=1 if len(steps) < 40 else 5)
    low, high = (tuple(row[f"evaluation/{end}"] for row in having) for end in ("low", "high"))
    return Series(name, steps, values, low, high)


def _headlines(run: Run, rows: list[dict[str, float]]) -> tuple[Headline, ...]:
    found = []
    for name, label, form in (
        ("reward", "reward", number), ("success", "success while sampling", percent),
        ("loss/ce", "loss", number),
    ):  # fmt: skip
        values = [row[name] for row in rows if name in row]
        if values:
            found.append(Headline(label, form(values[-1]), "last step", form(values[0])))
    evaluated = [row for row in rows if "evaluation/mean" in row]
    if evaluated:
        last, first = evaluated[-1], evaluated[0]
        within = f"{percent(last['evaluation/low'])} to {percent(last['evaluation/high'])}"
        note = f"n = {last['evaluation/n']:.0f}, {within}"
        mean, before = percent(last["evaluation/mean"]), percent(first["evaluation/mean"])
        found.append(Headline("success, held out", mean, note, before))
    return tuple(found)


def _left_out(run: Run) -> tuple[Block, ...]:
    counted: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    for row in run.metrics().rows:
        told = Counter({f"step skipped: {row['skipped']}": 1} if row.get("skipped") else {})
        told.update({k: int(v) for k, v in (row.get("counted") or {}).items()})
        told.update({f"episodes that ended: {k}": v for k, v in (row.get("ended") or {}).items()})
        counted.update(told)
        steps.update(k for k, v in told.items() if v)
    rows: list[tuple[Cell, ...]] = [(k, n, steps[k]) for k, n in counted.most_common() if n]
    blocks: list[Block] = [Table(("what", "how many", "in steps"), rows)] if rows else []
    for file in sorted(run.artefacts.glob("*.json")):
        told_of = read_json(file)
        for key in ("left_out", "rows_left_out", "captured_left_out"):
            left = told_of.get(key) if isinstance(told_of, dict) else None
            if left:
                columns = (f"{key.replace('_', ' ')} ({file.stem})", "how many")
                blocks.append(Table(columns, list(left.items()), half=True))
    return tuple(blocks)


def _checkpoints(run: Run) -> tuple[Block, ...]:
    best_file, origin_file = run.checkpoints / "best.json", run.artefacts / "origin.json"
    best = read_json(best_file) if best_file.exists() else {}
    evaluated = {
        int(row["step"]) + 1: Interval(**row["evaluation"])
        for row in run.metrics().rows
        if row.get("evaluation")
    }
    rows: list[tuple[Cell, ...]] = []
    for folder in sorted(run.checkpoints.glob("step-*")):
        step = int(folder.name.removeprefix("step-"))
        size = sum(f.stat().st_size for f in folder.iterdir()) / 1e6
        mark = f"the best, by {best['by']}: {best['score']:.3g}" if best.get("step") == step else ""
        rows.append((step, evaluated.get(step), f"{size:.1f} MB", mark))
    blocks: list[Block] = []
    if rows:
        blocks.append(Table(("after steps", "success, held out", "size", ""), rows))
    if origin_file.exists():
        origin = read_json(origin_file)
        told = f"from step {origin['step']} of {origin['run']}"
        blocks.append(Notes((("this run goes on", told),)))
    return tuple(blocks)


def _configuration(config: Mapping[str, Any], prefix: str = "") -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            rows += _configuration(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, "–" if value is None else str(value)))
    return rows
