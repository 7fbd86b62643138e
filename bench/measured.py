"""What took hours to measure, a file for each part, in docs/measured: a part that is there is not
measured again. Each says at which commit, on which day and on which machine it was measured; who
wants it anew deletes its file. `successes` are written as a line of 0 and 1.
"""

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.figures import CannotRun
from understudy.runs.machine import machine

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "docs" / "measured"


def measured(file: Path) -> Any:
    """What was found, None where nothing was measured yet."""
    return _unpacked(json.loads(file.read_text())["found"]) if file.exists() else None


def write_measured(file: Path, found: Any) -> None:
    """Keep what was found, with where it comes from."""
    origin = {"commit": _commit(), "date": time.strftime("%Y-%m-%d", time.gmtime())}
    file.parent.mkdir(parents=True, exist_ok=True)
    told = {**origin, "machine": machine().as_dict(), "found": _packed(found)}
    new = file.with_suffix(".new")
    new.write_text(json.dumps(told, indent=1) + "\n")
    new.rename(file)


def measured_once(file: Path, setting: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
    """What is kept, else what `measure` finds, which is kept then, beside its setting. Raises
    CannotRun where what is kept was measured in another setting."""
    if not file.exists():
        write_measured(file, {"setting": dict(setting), "told": measure()})
    found = measured(file)
    if found["setting"] != setting:
        raise CannotRun(
            f"{file} was measured with {found['setting']}, not with {dict(setting)}: "
            "delete it, or keep this elsewhere"
        )
    return found["told"]


def _commit() -> str | None:
    """The checkout's commit, with a mark where files were changed since; None without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip() or None


def _packed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _line(v) if k == "successes" else _packed(v) for k, v in value.items()}
    return value


def _line(successes: list[bool]) -> str:
    return "".join("1" if s else "0" for s in successes)


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: [c == "1" for c in v] if k == "successes" else _unpacked(v) for k, v in value.items()
        }
    return value
