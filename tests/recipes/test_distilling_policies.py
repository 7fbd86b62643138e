"""On-policy distillation and correction, on a small scale: real traffic, the tiny model."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.generated import episode, first
from logs import play
from stopping import stop_at

from traffic import conversations, write_jsonl
from understudy.cli import main
from understudy.core.chat_files import import_file
from understudy.core.rows import rows_of
from understudy.core.types import Episode, Feedback, ModelRef, split_of
from understudy.models.adapters import load_adapter
from understudy.recipes.correct import CorrectConfig, correct
from understudy.recipes.corrections import corrections_of, hindsight
from understudy.recipes.learner import Lora, make_engine, make_learner
from understudy.recipes.opd import OpdConfig, opd
from understudy.recipes.sft import SftConfig, sft
from understudy.recipes.teacher import Teacher, under_prompt
from understudy.recipes.tutor import Tutor
from understudy.runs.config import ConfigError, load_config
from understudy.runs.directory import Run
from understudy.store import SQLiteStore
from understudy.world.model import World

LORA = Lora(rank=4, alpha=8)
PLAY: dict[str, Any] = {
    "lora": LORA, "steps": 3, "scenarios_per_step": 2, "group_size": 2, "pool": 12, "max_turns": 2,
    "max_tokens": 24, "precision": "fp32", "checkpoint_every": 2, "lr": 4e-3, "warmup_steps": 0,
}  # fmt: skip
CORRECT: dict[str, Any] = {
    "lora": LORA, "split": "all", "steps": 6, "turns_per_step": 4, "samples": 2, "lr": 3e-3,
    "precision": "fp32", "checkpoint_every": 2, "max_tokens": 60,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> list[Episode]:
    folder = tmp_path_factory.mktemp("traffic")
    rows = asyncio.run(conversations(folder, 16))
    return list(import_file(write_jsonl(folder / "c.jsonl", rows)))


@pytest.fixture(scope="module")
def teacher(traffic: list[Episode], tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    config = SftConfig(lora=LORA, epochs=1, batch_episodes=4, split="all", precision="fp32")
    with Run.create(tmp_path_factory.mktemp("teacher") / "run", config) as run:
        return sft(run, traffic, config, quiet=True).adapter


@pytest.fixture(scope="module")
def reviewed() -> list[Episode]:
    """Turns of one behaviour that a reviewer corrected, and of others that nobody did."""
    found = [episode(turn, corrected=True) for turn in first(4, "retries", "train")]
    for other in ("takes_another", "second_method"):
        found += [episode(turn, corrected=False) for turn in first(4, other, "train")]
    return found


def apart(a: Path, b: Path) -> float:
    """The relative distance of two adapters."""
    one, two = load_adapter(a).tensors, load_adapter(b).tensors
    gap = sum(float((one[k] - two[k]).norm()) ** 2 for k in one if ".lora_B." in k)
    return (gap / sum(float(one[k].norm()) ** 2 for k in one if ".lora_B." in k)) ** 0.5


async def test_a_student_comes_nearer_to_its_teacher_where_it_plays(
    world: World, teacher: Path, tmp_path: Path
) -> None:
    config = OpdConfig(**PLAY | {"steps": 5}, teacher=str(teacher))
    with Run.create(tmp_path / "run", config) as run:
        result = await opd(run, config, world, threads=1, quiet=True)
        rows = run.metrics().rows
    assert result.gap == rows[-1]["gap"] < 0.7 * rows[0]["gap"]
    assert abs(rows[0]["ratio_mean"] - 1) < 1e-5
    assert load_adapter(result.adapter).metadata["recipe"] == "opd"
    warned = tmp_path / "run" / "artefacts" / "warnings.txt"  # the world carries no report
    assert "no fidelity report" in warned.read_text()


@pytest.mark.parametrize("long_rows", ["refuse", "cut"])
async def test_a_student_is_not_taught_beyond_the_longest_row(
    world: World, teacher: Path, tmp_path: Path, long_rows: Any
) -> None:
    logged = await play(world, 4)
    lengths = sorted(len(row.ids) for e in logged for row in rows_of(e.completions)[0])
    longest = (lengths[0] + lengths[-1]) // 2
    longer = sum(n > longest for n in lengths)
    assert 0 < longer < len(lengths)
    config = OpdConfig(**PLAY | {"steps": 1, "echo": 0.05}, teacher=str(teacher), split="all",
                       max_row_tokens=longest, long_rows=long_rows)  # fmt: skip
    with Run.create(tmp_path / "run", config) as run:
        await opd(run, config, None, logged, threads=1, quiet=True)
        (told,) = run.metrics().rows
    cut = long_rows == "cut"
    assert told["counted"]["rows that are too long, left out"] == (0 if cut else longer)
    assert told["counted"]["rows that are too long, cut"] == (longer if cut else 0)
    most = sum(min(n, longest) for n in lengths if cut or n <= longest)
    assert 0 < told["tokens_in_rows"] <= most


@pytest.mark.parametrize("more", [{}, {"top_k": 4}])
async def test_logged_episodes_of_the_student_teach_it_too(
    world: World, teacher: Path, tmp_path: Path, more: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    logged = await play(world, 4)
    broken = replace(logged[0].completions[0], logprobs=(float("nan"),) * len(
        logged[0].completions[0].output_ids or ()))  # fmt: skip
    old = [replace(logged[0], id="old", completions=()),
           replace(logged[0], id="nan", completions=(broken,))]  # fmt: skip
    config = OpdConfig(**PLAY | more, teacher=str(teacher), split="all")
    with Run.create(tmp_path / "run", config) as run:
        result = await opd(run, config, None, [*logged, *old], threads=1, quiet=True)
        rows = run.metrics().rows
    assert result.left_out == {
        "without a completion of its agent": 1,
        "with a logprob that is not finite": 1,
    }
    assert rows[-1]["gap"] < 0.9 * rows[0]["gap"]
    if more:
        assert rows[0]["count"].keys() == {"ce"}
        return
    assert abs(rows[0]["ratio_mean"] - 1) < 1e-4
    assert rows[-1]["kl"] > 1e-5  # the log is not of the policy that it is by then
    stop_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", config) as run:
        await opd(run, config, None, [*logged, *old], threads=1, quiet=True)
    monkeypatch.undo()
    with Run.open(tmp_path / "cut") as run:
        cut = await opd(run, config, None, [*logged, *old], threads=1, quiet=True)
    assert apart(result.adapter, cut.adapter) < 1e-3


async def test_a_teacher_reads_another_prompt_before_the_same_tokens(world: World) -> None:
    (logged,) = await play(world, 1)
    (row,), _ = rows_of(logged.completions)
    learner = make_learner("tiny", LORA, 0)
    engine, _ = make_engine(learner.base, threads=1)
    renderer, request = learner.base.renderer, logged.completions[0].request
    prompt = renderer.prompt_ids(under_prompt(request.messages, "Be brief."), request.tools)
    same = await Teacher(engine, ModelRef("tiny")).told(row)
    recorded = [value for span in row.spans for value in span.logprobs]
    assert same.logprobs == pytest.approx(recorded, abs=1e-4)
    other = await Teacher(engine, ModelRef("tiny"), top_k=3).told(row, prompt)
    start = row.spans[0].start
    alone = await engine.score((*prompt, *row.ids[start:]), ModelRef("tiny"))
    at = [t + len(prompt) - start - 1 for s in row.spans for t in range(s.start, s.end)]
    assert other.logprobs == pytest.approx([alone.logprobs[t] for t in at], abs=1e-5)
    assert other.logprobs != pytest.approx(same.logprobs, abs=1e-3)
    assert {len(top) for top in other.top} == {3}
    assert len(other.top) == len(recorded)
    await engine.aclose()


async def test_a_teacher_is_named_and_speaks_the_students_tokens(
    world: World, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="name a teacher"):
        load_config(OpdConfig)
    config = OpdConfig(**PLAY, teacher_prompt="Be brief.")
    with Run.create(tmp_path / "r", config) as run, pytest.raises(ValueError, match="no episode"):
        await opd(run, config, None, [], threads=1, quiet=True)


def said(name: str, value: Any, comment: str | None = None, **more: Any) -> Feedback:
    return Feedback(name, "e", more.pop("called", "review"), value, more.pop("source", "reviewer"),
                    comment=comment, **more)  # fmt: skip


def test_corrections_are_what_people_said_in_words_or_showed() -> None:
    (turn,) = first(1, "retries", "train")
    (done,) = episode(turn, corrected=False).completions
    other = replace(done, id="second")
    right = {"role": "assistant", "content": "Sorry."}
    feedback = (
        said("a", False, "Do not retry.", completion_id=done.id),
        said("b", None, "Be brief."),
        said("c", True, "Well done."),
        said("d", 0.0, "so so", source="judge"),
        said("e", False),
        said("f", "Sorry.", source="demonstration", completion_id="second"),
        said("g", right, "It failed.", source="demonstration", completion_id=done.id),
        said("h", right, source="demonstration"),
        said("i", {"role": "user"}, source="demonstration", completion_id=done.id),
        said("j", False, "no", completion_id="gone"),
        said("k", False, "Otherwise named.", called="other", completion_id=done.id),
    )
    judge = replace(done, id="judge", request=replace(done.request, purpose="judge"))
    whole = Episode("e", (done, other, judge), feedback=feedback)
    found, left_out = corrections_of(whole, "review")
    assert [(c.id, c.turn.id, c.told, c.shown) for c in found] == [
        ("a", done.id, "Do not retry.", None),
        ("b/0", done.id, "Be brief.", None),
        ("b/1", "second", "Be brief.", None),
        ("f", "second", None, right),
        ("g", done.id, "It failed.", right),
    ]
    assert left_out == {
        "praise": 1,
        "feedback without words": 1,
        "a demonstration that names no completion": 1,
        "a demonstration that is no assistant's message": 1,
        "of a completion that is no whole reply of the agent": 1,
    }
    assert [c.id for c in corrections_of(whole)[0]][-1] == "k"


def test_hindsight_adds_the_words_and_nothing_else() -> None:
    (turn,) = first(1, "retries", "train")
    ((c,), _) = corrections_of(episode(turn, corrected=True))
    rest = [m for m in turn.messages if m["role"] != "system"]
    system = "".join(m["content"] for m in turn.messages if m["role"] == "system")
    words = f"Note: {turn.words}"
    read = hindsight(c.turn.request.messages, c, "system", "Note: {text}")
    assert read[0] == {"role": "system", "content": f"{system}\n{words}" if system else words}
    assert list(read[1:]) == rest
    read = hindsight(c.turn.request.messages, c, "episode", "Note: {text}")
    told = [m for m in read if m["role"] != "system"]
    assert told == [*rest, turn.own, {"role": "user", "content": words},
                    {"role": "assistant", "content": "Understood."}, *rest]  # fmt: skip


@pytest.mark.slow
async def test_corrected_turns_go_the_corrected_way_and_others_stay(
    reviewed: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CorrectConfig(**CORRECT)
    with Run.create(tmp_path / "run", config) as run:
        result = await correct(run, reviewed, config, threads=1, quiet=True)
        rows = run.metrics().rows
    assert result.corrections == 4
    assert result.gap < 0.5 * result.gap_before
    assert result.drift >= 0
    assert rows[-1]["loss"]["kl"] > 0
    assert all(row["count"].keys() == {"rl", "ce", "kl"} for row in rows)
    held = 4 * config.replay / (1 - config.replay)
    assert [row["held_turns"] for row in rows] == [held] * 6
    told = json.loads((tmp_path / "run" / "artefacts" / "correct.json").read_text())
    assert (told["gap"], told["drift"]) == (result.gap, result.drift)
    stop_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", config) as run:
        await correct(run, reviewed, config, threads=1, quiet=True)
    monkeypatch.undo()
    with Run.open(tmp_path / "cut") as run:
        cut = await correct(run, [*reviewed, *more()], config, threads=1, quiet=True)
    assert apart(result.adapter, cut.adapter) < 1e-2
    assert cut.gap_before == pytest.approx(result.gap_before, abs=1e-3)


def more() -> list[Episode]:
    """What was captured since."""
    return [episode(turn, corrected=True) for turn in first(2, "takes_another", "train", 7)]


async def test_a_demonstration_alone_is_learned_by_heart(tmp_path: Path) -> None:
    (turn,) = first(1, "retries", "train")
    plain = episode(turn, corrected=False)
    shown = Feedback("d", plain.id, "review", turn.ruled, "demonstration",
                     completion_id=plain.completions[0].id)  # fmt: skip
    config = CorrectConfig(**CORRECT | {"steps": 8, "lr": 1e-2})
    with Run.create(tmp_path / "run", config) as run:
        await correct(run, [replace(plain, feedback=(shown,))], config, threads=1, quiet=True)
        losses = [row["loss"]["ce"] for row in run.metrics().rows]
    assert losses[-1] < 0.1 * losses[0]


async def test_each_reply_of_the_student_is_a_sequence_of_its_own(reviewed: list[Episode]) -> None:
    learner = make_learner("tiny", LORA, 0)
    engine, _ = make_engine(learner.base, threads=1)
    tutor = Tutor(engine, learner.base.renderer, ModelRef("tiny"), CorrectConfig(**CORRECT))
    (c,), _ = corrections_of(reviewed[0])
    lesson = await tutor.lesson(c, ModelRef("tiny"), seed=1)
    await engine.aclose()
    names = [{e.sample_id for e in row.entries if e.stream == "rl"} for row in lesson.rows]
    own = [name for found in names for name in found]
    assert len(own) == len(set(own)) == CORRECT["samples"]


async def test_a_turn_is_held_to_the_policy_before_unless_a_correction_speaks_of_it(
    reviewed: list[Episode],
) -> None:
    learner = make_learner("tiny", LORA, 0)
    engine, _ = make_engine(learner.base, threads=1)
    torch.manual_seed(0)
    tensors = {k: t + 0.2 * torch.randn_like(t) for k, t in learner.tensors().items()}
    moved = engine.load_weights(ModelRef("tiny", "student", 1), tensors, learner.lora)
    (c,), _ = corrections_of(reviewed[0])
    (alike,) = episode(first(1, "retries", "train", 5)[0], corrected=False).completions
    (other,) = episode(first(1, "wordy", "train", 5)[0], corrected=False).completions
    for speaks, turn, why in (
        (1.0, alike, "a correction may speak of it"),
        (1.0, other, None),
        (None, alike, None),
    ):
        config = CorrectConfig(**CORRECT, speaks=speaks, hold=0.5)
        tutor = Tutor(engine, learner.base.renderer, ModelRef("tiny"), config)
        held = await tutor.held(turn, c, ModelRef("tiny"), seed=1)
        assert held.why == why
        assert len(held.rows) == (why is None)
    assert max(held.drifts) < 1e-6
    held = await tutor.held(other, c, moved, seed=1)
    (row,) = held.rows
    before = (await engine.score(row.ids, ModelRef("tiny"))).logprobs
    for entry in row.entries:
        assert (entry.stream, entry.weight) == ("kl", 0.5)
        assert entry.anchor == pytest.approx(before[entry.position], abs=1e-4)
    assert min(held.drifts) >= 0
    assert sum(held.drifts) > 0.01
    await engine.aclose()


async def test_without_corrections_nothing_is_trained(tmp_path: Path) -> None:
    config = CorrectConfig(**CORRECT)
    plain = [episode(turn, corrected=False) for turn in first(2, "retries", "train")]
    with (
        Run.create(tmp_path / "r", config) as run,
        pytest.raises(ValueError, match="nobody corrected anything"),
    ):
        await correct(run, plain, config, threads=1, quiet=True)
    told = [episode(turn, corrected=True) for turn in first(40, "retries", "train")]
    apart = [e for e in told if split_of(e.scenario_id or e.id) == "heldout"]
    assert apart
    ours = CorrectConfig(**{**CORRECT, "split": "train"})
    with (
        Run.create(tmp_path / "h", ours) as run,
        pytest.raises(ValueError, match=f"'corrections, not of the split train': {len(apart)}"),
    ):
        await correct(run, [*plain, *apart], ours, threads=1, quiet=True)
    with pytest.raises(ConfigError, match=r"form: must hold \{text\}"):
        load_config(CorrectConfig, None, ["form=Correction"])


def test_the_commands_run(
    reviewed: list[Episode], world: World, teacher: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    store = str(tmp_path / "s.db")
    with SQLiteStore.open(store) as db:
        db.write([replace(e, feedback=()) for e in reviewed])
    for corrected in reviewed[:4]:
        (turn,) = corrected.completions
        said = ["review", "false", "--comment", "Do not retry.", "--completion", turn.id]
        assert main(["feedback", corrected.id, *said, "--store", store]) == 0
    assert main(["feedback", reviewed[0].id, *said[:-1], "gone", "--store", store]) == 1
    assert "has no completion gone" in capsys.readouterr().err
    small = ["--set", "steps=1", "--set", "lora.rank=2", "--set", "precision=fp32",
             "--set", "max_tokens=16", "--threads", "1", "--quiet"]  # fmt: skip
    run = str(tmp_path / "corrected")
    assert main(["train", "correct", run, "--store", store, *small, "--set", "split=all"]) == 0
    assert "4 corrected turns" in capsys.readouterr().out
    world.save(tmp_path / "world")
    args = ["train", "opd", str(tmp_path / "opd"), "--world", str(tmp_path / "world"),
            "--teacher", str(teacher), *small, "--set", "scenarios_per_step=2",
            "--set", "max_turns=2"]  # fmt: skip
    assert main(args) == 0
    assert "1 steps; log student - log teacher" in capsys.readouterr().out
    assert main(["train", "opd", str(tmp_path / "x"), "--teacher", str(teacher)]) == 1
    assert "either --world" in capsys.readouterr().err
