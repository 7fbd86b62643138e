"""Statistics of evaluations: what was measured, how sure that is, and whether two differ.

NumPy only. Randomness is seeded: the same data gives the same interval. Intervals are two-sided.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

_RESAMPLES = 10_000
_CHUNK = 1 << 22  # random indices drawn at a time

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its interval, from n observations."""

    mean: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}

    def __str__(self) -> str:
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}] (n={self.n})"


@dataclass(frozen=True, slots=True)
class McNemar:
    """Paired successes: how often one alone succeeded, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p_value: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA
    22 (1927). Keeps its coverage near 0 and 1, where the normal interval collapses. For
    independent trials; use `clustered_mean` where several belong to one scenario.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n > 0, got {successes} of {n}")
    z = _quantile(confidence)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(p, min(low, p), max(high, p), n)


def clustered_mean(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    confidence: float = 0.95,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of all values, with a percentile interval that resamples whole clusters.

    Episodes of one scenario are alike, so they are drawn together: C. A. Field and A. H. Welsh,
    "Bootstrapping clustered data", JRSS B 69 (2007). `clusters` names each value's cluster. With
    one cluster nothing can be said, and the interval is (-inf, inf).
    """
    value_N = _floats(values)
    sum_C, count_C = _by_cluster(value_N, clusters)
    mean = float(value_N.mean())
    if len(sum_C) < 2:
        return Interval(mean, -math.inf, math.inf, len(value_N))

    def means(index_RC: NDArray[np.int64]) -> Floats:
        return np.asarray(sum_C[index_RC].sum(1) / count_C[index_RC].sum(1), dtype=np.float64)

    low, high = _percentiles(means, len(sum_C), confidence, resamples, seed)
    return Interval(mean, low, high, len(value_N))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of b - a over pairs, with a percentile interval that resamples clusters of pairs.

    B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 and 13.
    `clusters` names each pair's scenario; None: each pair is its own.
    """
    a_N, b_N = _floats(a), _floats(b)
    if len(a_N) != len(b_N):
        raise ValueError(f"pairs need equal lengths, got {len(a_N)} and {len(b_N)}")
    named: Sequence[Hashable] = range(len(a_N)) if clusters is None else clusters
    return clustered_mean(b_N - a_N, named, confidence, resamples, seed)


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> McNemar:
    """McNemar's exact test of paired successes.

    Q. McNemar, Psychometrika 12 (1947), in its exact binomial form: given the pairs that differ,
    either is as likely to be the successful one when there is no difference.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs need equal lengths, got {len(a)} and {len(b)}")
    only_a = sum(bool(x) and not y for x, y in zip(a, b, strict=True))
    only_b = sum(bool(y) and not x for x, y in zip(a, b, strict=True))
    n, k = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return McNemar(only_a, only_b, min(1.0, 2 * tail / 2**n))


def pass_at_k(trials: int, successes: int, k: int) -> float:
    """The chance that at least one of k attempts succeeds, unbiased from `trials` attempts.

    M. Chen et al., "Evaluating large language models trained on code" (2021), equation 1:
    1 - C(n - c, k) / C(n, k).
    """
    _check_trials(trials, successes, k)
    return 1.0 - math.comb(trials - successes, k) / math.comb(trials, k)


def pass_hat_k(trials: int, successes: int, k: int) -> float:
    """The chance that all of k attempts succeed, unbiased from `trials` attempts.

    S. Yao et al., "tau-bench" (2024): pass^k, C(c, k) / C(n, k), averaged over tasks.
    """
    _check_trials(trials, successes, k)
    return math.comb(successes, k) / math.comb(trials, k)


def kendall_tau(x: ArrayLike, y: ArrayLike) -> float | None:
    """Kendall's rank correlation, tau-b, in [-1, 1]: ties count for neither side.

    M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945). None where
    one side is constant: there is no ranking then. Time and memory grow with n squared.
    """
    x_N, y_N = _floats(x), _floats(y)
    if len(x_N) != len(y_N):
        raise ValueError(f"pairs need equal lengths, got {len(x_N)} and {len(y_N)}")
    above = np.triu_indices(len(x_N), 1)
    sign_x = np.sign(x_N[:, None] - x_N[None, :])[above]
    sign_y = np.sign(y_N[:, None] - y_N[None, :])[above]
    scale = math.sqrt(float((sign_x != 0).sum()) * float((sign_y != 0).sum()))
    if scale == 0:
        return None
    return min(1.0, max(-1.0, float((sign_x * sign_y).sum()) / scale))


def median_ratio(
    a: ArrayLike,
    b: ArrayLike,
    paired: bool = False,
    confidence: float = 0.95,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> Interval:
    """median(b) / median(a), or the median of b / a over pairs, with a percentile interval.

    For times and throughputs, whose tails a mean would follow. Efron and Tibshirani (1993),
    chapter 13; independent samples are resampled each on their own. Values must be positive.
    """
    a_N, b_N = _floats(a), _floats(b)
    if (a_N <= 0).any() or (b_N <= 0).any():
        raise ValueError("a ratio of medians needs positive values")
    if paired:
        if len(a_N) != len(b_N):
            raise ValueError(f"pairs need equal lengths, got {len(a_N)} and {len(b_N)}")
        ratio_N = b_N / a_N
        low, high = _percentiles(
            lambda i: np.median(ratio_N[i], axis=1), len(ratio_N), confidence, resamples, seed
        )
        return Interval(float(np.median(ratio_N)), low, high, len(ratio_N))
    medians = [
        _draws(lambda i, v=v: np.median(v[i], axis=1), len(v), resamples, seed + j)  # type: ignore[misc]
        for j, v in enumerate((a_N, b_N))
    ]
    low, high = _tails(medians[1] / medians[0], confidence)
    return Interval(float(np.median(b_N) / np.median(a_N)), low, high, min(len(a_N), len(b_N)))


def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, got {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _check_trials(trials: int, successes: int, k: int) -> None:
    if not (0 <= successes <= trials and 1 <= k <= trials):
        raise ValueError(
            f"need 0 <= successes <= trials and 1 <= k <= trials, "
            f"got trials={trials}, successes={successes}, k={k}"
        )


def _floats(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"need a non-empty list of numbers, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("values must be finite")
    return array


def _by_cluster(value_N: Floats, clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Sums and counts of the values of each cluster, in order of first appearance."""
    if len(clusters) != len(value_N):
        raise ValueError(f"{len(value_N)} values need as many clusters, got {len(clusters)}")
    numbers: dict[Hashable, int] = {}
    index_N = np.array([numbers.setdefault(c, len(numbers)) for c in clusters])
    sum_C = np.bincount(index_N, value_N).astype(np.float64)
    return sum_C, np.bincount(index_N).astype(np.float64)


def _draws(
    statistic: Callable[[NDArray[np.int64]], Floats], size: int, resamples: int, seed: int
) -> Floats:
    """The statistic of `resamples` draws with replacement of `size` indices."""
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // size)
    parts = [
        statistic(generator.integers(0, size, (min(rows, resamples - done), size)))
        for done in range(0, resamples, rows)
    ]
    return np.concatenate(parts)


def _percentiles(
    statistic: Callable[[NDArray[np.int64]], Floats],
    size: int,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    return _tails(_draws(statistic, size, resamples, seed), confidence)


def _tails(draws: Floats, confidence: float) -> tuple[float, float]:
    _quantile(confidence)  # refuses a confidence outside (0, 1)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
