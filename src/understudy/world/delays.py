"""How long a tool takes: quantiles of its real latencies, by outcome."""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

Delays = dict[str, list[float]]  # outcome class, "ok", "err" or "" (all) -> seconds, in order
_RANKS = 100
_LEAST = 20  # latencies of an outcome class that stand for themselves


def mine_delays(seen: Iterable[tuple[str, float | None]]) -> Delays:
    """The quantiles of latencies in seconds, each with its call's outcome class. Calls without one
    are left out."""
    found: dict[str, list[float]] = defaultdict(list)
    for label, seconds in seen:
        if seconds is not None:
            for kind in (label, _head(label), ""):
                found[kind].append(seconds)
    own = {k: v for k, v in found.items() if k in ("ok", "err", "") or len(v) >= _LEAST}
    return {kind: quantiles(seconds) for kind, seconds in own.items()}


def quantiles(seconds: Sequence[float]) -> list[float]:
    """Values at a hundred ranks, evenly spaced; all of them where there are no more."""
    ordered, n = sorted(seconds), len(seconds)
    if n <= _RANKS:
        return ordered
    return [ordered[int((rank + 0.5) * n / _RANKS)] for rank in range(_RANKS)]


def delay(delays: Mapping[str, Sequence[float]], label: str, rng: random.Random) -> float | None:
    """Seconds that a call of an outcome class takes: drawn from its own, else from what goes as
    well or as badly, else from all; None where the traffic shows none."""
    for kind in (label, _head(label), ""):
        if kind in delays:
            return rng.choice(delays[kind])
    return None


def _head(label: str) -> str:
    return label.partition(":")[0]
