"""A trainer's step that leaves behind what it could not take, and what is logged of a step."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from understudy.core.rows import Row
from understudy.recipes.rehearsal import Played
from understudy.recipes.rewards import means
from understudy.runs.directory import Run
from understudy.train.aggregate import heard_apart
from understudy.train.trainer import NonFiniteError, StepMetrics, Trainer


def take_step(
    run: Run, trainer: Trainer, rows: Sequence[Row], step: int, share: float = 1.0
) -> StepMetrics:
    """`trainer.step(rows, share)`, what the environment said having a mean of its own beside the
    rest (train.aggregate). The run counts the tokens of its rows as trained. Where it gives up, the
    rows are kept in the run's artefacts.

    Raises NonFiniteError, which names their file.
    """
    rows = heard_apart(rows)
    try:
        metrics = trainer.step(rows, share)
    except NonFiniteError as error:
        file = run.write_artefact(f"not-finite-{step}.jsonl", rows_text(rows))
        raise NonFiniteError(f"{error}; the rows of step {step} are in {file}") from None
    run.use(trained=metrics.tokens_in_rows)
    return metrics


def rows_text(rows: Sequence[Row]) -> str:
    """One JSON object a row; numbers that JSON cannot hold as text."""

    def plain(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return "".join(
        json.dumps({
            "ids": row.ids,
            "entries": [{k: plain(v) for k, v in e._asdict().items()} for e in row.entries],
        }) + "\n"
        for row in rows
    )  # fmt: skip


def described(played: Sequence[Played], version: int) -> dict[str, Any]:
    """What is logged of the groups that a step of this version trains on. Staleness, in versions
    since a completion was sampled, is over sampled tokens."""
    episodes = [e for item in played for e in item.group.episodes]
    completions = [c for e in episodes for c in e.made_for("agent")]
    sizes = [len(c.output_ids or ()) for c in completions]
    ages = [version - (c.request.model.version or 0) for c in completions]
    sampled, reward = sum(sizes), means(played)
    return {
        "reward": reward[0],
        "success": reward[1],
        "turns": len(completions) / max(1, len(episodes)),
        "sampled_tokens": sampled,
        "staleness_mean": sum(a * n for a, n in zip(ages, sizes, strict=True)) / max(1, sampled),
        "staleness_max": max(ages, default=0),
        "ended": dict(Counter(e.ended or "?" for e in episodes)),
    }
