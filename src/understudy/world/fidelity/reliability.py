"""How far stated probabilities can be trusted: bins, calibration error, ranking, coverage."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bin = list[float]  # mean of what was stated, share of what came true, how many


def bins(stated: Sequence[float], true: Sequence[float], count: int = 10) -> list[Bin]:
    """Up to `count` bins of equal mass, by what was stated; equal values stay in one bin."""
    p_N, y_N, edges = _binned(np.asarray(stated, np.float64), np.asarray(true, np.float64), count)
    parts = zip(np.split(p_N, edges), np.split(y_N, edges), strict=True)
    return [[float(p.mean()), float(y.mean()), float(len(p))] for p, y in parts if len(p)]


def calibration_error(
    stated: Sequence[float] | Floats, true: Sequence[float] | Floats, count: int = 10
) -> float:
    """Expected calibration error: the mean gap between stated and true, over the mass of `bins`.

    M. P. Naeini, G. F. Cooper and M. Hauskrecht, "Obtaining well calibrated probabilities using
    Bayesian binning", AAAI 2015; bins of equal mass. 0.0 where nothing was stated.
    """
    p_N, y_N, edges = _binned(np.asarray(stated, np.float64), np.asarray(true, np.float64), count)
    if not len(p_N):
        return 0.0
    starts = np.concatenate([[0], edges]).astype(int)
    return float(np.abs(np.add.reduceat(p_N - y_N, starts)).sum() / len(p_N))


def error_of_chance(stated: Sequence[float], draws: int = 200, seed: int = 0) -> float:
    """The calibration error that probabilities which are exactly right show in a sample of this
    size, in the mean: what no error can be told from."""
    p_N = np.asarray(stated, np.float64)
    rng = np.random.default_rng(seed)
    true = (rng.random(len(p_N)) < p_N for _ in range(draws))
    return float(np.mean([calibration_error(p_N, y.astype(np.float64)) for y in true]))


def ranking(stated: Sequence[float] | Floats, true: Sequence[float] | Floats) -> float | None:
    """AUROC: how often what came true was stated as likelier than what did not, ties half.

    J. A. Hanley and B. J. McNeil, Radiology 143 (1982). None where only one of both happened.
    """
    p_N, y_N = np.asarray(stated, np.float64), np.asarray(true, np.float64) > 0.5
    yes, no = int(y_N.sum()), int((~y_N).sum())
    if not yes or not no:
        return None
    _, inverse, counts = np.unique(p_N, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((rank_N[y_N].sum() - yes * (yes + 1) / 2) / (yes * no))


def coverage(doubt: Sequence[float], wrong: Sequence[float], points: int = 20) -> list[list[float]]:
    """The coverage-accuracy curve: [share answered, share of those right, highest doubt among
    them], the least doubtful first; equal doubts come in together.

    Y. Geifman and R. El-Yaniv, "Selective classification for deep neural networks", NIPS 2017.
    """
    d_N, w_N = np.asarray(doubt, np.float64), np.asarray(wrong, np.float64)
    order = np.argsort(d_N, kind="stable")
    d_N, w_N = d_N[order], w_N[order]
    ends = [round(len(d_N) * k / points) for k in range(1, points + 1)]
    taken = sorted({int(np.searchsorted(d_N, d_N[e - 1], "right")) for e in ends if e})
    return [[e / len(d_N), 1 - float(w_N[:e].mean()), float(d_N[e - 1])] for e in taken]


def _binned(p_N: Floats, y_N: Floats, count: int) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Both in the order of what was stated, and where bins begin, the first one left out."""
    order = np.argsort(p_N, kind="stable")
    p_N, y_N = p_N[order], y_N[order]
    n = len(p_N)
    wanted = [p_N[n * k // count] for k in range(1, count)] if n else []
    edges = np.unique(np.searchsorted(p_N, wanted, "left")) if n else np.array([], np.intp)
    return p_N, y_N, edges[(edges > 0) & (edges < n)]
