"""The world on services that it was not made on, under their own names and under random ones.

Ten small services of tests/world/unseen (a ledger, an issue tracker that answers in prose, a
shell, a calendar, an inventory in envelopes, a Spanish clinic without error flags, a greenhouse
whose records count up from one and are never listed, a library with a text search, thresholds and
loans that end, a German support desk that answers in sentences, lines and XML, a shop's checkout
whose cart has no name): learned from three quarters of the episodes, scored on the others.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from bench.figures import Figure, interval

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "world"))

SERVICES = ("ledger", "tracker", "shell", "diary", "stockroom", "clinica", "greenhouse",
            "library", "hotline", "shop")  # fmt: skip
COLUMNS = ("exact", "knowable", "flag", "malformed", "error", "changing", "revealing")


def run(episodes: int = 240, names: int = 1) -> dict[str, Figure]:
    """Per cent right, per service; the range is of both namings. Free-running rollouts under the
    services' own names."""
    from unseen.scoring import score

    found: dict[str, Figure] = {}
    for name in SERVICES:
        service = importlib.import_module(f"unseen.{name}").SERVICE
        plain = score(service, episodes, rollouts=True)
        other = score(service, episodes, names)
        for column in COLUMNS:
            both = sorted((plain.share(column), other.share(column)))
            found[f"{name}_{column}"] = interval(plain.share(column), "%", *both)
        found |= {f"{name}_{k}": f for k, f in _rollouts(plain.rollouts).items()}
    return found


def _rollouts(rollouts: dict[str, Any]) -> dict[str, Figure]:
    survival = {f"survival_{n}": own["exact"] for n, own in rollouts["survival"].items()}
    own = {**survival, "state_diff": rollouts["state_diff"]["changed"]}
    return {
        name: interval(100 * f["value"], "%", 100 * f["low"], 100 * f["high"])
        for name, f in own.items()
        if f["value"] is not None and f["low"] is not None
    }
