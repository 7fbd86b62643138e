"""Episodes in two parts by scenario."""

from hypothesis import given
from hypothesis import strategies as st

from understudy.core.types import Episode, parted, split_of


def episodes(count: int, scenarios: int) -> list[Episode]:
    """The last few have no scenario: each is one of its own."""
    named = [Episode(f"e{n}", (), scenario_id=f"s{n % scenarios}") for n in range(count)]
    return [*named, *(Episode(f"alone{n}", ()) for n in range(3))]


@given(st.integers(0, 60), st.integers(1, 20), st.floats(0, 1), st.text(max_size=3))
def test_parts_hold_every_episode_once_and_share_no_scenario(
    count: int, scenarios: int, share: float, salt: str
) -> None:
    every = episodes(count, scenarios)
    one, other = parted(every, share, salt)
    assert sorted(e.id for e in one + other) == sorted(e.id for e in every)
    assert not {e.scenario_id or e.id for e in one} & {e.scenario_id or e.id for e in other}
    again = parted(reversed(every), share, salt)  # whatever the order
    assert [{e.id for e in part} for part in again] == [{e.id for e in p} for p in (one, other)]


def test_the_second_part_has_its_share_and_salts_part_independently() -> None:
    every = episodes(4000, 4000)
    for share in (0.1, 0.5, 0.9):
        assert abs(len(parted(every, share)[1]) / len(every) - share) < 0.03
    both = {e.id for e in parted(every, salt="a")[1]} & {e.id for e in parted(every, salt="b")[1]}
    assert abs(len(both) / len(every) - 0.25) < 0.03


def test_without_a_salt_it_is_the_split() -> None:
    every = episodes(300, 200)
    heldout = [e for e in every if split_of(e.scenario_id or e.id) == "heldout"]
    assert heldout
    assert parted(every, 0.1)[1] == heldout
