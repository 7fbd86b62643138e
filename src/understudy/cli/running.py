"""What commands that train begin with: threads, and a run that is new or goes on."""

import contextlib
import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

GIVEN = "given.json"  # among a run's artefacts: the files that it was begun with


# commands that make no trainer; all others train over the processes of a launcher
ALONE = {"report"}


def first_of_several(context: typer.Context) -> None:
    """Under `torchrun`, or what sets its variables, the command goes on in the first process; the
    others compute for it (recipes.several) and end with it. Raises ValueError for a command that
    has nothing to compute for."""
    from understudy.runs.launch import place

    rank, size = place()
    if size == 1:
        return
    name = context.invoked_subcommand
    if name in ALONE:
        raise ValueError(f"`train {name}` runs in one process: start it without torchrun")
    from understudy.recipes.several import follow
    from understudy.train.processes import joined

    joined()
    if rank:
        follow()
        raise typer.Exit


def end_of_several(*_: Any, **__: Any) -> None:
    """The first process is done: the others end."""
    from understudy.runs.launch import place

    if place()[1] > 1:
        from understudy.recipes.several import dismiss

        dismiss()


def fit_threads(threads: int) -> int:
    """Sets torch's threads, fitted to the load where none are named; how many."""
    import torch

    from understudy.core.cores import threads_for_load

    count = threads or threads_for_load()
    torch.set_num_threads(count)
    return count


@contextlib.contextmanager
def opened_run(
    path: Path,
    config: Any,
    given: Mapping[str, Path | None] | None = None,
    fork: str | None = None,
    track: Sequence[str] = (),
) -> Iterator[Any]:
    """The run at `path`: new, begun from another's checkpoint, or resumed where it was interrupted.

    `given`: files and folders by the option that names them. Raises RunError where the run was
    begun with another configuration or other contents of these, or is done.
    """
    from understudy.runs import trackers
    from understudy.runs.directory import Run, RunError, read_json

    trackers.check(track)
    prints = {option: fingerprint(file) for option, file in (given or {}).items()}
    if (path / "run.json").exists():
        opened = Run.open(path, read_only=True)
        if opened.config != config.model_dump(mode="json"):
            raise RunError(f"{path} was begun with another configuration; choose another path")
        if opened.state == "done":
            raise RunError(f"{path} is done; choose another path, or delete it to train again")
        begun = opened.artefacts / GIVEN
        before = read_json(begun) if begun.exists() else {}
        for option, print_ in prints.items():
            if before.get(option, print_) != print_:
                raise RunError(f"{path} was begun with another {option}; choose another path")
        if fork is not None:
            from understudy.recipes.checkpoints import ORIGIN

            if not (opened.artefacts / ORIGIN).exists():
                raise RunError(
                    f"{path} did not begin from {fork}; choose another path, or delete it"
                )
        run = Run.open(path)
        print(f"resuming {path}")
    elif fork is not None:
        from understudy.recipes.checkpoints import fork_run

        run = fork_run(path, config, config.seed, fork)
    else:
        run = Run.create(path, config, config.seed)
    with run:
        run.write_artefact(GIVEN, prints)
        run.track(track)
        yield run
        say_skipped(run)


def kept_in(folder: Path) -> str:
    """What was trained, an adapter or a model, and the folder that holds it."""
    return f"{folder.name} in {folder}"


def say_skipped(run: Any) -> None:
    """How many of the run's steps made no update, and why."""
    rows = run.metrics().rows
    for why, count in Counter(row["skipped"] for row in rows if row.get("skipped")).items():
        print(f"  without an update: {count} of {len(rows)} steps, {why}")


def fingerprint(path: Path | None) -> str | None:
    """The SHA-256 of a file, or of a folder's files and their names. None where none is named."""
    if path is None:
        return None
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            found.update(str(file.relative_to(path)).encode() + b"\0")
            found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def values_of(named: str | None, config: Path | None) -> dict[str, Any]:
    """The configuration of the run that is gone on from, where there is one and no file."""
    from understudy.recipes.checkpoints import find_checkpoint
    from understudy.runs.directory import Run

    if named is None or config is not None:
        return {}
    return Run.open(find_checkpoint(named).parent.parent, read_only=True).config


def say_stopped(alarms: str | None) -> None:
    """Ends the command with exit code 1 where guards stopped the run."""
    if alarms:
        print(f"stopped by the guards: {alarms}", file=sys.stderr)
        raise typer.Exit(1)
