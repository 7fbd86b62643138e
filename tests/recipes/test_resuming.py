"""A run that was interrupted, wherever, ends as the uninterrupted one.

Distillation does so bit for bit, and with `exact` all that asks an engine. Its logprobs depend in
their last bits on what it decodes side by side, so two other rehearsals of one seed sample the same
and differ by that much.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.generated import episode, first
from safetensors.torch import load_file
from stopping import stop_at

from traffic import conversations, write_jsonl
from understudy.core.chat_files import import_file
from understudy.core.types import Episode, split_of
from understudy.judges.check import Check
from understudy.models.adapters import load_adapter
from understudy.recipes.correct import CorrectConfig, CorrectResult, correct
from understudy.recipes.grpo import GrpoConfig, grpo
from understudy.recipes.learner import Lora
from understudy.recipes.opd import OpdConfig, opd
from understudy.recipes.ppo import PlayConfig, PpoConfig
from understudy.recipes.ppo_world import ppo_in_world
from understudy.recipes.rft import RftConfig, rft
from understudy.recipes.sft import SftConfig, sft
from understudy.runs.directory import Run
from understudy.train.value_head import FILE
from understudy.world.learn import learn
from understudy.world.model import World

LORA = Lora(rank=2, alpha=4)
DISTIL = SftConfig(
    lora=LORA, epochs=1, batch_episodes=4, checkpoint_every=2, precision="fp32", split="all"
)
SAMPLE = RftConfig(
    lora=LORA, reader_epochs=1, scenarios=8, max_turns=2, max_tokens=16, readings=1,
    batch_episodes=2, precision="fp32", checkpoint_every=2,
)  # fmt: skip
REHEARSE = GrpoConfig(
    lora=LORA, steps=4, scenarios_per_step=2, group_size=3, pool=12, max_turns=2, max_tokens=16,
    precision="fp32", checkpoint_every=2, guards=None,
)  # fmt: skip

# four steps of two batches each, gone over once
PLAY = PpoConfig(
    lora=LORA, batch_episodes=3, precision="fp32", checkpoint_every=2,
    play=PlayConfig(steps=4, scenarios_per_step=6, pool=12, max_turns=2, max_tokens=16, epochs=1,
                    again=0.3, guards=None),
)  # fmt: skip


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> list[Episode]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("traffic")
    rows = asyncio.run(conversations(folder, 24))
    return list(import_file(write_jsonl(folder / "c.jsonl", rows)))


@pytest.fixture(scope="module")
def world(traffic: list[Episode]) -> World:
    return learn(traffic)


def same(a: Path, b: Path) -> bool:
    one, two = load_adapter(a).tensors, load_adapter(b).tensors
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def gap(a: Path, b: Path) -> float:
    """How far two adapters are apart, for the size of the first: relative error of the norm."""
    one, two = load_adapter(a).tensors, load_adapter(b).tensors
    apart = sum(float((one[k] - two[k]).norm()) ** 2 for k in one if ".lora_B." in k)
    return (apart / sum(float(one[k].norm()) ** 2 for k in one if ".lora_B." in k)) ** 0.5


def set_aside(run: Path) -> int:
    """The steps since the last checkpoint, which were taken twice."""
    return (run / "metrics.rewound.jsonl").read_text().count("\n")


def die_between_two_renames(run: Path) -> None:
    """What a checkpoint that is being replaced looks like when the process dies."""
    newest = max((run / "checkpoints").glob("step-*"))
    newest.rename(newest.with_name(f".{newest.name}.old"))


@pytest.mark.parametrize("cut", [2, 4])  # before the first checkpoint, and after it
@pytest.mark.parametrize("dies", [False, True])
def test_a_distillation_goes_on_with_the_episodes_it_began_with(
    traffic: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, dies: bool
) -> None:
    with Run.create(tmp_path / "whole", DISTIL) as run:
        whole = sft(run, traffic[:16], DISTIL, quiet=True)
    stop_at(monkeypatch, cut)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", DISTIL) as run:
        sft(run, traffic[:16], DISTIL, quiet=True)
    monkeypatch.undo()
    if dies and cut == 4:
        die_between_two_renames(tmp_path / "cut")
    with Run.open(tmp_path / "cut") as run:  # more was captured meanwhile
        resumed = sft(run, traffic, DISTIL, quiet=True)
        assert [r["step"] for r in run.metrics().rows] == list(range(whole.steps))
    assert same(whole.adapter, resumed.adapter)
    assert set_aside(tmp_path / "cut") == 1


def test_a_distillation_whose_episodes_are_gone_does_not_go_on(
    traffic: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "run", DISTIL) as run:
        sft(run, traffic[:16], DISTIL, quiet=True)
    monkeypatch.undo()
    why = f"began with 16 episodes, and 3 of them are gone .{traffic[0].id} is the first"
    with pytest.raises(ValueError, match=why), Run.open(tmp_path / "run") as run:
        sft(run, traffic[3:], DISTIL, quiet=True)


@pytest.mark.parametrize("cut", [2, 4])
async def test_a_rehearsal_goes_on_as_if_nothing_had_happened(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    check = Check(lambda messages, ticket: float(len(str(messages)) % 7), "any")
    with Run.create(tmp_path / "whole", REHEARSE) as run:
        whole = await grpo(run, world, check, REHEARSE, threads=1, quiet=True)
        told = [(r["step"], r["reward"], r["sampled_tokens"]) for r in run.metrics().rows]
    stop_at(monkeypatch, cut)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", REHEARSE) as run:
        await grpo(run, world, check, REHEARSE, threads=1, quiet=True)
    monkeypatch.undo()
    if cut == 4:
        die_between_two_renames(tmp_path / "cut")
    with Run.open(tmp_path / "cut") as run:
        resumed = await grpo(run, world, check, REHEARSE, threads=1, quiet=True)
        again = [(r["step"], r["reward"], r["sampled_tokens"]) for r in run.metrics().rows]
    assert again == told
    assert gap(whole.adapter, resumed.adapter) < 1e-3
    assert set_aside(tmp_path / "cut") == 1


@pytest.mark.parametrize("cut", [2, 8])  # before the first checkpoint, and after it
async def test_ppo_in_a_world_goes_on_as_if_nothing_had_happened(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """In the middle of a step's batches too: the step is played and learned from again."""
    check = Check(lambda messages, ticket: float(len(str(messages)) % 7), "any")

    def told(run: Run) -> list[Any]:
        shown = ("step", "reward", "sampled_tokens", "count")
        return [tuple(r[name] for name in shown) for r in run.metrics().rows]

    with Run.create(tmp_path / "whole", PLAY) as run:
        whole = await ppo_in_world(run, world, check, PLAY, threads=1, quiet=True)
        before = told(run)
    stop_at(monkeypatch, cut)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", PLAY) as run:
        await ppo_in_world(run, world, check, PLAY, threads=1, quiet=True)
    monkeypatch.undo()
    with Run.open(tmp_path / "cut") as run:
        resumed = await ppo_in_world(run, world, check, PLAY, threads=1, quiet=True)
        assert told(run) == before
    assert [step for step, *_ in before] == [0, 1, 2, 3]
    assert len({reward for _, reward, *_ in before}) > 1
    assert gap(whole.adapter, resumed.adapter) < 1e-3
    heads = [load_file(r.adapter / FILE)["weight"] for r in (whole, resumed)]
    assert float((heads[0] - heads[1]).norm() / heads[0].norm()) < 1e-3
    assert (tmp_path / "cut" / "metrics.rewound.jsonl").exists() == (cut == 8)


def killed(work: Callable[[], object], number: int) -> None:
    """A process that does the work and is killed in the middle of the trainer's step of this
    number, counted from one: its gradients are there, its parameters half updated."""

    def die() -> None:
        steps, update = 0, torch.optim.AdamW.step

        def dying(self: Any, *arguments: Any) -> Any:
            nonlocal steps
            steps += 1
            done = update(self, *arguments)
            if steps == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        torch.optim.AdamW.step = dying  # type: ignore[method-assign]
        work()

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_distillation_that_was_killed_ends_bit_for_bit_as_the_uninterrupted(
    traffic: list[Episode], tmp_path: Path
) -> None:
    with Run.create(tmp_path / "whole", DISTIL) as run:
        whole = sft(run, traffic[:16], DISTIL, quiet=True)

    def work() -> None:
        with Run.create(tmp_path / "cut", DISTIL) as run:
            sft(run, traffic[:16], DISTIL, quiet=True)

    killed(work, 4)
    with Run.open(tmp_path / "cut") as run:
        resumed = sft(run, traffic[:16], DISTIL, quiet=True)
    assert same(whole.adapter, resumed.adapter)
    assert set_aside(tmp_path / "cut") == 1


@pytest.mark.parametrize(("cut", "evaluate_every"), [(2, 0), (4, 0), (4, 2)])
def test_an_exact_rehearsal_that_was_killed_ends_bit_for_bit_as_the_uninterrupted(
    world: World, tmp_path: Path, cut: int, evaluate_every: int
) -> None:
    check = Check(lambda messages, ticket: float(len(str(messages)) % 7), "any")
    more = {"group_size": 6, "max_turns": 3, "evaluate_every": evaluate_every}
    config = REHEARSE.model_copy(update={"exact": True, **more})

    def rehearse(run: Run) -> Path:
        return asyncio.run(grpo(run, world, check, config, quiet=True)).adapter

    def work() -> None:
        with Run.create(tmp_path / "cut", config) as run:
            rehearse(run)

    with Run.create(tmp_path / "whole", config) as run:
        whole = rehearse(run)
        told = [(r["step"], r["loss"], r["entropy"]) for r in run.metrics().rows]
    killed(work, cut)
    with Run.open(tmp_path / "cut") as run:
        resumed = rehearse(run)
        again = [(r["step"], r["loss"], r["entropy"]) for r in run.metrics().rows]
    assert again == told
    assert same(whole, resumed)


@pytest.mark.parametrize("evaluate_every", [0, 1])
def test_exact_ppo_in_a_world_that_was_killed_ends_bit_for_bit_as_the_uninterrupted(
    world: World, tmp_path: Path, evaluate_every: int
) -> None:
    check = Check(lambda messages, ticket: float(len(str(messages)) % 7), "any")
    more = {"exact": True, "max_turns": 3, "evaluate_every": evaluate_every}
    config = PLAY.model_copy(update={"play": PLAY.play.model_copy(update=more)})

    def play(run: Run) -> Path:
        return asyncio.run(ppo_in_world(run, world, check, config, quiet=True)).adapter

    def work() -> None:
        with Run.create(tmp_path / "cut", config) as run:
            play(run)

    with Run.create(tmp_path / "whole", config) as run:
        whole = play(run)
    killed(work, 8)
    with Run.open(tmp_path / "cut") as run:
        resumed = play(run)
    assert same(whole, resumed)
    assert torch.equal(*(load_file(folder / FILE)["weight"] for folder in (whole, resumed)))


@pytest.mark.parametrize("top_k", [0, 4])
def test_an_exact_distillation_from_a_teacher_ends_bit_for_bit_as_the_uninterrupted(
    world: World, tmp_path: Path, top_k: int
) -> None:
    config = OpdConfig(
        lora=LORA, steps=4, scenarios_per_step=2, group_size=3, pool=12, max_turns=3,
        max_tokens=16, precision="fp32", checkpoint_every=2, exact=True, top_k=top_k,
        teacher_prompt="Answer in one word.",
    )  # fmt: skip

    def work(name: str, go_on: bool = False) -> Path:
        path = tmp_path / name
        with Run.open(path) if go_on else Run.create(path, config) as run:
            return asyncio.run(opd(run, config, world, quiet=True)).adapter

    whole = work("whole")
    killed(partial(work, "cut"), 4)
    assert same(whole, work("cut", go_on=True))


@pytest.mark.parametrize("begins_with", ["base", "adapter"])
def test_exact_corrections_end_bit_for_bit_as_the_uninterrupted(
    traffic: list[Episode], tmp_path: Path, begins_with: str
) -> None:
    """The policy before answers at each step, and had answered at those before."""
    turns = [episode(turn, corrected=n < 2) for n, turn in enumerate(first(4, "retries", "train"))]
    start = None
    if begins_with == "adapter":
        with Run.create(tmp_path / "start", DISTIL) as run:
            start = str(sft(run, traffic[:4], DISTIL, quiet=True).adapter)
    config = CorrectConfig(
        lora=LORA, split="all", steps=4, turns_per_step=2, replay=0.5, samples=2, lr=3e-3,
        precision="fp32", checkpoint_every=2, max_tokens=24, exact=True, start=start,
    )  # fmt: skip

    def work(name: str, go_on: bool = False) -> CorrectResult:
        path = tmp_path / name
        with Run.open(path) if go_on else Run.create(path, config) as run:
            return asyncio.run(correct(run, turns, config, quiet=True))

    whole = work("whole")
    killed(partial(work, "cut"), 4)
    resumed = work("cut", go_on=True)
    assert same(whole.adapter, resumed.adapter)
    assert (resumed.gap_before, resumed.gap, resumed.drift) == (
        whole.gap_before, whole.gap, whole.drift,
    )  # fmt: skip


# while the reader is trained; after it has played
@pytest.mark.parametrize("cut", [pytest.param(2, marks=pytest.mark.slow), 9])
async def test_rejection_sampling_goes_on_where_it_was(
    traffic: list[Episode],
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cut: int,
) -> None:
    check = Check(lambda messages, ticket: 1.0, "any")
    train = [e for e in traffic if split_of(e.scenario_id or e.id) == "train"]
    captured, later = train[:12], train[:20]  # more was captured since
    with Run.create(tmp_path / "whole", SAMPLE) as run:
        whole = await rft(run, world, captured, check, SAMPLE, threads=1, quiet=True)
    stop_at(monkeypatch, cut)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", SAMPLE) as run:
        await rft(run, world, captured, check, SAMPLE, threads=1, quiet=True)
    monkeypatch.undo()
    played = tmp_path / "cut" / "artefacts" / "rehearsed.jsonl"
    assert played.exists() == (cut == 9)
    with Run.open(tmp_path / "cut") as run:
        resumed = await rft(run, world, later, check, SAMPLE, threads=1, quiet=True)
    assert (resumed.captured, resumed.rehearsed, resumed.played) == (12, 8, 8)
    assert same(*(tmp_path / name / "reader" / "adapter" for name in ("whole", "cut")))
    assert same(whole.adapter, resumed.adapter)


def test_episodes_of_the_held_out_split_are_not_trained_on(
    traffic: list[Episode], tmp_path: Path
) -> None:
    named = [e for e in traffic if split_of(e.scenario_id or e.id) == "train"][:6]
    apart = Episode("apart", named[0].completions, scenario_id=a_heldout_name())
    config = SftConfig(lora=LORA, epochs=1)
    with Run.create(tmp_path / "run", config) as run:
        result = sft(run, [*named, apart], config, quiet=True)
    assert result.kept == 6
    assert result.left_out == {"not of the split train": 1}
    whole = SftConfig(lora=LORA, epochs=1, split="all")
    with Run.create(tmp_path / "all", whole) as run:
        assert sft(run, [*named, apart], whole, quiet=True).kept == 7


def a_heldout_name() -> str:
    return next(f"s{n}" for n in range(1000) if split_of(f"s{n}") == "heldout")
