import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.recipes.curriculum import Curriculum


@given(
    n=st.integers(1, 60),
    count=st.integers(1, 8),
    steps=st.integers(1, 12),
    again=st.floats(0, 0.9),
    rates=st.lists(st.floats(0, 1), min_size=8, max_size=8),
)
def test_draws_are_different_scenarios_of_the_pool(
    n: int, count: int, steps: int, again: float, rates: list[float]
) -> None:
    curriculum = Curriculum(n, again, seed=1)
    for step in range(steps):
        drawn = curriculum.draw(count, step)
        assert len(drawn) == min(n, count) == len(set(drawn))
        assert all(0 <= number < n for number in drawn)
        for number, rate in zip(drawn, rates, strict=False):
            curriculum.saw(number, rate)


def test_a_restored_curriculum_goes_on_as_the_uninterrupted_one() -> None:
    whole = Curriculum(50, 0.5, seed=3)
    for step in range(5):
        for number in whole.draw(6, step):
            whole.saw(number, (number % 4) / 4)
    resumed = Curriculum(50, 0.5, seed=3)
    resumed.restore(json.loads(json.dumps(whole.state())))
    assert [resumed.draw(6, s) for s in (5, 6)] == [whole.draw(6, s) for s in (5, 6)]


def test_what_always_succeeds_is_not_visited_again_but_what_differs_is() -> None:
    curriculum = Curriculum(1000, 0.5, seed=0)
    first = curriculum.draw(10, 0)
    for number in first:
        curriculum.saw(number, 0.5 if number == first[0] else 1.0)
    again = curriculum.draw(10, 1)
    assert first[0] in again
    assert not set(first[1:]) & set(again)


def test_scenarios_come_back_by_how_much_their_pass_rate_can_teach() -> None:
    """In proportion to p(1 - p), and a little where nothing passed yet."""
    rates = [0.0, 0.1, 0.25, 0.5, 0.9]
    worth = [p * (1 - p) + 0.02 for p in rates]
    curriculum, steps = Curriculum(10**6, 0.5, seed=5), 4000
    for number, rate in enumerate(rates):
        curriculum.saw(number, rate)
    curriculum.fresh = len(rates)  # these are old by now
    drawn = Counter(curriculum.draw(2, step)[0] for step in range(steps))  # one of two comes back
    assert set(drawn) == set(range(len(rates)))
    for number, own in enumerate(worth):
        share = own / sum(worth)
        deviation = (share * (1 - share) / steps) ** 0.5
        assert abs(drawn[number] / steps - share) < 4 * deviation
    assert drawn[3] > drawn[2] > drawn[1] > drawn[0]


@pytest.mark.parametrize(("n", "again"), [(0, 0.1), (5, 1.0), (5, -0.1)])
def test_nonsense_is_refused(n: int, again: float) -> None:
    with pytest.raises(ValueError, match="curriculum"):
        Curriculum(n, again, 0)
