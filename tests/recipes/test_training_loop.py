"""The loop around training: checkpoints, evaluation, forks, whole models, play beside training."""

import errno
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from understudy.cli import main
from understudy.core.rows import Entry, Row, policy_rows
from understudy.core.types import Episode, Sampling
from understudy.judges.check import Check
from understudy.models.adapters import SaveError, load_adapter
from understudy.models.loading import load_base
from understudy.recipes.actor import Actor
from understudy.recipes.batches import take_step
from understudy.recipes.checkpoints import (
    Checkpoints,
    Score,
    checkpoints_of,
    find_checkpoint,
    fork_run,
    step_of,
)  # fmt: skip
from understudy.recipes.evaluate import evaluation
from understudy.recipes.grpo import GrpoConfig, grpo
from understudy.recipes.learner import Learner, Lora, Tune, make_engine, make_learner, training
from understudy.recipes.rehearsal import play_group
from understudy.recipes.resuming import from_checkpoint
from understudy.recipes.sft import SftConfig, sft
from understudy.runs.directory import Run, RunError
from understudy.store import SQLiteStore
from understudy.train import checkpoint
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import NonFiniteError, Trainer
from understudy.world.model import World

LORA = Lora(rank=2, alpha=4)
SMALL: dict[str, Any] = {
    "lora": LORA, "steps": 4, "scenarios_per_step": 2, "group_size": 3, "pool": 12,
    "max_turns": 2, "max_tokens": 16, "precision": "fp32", "checkpoint_every": 1,
    "guards": None,
}  # fmt: skip
PARTIAL = Check(lambda messages, ticket: float(len(str(messages)) % 7), "any")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def row(weight: float = 1.0) -> Row:
    return Row((1, 2, 3), (Entry(1, 3, "ce", weight),))


def small_trainer() -> Trainer:
    return Trainer(make_learner("tiny", LORA, seed=0).base.model, TrainerConfig(lr=1e-3))


def test_the_newest_checkpoints_stay_and_the_best(tmp_path: Path) -> None:
    trainer = small_trainer()
    with Run.create(tmp_path / "run", {}) as run:
        kept = Checkpoints(run, keep=2)
        best = [kept.save(n, trainer, {}, Score(s, "x")) for n, s in enumerate((1, 3, 2, 0), 1)]
        assert best == [True, True, False, False]
        assert [step_of(f) for f in checkpoints_of(run.path)] == [4, 3, 2]
        assert kept.best == {"step": 2, "score": 3, "by": "x"}
        kept.save(5, trainer, {})
        kept.save(6, trainer, {}, Score(3, "x"))  # of equals the later
        assert [step_of(f) for f in checkpoints_of(run.path)] == [6, 5]


def test_a_damaged_checkpoint_is_passed_over_with_a_line_never_from_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = small_trainer()
    with Run.create(tmp_path / "run", {}) as run:
        kept = Checkpoints(run, keep=2)
        for number in (3, 4):
            take_step(run, trainer, [row()], number)
            run.log(number - 1, x=1)
            kept.save(number, trainer, {"more": number})
        broken = run.checkpoints / "step-000004" / "parameters.safetensors"
        broken.write_bytes(broken.read_bytes()[:-1])
        again = small_trainer()
        assert from_checkpoint(run, again) == {"step": 3, "more": 3}
        assert again.steps == 1
        assert "step-000004 is damaged" in capsys.readouterr().err
        assert [r["step"] for r in run.metrics().rows] == [2]
        (run.checkpoints / "step-000003" / "state.json").write_text("{")
        with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint .* is whole"):
            from_checkpoint(run, small_trainer())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What a full disk is to a process: writes beyond fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_where_the_disk_is_full_the_checkpoint_before_stays(tmp_path: Path) -> None:
    trainer = small_trainer()
    with Run.create(tmp_path / "run", {}) as run:
        kept = Checkpoints(run, keep=1)
        kept.save(1, trainer, {})
        take_step(run, trainer, [row()], 1)
        for name in (2, 1):  # a new one, and one that replaces
            with files_of_at_most(4096), pytest.raises(checkpoint.CheckpointError) as told:
                kept.save(name, trainer, {})
            assert "make room and resume" in str(told.value)
            assert "\n" not in str(told.value)
        assert isinstance(told.value.__cause__, OSError) is False or (
            told.value.__cause__.errno == errno.EFBIG
        )
        assert from_checkpoint(run, small_trainer())["step"] == 1
        assert [p.name for p in run.checkpoints.iterdir()] == ["step-000001"]


@pytest.mark.parametrize(("tune", "sizes"), [("lora", (0, 4096)), ("full", (0, 4096, 1 << 20))])
def test_where_the_disk_is_full_the_result_before_stays(
    tune: Tune, sizes: tuple[int, ...], tmp_path: Path
) -> None:
    learner = make_learner("tiny", LORA, seed=0, tune=tune)
    for there in (True, False):
        folder = tmp_path / f"{there}" / learner.kind
        before = {}
        if there:
            learner.save(folder, {"recipe": "before"})
            before = {file.name: file.read_bytes() for file in folder.iterdir()}
        for size in sizes:  # of a model, the tokenizer comes first
            with files_of_at_most(size), pytest.raises(SaveError) as told:
                learner.save(folder, {"recipe": "after"})
            assert "File too large" in str(told.value)
            assert "make room and run the command again" in str(told.value)
            assert ("is as it was" in str(told.value)) == there
            assert "\n" not in str(told.value)
            assert [p.name for p in folder.parent.iterdir()] == [learner.kind] * there
            after = {file.name: file.read_bytes() for file in folder.iterdir()} if there else {}
            assert after == before


def test_a_command_says_in_one_line_that_the_disk_is_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": a}]}
            for a in "ab"]  # fmt: skip
    store, run = str(tmp_path / "s.db"), str(tmp_path / "run")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["import", str(tmp_path / "rows.jsonl"), "--store", store]) == 0
    command = ["train", "sft", run, "--store", store, "--set", "split=all", "--set", "epochs=1",
               "--set", "lora.rank=2", "--quiet", "--threads", "1"]  # fmt: skip
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        save = Learner.save

        def full(self: Learner, *args: Any) -> Path:
            with files_of_at_most(4096):
                return save(self, *args)

        patch.setattr(Learner, "save", full)
        assert main(command) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"understudy: {run}/adapter could not be written (")
    assert "File too large" in line
    assert main(command) == 0  # the steps are not taken again
    assert "resuming" in capsys.readouterr().out


def test_a_command_on_a_full_disk_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("{}")
    command = ["train", "dpo", str(tmp_path / "run"), "--pairs", str(pairs)]
    with files_of_at_most(10):
        assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("understudy: the disk takes no more: ")
    assert line.endswith("make room and run the command again")
    assert main(command) == 1  # the folder is as if it had not been tried
    assert "there are no pairs" in capsys.readouterr().err
    store = str(tmp_path / "s.db")
    SQLiteStore.open(store).close()
    with files_of_at_most(0):
        assert main(["episodes", "--store", store]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"understudy: {store} cannot be opened: ")
    assert "see that the disk has room" in line


def test_a_full_disk_does_not_hide_what_went_wrong(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    with pytest.raises(ValueError, match="the first trouble"), files_of_at_most(0), run:
        raise ValueError("the first trouble")
    assert Run.open(tmp_path / "run", read_only=True).state == "interrupted"


def test_the_batch_that_stops_a_run_is_kept(tmp_path: Path) -> None:
    trainer = small_trainer()
    bad = [row(float("nan")), row()]
    with Run.create(tmp_path / "run", {}) as run:
        for number in (0, 1):
            assert "not finite" in (take_step(run, trainer, bad, number).skipped or "")
        assert take_step(run, trainer, [row()], 2).skipped is None
        for number in (3, 4):
            take_step(run, trainer, bad, number)
        with pytest.raises(NonFiniteError, match=r"the rows of step 5 are in .*5\.jsonl"):
            take_step(run, trainer, bad, 5)
        kept = (run.artefacts / "not-finite-5.jsonl").read_text().splitlines()
    assert [json.loads(line)["entries"][0]["weight"] for line in kept] == ["nan", 1.0]


async def test_play_beside_training_is_one_version_old_at_most(
    world: World, tmp_path: Path
) -> None:
    config = GrpoConfig(**SMALL | {"steps": 5, "max_staleness": 1})
    with Run.create(tmp_path / "run", config) as run:
        result = await grpo(run, world, PARTIAL, config, threads=2, quiet=True)
        rows = run.metrics().rows
    assert result.steps == 5
    assert rows[0]["staleness_max"] == 0
    assert {r["staleness_max"] for r in rows[1:]} == {1}
    trained = [r for r in rows if r["skipped"] is None]
    assert len(trained) >= 3
    assert all(abs(r["ratio_mean"] - 1) < 0.2 for r in trained)
    assert all(r["step_seconds"] >= r["rollout_seconds"] for r in rows)
    drawn = json.loads((run.checkpoints / "step-000005" / "state.json").read_text())
    assert drawn["extra"]["curriculum"]["fresh"] <= 10


async def test_a_run_resumed_beside_training_skips_no_scenario(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GrpoConfig(**SMALL | {"max_staleness": 1, "again": 0.0})
    step, seen = Trainer.step, 0

    def stop_at_the_third(self: Trainer, rows: Any, share: float = 1.0) -> Any:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise KeyboardInterrupt
        return step(self, rows, share)

    monkeypatch.setattr(Trainer, "step", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "run", config) as run:
        await grpo(run, world, PARTIAL, config, threads=1, quiet=True)
    monkeypatch.undo()
    state = checkpoint.extra_of(find_checkpoint(str(run.path)))
    assert (state["step"], state["curriculum"]["fresh"]) == (2, 4)
    with Run.open(run.path) as run:
        result = await grpo(run, world, PARTIAL, config, threads=1, quiet=True)
        assert [r["step"] for r in run.metrics().rows] == [0, 1, 2, 3]
    assert result.steps == 4


async def test_evaluation_marks_the_best_checkpoint_and_a_fork_goes_on_from_it(
    world: World, tmp_path: Path
) -> None:
    config = GrpoConfig(**SMALL | {"evaluate_every": 2, "evaluate_scenarios": 4})
    with Run.create(tmp_path / "run", config) as run:
        await grpo(run, world, PARTIAL, config, threads=1, quiet=True)
        evaluated = {
            r["step"] + 1: r["evaluation"] for r in run.metrics().rows if "evaluation" in r
        }
        best = Checkpoints(run, 2).best
    assert set(evaluated) == {2, 4}
    assert all(0 <= e["low"] <= e["mean"] <= e["high"] <= 1 for e in evaluated.values())
    assert best is not None
    assert best["score"] == max(e["mean"] for e in evaluated.values())
    assert load_adapter(run.path / "best").tensors
    longer = GrpoConfig(**SMALL | {"steps": 5, "lr": 1e-4})
    with fork_run(tmp_path / "fork", longer, 0, f"{run.path}@3") as forked:
        await grpo(forked, world, PARTIAL, longer, threads=1, quiet=True)
        assert [r["step"] for r in forked.metrics().rows] == [3, 4]
    origin = json.loads((forked.artefacts / "origin.json").read_text())
    assert origin == {"run": str(run.path.resolve()), "step": 3}
    assert step_of(find_checkpoint(f"{run.path}@best")) == best["step"]
    with pytest.raises(RunError, match="no checkpoint 7; there are: "):
        find_checkpoint(f"{run.path}@7")
    with pytest.raises(RunError, match="tune=lora, this run has tune=full"):
        fork_run(tmp_path / "no", GrpoConfig(tune="full"), 0, str(run.path))
    assert not (tmp_path / "no").exists()


async def test_a_forks_adapter_must_be_of_its_shape(world: World, tmp_path: Path) -> None:
    config = GrpoConfig(**SMALL | {"steps": 1})
    with Run.create(tmp_path / "run", config) as run:
        await grpo(run, world, PARTIAL, config, threads=1, quiet=True)
    other = GrpoConfig(**SMALL | {"steps": 2, "lora": Lora(rank=4)})
    with pytest.raises(checkpoint.CheckpointError, match="another model or adapter"):
        with fork_run(tmp_path / "fork", other, 0, str(run.path)) as forked:
            await grpo(forked, world, PARTIAL, other, threads=1, quiet=True)


async def test_the_sampler_sees_a_whole_model_move(world: World) -> None:
    learner = make_learner("tiny", LORA, seed=1, tune="full")
    with training(learner, TrainerConfig(lr=3e-4), cores=1) as trainer:
        engine, chat = make_engine(learner.base, threads=1)
        actor = Actor(learner, engine, Sampling(max_tokens=24))
        scenario, seen = world.scenarios(1, seed=3)[0], []
        try:
            for version in (1, 2):
                await actor.deliver(version)
                played = await play_group(
                    chat, actor.policy, world, world.user, scenario, 4, 5,
                    check=PARTIAL, max_turns=3, workload="w",
                )  # fmt: skip
                rows = [
                    r
                    for n, e in enumerate(played.group.episodes)
                    for r in policy_rows(e, 1.0 if n % 2 else -1.0)[0]
                ]
                recorded = torch.tensor([e.anchor for r in rows for e in r.entries])
                ours = torch.tensor([v for values in trainer.logprobs(rows) for v in values])
                assert (recorded - ours).abs().max() < 1e-4
                first = rows[0] if version == 1 else seen[0]
                seen.append(first)
                scored = await engine.score(first.ids, actor.policy.model)
                at = [e.position for e in first.entries]
                sampler = torch.tensor([scored.logprobs[p] for p in at])
                assert (sampler - torch.tensor(trainer.logprobs([first])[0])).abs().max() < 1e-4
                if version == 2:
                    moved = sampler - torch.tensor([e.anchor for e in first.entries])
                    assert moved.abs().max() > 1e-3
                assert trainer.step(rows).skipped is None
        finally:
            await engine.aclose()


def test_a_whole_model_is_distilled_evaluated_and_served_as_a_base(
    traffic: list[Episode], world: World, tmp_path: Path
) -> None:
    config = SftConfig(tune="full", lr=1e-3, epochs=1, batch_episodes=8, evaluate_every=3)
    measure = evaluation(world, PARTIAL, 3, seed=0, threads=1)
    with Run.create(tmp_path / "run", config) as run:
        result = sft(run, traffic[:32], config, quiet=True, evaluate=measure)
        rows = run.metrics().rows
    assert [r["step"] for r in rows if "evaluation" in r] == [2, result.steps - 1]
    assert rows[-1]["loss"]["ce"] < rows[0]["loss"]["ce"]
    assert result.adapter == tmp_path / "run" / "model"
    trained, before = load_base(str(result.adapter)), load_base("tiny")
    name = "model.layers.0.mlp.up_proj.weight"
    moved = trained.model.state_dict()[name] - before.model.state_dict()[name]
    assert 1e-4 < float(moved.abs().max()) < 1
    again = make_learner(str(result.adapter), LORA, seed=0)  # a base like any other
    assert again.base.name == "model"
    with pytest.raises(ValueError, match="base=FOLDER"):
        make_learner("tiny", LORA, 0, start=result.adapter, tune="full")


def test_an_adapter_of_another_shape_is_refused_in_one_line(tmp_path: Path) -> None:
    learner = make_learner("tiny", LORA, seed=0)
    folder = learner.save(tmp_path / "adapter", {})
    tensors = load_adapter(folder).tensors
    short = {k: v[:, :-1] if ".lora_A." in k else v for k, v in tensors.items()}
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in short.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit the base tiny: .*has shape"):
        make_learner("tiny", LORA, seed=0, start=folder)
