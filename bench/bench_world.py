"""Figures of the world model: learning time, calls a second, and predictions of a folder.

    python bench/bench_world.py [FOLDER] [--out build/bench]

Without a folder only speed is measured, on traffic of the tests' warehouse. With one (a folder
with replays.jsonl.gz), predictions of its test split are written for its own scorer.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "world"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", nargs="?", help="folder with replays.jsonl.gz")
    parser.add_argument("--out", default=str(ROOT / "build" / "bench"))
    options = parser.parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    figures = speed()
    if options.folder:
        from understudy.world.bench import bench

        timing = bench(options.folder, out / "world_predictions.jsonl")
        for name, value in timing.items():
            unit = {"calls": "calls", "learn_seconds": "s", "call_ms": "ms"}[name]
            figures[f"replays_{name}"] = {"value": value, "unit": unit}
    figures["load"] = {"value": os.getloadavg()[0], "unit": "processes"}
    (out / "world.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))


def run() -> dict[str, dict[str, float | str]]:
    """The figures for `python -m bench`."""
    return speed()


def speed() -> dict[str, dict[str, float | str]]:
    """Processor time of learning 1,000 episodes and of stepping the world, one core."""
    import warehouse

    from understudy.world.learn import learn

    episodes = warehouse.traffic(1000)
    began = time.process_time()
    world = learn(episodes)
    learned = time.process_time() - began
    began, calls = time.process_time(), 0
    for seed in range(1000):
        session = world.session(seed)
        for name, arguments in (
            ("find_parts", {"category": "gears", "max_price": 60, "order": "price"}),
            ("part", {"sku": "P1222"}),
            ("reserve", {"sku": "P1222", "count": 2}),
            ("settle", {"reservation": "R-1", "method": "invoice"}),
        ):
            session.step(name, json.dumps(arguments))
            calls += 1
    spent = time.process_time() - began
    return {
        "learn_1000_episodes": {"value": learned, "unit": "s of one core"},
        "world_calls": {"value": calls / spent, "unit": "calls/s of one core"},
    }


if __name__ == "__main__":
    main()
