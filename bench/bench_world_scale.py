"""How a world grows with its traffic: learning time, latency, memory, file size at 1, 4, 16 times.

Traffic of a synthetic service (bench/rental.py) whose things grow with it. Each world is learned,
and each is loaded and served, by a fresh process, of which the peak of the resident memory is
taken. Learning is timed on the processor, a call on the clock: calls of new episodes of the same
service, each in a session of its own, and the calls after the hundredth of one long session.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.figures import CannotRun, Figure, figure

ROOT = Path(__file__).resolve().parents[1]
STATUS = Path("/proc/self/status")


def run(
    episodes: int = 250, scales: tuple[int, ...] = (1, 4, 16), repeats: int = 3
) -> dict[str, Figure]:
    """Figures of `episodes` times each of the scales."""
    if not STATUS.exists():
        raise CannotRun(f"this system has no {STATUS}, where a process's peak of memory is read")
    figures: dict[str, Figure] = {}
    learned: dict[int, list[float]] = {}
    medians: dict[int, list[float]] = {}
    for scale in scales:
        size = scale * episodes
        with tempfile.TemporaryDirectory() as folder:
            learns = [_process("learn", size, folder) for _ in range(repeats)]
            serves = [_process("serve", size, folder) for _ in range(repeats)]
        learned[scale] = [r["seconds"] / size for r in learns]
        medians[scale] = [r["median_ms"] for r in serves]
        for label, rows, key, unit in (
            ("calls", learns, "calls", "calls learned from"),
            ("things", learns, "things", "different things in them"),
            ("learn", learns, "seconds", "s of one core"),
            ("learn_memory", learns, "peak_mb", "MB, the traffic among it"),
            ("file", learns, "file_mb", "MB"),
            ("load", serves, "load_seconds", "s of one core"),
            ("serve_memory", serves, "peak_mb", "MB"),
            ("call", serves, "median_ms", "ms, median"),
            ("call_p99", serves, "p99_ms", "ms"),
            ("late_call", serves, "late_ms", "ms, median after 100 calls"),
        ):
            figures[f"{label}_{scale}x"] = figure([r[key] for r in rows], unit)
    for scale in scales[1:]:
        first = scales[0]
        figures[f"learn_an_episode_{scale}x_to_{first}x"] = _ratio(learned[scale], learned[first])
        figures[f"call_{scale}x_to_{first}x"] = _ratio(medians[scale], medians[first])
    return figures


def _ratio(these: list[float], those: list[float]) -> Figure:
    return figure([a / b for a, b in zip(these, those, strict=True)], "times")


def _process(what: str, size: int, folder: str) -> dict[str, float]:
    """What a fresh process measured."""
    command = [sys.executable, "-m", "bench.bench_world_scale", what, str(size), folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{what} of {size} episodes failed: {done.stderr.strip()[-400:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _learn(size: int, folder: Path) -> dict[str, float]:
    from bench.rental import calls, traffic
    from understudy.world.learn import learn

    episodes = traffic(size)
    began = time.process_time()
    world = learn(episodes)
    seconds = time.process_time() - began
    world.save(folder)
    return {
        "calls": sum(len(calls(e)) for e in episodes),
        "things": sum(len(held) for held in world.memory.versions.values()),
        "seconds": seconds,
        "file_mb": sum(f.stat().st_size for f in folder.iterdir()) / 2**20,
    }


def _serve(size: int, folder: Path) -> dict[str, float]:
    from bench.rental import calls, traffic
    from understudy.world.model import World

    began = time.process_time()
    world = World.load(folder)
    loaded = time.process_time() - began
    episodes = [calls(e) for e in traffic(size, first=size, count=200)]
    times = [t for n, own in enumerate(episodes) for t in _timed(world, n, own)]
    late = _timed(world, 0, [call for own in episodes for call in own][:300])[100:]
    return {
        "load_seconds": loaded,
        "median_ms": float(np.median(times)),
        "p99_ms": float(np.quantile(times, 0.99)),
        "late_ms": float(np.median(late)),
    }


def _timed(world: Any, seed: int, own: list[tuple[str, str]]) -> list[float]:
    """Milliseconds of each call of a session."""
    session = world.session(seed)
    times = []
    for name, arguments in own:
        began = time.perf_counter()
        session.step(name, arguments)
        times.append(1000 * (time.perf_counter() - began))
    return times


def _peak_mb() -> float:
    """The most memory that this process held, its parent's before exec not among it."""
    return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    measure = {"learn": _learn, "serve": _serve}[sys.argv[1]]
    print(json.dumps(measure(int(sys.argv[2]), Path(sys.argv[3])) | {"peak_mb": _peak_mb()}))
