"""Incumbents of several qualities, their traffic, and the real service, to train in."""

import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]
SCALES = {20: 2.05, 35: 1.5, 50: 1.0, 65: 0.7}  # incumbents' success in % -> of their flaw rates


async def traffic_of(folder: Path, level: int, seed: int, n: int) -> list[Any]:
    """The incumbent's episodes."""
    from traffic import conversations, write_jsonl
    from understudy.core.chat_files import import_file
    from understudy.demo.incumbent import FlawRates

    captured = folder / "traffic.jsonl.gz"
    if not captured.exists():
        rates = FlawRates().model_dump()
        flawed = FlawRates(**{k: min(0.95, v * SCALES[level]) for k, v in rates.items()})
        (folder / "service.db").unlink(missing_ok=True)
        write_jsonl(captured, await conversations(folder, n, seed, flawed))
    return list(import_file(captured))


def check_of_the_owner() -> Any:
    """What the demo's owner calls success."""
    from understudy.demo import owner_check
    from understudy.judges.check import Check

    return Check.from_file(str(owner_check.__file__))


def world_of(episodes: Sequence[Any], folder: Path, second: Path | None = None) -> Any:
    """The world that `understudy world learn` makes of them, its doubt corrected, in a folder."""
    from understudy.recipes.world import learn_world
    from understudy.world.model import World

    if not (folder / "fidelity.json").exists():
        learn_world(episodes, folder, second=second, quiet=True)
    return World.load(folder)


def run_at(path: Path, config: Any, seed: int) -> Any:
    """The run at a path: new, or as it was left."""
    from understudy.runs.directory import Run

    return Run.open(path) if (path / "run.json").exists() else Run.create(path, config, seed)


@asynccontextmanager
async def service_at(folder: Path) -> AsyncIterator[tuple[str, Any]]:
    """The booking service as its own process, on a fresh database."""
    from understudy.demo.agent import ServiceClient
    from understudy.runs.launch import launch, python

    database = tempfile.mkdtemp(dir=folder) + "/service.db"
    command = python("understudy.demo.service", "--db", database, "--seed", "0")
    with launch("service", command, folder / "service.log") as launched:
        async with ServiceClient(launched.url, connections=256) as service:
            yield launched.url, service
