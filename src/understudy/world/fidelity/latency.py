"""How far a world's latencies are from real ones."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from understudy.core.types import Episode
from understudy.world.model import World
from understudy.world.traffic.transitions import transitions

_LEAST = 5  # real latencies of a tool that are compared


def latencies(world: World, episodes: Sequence[Episode]) -> dict[str, dict[str, float]]:
    """For each tool with at least five real latencies: medians and 90th percentiles in seconds,
    real and the world's, and `log_distance`, the Wasserstein-1 distance of log seconds (0.69: off
    by a factor of two). Tools for which the world has none are left out."""
    real: dict[str, list[float]] = defaultdict(list)
    for episode in episodes:
        for t in transitions(episode):
            if t.latency_s is not None and t.latency_s > 0:
                real[t.name].append(t.latency_s)
    found = {}
    for tool, seconds in sorted(real.items()):
        model = world.models.get(tool)
        own = [s for s in model.latencies.get("", ()) if s > 0] if model is not None else []
        if len(seconds) < _LEAST or not own:
            continue
        grid = np.linspace(0.005, 0.995, 100)
        a, b = (np.quantile(np.log(x), grid) for x in (seconds, own))
        found[tool] = {
            "n": float(len(seconds)),
            "real_median": float(np.median(seconds)),
            "world_median": float(np.median(own)),
            "real_p90": float(np.quantile(seconds, 0.9)),
            "world_p90": float(np.quantile(own, 0.9)),
            "log_distance": float(np.abs(a - b).mean()),
        }
    return found


def overall(found: dict[str, dict[str, float]]) -> float | None:
    """The mean log distance over calls; None where no latency was compared."""
    n = sum(f["n"] for f in found.values())
    return math.fsum(f["log_distance"] * f["n"] for f in found.values()) / n if n else None
