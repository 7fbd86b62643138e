"""Runs the benchmarks and writes what they measured.

    python -m bench                 all of them, but those that take hours
    python -m bench engine train    some
    python -m bench --list

Each `bench/bench_NAME.py` has `run() -> {figure: {value, unit, low, high}}`. The figures go to
build/bench/NAME.json with the load of the machine as one more, and to docs/benchmarks.md with the
machine beside them. A benchmark that cannot run here raises `CannotRun` with the reason, which is
written instead.
"""

import argparse
import importlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from bench.figures import CannotRun, Figure, figure
from understudy.runs.machine import machine

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "bench"


def names() -> list[str]:
    return sorted(p.stem.removeprefix("bench_") for p in Path(__file__).parent.glob("bench_*.py"))


def takes_hours(name: str) -> bool:
    """Whether a benchmark runs by its name alone."""
    return bool(getattr(importlib.import_module(f"bench.bench_{name}"), "HOURS", False))


def measure(name: str, **sizes: Any) -> dict[str, Any]:
    """Runs one benchmark, of other sizes where they are given."""
    load_before = os.getloadavg()[0]
    started = time.time()
    module = importlib.import_module(f"bench.bench_{name}")
    figures: dict[str, Figure] = {}
    cannot: str | None = None
    try:
        figures = module.run(**sizes)
    except CannotRun as error:
        cannot = str(error)
    load_after = os.getloadavg()[0]
    if figures:
        figures["load_average"] = figure([load_before, load_after], "before and after, 1 min")
    return {
        "name": name,
        "title": (module.__doc__ or name).strip().splitlines()[0],
        "date": time.strftime("%Y-%m-%d", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "load_before": round(load_before, 2),
        "load_after": round(load_after, 2),
        "machine": machine().as_dict(),
        "figures": figures,
        "cannot_run": cannot,
    }


def write_docs() -> None:
    """docs/benchmarks.md, from every result under build/bench; what is measured in another
    checkout alone stays as it stands there."""
    file = ROOT / "docs" / "benchmarks.md"
    sections = _sections(file.read_text()) if file.exists() else {}
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; medians, with the lowest and highest of the repetitions. "
        "Load is the one-minute load average before and after.",
    ]
    records = {p.stem: json.loads(p.read_text()) for p in (OUT / "records").glob("*.json")}
    for name in sorted({*names(), *records}):
        record = records.get(name)
        if record is None:
            lines += ["", *sections[name]] if name in sections else []
            continue
        known = {k: v for k, v in record["machine"].items() if k != "load" and v is not None}
        machine = ", ".join(f"{k} {v}" for k, v in known.items())
        how = f"`python -m bench {record['name']}`, {record['date']}, {record['seconds']} s; "
        how += f"{machine}; load {record['load_before']} to {record['load_after']}."
        lines += ["", f"## {record['title']}", "", how]
        if record["cannot_run"]:
            lines += ["", f"Could not run here: {record['cannot_run']}"]
            continue
        lines += ["", "| figure | value | unit | low | high |", "|---|---|---|---|---|"]
        for label, entry in record["figures"].items():
            cells = [_number(entry.get(k)) for k in ("value", "low", "high")]
            lines.append(f"| {label} | {cells[0]} | {entry['unit']} | {cells[1]} | {cells[2]} |")
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def _sections(text: str) -> dict[str, list[str]]:
    """The lines about each benchmark, by its name."""
    found: dict[str, list[str]] = {}
    for section in text.split("\n## ")[1:]:
        name = re.search(r"`python -m bench (\w+)`", section)
        if name:
            found[name.group(1)] = f"## {section}".strip().splitlines()
    return found


def _number(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*names(), []], metavar="NAME")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and stop")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(names()))
        return 0
    OUT.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or [n for n in names() if not takes_hours(n)]:
        print(f"bench {name} ...", flush=True)
        record = measure(name)
        (OUT / f"{name}.json").write_text(json.dumps(record["figures"], indent=1) + "\n")
        (OUT / "records").mkdir(exist_ok=True)
        (OUT / "records" / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        for label, entry in record["figures"].items():
            print(f"  {label:42s} {_number(entry['value']):>12s} {entry['unit']}")
        if record["cannot_run"]:
            print(f"  cannot run here: {record['cannot_run']}")
        write_docs()
    return 0


if __name__ == "__main__":
    sys.exit(main())
