"""How many tokens went into what a run trains: its own, and those of the runs before it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.core.trained import TRAINED, Trained, merged, told_by, written
from understudy.models.size import folder_of, parameters_of
from understudy.recipes.learner import Learner
from understudy.runs.directory import Run, read_json
from understudy.runs.usage import trained_until
from understudy.train.value_head import ValueHead

LINEAGE = "lineage.json"  # among a run's artefacts: what was trained before it, where anything was
_THE_SAME = ""  # the recipe of a run that another one goes on from: that one's own


def remember(run: Run) -> None:
    """Keeps what was trained before the run: what stands beside the adapter or the base that it
    begins with. Once, when it begins, for folders go. Raises ValueError where that is damaged."""
    if not (run.artefacts / LINEAGE).exists():
        _keep(run, _began_with(run.config))


def go_on_from(run: Run, origin: Run, step: int) -> None:
    """Keeps what was trained before a run that begins from another's checkpoint after so many
    steps: what was before the other one, and what it trained on until then."""
    own = Trained(
        origin.id, _THE_SAME, trained_until(origin.path, step), _size(origin.config.get("base"))
    )
    _keep(run, (*_before(origin), own))


def save_trained(
    run: Run,
    learner: Learner,
    metadata: Mapping[str, Any],
    value_head: ValueHead | None = None,
    name: str | None = None,
) -> Path:
    """Writes what the run trained to its folder `name` (by default the learner's kind), with the
    tokens that went into it. `metadata` names the `recipe`."""
    recipe = str(metadata["recipe"])
    tokens = trained_until(run.path) + run.unlogged.get("trained", 0)
    own = Trained(run.id, recipe, tokens, _size(learner.base.source))
    said = {**metadata, TRAINED: written(merged([*_before(run, recipe), own]))}
    return learner.save(run.path / (name or learner.kind), said, value_head)


def _before(run: Run, recipe: str = _THE_SAME) -> tuple[Trained, ...]:
    """What was kept of what was trained before the run."""
    file = run.artefacts / LINEAGE
    found = Trained.read({TRAINED: read_json(file)}) if file.exists() else None
    return tuple(Trained(t.run, t.recipe or recipe, t.tokens, t.parameters) for t in found or ())


def _began_with(config: Mapping[str, Any]) -> tuple[Trained, ...]:
    base, start = folder_of(str(config.get("base", "tiny"))), config.get("start")
    of_start = told_by(start) if start else None
    return merged([*(told_by(base) or ()), *(of_start or ())])


def _keep(run: Run, before: tuple[Trained, ...]) -> None:
    if before:
        run.write_artefact(LINEAGE, written(before))


def _size(base: str | None) -> int | None:
    """A base's parameters; None where its configuration does not tell."""
    try:
        return parameters_of(base or "tiny")
    except (OSError, ValueError):
        return None
