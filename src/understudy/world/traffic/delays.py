"""How long a tool takes: quantiles of its real latencies, by outcome. They are recorded with a
result, or read from when the model was asked before and after it."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from understudy.core.types import Episode

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


def waits(episode: Episode) -> dict[str, float]:
    """By call id the seconds from the end of a reply that makes one call to the start of the
    request that brings its result: what the tool took, and the agent around it. Ids that recur
    are left out, and replies of which it is not known when they ended."""
    ended: dict[str, float] = {}
    found: dict[str, float] = {}
    made: Counter[str] = Counter()
    for c in episode.completions:
        for message in c.request.messages if ended else ():
            began = ended.pop(message.get("tool_call_id") or "", None)
            if began is not None and c.started_at >= began:
                found[message["tool_call_id"]] = c.started_at - began
        calls = (c.message.get("tool_calls") or []) if c.message else []
        made.update(call["id"] for call in calls)
        if len(calls) == 1 and c.finished_at is not None:
            ended[calls[0]["id"]] = c.finished_at
    return {call: seconds for call, seconds in found.items() if made[call] == 1}


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
