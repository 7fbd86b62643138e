"""A run's checkpoints: `checkpoints/step-000010` and so on, after so many steps each.

The newest few stay, and the best: `checkpoints/best.json` says which that is and by what. A run may
begin from a checkpoint of another one (`fork_run`).
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from understudy.recipes.lineage import go_on_from
from understudy.runs.directory import Run, RunError, read_json, write_json
from understudy.train import checkpoint
from understudy.train.trainer import Trainer

BEST, ORIGIN, EPISODES = "best.json", "origin.json", "episodes.json"
CAPTURED = "captured.json"  # as EPISODES, where what is trained on is made of captured ones
ARRIVED = "arrived.jsonl"  # see recipes.arrivals
_NAME = re.compile(r"\.?(last|step-(\d+))(\.old)?")


class Score(NamedTuple):
    """How good what was trained is (more is better), and by what."""

    value: float
    by: str


class Checkpoints:
    """Those of one run: `keep` of the newest stay, and the best."""

    def __init__(self, run: Run, keep: int) -> None:
        self.folder, self.keep = run.checkpoints, keep

    def save(
        self,
        step: int,
        trainer: Trainer,
        state: Mapping[str, Any],
        score: Score | None = None,
    ) -> bool:
        """The checkpoint after `step` steps. Returns whether it is the best scored so far; of
        equals it is the later. Raises CheckpointError."""
        checkpoint.save(self.folder / name_of(step), trainer, {**state, "step": step})
        best = self.best
        is_best = score is not None and (best is None or score.value >= best["score"])
        if score is not None and is_best:
            best = {"step": step, "score": score.value, "by": score.by}
            write_json(self.folder / BEST, best)
        spared = name_of(best["step"]) if best else ""
        for folder in checkpoints_of(self.folder.parent)[self.keep :]:
            if folder.name != spared:
                shutil.rmtree(folder, ignore_errors=True)
        return is_best

    @property
    def best(self) -> dict[str, Any] | None:
        """The best one's `step`, its `score` and `by` what; None as long as none was scored."""
        file = self.folder / BEST
        return read_json(file) if file.exists() else None


def recent_mean(run: Run, name: str, count: int = 5) -> Score | None:
    """The mean of a metric over the last steps that have it."""
    _, values = run.metrics().series(name)
    last = values[-count:]
    return Score(sum(last) / len(last), f"{name} of {len(last)} steps") if last else None


def name_of(step: int) -> str:
    """The folder of the checkpoint after so many steps."""
    return f"step-{step:06d}"


def step_of(folder: Path) -> int | None:
    """The number of steps after which a checkpoint was taken, by its name; None for `last`."""
    found = _NAME.fullmatch(folder.name)
    return int(found[2]) if found and found[2] else None


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of the run in this folder, the newest first.

    One that was being replaced when its process died stands under its own name.
    """
    folder = run / "checkpoints"
    names = {f"{m[1]}" for p in folder.glob("*") if p.is_dir() and (m := _NAME.fullmatch(p.name))}
    return [folder / name for name in sorted(names, key=_order, reverse=True)]


def _order(name: str) -> float:
    return float("inf") if name == "last" else int(name.removeprefix("step-"))


def find_checkpoint(named: str) -> Path:
    """The checkpoint that RUN, RUN@STEP or RUN@best names.

    Raises RunError where there is none, saying which there are.
    """
    path, _, which = named.rpartition("@") if "@" in named else (named, "", "")
    run = Path(path)
    if not (run / "run.json").exists():
        raise RunError(f"{path} holds no run: name one as RUN, RUN@STEP or RUN@best")
    there = checkpoints_of(run)
    if which == "best":
        best = run / "checkpoints" / BEST
        which = str(read_json(best)["step"]) if best.exists() else which
    found = [f for f in there if not which or str(step_of(f)) == which]
    if not found:
        steps = ", ".join(str(step_of(f)) for f in reversed(there)) or "none"
        raise RunError(f"{path} has no checkpoint {which}; there are: {steps}".replace("  ", " "))
    return found[0]


def fork_run(path: Path, config: BaseModel, seed: int, named: str) -> Run:
    """A new run at `path` that goes on from another's checkpoint: what was trained, the
    optimiser, the curriculum, the random states, what had arrived. `artefacts/origin.json` says
    where it is from, `lineage.json` how many tokens went into it there.

    Raises RunError where there is no such checkpoint, or the configuration names another base.
    """
    source = find_checkpoint(named)
    origin = Run.open(source.parent.parent, read_only=True)
    resolved = config.model_dump(mode="json")
    trained = {"tune": "lora"} | origin.config if "tune" in resolved else origin.config
    for key in ("base", "tune"):
        before, now = trained.get(key), resolved.get(key)
        if before is not None and before != now:
            raise RunError(
                f"{origin.path} was trained with {key}={before}, this run has {key}={now}: a "
                "checkpoint fits its own alone"
            )
    step = int(checkpoint.extra_of(source)["step"])
    run = Run.create(path, config, seed)
    shutil.copytree(source, run.checkpoints / name_of(step))
    for name in (EPISODES, CAPTURED):
        if (origin.artefacts / name).exists():
            shutil.copy(origin.artefacts / name, run.artefacts / name)
    if (origin.artefacts / ARRIVED).exists():
        lines = map(json.loads, (origin.artefacts / ARRIVED).read_text().splitlines())
        ids = [i for line in lines if line["step"] < step for i in line["ids"]]
        run.write_artefact(ARRIVED, json.dumps({"step": -1, "ids": ids, "forked": True}) + "\n")
    go_on_from(run, origin, step)
    told = {"run": str(origin.path.resolve()), "step": step}
    run.write_artefact(ORIGIN, told)
    return run
