"""What a resumed run goes on from: its last checkpoint, and the episodes that it began with."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from understudy.core.types import Episode
from understudy.recipes.checkpoints import CAPTURED, EPISODES, checkpoints_of
from understudy.recipes.lineage import remember
from understudy.runs.directory import Run, read_json
from understudy.train import checkpoint
from understudy.train.trainer import Trainer

Choose = Callable[[Sequence[Episode]], tuple[list[Episode], Counter[str]]]


def from_checkpoint(run: Run, trainer: Trainer) -> dict[str, Any]:
    """Loads the run's newest checkpoint, where it has one; the state that was saved with it.

    Its `step` is the step to go on from. Metrics from there on are set aside. One that is damaged
    is passed over with a line on standard error. A run that begins keeps what was trained before it
    (recipes.lineage). Raises CheckpointError where all are damaged, or
    the newest is of another model.
    """
    remember(run)
    state: dict[str, Any] = {"step": 0}
    damaged: list[str] = []
    for folder in checkpoints_of(run.path):
        try:
            state = checkpoint.load(folder, trainer)
            break
        except checkpoint.DamagedError as error:
            damaged.append(str(error))
            Console(stderr=True, soft_wrap=True).print(f"{error}", markup=False, highlight=False)
    else:
        if damaged:
            raise checkpoint.CheckpointError(
                f"no checkpoint of {run.path} is whole ({damaged[0]}); begin a new run, or one "
                "from a checkpoint of another run with --from"
            )
    run.rewind(state["step"] - 1)
    return state


def begun_with_all(run: Run, episodes: Sequence[Episode]) -> list[Episode]:
    """The captured episodes that a run began with, of which it makes what it trains on."""
    return begun_with(run, episodes, lambda given: (list(given), Counter()), CAPTURED)[1]


def begun_with(
    run: Run, episodes: Sequence[Episode], choose: Choose, name: str = EPISODES
) -> tuple[list[Episode], list[Episode], Counter[str]]:
    """The episodes given, those of them that `choose` kept, and why others were left out.

    The choice is made once, when the run begins, and written down: a store grows, and a resumed
    run goes on with what it began with. `name` is the artefact's. Raises ValueError where some of
    that is gone.
    """
    file = run.artefacts / name
    if not file.exists():
        kept, left_out = choose(episodes)
        ids = {"given": [e.id for e in episodes], "kept": [e.id for e in kept]}
        if kept:
            run.write_artefact(name, ids | {"left_out": dict(left_out)})
        return list(episodes), kept, left_out
    begun = read_json(file)
    found = {e.id: e for e in episodes}
    gone = [i for i in begun["given"] if i not in found]
    if gone:
        raise ValueError(
            f"{run.path} began with {len(begun['given'])} episodes, and {len(gone)} of them are "
            f"gone ({gone[0]} is the first): begin a new run"
        )
    given, kept = ([found[i] for i in begun[name]] for name in ("given", "kept"))
    return given, kept, Counter(begun["left_out"])
