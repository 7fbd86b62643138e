import json

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


@pytest.mark.parametrize(("n", "again"), [(0, 0.1), (5, 1.0), (5, -0.1)])
def test_nonsense_is_refused(n: int, again: float) -> None:
    with pytest.raises(ValueError, match="curriculum"):
        Curriculum(n, again, 0)
