"""Feedback that is NaN or infinite: refused wherever it enters, no reward where a store has it."""

import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from understudy.cli import main
from understudy.core.chat_files import ImportOptions, episode_from_row, episode_rows
from understudy.core.types import Episode, Feedback, Group, select_reward
from understudy.judges.judge import rewarded
from understudy.recipes.preference_data import pairs_of, thumbs_of
from understudy.recipes.sft import SftConfig, select
from understudy.runs.config import ConfigError, load_config
from understudy.store import SQLiteStore

ODD = [math.nan, math.inf, -math.inf]
NO_NUMBER = "feedback named outcome that is no finite number"


def row(answer: str, **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": answer}]
    return {"messages": said, "scenario": "s", **more}


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store of two episodes of one scenario: the outcome of one is 1, nobody judged the other."""
    path = str(tmp_path / "s.db")
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row("left", reward=1)) + "\n" + json.dumps(row("right")) + "\n")
    assert main(["import", str(file), "--store", path]) == 0
    return path


@pytest.fixture(params=ODD)
def older(store: str, request: pytest.FixtureRequest) -> Iterator[SQLiteStore]:
    """A store as older versions wrote it: the other's outcome is one of these."""
    unjudged = episode_of(store, "right").id
    assert main(["feedback", unjudged, "outcome", "5", "--store", store]) == 0
    with closing(sqlite3.connect(store)) as raw, raw:
        raw.execute("UPDATE feedback SET value = ?, number = ? WHERE episode_id = ?",
                    (json.dumps(request.param), request.param, unjudged))  # fmt: skip
    with SQLiteStore.open(store) as db:
        yield db


def episode_of(store: str, answer: str) -> Episode:
    with SQLiteStore.open(store) as db:
        return next(e for e in db.read_episodes() if e.messages[-1].get("content") == answer)


@pytest.mark.parametrize("odd", ["nan", "NaN", "inf", "1e400"])
def test_the_command_line_refuses_it(
    store: str, odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    episode = episode_of(store, "right").id
    for command in (["feedback", episode, "outcome", odd], ["episodes", "--feedback", f"x={odd}"]):
        capsys.readouterr()
        assert main([*command, "--store", store]) == 1
        said = capsys.readouterr().err
        assert said == (
            f"understudy: {odd} is no finite number: say true, false, a number or a label\n"
        )
    assert episode_of(store, "right").feedback == ()


def test_a_bound_that_is_none_is_refused(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    bounds = ["--feedback", "outcome", "--at-most", "nan"]
    assert main(["episodes", *bounds, "--store", store]) == 1
    assert "are numbers, not NaN" in capsys.readouterr().err
    for option in ("threshold=NaN", "threshold=nan", "lr=Infinity"):
        with pytest.raises(ConfigError, match="must be a finite number"):
            load_config(SftConfig, None, [option])


@pytest.mark.parametrize("odd", [*ODD, {"stars": [math.nan]}])
def test_the_store_and_the_import_of_rows_refuse_it(store: str, odd: Any) -> None:
    episode = episode_of(store, "right").id
    with SQLiteStore.open(store) as db:
        with pytest.raises(ValueError, match=r"the feedback outcome is .*, no finite number"):
            db.write([Feedback("f", episode, "outcome", odd, "user")])
        assert db.counts()["feedback"] == 1
    with pytest.raises(ValueError, match="not a boolean or a number"):
        episode_from_row(row("up", reward=odd), ImportOptions(), "x")


def test_what_an_older_store_has_of_it_is_no_reward_and_is_counted(older: SQLiteStore) -> None:
    episodes = list(older.read_episodes())
    config = SftConfig(keep="feedback", feedback="outcome", split="all")
    kept, left_out = select(episodes, config, None)
    assert [e.messages[-1].get("content") for e in kept] == ["left"]
    assert left_out == {NO_NUMBER: 1}
    pairs, left_out = pairs_of(episodes, "outcome", "all", 4, seed=0)
    assert pairs == []
    assert left_out == {f"episodes, {NO_NUMBER}": 1, "episodes, alone in their scenario": 1}
    thumbs, left_out = thumbs_of(episodes, "outcome", "all", 1.0)
    assert [t.desirable for t in thumbs] == [True]
    assert left_out == {f"episodes, {NO_NUMBER}": 1}
    group, missing = rewarded(Group("s", tuple(episodes)), "outcome")
    assert group.rewards == (1.0,)
    assert [failed.reason for failed in missing] == [NO_NUMBER]
    for bound in ({"at_least": -1e300}, {"at_most": 1e300}):
        assert len(older.find(feedback="outcome", **bound)) == 1
    lines = [json.dumps(said, allow_nan=False) for said in episode_rows(episodes)]
    assert sum("outcome" in line for line in lines) == 1
    json.dumps([s.feedback for s in older.find()], allow_nan=False)


def test_a_number_that_was_said_before_it_still_counts() -> None:
    said = [
        Feedback(f"f{at}", "e", "outcome", value, "user", created_at=at)
        for at, value in enumerate((0.25, math.nan, 10**400, "good"))
    ]
    assert select_reward(said, "outcome") == 0.25
