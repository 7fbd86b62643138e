"""Figures with intervals: means and other statistics of calls, drawn again by scenario."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from understudy.world.fidelity.reliability import calibration_error, ranking

Figure = dict[str, float]  # value, low, high, n
_DRAWS, _FEW = 400, 100


def mean(values: Sequence[float | None], clusters: Sequence[Hashable], seed: int) -> Figure:
    """The mean of what is not None, with a 95% bootstrap interval that draws whole clusters
    (Field and Welsh 2007, see runs.statistics). Zero with n = 0 where all are None."""
    kept = [(v, c) for v, c in zip(values, clusters, strict=True) if v is not None]
    if not kept:
        return {"value": 0.0, "low": 0.0, "high": 0.0, "n": 0}
    index_N = _numbers([c for _, c in kept])
    sum_C = np.bincount(index_N, [v for v, _ in kept])
    count_C = np.bincount(index_N)
    drawn = np.random.default_rng(seed).integers(0, len(sum_C), (_DRAWS, len(sum_C)))
    low, high = np.quantile(sum_C[drawn].sum(1) / count_C[drawn].sum(1), [0.025, 0.975])
    value = float(sum_C.sum() / len(kept))
    return {"value": value, "low": float(low), "high": float(high), "n": len(kept)}


def of_pairs(
    statistic: Callable[[NDArray[np.float64], NDArray[np.float64]], float | None],
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[Hashable],
    seed: int,
) -> Figure:
    """A statistic of pairs with the interval of its values when clusters are drawn again; zero
    with n = 0 where it has no value."""
    a_N, b_N = np.asarray(a, np.float64), np.asarray(b, np.float64)
    value = statistic(a_N, b_N)
    if value is None:
        return {"value": 0.0, "low": 0.0, "high": 0.0, "n": 0}
    order = np.argsort(index_N := _numbers(clusters), kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(index_N))[:-1])
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(_FEW):
        drawn = np.concatenate([parts[i] for i in rng.integers(0, len(parts), len(parts))])
        again = statistic(a_N[drawn], b_N[drawn])
        found += [again] if again is not None else []
    low, high = np.quantile(found, [0.025, 0.975]) if found else (value, value)
    return {"value": value, "low": float(low), "high": float(high), "n": len(a_N)}


def auroc(p: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable], s: int) -> Figure:
    """AUROC of what was stated."""
    return of_pairs(ranking, p, y, clusters, s)


def ece(p: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable], s: int) -> Figure:
    """Expected calibration error of what was stated. Its interval lies above its value where a
    sample is small: bins of fewer different calls err more."""
    return of_pairs(calibration_error, p, y, clusters, s)


def macro_f1(
    real: Sequence[str], guess: Sequence[str], clusters: Sequence[Hashable], seed: int
) -> Figure:
    """The mean F1 of the real outcome classes."""
    classes = {c: i for i, c in enumerate(dict.fromkeys(real))}

    def score(a_N: NDArray[np.float64], b_N: NDArray[np.float64]) -> float:
        a, b = a_N.astype(int), b_N.astype(int)
        size = len(classes)
        hit = np.bincount(a[a == b], minlength=size)
        total = np.bincount(a, minlength=size) + np.bincount(b[b < size], minlength=size)
        there = np.bincount(a, minlength=size) > 0
        return float((2 * hit[there] / total[there]).mean())

    a = [float(classes[c]) for c in real]
    b = [float(classes.get(c, len(classes))) for c in guess]
    return of_pairs(score, a, b, clusters, seed)


def _numbers(clusters: Sequence[Hashable]) -> NDArray[np.intp]:
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(c, len(known)) for c in clusters])
