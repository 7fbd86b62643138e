"""The recipes on a small scale: real traffic, the tiny model, real gradients."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from understudy.core.chat_files import import_file, training_rows, write_rows
from understudy.core.rows import policy_rows
from understudy.core.types import Episode, ModelRef, Policy, Sampling, split_of
from understudy.demo import owner_check
from understudy.judges.check import Check
from understudy.models.adapters import load_adapter
from understudy.recipes.checkpoints import EPISODES
from understudy.recipes.grpo import GrpoConfig, grpo
from understudy.recipes.guarding import GuardConfig
from understudy.recipes.learner import Lora, make_engine, make_learner
from understudy.recipes.ppo import PlayConfig, PpoConfig
from understudy.recipes.ppo_world import ppo_in_world
from understudy.recipes.rehearsal import play_group
from understudy.recipes.rft import RftConfig, rft
from understudy.recipes.sft import SftConfig, episode_rows, select, sft
from understudy.runs.directory import Run
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer
from understudy.world.model import World

LORA = Lora(rank=4, alpha=8)
SMALL: dict[str, Any] = {
    "lora": LORA, "steps": 3, "scenarios_per_step": 2, "group_size": 3, "pool": 12,
    "max_turns": 3, "max_tokens": 24, "precision": "fp32", "checkpoint_every": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def check() -> Check:
    return Check.from_file(str(owner_check.__file__))


def test_the_check_keeps_the_episodes_that_it_passes(traffic: list[Episode], check: Check) -> None:
    kept, left_out = select(traffic, SftConfig(keep="check"), check)
    assert len(kept) + sum(left_out.values()) == len(traffic)
    outcome = {e.id: e.feedback[0].value for e in traffic}
    agree = sum(bool(outcome[e.id]) for e in kept)
    assert agree >= 0.95 * len(kept) > 0


def test_an_interrupted_distillation_ends_bit_for_bit_as_the_uninterrupted(
    traffic: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SftConfig(lora=LORA, epochs=1, batch_episodes=4, checkpoint_every=2)
    with Run.create(tmp_path / "whole", config) as run:
        whole = sft(run, traffic[:20], config, quiet=True)
    steps = 0
    step = Trainer.step

    def stop_at_the_fourth(self: Trainer, rows: Any, share: float = 1.0) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return step(self, rows, share)

    monkeypatch.setattr(Trainer, "step", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", config) as run:
        sft(run, traffic[:20], config, quiet=True)
    monkeypatch.undo()
    with Run.open(tmp_path / "cut") as run:
        cut = sft(run, traffic[:20], config, quiet=True)
    a, b = load_adapter(whole.adapter).tensors, load_adapter(cut.adapter).tensors
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(t.abs().max() > 0 for k, t in a.items() if ".lora_B." in k)


def test_distillation_lowers_the_loss(traffic: list[Episode], tmp_path: Path) -> None:
    config = SftConfig(lora=LORA, epochs=3, batch_episodes=8, split="all")
    with Run.create(tmp_path / "run", config) as run:
        sft(run, traffic, config, quiet=True)
        losses = [row["loss"]["ce"] for row in run.metrics().rows]
    assert losses[-1] < 0.8 * losses[0]


def test_long_conversations_are_left_out_or_lose_their_ends(traffic: list[Episode]) -> None:
    learner = make_learner("tiny", LORA, seed=0)
    whole, _ = episode_rows(traffic[:8], learner, 2048)
    longest = sorted(len(r.ids) for r in whole)[4]
    longer = sum(len(r.ids) > longest for r in whole)
    rows, why = episode_rows(traffic[:8], learner, longest)
    assert (len(rows), why) == (len(whole) - longer, {"longer than max_tokens": longer})
    rows, why = episode_rows(traffic[:8], learner, longest, "cut")
    assert [len(r.ids) for r in rows] == [min(len(r.ids), longest) for r in whole]
    assert why == {"of which only the end, beyond max_tokens": longer}
    assert SftConfig(long_rows="cut").long_rows == "cut"


def test_nothing_left_to_train_on_is_said(traffic: list[Episode], tmp_path: Path) -> None:
    config = SftConfig(keep="feedback", feedback="never said")
    with (
        pytest.raises(ValueError, match="no episode is left"),
        Run.create(tmp_path / "r", config) as run,
    ):
        sft(run, traffic[:3], config, quiet=True)


async def test_grpo_in_the_world_trains_an_adapter(
    world: World, check: Check, tmp_path: Path
) -> None:
    partial = Check(lambda messages, ticket: float(len(str(messages)) % 7), "any")
    config = GrpoConfig(**SMALL)
    with Run.create(tmp_path / "run", config) as run:
        result = await grpo(run, world, partial, config, threads=1, quiet=True)
        rows = run.metrics().rows
    assert result.steps == 3
    assert len(rows) == 3
    trained = [r for r in rows if r["skipped"] is None]
    assert trained
    first = trained[0]
    assert abs(first["ratio_mean"] - 1) < 1e-5  # the first update is on-policy
    tensors = load_adapter(result.adapter).tensors
    assert any(t.abs().max() > 0 for k, t in tensors.items() if ".lora_B." in k)


async def test_ppo_in_the_world_trains_an_adapter_without_groups(
    world: World, tmp_path: Path
) -> None:
    partial = Check(lambda messages, ticket: float(len(str(messages)) % 7), "any")
    play = PlayConfig(
        steps=2, scenarios_per_step=6, pool=12, max_turns=3, max_tokens=24, guards=None
    )
    config = PpoConfig(lora=LORA, play=play, batch_episodes=3, precision="fp32")
    with Run.create(tmp_path / "run", config) as run:
        result = await ppo_in_world(run, world, partial, config, threads=1, quiet=True)
        rows = run.metrics().rows
    assert [r["step"] for r in rows] == [0, 1]
    assert all(r["count"]["rl"] == r["count"]["value"] > 0 for r in rows)
    assert all(r["sampled_tokens"] > 0 and r["skipped"] is None for r in rows)
    assert result.reward == rows[-1]["reward"] > 0
    tensors = load_adapter(result.adapter).tensors
    assert any(t.abs().max() > 0 for k, t in tensors.items() if ".lora_B." in k)
    assert (result.adapter / "value_head.safetensors").exists()


async def test_ppo_in_the_world_learns_from_rewards_as_they_were_clipped(
    world: World, tmp_path: Path
) -> None:
    seen: list[float] = []

    def slips(messages: Any, ticket: Any) -> float:
        seen.append(1e6 if len(seen) % 2 else 0.5)
        return seen[-1]

    play = PlayConfig(
        steps=1, scenarios_per_step=6, pool=12, max_turns=2, max_tokens=16, epochs=1, guards=None,
        cut_off_cost=0.0,
    )  # fmt: skip
    config = PpoConfig(lora=LORA, play=play, precision="fp32")
    with Run.create(tmp_path / "run", config) as run:
        await ppo_in_world(run, world, Check(slips, "slips"), config, threads=1, quiet=True)
        (told,) = run.metrics().rows
    assert seen == [0.5, 1e6] * 3
    assert told["counted"]["rewards clipped to -10..10"] == 3
    assert told["reward"] == pytest.approx(10.5 / 2)
    assert told["loss"]["value"] <= 10**2 / 2  # no value is further off than returns are


async def test_ppo_in_the_world_is_guarded_and_evaluated(world: World, tmp_path: Path) -> None:
    everything = Check(lambda messages, ticket: 1.0, "any")  # canaries too
    play = PlayConfig(
        steps=3, scenarios_per_step=4, pool=12, max_turns=2, max_tokens=16, epochs=1,
        guards=GuardConfig(doubtful=0, canaries=0.9, stop_after=1),
        evaluate_every=1, evaluate_scenarios=2,
    )  # fmt: skip
    config = PpoConfig(lora=LORA, play=play, precision="fp32")
    with Run.create(tmp_path / "run", config) as run:
        result = await ppo_in_world(run, world, everything, config, threads=1, quiet=True)
        rows = run.metrics().rows
    assert result.stopped is not None
    assert "nobody can do" in result.stopped
    assert result.steps == len(rows) < 3
    assert rows[-1]["guards"]["canaries_won"] > 0
    assert rows[-1]["evaluation"]["mean"] == 1.0
    assert (tmp_path / "run" / "checkpoints").exists()


async def test_what_passes_in_the_world_is_distilled_without_the_notes(
    traffic: list[Episode], world: World, tmp_path: Path
) -> None:
    config = RftConfig(
        lora=LORA, reader_epochs=1, scenarios=12, max_turns=3, max_tokens=24, readings=2,
        precision="fp32", guards=None,
    )  # fmt: skip
    seen: list[str] = []

    def passes_half(messages: list[dict[str, Any]], ticket: dict[str, Any]) -> float:
        seen.append(str(messages[1]["content"]))
        return float(ticket["guests"] <= 2)

    check = Check(passes_half, "half")
    with Run.create(tmp_path / "run", config) as run:
        result = await rft(run, world, traffic, check, config, threads=1, quiet=True)
    played = [text for text in seen if "[said]" in text]
    again = config.attempts - 1  # at each that fails
    assert len(played) == result.played == 12 + again * (12 - result.rehearsed)
    rehearsed = list(import_file(tmp_path / "run" / "artefacts" / "rehearsed.jsonl"))
    assert 0 < len(rehearsed) == result.rehearsed < 12
    assert result.rehearsed + sum(result.left_out.values()) == result.played
    assert result.captured + sum(result.captured_left_out.values()) == len(traffic)
    for episode in rehearsed:
        assert passes_half([dict(m) for m in episode.messages], dict(episode.metadata["ticket"]))
        assert "[said]" not in str(episode.messages)
    assert result.captured == sum(
        split_of(e.scenario_id or e.id) == "train" and e.metadata["ticket"]["guests"] <= 2
        for e in traffic
    )
    heard = {
        name: json.loads((tmp_path / "run" / name / "artefacts" / EPISODES).read_text())["kept"]
        for name in ("reader-warmup", "reader")
    }
    assert len(heard["reader"]) == result.captured
    assert (
        {*heard["reader-warmup"]}
        == {e.id for e in traffic if split_of(e.scenario_id or e.id) == "train"}
        > {*heard["reader"]}
    )
    readings = list(import_file(tmp_path / "run" / "artefacts" / "readings.jsonl"))
    assert len(readings) == 2 * (result.captured + result.rehearsed)
    for reading in readings:
        (said,) = (str(m["content"]) for m in reading.messages if m["role"] == "user")
        note = json.loads(str(reading.messages[-1]["content"]))
        assert said.endswith("\n[said]")
        assert note["city"].lower() in said.lower()
    assert load_adapter(result.adapter).tensors


async def test_rejection_sampling_needs_a_captured_success(
    traffic: list[Episode], world: World, tmp_path: Path
) -> None:
    config = RftConfig(lora=LORA)
    with Run.create(tmp_path / "run", config) as run, pytest.raises(ValueError, match="passes"):
        await rft(run, world, traffic, Check(lambda m, t: 0.0, "none"), config, quiet=True)


async def test_grpo_on_fewer_scenarios_than_a_step_wants_plays_all_and_says_so(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = Check(lambda messages, ticket: float(len(str(messages)) % 7), "any")
    config = GrpoConfig(**SMALL | {"steps": 1, "pool": 2, "scenarios_per_step": 5})
    with Run.create(tmp_path / "run", config) as run:
        result = await grpo(run, world, partial, config, threads=1)
    assert result.steps == 1
    assert "the traffic gives 2 scenarios: each step plays all" in capsys.readouterr().err


async def test_a_grpo_step_of_flat_groups_says_that_there_is_nothing_to_learn(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = GrpoConfig(**SMALL | {"steps": 2, "guards": None})
    all_pass = Check(lambda messages, ticket: 1.0, "any")
    with Run.create(tmp_path / "run", config) as run:
        result = await grpo(run, world, all_pass, config, threads=1)
        rows = run.metrics().rows
    told = " ".join(capsys.readouterr().err.split())
    for step in range(2):
        why = "nothing to learn: all rewards are equal in 2 groups (2 with 1)"
        assert f"step {step}: no update, {why}" in told
    assert [(r["counted"]["flat groups"], r["tokens_computed"]) for r in rows] == [(2, 0)] * 2
    assert all("nothing to train" in r["skipped"] for r in rows)
    tensors = load_adapter(result.adapter).tensors
    assert not any(t.any() for k, t in tensors.items() if ".lora_B." in k)


async def test_recorded_logprobs_are_the_trainers_before_and_after_a_step(
    world: World, check: Check
) -> None:
    learner = make_learner("tiny", LORA, seed=1)
    trainer = Trainer(learner.base.model, TrainerConfig(lr=5e-3))
    engine, chat = make_engine(learner.base, threads=1)
    scenario = world.scenarios(1, seed=3)[0]
    try:
        seen = []
        for version in (1, 2):
            ref = engine.load_weights(
                ModelRef("tiny", "actor", version), learner.tensors(), learner.lora
            )
            policy = Policy("actor", ref, sampling=Sampling(max_tokens=24))
            played = await play_group(
                chat, policy, world, world.user, scenario, 4, 5,
                check=check, max_turns=4, workload="w",
            )  # fmt: skip
            rows = [
                row
                for i, e in enumerate(played.group.episodes)
                for row in policy_rows(e, 1.0 if i % 2 else -1.0)[0]
            ]
            ours = trainer.logprobs(rows)
            recorded = torch.tensor([e.anchor for row in rows for e in row.entries])
            trained = torch.tensor([v for logprobs in ours for v in logprobs])
            assert (recorded - trained).norm() / trained.norm() < 1e-5
            assert (recorded - trained).abs().max() < 1e-4  # of each token
            seen.append(rows)
            before = ours
            trainer.step(rows)
            after = trainer.logprobs(rows)
            moved = max(
                abs(x - y) for a, b in zip(before, after, strict=True)
                for x, y in zip(a, b, strict=True)
            )  # fmt: skip
            assert moved > 1e-3
        assert len(seen) == 2
    finally:
        await engine.aclose()


def test_trl_accepts_the_exported_rows(traffic: list[Episode], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    good = [e for e in traffic if e.feedback[0].value]
    write_rows(tmp_path / "sft.jsonl", training_rows(good))
    data = datasets.load_dataset(
        "json", data_files=str(tmp_path / "sft.jsonl"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert len(data) == len(good)
    assert trl.is_conversational(data[0])
