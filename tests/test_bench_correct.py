"""What `bench correct` makes of the answers before and after, and what it keeps of them."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from bench.bench_correct import (
    LOT,
    answered,
    compared,
    dropped,
    fell,
    kept_figures,
    largest_drop,
    questions,
)
from bench.figures import CannotRun
from bench.measured import measured_once


def cell(before: str, after: str, **others: tuple[str, str]) -> dict[str, Any]:
    groups = {"retries": (before, after), **others}
    answers = {name: {"before": was, "after": now} for name, (was, now) in groups.items()}
    return {"answers": answers, "gap_before": 2.0, "gap": 1.0, "drift": 0.5}


def test_the_fall_is_of_the_behaviour_and_its_interval_narrows_with_more_turns() -> None:
    pairs = [("0", "1")] * 15 + [("0", "0")] * 4 + [("-", "0")] + [("1", "1")] * 5
    few, many = fell(pairs), fell(pairs * 20)
    assert few["value"] == many["value"] == pytest.approx(1 - 5 / 19)
    assert few["low"] < many["low"] < many["value"] < many["high"] < few["high"]
    whole = fell([("0", "1")] * 30)
    assert whole["low"] == whole["value"] == whole["high"] == 1.0


def test_the_largest_drop_holds_for_all_groups_at_once() -> None:
    steady = [("0", "0")] * 97 + [("0", "-")] * 2 + [("-", "0")]
    worse = [("0", "0")] * 95 + [("0", "1")] * 4 + [("-", "0")]
    groups = {"talk": steady, "copy": worse, "rule": steady}
    found = largest_drop(groups)
    assert found["value"] == pytest.approx(3.0) == dropped(worse)["value"]
    alone = dropped(worse)
    assert found["low"] < alone["low"] < alone["high"] < found["high"]
    assert all(found["high"] >= dropped(of)["high"] for of in groups.values())


def test_the_figures_are_over_all_seeds_turns_and_of_each_seed() -> None:
    cells = [
        cell("0000", "1111", talk=("0000", "0000")),
        cell("0000", "1100", talk=("0000", "000-")),
    ]
    found = compared("retries", cells)
    assert found["fell"]["value"] == pytest.approx(0.75)
    assert found["wrong_before"]["value"] == 1.0
    assert found["right_after"]["value"] == pytest.approx(6 / 8)
    assert (found["fell_over_seeds"]["low"], found["fell_over_seeds"]["high"]) == (0.5, 1.0)
    assert found["dropped_talk"]["value"] == found["largest_drop"]["value"] == 12.5
    assert found["largest_drop_over_seeds"]["high"] == 25.0
    assert "fell_over_seeds" not in compared("retries", cells[:1])


def test_answers_go_on_where_they_were_cut_off(tmp_path: Path) -> None:
    asked = list(islice(questions("retries", 1, 0), 4))
    file = tmp_path / "answers.txt"
    file.write_text("??")
    said = answered(file, None, asked)
    assert said.startswith("??")
    assert len(said) == 4
    assert set(said[2:]) <= {"0", "1", "-"}
    assert file.read_text() == said
    assert answered(file, None, asked) == said
    assert LOT >= 4


def test_other_seeds_ask_other_questions() -> None:
    first, other = (questions("retries", 1, seed) for seed in (0, 1))
    assert [q.group for q in first] == [q.group for q in other]
    assert all(a.messages != b.messages for a, b in zip(first, other, strict=True))


def test_what_is_kept_is_not_measured_again_and_only_for_its_setting(tmp_path: Path) -> None:
    file, measured = tmp_path / "0.json", []

    def measure() -> dict[str, Any]:
        measured.append(1)
        return cell("00", "11", talk=("00", "00"))

    assert kept_figures(tmp_path) == {}
    setting = {"behaviour": "retries", "n": 2}
    found = measured_once(file, setting, measure)
    assert measured_once(file, setting, measure) == found
    assert len(measured) == 1
    with pytest.raises(CannotRun, match=r"0\.json was measured with .*'n': 2.*delete it"):
        measured_once(file, setting | {"n": 700}, measure)
    assert kept_figures(tmp_path)["fell"]["value"] == 1.0
