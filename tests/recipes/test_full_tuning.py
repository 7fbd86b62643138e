"""`tune=full`: every parameter is trained, and what a recipe holds it to stays the base."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.generated import episode, first
from logs import thumbed
from stopping import stop_at

from understudy.cli import main
from understudy.core.chat_files import ImportOptions, episode_from_row
from understudy.core.types import Episode, Feedback, Group, Message
from understudy.judges.check import Check
from understudy.models.loading import load_base
from understudy.recipes.arrivals import Given
from understudy.recipes.checkpoints import fork_run
from understudy.recipes.correct import CorrectConfig, correct
from understudy.recipes.dpo import DpoConfig, dpo
from understudy.recipes.grpo import GrpoConfig
from understudy.recipes.kto import KtoConfig, kto
from understudy.recipes.learner import Lora, make_learner, make_value_head
from understudy.recipes.opd import OpdConfig, opd
from understudy.recipes.ppo import PlayConfig, PpoConfig, ppo
from understudy.recipes.ppo_world import ppo_in_world
from understudy.recipes.preference_data import Pair, Said, Thumb
from understudy.recipes.reward_model import RewardModelConfig, load_judge, reward_model
from understudy.recipes.sft import SftConfig
from understudy.recipes.stream import StreamConfig, stream
from understudy.recipes.teach_language import LanguageConfig
from understudy.recipes.user import UserConfig
from understudy.runs.config import Config, ConfigError, load_config
from understudy.runs.directory import Run, RunError
from understudy.train.value_head import FILE
from understudy.world.model import World

FULL: dict[str, Any] = {"tune": "full", "precision": "fp32", "lr": 3e-4}
PREFERRED: dict[str, Any] = {
    **FULL, "batch": 4, "epochs": 3, "warmup_steps": 0,
    "checkpoint_every": 2, "keep_checkpoints": 9,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def said(n: int, word: str) -> Said:
    asked: Message = {"role": "user", "content": f"Which of the {n + 2} is it?"}
    return Said(f"{word}{n}", (asked,), ({"role": "assistant", "content": word},))


PAIRS = [Pair(said(n, "the left one"), said(n, "the right one")) for n in range(6)]
THUMBS = [Thumb(s, s is p.chosen) for p in PAIRS for s in (p.chosen, p.rejected)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_base(str(folder)).model.state_dict())


def moved(folder: Path) -> bool:
    """Whether all of a saved model is another than the base: embeddings and norms too."""
    base, now = load_base("tiny").model.state_dict(), weights(folder)
    return all(not torch.equal(base[name], now[name]) for name in base)


def apart(a: Path, b: Path) -> float:
    """The largest difference of two models over the largest step of the first from the base."""
    base, one, two = load_base("tiny").model.state_dict(), weights(a), weights(b)
    way = max(float((one[k] - base[k]).abs().max()) for k in base)
    return max(float((one[k] - two[k]).abs().max()) for k in base) / way


PREFERENCES: dict[str, tuple[Config, Callable[[Run, Any], Any]]] = {
    "dpo": (DpoConfig(**PREFERRED), lambda run, c: dpo(run, PAIRS, c, quiet=True)),
    "kto": (KtoConfig(**PREFERRED), lambda run, c: kto(run, THUMBS, c, quiet=True)),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_a_whole_model_is_held_to_the_base_that_it_began_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, recipe = PREFERENCES[name]
    with Run.create(tmp_path / "whole", config) as run:
        whole = recipe(run, config)
        losses = [row["loss"][name] for row in run.metrics().rows]
    assert whole.adapter == tmp_path / "whole" / "model"
    assert moved(whole.adapter)
    assert losses[0] == pytest.approx({"dpo": 0.693147, "kto": 0.5}[name], abs=1e-5)
    assert losses[-1] < 0.9 * losses[0]
    stop_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", config) as run:
        recipe(run, config)
    monkeypatch.undo()
    with Run.open(tmp_path / "cut") as run:
        assert apart(whole.adapter, recipe(run, config).adapter) == 0
    with fork_run(tmp_path / "fork", config, 0, f"{tmp_path / 'whole'}@2") as run:
        recipe(run, config)  # its model is the trained one by then, its reference is not
        assert run.metrics().rows[0]["loss"][name] == pytest.approx(losses[2], abs=1e-6)
    references = [
        json.loads((tmp_path / run / "artefacts" / "reference.json").read_text())
        for run in ("whole", "fork")
    ]
    assert references[0] == references[1]


async def test_a_reward_model_may_be_a_whole_model(tmp_path: Path) -> None:
    config = RewardModelConfig(**PREFERRED | {"epochs": 6, "lr": 1e-3})
    with Run.create(tmp_path / "run", config) as run:
        result = reward_model(run, PAIRS, config, quiet=True)
    assert moved(result.adapter)
    judge, engine = await load_judge(result.adapter, threads=1)
    try:
        group = [talked(s) for p in PAIRS for s in (p.chosen, p.rejected)]
        verdicts = await judge.judge(Group("s", tuple(group)))
    finally:
        await engine.aclose()
    values = [v.value for v in verdicts if isinstance(v, Feedback)]
    assert len(values) == len(group)
    assert all(a > b for a, b in zip(values[::2], values[1::2], strict=True))
    (result.adapter / "understudy.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        await load_judge(result.adapter)


def talked(one: Said) -> Episode:
    messages = [*map(dict, one.prompt), *map(dict, one.completion)]
    return episode_from_row({"messages": messages}, ImportOptions(), one.id)


@pytest.fixture(scope="module")
def logs(world: World) -> list[Episode]:
    torch.set_num_threads(1)
    return asyncio.run(thumbed(world, 6))


@pytest.mark.parametrize("name", ["ppo", "stream"])
def test_a_whole_model_learns_from_the_logs_of_its_base(
    name: str, logs: list[Episode], tmp_path: Path
) -> None:
    log = {"split": "all"}
    config: Any = PpoConfig(**FULL, log=log, epochs=2, kl_bound=None)
    if name == "stream":
        config = StreamConfig(**FULL, log=log, passes=2, value_steps=2)
    with Run.create(tmp_path / "run", config) as run:
        if name == "ppo":
            result: Any = ppo(run, logs, config, quiet=True)
        else:
            result = stream(run, Given(logs), config, quiet=True)
        rows = run.metrics().rows
    assert len(rows) == 2
    assert rows[0]["ratio_mean"] == pytest.approx(1, abs=1e-4)
    assert rows[1]["kl"] > 1e-6
    assert moved(result.adapter)
    again = make_learner(str(result.adapter), Lora(), 0, tune="full")
    assert (result.adapter / FILE).exists()
    assert make_value_head(again).tensors()["bias"].abs().sum() > 0
    adapted = make_learner(str(result.adapter), Lora(), 0)
    assert make_value_head(adapted).tensors()["bias"].abs().sum() == 0


async def test_a_whole_model_plays_as_it_is_by_then(world: World, tmp_path: Path) -> None:
    partial = Check(lambda messages, ticket: float(len(str(messages)) % 7), "any")
    play = PlayConfig(steps=3, epochs=1, scenarios_per_step=4, pool=12, max_turns=2, max_tokens=16,
                      guards=None)  # fmt: skip
    config = PpoConfig(**FULL, play=play)
    with Run.create(tmp_path / "run", config) as run:
        result = await ppo_in_world(run, world, partial, config, threads=1, quiet=True)
        rows = run.metrics().rows
    assert [row["skipped"] for row in rows] == [None] * 3
    assert all(abs(row["ratio_mean"] - 1) < 1e-4 for row in rows)  # on-policy
    assert moved(result.adapter)


async def test_the_teacher_of_a_whole_model_stays_the_base(
    logs: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = OpdConfig(
        **FULL, split="all", steps=4, scenarios_per_step=2, group_size=3, warmup_steps=0,
        checkpoint_every=1, teacher_prompt="Answer in French, and never use tools.",
    )  # fmt: skip
    with Run.create(tmp_path / "whole", config) as run:
        whole = await opd(run, config, None, logs, threads=1, quiet=True)
        gaps = [row["gap"] for row in run.metrics().rows]
    assert moved(whole.adapter)
    assert gaps[-1] < 0.9 * gaps[0]
    stop_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", config) as run:
        await opd(run, config, None, logs, threads=1, quiet=True)
    monkeypatch.undo()
    with Run.open(tmp_path / "cut") as run:
        cut = await opd(run, config, None, logs, threads=1, quiet=True)
        assert [row["gap"] for row in run.metrics().rows] == pytest.approx(gaps, abs=1e-5)
    assert apart(whole.adapter, cut.adapter) < 1e-2


async def test_a_corrected_whole_model_is_held_to_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviewed = [episode(turn, corrected=True) for turn in first(2, "retries", "train")]
    reviewed += [episode(turn, corrected=False) for turn in first(2, "takes_another", "train")]
    config = CorrectConfig(**FULL, split="all", steps=4, turns_per_step=2, samples=1,
                           max_tokens=30, warmup_steps=0, checkpoint_every=1)  # fmt: skip
    with Run.create(tmp_path / "whole", config) as run:
        whole = await correct(run, reviewed, config, threads=1, quiet=True)
        drifts = [row["drift"] for row in run.metrics().rows]
    assert moved(whole.adapter)
    assert drifts[0] == pytest.approx(0, abs=1e-6)
    assert whole.drift > 1e-5
    stop_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", config) as run:
        await correct(run, reviewed, config, threads=1, quiet=True)
    monkeypatch.undo()
    with Run.open(tmp_path / "cut") as run:
        cut = await correct(run, reviewed, config, threads=1, quiet=True)
    assert cut.drift == pytest.approx(whole.drift, rel=0.05)
    assert apart(whole.adapter, cut.adapter) < 1e-2


CONFIGS = (SftConfig, GrpoConfig, PpoConfig, StreamConfig, DpoConfig, KtoConfig,
           RewardModelConfig, CorrectConfig, OpdConfig)  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_whole_model_begins_with_no_adapter(kind: type[Config]) -> None:
    more = ["teacher=x"] if kind is OpdConfig else []
    assert load_config(kind, None, ["tune=full", *more]).model_dump()["tune"] == "full"
    with pytest.raises(ConfigError, match="name it as base=FOLDER") as told:
        load_config(kind, None, ["tune=full", "start=runs/x", *more])
    assert "\n" not in str(told.value)


def test_a_whole_model_is_no_adapter_to_start_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, run, model = tmp_path / "pairs.jsonl", tmp_path / "run", tmp_path / "run" / "model"
    pairs.write_text("".join(json.dumps(pair.row()) + "\n" for pair in PAIRS))
    options = ["--pairs", str(pairs), "--threads", "1", "--quiet", "--set", "lr=1e-4"]
    assert main(["train", "dpo", str(run), *options, "--set", "tune=full"]) == 0
    assert f"1 steps on 6 pairs; model in {model}" in capsys.readouterr().out
    assert main(["train", "dpo", str(tmp_path / "new"), *options, "--start", str(run)]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert f"name it as --set base={model}" in told
    assert main(["train", "dpo", str(tmp_path / "on"), *options, "--set", f"base={model}"]) == 0
    assert f"adapter in {tmp_path / 'on' / 'adapter'}" in capsys.readouterr().out


def test_a_run_that_did_not_say_how_it_was_tuned_trained_an_adapter(tmp_path: Path) -> None:
    config = DpoConfig(precision="fp32", checkpoint_every=1)
    with Run.create(tmp_path / "run", config) as run:
        dpo(run, PAIRS[:2], config, quiet=True)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    del record["config"]["tune"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="tune=lora, this run has tune=full"):
        fork_run(tmp_path / "no", DpoConfig(tune="full"), 0, str(tmp_path / "run"))


@pytest.mark.parametrize("kind", [UserConfig, LanguageConfig])
def test_what_speaks_for_others_is_an_adapter(kind: type[Config]) -> None:
    with pytest.raises(ConfigError, match="tune must be 'lora', not 'full'"):
        load_config(kind, None, ["tune=full"])
