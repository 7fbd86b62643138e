"""Statistics against published values and worked examples."""

import math

import pytest

from understudy.runs.statistics import (
    clustered_mean,
    kendall_tau,
    mcnemar,
    median_ratio,
    paired_difference,
    pass_at_k,
    pass_hat_k,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_newcombes_table(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    other = wilson(n - successes, n)  # the mirror image
    assert other.low == pytest.approx(1 - found.high)
    with pytest.raises(ValueError, match="successes <= n"):
        wilson(3, 2)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    """1 against 9 discordant pairs: 2 * (1 + 10) / 2**10."""
    a = [True] * 1 + [False] * 9 + [True] * 5
    b = [False] * 1 + [True] * 9 + [True] * 5
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (1, 9)
    assert found.p_value == pytest.approx(22 / 1024)
    assert mcnemar(a, a).p_value == 1.0


def test_pass_at_k_and_pass_hat_k_by_counting() -> None:
    """Of the 10 pairs of 5 attempts with 2 successes, 1 is all good and 3 are all bad."""
    assert pass_hat_k(5, 2, 2) == pytest.approx(1 / 10)
    assert pass_at_k(5, 2, 2) == pytest.approx(7 / 10)
    assert pass_hat_k(4, 3, 1) == pass_at_k(4, 3, 1) == 0.75
    with pytest.raises(ValueError, match="k <= trials"):
        pass_at_k(2, 1, 3)


def test_kendall_tau_b_with_ties() -> None:
    """scipy's documented example, and tau-b with one tie worked out: 5 / sqrt(5 * 6)."""
    assert kendall_tau([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) == pytest.approx(-0.47140452079103173)
    assert kendall_tau([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(5 / math.sqrt(30))
    assert kendall_tau([1, 1], [1, 2]) is None


def test_a_clustered_interval_has_the_width_of_its_clusters() -> None:
    """50 scenarios of 8 equal attempts know as much as 50 attempts: the standard error is that of
    50 values, not of 400."""
    values = [float(i % 2) for i in range(50) for _ in range(8)]
    clusters = [i for i in range(50) for _ in range(8)]
    found = clustered_mean(values, clusters)
    half = 1.96 * math.sqrt(0.25 / 50)
    assert found.mean == 0.5
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    alone = clustered_mean(values, range(400))
    assert (alone.high - alone.low) / 2 == pytest.approx(half / math.sqrt(8), rel=0.1)
    assert clustered_mean(values, clusters) == found
    assert clustered_mean([1.0, 0.0], ["s", "s"]).high == math.inf


def test_paired_differences_do_not_see_what_pairs_share() -> None:
    a = [float(i) for i in range(100)]
    b = [x + 1 + 0.1 * (-1) ** i for i, x in enumerate(a)]
    found = paired_difference(a, b)
    assert found.mean == pytest.approx(1.0)
    assert 0.97 < found.low < 1.0 < found.high < 1.03
    assert median_ratio([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], paired=True).low == 2.0
    with pytest.raises(ValueError, match="equal lengths"):
        paired_difference([1.0], [1.0, 2.0])
