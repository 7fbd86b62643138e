"""Checkpoints of a trainer: written whole or not at all, resumed bit for bit, no pickle.

A checkpoint is a directory: `parameters.safetensors` (whatever requires a gradient),
`optimiser.safetensors` (AdamW's moments, and what a value head's next fit builds on),
`random.safetensors` (torch's generators) and `state.json` (counters, configuration, the generators
of numpy and random, the caller's `extra`, the digests of the other files).
"""

import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from understudy.train.trainer import Trainer

FORMAT = 1
FILES = ("parameters", "optimiser", "random")
TRAINED = "parameter:"  # how `Trainer.tensors` names them; the rest are moments


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used or written; the message says why."""


class DamagedError(CheckpointError):
    """A checkpoint that is not what was written."""


def save(path: str | Path, trainer: Trainer, extra: dict[str, Any] | None = None) -> Path:
    """Writes the checkpoint at `path`, replacing one that is there only once the new one is whole.

    `extra` is JSON of the caller's (curriculum, position in the data). Raises CheckpointError
    where the disk does not take it; what was there before is then untouched.
    """
    path = Path(path)
    new, old = path.with_name(f".{path.name}.new"), _before(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        _write(new, trainer, extra or {})
    except (OSError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {path} could not be written ({_reason(error)}); those before it are "
            "as they were: make room and resume"
        ) from error
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    new.rename(path)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)
    return path


def exists(path: str | Path) -> bool:
    """Whether there is a checkpoint to load at `path`."""
    path = Path(path)
    return path.is_dir() or _before(path).is_dir()


def extra_of(path: str | Path) -> dict[str, Any]:
    """The caller's `extra` alone. Raises CheckpointError as `load` does."""
    return dict(_state(_existing(Path(path)))["extra"])


def load(path: str | Path, trainer: Trainer) -> dict[str, Any]:
    """Puts the checkpoint's state into `trainer` and the process's generators; returns `extra`.

    Raises CheckpointError where it is missing, damaged, or of other parameters.
    """
    path = _existing(Path(path))
    state = _state(path)
    tensors = {name: _tensors(path, name, state) for name in FILES}
    _check_names(tensors["parameters"], trainer)
    parameters = [(f"{TRAINED}{name}", t) for name, t in tensors["parameters"].items()]
    moments = list(tensors["optimiser"].items())
    skipped = state["skipped_in_a_row"], state.get("head_skipped_in_a_row", 0)
    trainer.restore([*parameters, *moments], state["steps"], *skipped)
    _restore_random(tensors["random"], state["random"])
    return dict(state["extra"])


def _write(folder: Path, trainer: Trainer, extra: dict[str, Any]) -> None:
    found = dict(trainer.tensors())
    moments = {n: t for n, t in found.items() if not n.startswith(TRAINED)}
    parameters = {n.removeprefix(TRAINED): t for n, t in found.items() if n not in moments}
    generators, numbers = _random_state()
    digests = {}
    for name, tensors in zip(FILES, (parameters, moments, generators), strict=True):
        file = folder / f"{name}.safetensors"
        save_file(tensors, file)
        _sync(file)
        digests[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    state = {
        "format": FORMAT,
        "steps": trainer.steps,
        "skipped_in_a_row": trainer.skipped_in_a_row,
        "head_skipped_in_a_row": trainer.head_skipped_in_a_row,
        "config": trainer.config.model_dump(mode="json"),
        "random": numbers,
        "digests": digests,
        "extra": extra,
    }
    state["digest"] = _digest(state)
    (folder / "state.json").write_text(json.dumps(state))
    _sync(folder / "state.json")
    _sync(folder)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _before(path: Path) -> Path:
    """Where the checkpoint at `path` is while a new one takes its place."""
    return path.with_name(f".{path.name}.old")


def _existing(path: Path) -> Path:
    """The checkpoint, or the one before it where the process died between two renames."""
    for found in (path, _before(path)):
        if found.is_dir():
            return found
    raise CheckpointError(f"there is no checkpoint at {path}")


def _state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads((path / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path} is damaged: state.json: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not of format {FORMAT}; use the version that wrote it")
    if state.pop("digest", None) != _digest(state):
        raise DamagedError(f"{path} is damaged: state.json is not the file that was written")
    return state


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _tensors(path: Path, name: str, state: dict[str, Any]) -> dict[str, Tensor]:
    file = path / f"{name}.safetensors"
    try:
        whole = hashlib.sha256(file.read_bytes()).hexdigest() == state["digests"][name]
        tensors = load_file(file) if whole else None
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{path} is damaged: {file.name}: {error}") from error
    if tensors is None:
        raise DamagedError(f"{path} is damaged: {file.name} is not the file that was written")
    return tensors


def _check_names(found: dict[str, Tensor], trainer: Trainer) -> None:
    mine = {name: tuple(p.shape) for name, p in trainer.parameters.items()}
    theirs = {name: tuple(t.shape) for name, t in found.items()}
    differ = sorted(n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n))
    if differ:
        n = differ[0]
        raise CheckpointError(
            f"the checkpoint is of another model or adapter: {n} is {theirs.get(n, 'missing')} in "
            f"it and {mine.get(n, 'missing')} in the model ({len(differ)} differ)"
        )


def _random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    generators = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        generators |= {f"cuda:{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    numbers = {
        "random": [version, list(words), gauss],
        "numpy": [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), cached],
    }
    return generators, numbers


def _restore_random(generators: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    torch.set_rng_state(generators["cpu"])
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            if f"cuda:{i}" in generators:
                torch.cuda.set_rng_state(generators[f"cuda:{i}"], i)
    version, words, gauss = numbers["random"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = numbers["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))


def _sync(path: Path) -> None:
    """What was written there is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
