"""Figures of the world model: learning time, calls a second, and predictions of a folder.

    python -m bench.bench_world [FOLDER] [--out build/bench] [--repeats 3]

Without a folder only speed is measured, on traffic of the tests' warehouse. With one (a folder
with replays.jsonl.gz), predictions of its test split are written for its own scorer.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from bench.figures import Figure, figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "world"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", nargs="?", help="folder with replays.jsonl.gz")
    parser.add_argument("--out", default=str(ROOT / "build" / "bench"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    load_before = os.getloadavg()[0]
    figures = run(repeats=options.repeats)
    if options.folder:
        figures |= replays(options.folder, out, options.repeats)
    loads = [load_before, os.getloadavg()[0]]
    figures["load_average"] = figure(loads, "before and after, 1 min")
    (out / "world.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def replays(folder: str, out: Path, repeats: int) -> dict[str, Figure]:
    """Times of learning a folder's train split and predicting its test split."""
    from understudy.world.fidelity.bench import bench

    passes = [bench(folder, out / "world_predictions.jsonl") for _ in range(repeats)]
    units = {"calls": "calls", "learn_seconds": "s", "call_ms": "ms"}
    return {f"replays_{k}": figure([p[k] for p in passes], u) for k, u in units.items()}


def run(episodes: int = 1000, sessions: int = 1000, repeats: int = 3) -> dict[str, Figure]:
    """Processor time of learning the episodes and of stepping the world, one core."""
    import warehouse

    from understudy.world.learn import learn

    traffic = warehouse.traffic(episodes)
    learned, rates = [], []
    for _ in range(repeats):
        began = time.process_time()
        world = learn(traffic)
        learned.append(time.process_time() - began)
        began, calls = time.process_time(), 0
        for seed in range(sessions):
            session = world.session(seed)
            for name, arguments in (
                ("find_parts", {"category": "gears", "max_price": 60, "order": "price"}),
                ("part", {"sku": "P1222"}),
                ("reserve", {"sku": "P1222", "count": 2}),
                ("settle", {"reservation": "R-1", "method": "invoice"}),
            ):
                session.step(name, json.dumps(arguments))
                calls += 1
        rates.append(calls / (time.process_time() - began))
    return {
        f"learn_{episodes}_episodes": figure(learned, "s of one core"),
        "world_calls": figure(rates, "calls/s of one core"),
    }


if __name__ == "__main__":
    main()
