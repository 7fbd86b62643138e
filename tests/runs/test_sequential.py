"""Alarms: rarely false however often one looks, and quick where something is wrong."""

import random

import pytest

from understudy.runs.sequential import Rates, Share

ALPHA = 0.1


def calls(
    rng: random.Random, expected: float, true: float, n: int = 3
) -> dict[str, tuple[float, int]]:
    """An episode of n calls, each of which has the class with the probability `true`."""
    return {"fails": (n * expected, sum(rng.random() < true for _ in range(n)))}


@pytest.mark.parametrize("true", [0.1, 0.1 * 2.9, 0.1 / 2.9])
def test_rates_within_the_factor_rarely_alarm(true: float) -> None:
    alarmed = 0
    for seed in range(200):
        rng, rates = random.Random(seed), Rates(1, 3.0, ALPHA)
        alarmed += sum(bool(rates.see([calls(rng, 0.1, true)])) for _ in range(150)) > 0
    assert alarmed <= ALPHA * 200


def test_episodes_of_a_group_that_are_all_alike_count_as_one() -> None:
    once, often = Rates(1, 3.0, ALPHA), Rates(1, 3.0, ALPHA)
    rng = random.Random(0)
    for _ in range(20):
        episode = calls(rng, 0.1, 0.1)
        once.see([episode])
        often.see([episode] * 8)
    assert often.level == pytest.approx(once.level)
    for side, (log, bets) in once.state().items():
        assert often.state()[side] == pytest.approx([log, bets])


@pytest.mark.parametrize(("true", "side"), [(0.0, "too rarely"), (0.9, "too often")])
def test_a_class_that_never_or_nearly_always_comes_is_an_alarm(true: float, side: str) -> None:
    rng, rates = random.Random(1), Rates(20, 3.0, 0.01)
    alarms = [a for _ in range(100) for a in rates.see([calls(rng, 0.1, true)])]
    assert set(alarms) == {f"fails: {side}"}


def test_a_limit_may_be_far_from_reached() -> None:
    rates = Rates(1, 3.0, ALPHA)
    assert not any(rates.see([{"odd": (1.0, 0)}], limits={"odd"}) for _ in range(100))
    assert rates.see([{"odd": (0.1, 30)}], limits={"odd"}) == ["odd: too often"]


def test_what_goes_wrong_late_is_seen_too() -> None:
    share, rates = Share(0.1, 0.01), Rates(5, 3.0, 0.01)
    for _ in range(200):
        assert not share.see([0.0] * 16)
        assert not rates.see([{"fails": (0.3, 1)}])
    assert 1 in [share.see([0.4] * 16) for _ in range(5)]
    late = [alarm for _ in range(250) for alarm in rates.see([{"fails": (0.3, 0)}])]
    assert late == ["fails: too rarely"]


def test_a_share_at_its_limit_rarely_alarms() -> None:
    alarmed = 0
    for seed in range(300):
        rng, share = random.Random(seed), Share(0.2, ALPHA)
        alarmed += sum(share.see([float(rng.random() < 0.2)]) for _ in range(200)) > 0
    assert alarmed <= ALPHA * 300


def test_a_share_above_its_limit_alarms_soon_and_begins_anew() -> None:
    share = Share(0.1, 0.01)
    seen = [share.see([0.5]) for _ in range(10)]
    first = seen.index(True)
    assert first < 6
    assert share.level < 1
    assert not share.see([0.0])


@pytest.mark.parametrize(
    "make", [lambda: Share(0.0, 0.1), lambda: Rates(0, 3, 0.1), lambda: Rates(1, 1, 0.1)]
)
def test_limits_that_make_no_sense_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"need|lie between"):
        make()  # type: ignore[operator]
