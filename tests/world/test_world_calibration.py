"""Calibration: the error flag's probability and the doubt number against what came true."""

from pathlib import Path

import numpy as np
import pytest
import warehouse
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.types import Episode
from understudy.world.calibration import LEAST, Doubts, Evidence
from understudy.world.fidelity.crossfit import calibrated, cross_fit, folds
from understudy.world.fidelity.reliability import (
    bins,
    calibration_error,
    coverage,
    error_of_chance,
    ranking,
)
from understudy.world.fidelity.report import FidelityReport, fidelity
from understudy.world.fidelity.scoring import walk, world_values
from understudy.world.model import World

STATED = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.8, 1.0]), st.booleans()), min_size=1)


@pytest.fixture(scope="module")
def few() -> list[Episode]:
    return warehouse.traffic(200)


@pytest.fixture(scope="module")
def checked(few: list[Episode]) -> World:
    return calibrated(few)


@pytest.fixture(scope="module")
def measured(checked: World, few: list[Episode], heldout: list[Episode]) -> FidelityReport:
    return fidelity(checked, heldout, few)


@given(STATED)
def test_the_error_is_the_mean_gap_of_bins_that_part_no_equal_values(
    found: list[tuple[float, bool]],
) -> None:
    stated, true = [p for p, _ in found], [float(y) for _, y in found]
    made = bins(stated, true)
    assert sum(n for _, _, n in made) == len(found)
    gap = sum(abs(p - y) * n for p, y, n in made) / len(found)
    assert calibration_error(stated, true) == pytest.approx(gap)
    assert [p for p, _, _ in made] == sorted({p for p, _, _ in made})
    shuffled = list(reversed(found))
    again = calibration_error([p for p, _ in shuffled], [float(y) for _, y in shuffled])
    assert again == pytest.approx(gap)


@given(STATED)
def test_the_ranking_is_the_share_of_pairs_in_order(found: list[tuple[float, bool]]) -> None:
    yes = [p for p, y in found if y]
    no = [p for p, y in found if not y]
    pairs = [(a > b) + 0.5 * (a == b) for a in yes for b in no]
    expected = sum(pairs) / len(pairs) if pairs else None
    got = ranking([p for p, _ in found], [float(y) for _, y in found])
    assert got == (None if expected is None else pytest.approx(expected))


def test_what_is_off_by_a_fifth_has_an_error_of_a_fifth() -> None:
    rng = np.random.default_rng(0)
    stated = rng.uniform(0.0, 0.8, 20_000)
    true = (rng.random(20_000) < stated + 0.2).astype(float)
    assert calibration_error(stated, true) == pytest.approx(0.2, abs=0.01)
    assert error_of_chance(list(stated)) < 0.01


@given(STATED)
def test_the_curve_ends_with_every_call_and_its_doubt_never_falls(
    found: list[tuple[float, bool]],
) -> None:
    curve = coverage([d for d, _ in found], [float(w) for _, w in found])
    shares, right, doubt = zip(*curve, strict=True)
    assert list(shares) == sorted(set(shares))
    assert list(doubt) == sorted(set(doubt))
    assert shares[-1] == 1.0
    assert right[-1] == pytest.approx(1 - sum(w for _, w in found) / len(found))


def test_each_episode_is_predicted_once_by_a_world_of_other_scenarios(few: list[Episode]) -> None:
    twice = [e for e in few[:40] for _ in range(2)]
    seen = []
    for rest, apart in folds(twice):
        assert not {e.scenario_id or e.id for e in rest} & {e.scenario_id or e.id for e in apart}
        assert min(len(rest), len(apart)) >= 20
        seen += apart
    assert sorted(e.id for e in seen) == sorted(e.id for e in twice)


def test_doubt_and_error_flag_are_calibrated_on_heldout_episodes(
    measured: FidelityReport, checked: World, heldout: list[Episode]
) -> None:
    assert measured.overall["doubt_ece"]["value"] <= 0.08
    assert measured.overall["flag_ece"]["value"] <= 0.05
    assert measured.overall["doubt_auroc"]["value"] > 0.7
    kept, checked.doubts = checked.doubts, None
    before = fidelity(checked, heldout, (), samples=0)
    checked.doubts = kept
    assert before.overall["doubt_ece"]["value"] > measured.overall["doubt_ece"]["value"] + 0.05


def test_nothing_but_doubt_is_corrected(checked: World, heldout: list[Episode]) -> None:
    traffic = world_values(checked)
    kept = checked.doubts
    assert kept is not None
    differ = 0
    for n, episode in enumerate(heldout[:20]):
        found = []
        for doubts in (kept, None):
            checked.doubts = doubts
            found.append([(m.text, m.prediction) for m in walk(checked, episode, n, traffic)])
        checked.doubts = kept
        for (text, new), (before, old) in zip(*found, strict=True):
            assert text == before
            assert (new.outcome, new.value, new.flag, new.marks, new.chances) == (
                old.outcome, old.value, old.flag, old.marks, old.chances,
            )  # fmt: skip
            assert 0 <= new.doubt <= 1
            assert 0 <= new.wrong <= 1
            differ += new.wrong != old.wrong
    assert differ


def test_a_world_keeps_its_correction_and_its_report(
    checked: World, measured: FidelityReport, tmp_path: Path
) -> None:
    assert checked.doubts is not None
    checked.fidelity = measured.to_json()
    checked.save(tmp_path)
    again = World.load(tmp_path)
    assert again.doubts == checked.doubts
    assert again.fidelity is not None
    assert FidelityReport.from_json(again.fidelity).table() == measured.table()
    checked.fidelity = None
    checked.save(tmp_path)
    assert World.load(tmp_path).fidelity is None  # what was measured on another world is gone


def test_the_same_episodes_give_the_same_correction(few: list[Episode]) -> None:
    one, two = (Doubts.fit([f.evidence for f in cross_fit(few[:60])]) for _ in range(2))
    assert one == two


def test_a_handful_of_predictions_corrects_nothing() -> None:
    one = Evidence({("num", "doubt"): 0.5, ("num", "chance"): 1.0}, False, True)
    assert Doubts.fit([one] * (LEAST - 1)) is None
    assert Doubts.fit([one] * LEAST) is not None
    assert cross_fit(warehouse.traffic(1)) == []
