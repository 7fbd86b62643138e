"""Is what thumbs reward learned from logged episodes alone: no environment, no groups?"""

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from logs import LORA, distilled, liked, talk
from stopping import stop_at

from understudy.cli import main
from understudy.core.types import Episode, ModelRef, split_of
from understudy.models.adapters import load_adapter
from understudy.recipes.arrivals import Following, Given
from understudy.recipes.checkpoints import find_checkpoint, fork_run
from understudy.recipes.ppo import PpoConfig, ppo
from understudy.recipes.stream import StreamConfig, stream
from understudy.runs.directory import Run
from understudy.store import SQLiteStore
from understudy.train import checkpoint
from understudy.train.trainer import NonFiniteError, Trainer
from understudy.train.value_head import FILE

SMALL: dict[str, Any] = {
    "lora": LORA, "precision": "fp32", "batch_episodes": 30, "checkpoint_every": 2,
    "lr": 1e-3, "value": {"lr_scale": 0.3},
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return distilled(tmp_path_factory.mktemp("deployed") / "run")


@pytest.fixture(scope="module")
def episodes(deployed: Path) -> list[Episode]:
    return asyncio.run(talk(deployed, 150))


@pytest.fixture
def store(episodes: list[Episode], tmp_path: Path) -> Path:
    path = tmp_path / "s.db"
    with SQLiteStore.open(path) as db:
        db.write(episodes)
    return path


def ppo_config(start: Path, **more: Any) -> PpoConfig:
    return PpoConfig(**{**SMALL, "start": str(start), **more})


def stream_config(start: Path, **more: Any) -> StreamConfig:
    return StreamConfig(**{**SMALL, "start": str(start), **more})


def train(recipe: str, path: Path, start: Path, given: Sequence[Episode], **more: Any) -> Any:
    """A recipe's result in a new or an interrupted run."""
    config = (ppo_config if recipe == "ppo" else stream_config)(start, **more)
    run = Run.open(path) if (path / "run.json").exists() else Run.create(path, config)
    with run:
        if isinstance(config, PpoConfig):
            return ppo(run, given, config, quiet=True)
        return stream(run, Given(given), config, quiet=True)


@pytest.mark.parametrize("recipe", ["ppo", "stream"])
def test_what_thumbs_reward_is_learned_from_logs_alone(
    recipe: str, deployed: Path, episodes: list[Episode], tmp_path: Path
) -> None:
    assert 0.2 < liked(episodes) < 0.5
    far = {"epochs": 8} if recipe == "ppo" else {"passes": 8}  # turns of two tokens
    result = train(recipe, tmp_path / "run", deployed, episodes, **far)
    assert result.episodes == sum(split_of(str(e.scenario_id)) == "train" for e in episodes)
    assert liked(asyncio.run(talk(result.adapter, 90, seed=7))) > 0.85
    assert (result.adapter / FILE).exists()


def test_a_streams_rate_falls_where_its_end_is_known(
    deployed: Path, episodes: list[Episode], tmp_path: Path
) -> None:
    def rates(name: str, given: Sequence[Episode], **more: Any) -> list[float]:
        train("stream", tmp_path / name, deployed, given, value_steps=0, **more)
        with Run.open(tmp_path / name, read_only=True) as run:
            return [row["lr"] for row in run.metrics().rows]

    n = sum(split_of(str(e.scenario_id)) == "train" for e in episodes)
    uses = [min(30 * i, 2 * n) for i in range(-(-2 * n // 30))]  # before each step
    expected = [1e-3 * (1 - used / (2 * n)) for used in uses]
    assert rates("passes", episodes, passes=2) == pytest.approx(expected)
    by_steps = [1e-3, 0.75e-3, 0.5e-3, 0.25e-3]
    assert rates("steps", episodes, steps=4, passes=90) == pytest.approx(by_steps, rel=0.02)
    assert set(rates("flat", episodes, passes=2, falling=False)) == {1e-3}


def same(a: Path, b: Path) -> bool:
    one, two = load_adapter(a).tensors, load_adapter(b).tensors
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


# of nine steps of `stream`, two of the trainer's each; after eight some episodes are done with
@pytest.mark.parametrize(("recipe", "cut"), [("ppo", 2), ("ppo", 8), ("stream", 9), ("stream", 17)])
def test_interrupted_and_resumed_ends_bit_for_bit_as_uninterrupted(
    recipe: str,
    cut: int,
    deployed: Path,
    episodes: list[Episode],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more: dict[str, Any] = (
        {"epochs": 2, "kl_bound": None} if recipe == "ppo" else {"passes": 2, "value_steps": 1}
    )
    whole = train(recipe, tmp_path / "whole", deployed, episodes, **more)
    stop_at(monkeypatch, cut)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", deployed, episodes, **more)
    monkeypatch.undo()
    more_now = [*episodes, dataclasses.replace(episodes[0], id="new")]
    resumed = train(recipe, tmp_path / "cut", deployed, more_now, **more)
    assert same(whole.adapter, resumed.adapter)
    assert resumed.episodes == whole.episodes
    assert [r["step"] for r in Run.open(tmp_path / "cut", read_only=True).metrics().rows] == [
        r["step"] for r in Run.open(tmp_path / "whole", read_only=True).metrics().rows
    ]


@pytest.mark.parametrize("recipe", ["ppo", "stream"])
def test_a_run_whose_episodes_are_gone_does_not_go_on(
    recipe: str,
    deployed: Path,
    episodes: list[Episode],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopping(self: Trainer, rows: Any, share: float = 1.0) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", deployed, episodes)
    kept = next(e for e in episodes if split_of(str(e.scenario_id)) == "train")
    rest = [e for e in episodes if e.id != kept.id]
    with pytest.raises(ValueError, match="gone"):
        train(recipe, tmp_path / "run", deployed, rest)


def state_of(run: Path) -> dict[str, Any]:
    return checkpoint.extra_of(find_checkpoint(str(run)))


def test_a_short_stream_has_a_checkpoint_to_go_on_from_and_no_record_of_what_is_done(
    deployed: Path, episodes: list[Episode], tmp_path: Path
) -> None:
    short = {"passes": 1, "value_steps": 1, "checkpoint_every": 10, "batch_episodes": 15}
    first, rest = episodes[:40], episodes[40:60]
    a = train("stream", tmp_path / "a", deployed, first, **short)
    assert 0 < a.steps < 10
    state = state_of(tmp_path / "a")
    assert (state["step"], state["episodes"]) == (a.steps, a.episodes)
    assert (state["uses"], state["done"]) == ({}, 1)
    config = stream_config(deployed, **short)
    with fork_run(tmp_path / "b", config, 0, str(tmp_path / "a")) as run:
        b = stream(run, Given([*first, *rest]), config, quiet=True)
        new = [r["episodes"] for r in run.metrics().rows]
        assert [r["step"] for r in run.metrics().rows] == list(range(a.steps, b.steps))
    learned = sum(split_of(str(e.scenario_id)) == "train" for e in rest)
    assert sum(new) == learned == b.episodes - a.episodes  # what was learned from once is not again
    more = stream_config(deployed, **short | {"passes": 2})
    with fork_run(tmp_path / "c", more, 0, str(tmp_path / "a")) as run:
        stream(run, Given(first), more, quiet=True)
        assert sum(r["episodes"] for r in run.metrics().rows) == a.episodes  # once more
    assert b.left_out["not of the split train"] == 60 - b.episodes


def test_a_resumed_stream_needs_only_the_episodes_that_it_is_not_done_with(
    deployed: Path, episodes: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {"passes": 1, "value_steps": 0}
    whole = train("stream", tmp_path / "whole", deployed, episodes, **more)
    stop_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        train("stream", tmp_path / "cut", deployed, episodes, **more)
    monkeypatch.undo()
    state = state_of(tmp_path / "cut")
    assert state["step"] == 2
    kept = [e for e in episodes if e.id in state["uses"]]
    assert len(kept) == state["episodes"] - 2 * SMALL["batch_episodes"]
    resumed = train("stream", tmp_path / "cut", deployed, kept, **more)
    assert same(whole.adapter, resumed.adapter)
    assert (resumed.episodes, resumed.left_out) == (whole.episodes, whole.left_out)


@pytest.mark.parametrize("value_steps", [0, 1])
def test_a_stream_that_is_not_finite_any_more_stops_and_keeps_the_batch(
    deployed: Path, episodes: list[Episode], tmp_path: Path, value_steps: int
) -> None:
    with pytest.raises(NonFiniteError, match=r"not finite.*the rows of step"):
        train("stream", tmp_path / "run", deployed, episodes, lr=1e30, value_steps=value_steps)
    (kept,) = (tmp_path / "run" / "artefacts").glob("not-finite-*.jsonl")
    assert kept.read_text().startswith('{"ids": ')


@pytest.mark.parametrize("recipe", ["ppo", "stream"])
def test_clipped_rewards_are_counted_in_the_result(
    recipe: str, deployed: Path, episodes: list[Episode], tmp_path: Path
) -> None:
    kept = [e for e in episodes if split_of(str(e.scenario_id)) == "train"][:20]
    wild = [dataclasses.replace(e, feedback=(dataclasses.replace(e.feedback[0], value=1e6),))
            for e in kept[:3]]  # fmt: skip
    short = {"epochs": 1} if recipe == "ppo" else {"passes": 1}
    result = train(recipe, tmp_path / "run", deployed, [*wild, *kept[3:]], **short)
    assert result.changed == {"rewards clipped to -10..10": 3}
    assert result.left_out == {}
    told = json.loads((tmp_path / "run" / "artefacts" / f"{recipe}.json").read_text())
    assert told["changed"] == result.changed
    rows = Run.open(tmp_path / "run", read_only=True).metrics().rows
    if recipe == "stream":
        assert rows[0]["reward"] < 3


def without(episode: Episode, **what: Any) -> Episode:
    changed = tuple(dataclasses.replace(c, **what) for c in episode.completions)
    return dataclasses.replace(episode, completions=changed)


@pytest.mark.parametrize("recipe", ["ppo", "stream"])
def test_episodes_without_what_is_needed_are_counted_and_where_none_is_left_it_is_said(
    recipe: str, deployed: Path, episodes: list[Episode], tmp_path: Path
) -> None:
    kept = [e for e in episodes if split_of(str(e.scenario_id)) == "train"]
    aside = next(e for e in episodes if split_of(str(e.scenario_id)) == "heldout")
    hot = dataclasses.replace(kept[3].completions[0].request.sampling, temperature=0.5)
    request = dataclasses.replace(kept[3].completions[0].request, sampling=hot)
    odd = [
        without(kept[0], prompt_ids=None, output_ids=None, logprobs=None),
        without(kept[1], logprobs=None),
        dataclasses.replace(kept[2], feedback=()),
        without(kept[3], request=request),
        aside,
    ]
    short = {"epochs": 1} if recipe == "ppo" else {"passes": 1}
    result = train(recipe, tmp_path / "run", deployed, [*odd, *kept[4:]], **short)
    assert result.left_out == {
        "without token ids": 1,
        "without logprobs": 1,
        "no feedback named thumb": 1,
        "sampled at another temperature than 1": 1,
        "not of the split train": 1,
    }
    assert result.episodes == len(kept) - 4
    with pytest.raises(ValueError, match=r"no episode is left.*let the engine record them") as why:
        train(recipe, tmp_path / "none", deployed, odd)
    assert "\n" not in str(why.value)


def test_an_epoch_ends_where_the_policy_has_gone_too_far(
    deployed: Path, episodes: list[Episode], tmp_path: Path
) -> None:
    result = train("ppo", tmp_path / "run", deployed, episodes, kl_bound=1e-4, lr=0.01)
    assert result.epochs_cut == PpoConfig().epochs
    told = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    policy = [row for row in told if row["epoch"] >= 0]
    assert [row["epoch"] for row in policy][:2] == [0, 0]
    assert policy[-1]["kl"] > 1e-4
    assert len(policy) < 5
    assert policy[0]["ratio_mean"] == pytest.approx(1, abs=1e-4)


def test_a_step_on_too_small_an_effective_sample_is_skipped_and_stale_episodes_are_left_out(
    deployed: Path, episodes: list[Episode], tmp_path: Path
) -> None:
    strange = [
        without(e, logprobs=tuple(5.0 * x - n for x in e.completions[0].logprobs or ()))
        for n, e in enumerate(episodes)
    ]
    result = train("stream", tmp_path / "a", deployed, strange, passes=1, min_effective=0.9)
    assert result.skipped == result.steps > 0
    assert same(result.adapter, deployed)
    newest = ModelRef("tiny", "served", 9)
    given = [*(without(e, served=newest) for e in episodes[:40]), *episodes[40:]]
    both = train("stream", tmp_path / "b", deployed, given, passes=1, max_staleness=4)
    newer = sum(split_of(str(e.scenario_id)) == "train" for e in episodes[:40])
    assert both.left_out["more than 4 versions old"] == both.episodes - newer


def test_a_store_that_grows_is_followed(
    deployed: Path, episodes: list[Episode], tmp_path: Path
) -> None:
    """Episodes are learned from when their feedback comes, each once a pass, whenever that is."""
    now = 1000.0
    first, late, never = episodes[:40], episodes[40:60], episodes[60:70]

    def at(e: Episode, finished: float, feedback: bool) -> Episode:
        e = without(e, started_at=finished - 1, finished_at=finished)
        return e if feedback else dataclasses.replace(e, feedback=())

    with SQLiteStore.open(tmp_path / "s.db") as db:
        db.write([at(e, 10.0, True) for e in first])
        db.write([at(e, 900.0, False) for e in late])
        db.write([at(e, 20.0, False) for e in never])
        follow = Following(db, "thumb", patience_s=500.0, clock=lambda: now)
        assert [e.id for e in follow.poll()] == [e.id for e in first]
        assert follow.poll() == []
        db.write([f for e in late[:5] for f in e.feedback])
        assert [e.id for e in follow.poll()] == [e.id for e in late[:5]]
        now = 2000.0
        db.write([f for e in late[5:9] for f in e.feedback])
        assert [e.id for e in follow.poll()] == [e.id for e in late[5:9]]
        assert follow.counted == {"no feedback named thumb in time": 11 + 10}
        config = stream_config(deployed, steps=3, value_steps=1)
        again = Following(db, "thumb", patience_s=500.0, clock=lambda: now)
        with Run.create(tmp_path / "run", config) as run:
            result = stream(run, again, config, quiet=True)
        assert result.steps == 3
        assert result.left_out["no feedback named thumb in time"] == 21
        settled = Following(db, None, patience_s=500.0, clock=lambda: 600.0)
        assert len(settled.poll()) == 40


@pytest.mark.parametrize("now", [1000.0, 2000.0])  # before the cursor passes them, and after
def test_who_follows_a_store_and_is_interrupted_takes_each_episode_up_once(
    deployed: Path,
    episodes: list[Episode],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    now: float,
) -> None:
    config = stream_config(deployed, steps=3, passes=1, value_steps=0, batch_episodes=20)
    finished = [without(e, started_at=899.0, finished_at=900.0) for e in episodes[:80]]

    def followed(run: Run, db: SQLiteStore) -> Any:
        source = Following(db, "thumb", patience_s=500.0, clock=lambda: now)
        return stream(run, source, config, quiet=True)

    with SQLiteStore.open(tmp_path / "s.db") as db:
        db.write(finished[:70])
        with Run.create(tmp_path / "whole", config) as run:
            whole = followed(run, db)
        stop_at(monkeypatch, 3)
        with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", config) as run:
            followed(run, db)
        monkeypatch.undo()
        with Run.open(tmp_path / "cut") as run:
            resumed = followed(run, db)
        assert same(whole.adapter, resumed.adapter)
        assert (resumed.episodes, resumed.left_out) == (whole.episodes, whole.left_out)
        db.write(finished[70:])
        with fork_run(tmp_path / "on", config, 0, str(tmp_path / "cut")) as run:
            longer = config.model_copy(update={"steps": 4})
            source = Following(db, "thumb", patience_s=500.0, clock=lambda: now)
            last = stream(run, source, longer, quiet=True)
            (told,) = run.metrics().rows
    train_of = [sum(split_of(str(e.scenario_id)) == "train" for e in part)
                for part in (finished[:70], finished[70:])]  # fmt: skip
    assert (whole.episodes, last.episodes) == (train_of[0], sum(train_of))
    assert told["episodes"] == min(20, sum(train_of) - 3 * 20)


def test_the_commands_run(
    deployed: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", str(store), "--start", str(deployed), "--threads", "1", "--quiet"]
    small = ["--set", "precision=fp32", "--set", "batch_episodes=60"]
    assert main(["train", "ppo", str(tmp_path / "p"), *where, *small, "--set", "epochs=1"]) == 0
    assert "episodes, not of the split train" in capsys.readouterr().out
    on = ["--from", str(tmp_path / "p"), "--set", "epochs=2"]
    assert main(["train", "ppo", str(tmp_path / "q"), *where, *on]) == 0
    begun = json.loads((tmp_path / "q" / "artefacts" / "origin.json").read_text())
    assert begun["step"] == len(Run.open(tmp_path / "p", read_only=True).metrics().rows)
    assert len(Run.open(tmp_path / "q", read_only=True).metrics().rows) > 0
    assert main(["train", "stream", str(tmp_path / "s"), *where, *small, "--set", "steps=1"]) == 0
    assert "1 steps on" in capsys.readouterr().out
    assert main(["train", "ppo", str(tmp_path / "w"), "--world", "x"]) != 0
    assert "--world needs --check" in capsys.readouterr().err
    assert main(["train", "stream", str(tmp_path / "n"), *where, "--reward", "stars"]) != 0
    assert "no feedback named stars" in capsys.readouterr().err
