"""How many tokens a run used: what its metrics tell, one number a kind, with where it is from."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from understudy.core.meter import Tokens
from understudy.runs.directory import RunError, read_json
from understudy.runs.metrics import read_metrics

REWOUND = "metrics.rewound.jsonl"  # steps that were taken again after an interruption


@dataclass(frozen=True, slots=True)
class RunUsage:
    """`tokens` of the run and of the runs within it (the reader of `train rft`); `again` those of
    them in steps that were taken once more after an interruption. `trained` is how trained tokens
    are known. `base` is the run's."""

    base: str
    tokens: Tokens
    again: Tokens
    trained: str
    runs: int = 1


def usage_of(path: str | Path) -> RunUsage:
    """The tokens that a run used so far. Raises RunError where there is none, MetricsError for
    metrics that are damaged.

    A line tells what was used since the line before (`Run.log`), run.json what came after the last
    line. Of lines from before that was written, `tokens_in_rows` of the step is taken: of several
    updates in one step it is the last one's, so that the sum is a lower bound.
    """
    folder = Path(path)
    if not (folder / "run.json").exists():
        raise RunError(f"{folder} holds no run (no run.json)")
    within = [p.parent for p in sorted(folder.glob("*/run.json"))]
    kept, again = Tokens(), Tokens()
    older = False
    for one in (folder, *within):
        here, was_older = _of_lines(one / "metrics.jsonl")
        more, _ = _of_lines(one / REWOUND)
        rest = read_json(one / "run.json").get("used", {})
        kept, again, older = kept + here + more + Tokens(**rest), again + more, older or was_older
    trained = "`used` of metrics.jsonl"
    if older:
        trained += ", at least: `tokens_in_rows` of steps from before that was written"
    base = str(read_json(folder / "run.json").get("config", {}).get("base", "tiny"))
    return RunUsage(base, kept, again, trained, 1 + len(within))


def trained_until(path: str | Path, step: int | None = None) -> int:
    """The tokens that a run trained on before a step (None: in all that lines tell), without those
    of steps that were taken again: what went into its weights. Raises MetricsError."""
    return _of_lines(Path(path) / "metrics.jsonl", step)[0].trained


def _of_lines(file: Path, before: int | None = None) -> tuple[Tokens, bool]:
    """What the lines of metrics tell, or those before a step; and whether any of them is of an
    older form."""
    used: Counter[str] = Counter()
    older = False
    for row in read_metrics(file).rows:
        if before is not None and row["step"] >= before:
            continue
        said = row.get("used")
        if said is None and row.get("tokens_in_rows"):
            older = True
            said = {"trained": row["tokens_in_rows"]}
        used.update(said or {})
    return Tokens(**used), older
