"""DPO, KTO and reward models: their data, a small run of each, what is read of it later."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from stopping import stop_at

from understudy.cli import main
from understudy.core.chat_files import ImportOptions, episode_from_row
from understudy.core.types import Episode, Feedback, Group, JudgeFailed, Message, split_of
from understudy.models.adapters import load_adapter
from understudy.recipes.dpo import DpoConfig, dpo
from understudy.recipes.kto import KtoConfig, kto, rotated, weights_of
from understudy.recipes.learner import Lora, make_learner
from understudy.recipes.preference_data import (
    Pair,
    Said,
    Thumb,
    begun_with,
    pairs_of,
    read_pairs,
    read_thumbs,
    thumbs_of,
)
from understudy.recipes.preferring import PreferenceConfig, batches, said_row
from understudy.recipes.reward_model import RewardModelConfig, load_judge, reward_model
from understudy.runs.directory import Run

SMALL: dict[str, Any] = {
    "lora": Lora(rank=4, alpha=8), "batch": 4, "epochs": 4, "lr": 3e-3, "warmup_steps": 0,
    "precision": "fp32", "checkpoint_every": 3,
}  # fmt: skip
SYSTEM: Message = {"role": "system", "content": "You answer in one word."}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def said(n: int, word: str) -> Said:
    asked: Message = {"role": "user", "content": f"Which of the {n + 2} is it?"}
    return Said(f"{word}{n}", (SYSTEM, asked), ({"role": "assistant", "content": word},))


PAIRS = [Pair(said(n, "the left one"), said(n, "the right one")) for n in range(8)]
THUMBS = [Thumb(s, s is p.chosen) for p in PAIRS for s in (p.chosen, p.rejected)]


def episode(scenario: str | None, answer: str, *rewards: float, asked: str = "Which?") -> Episode:
    messages = [
        SYSTEM,
        {"role": "user", "content": asked},
        {"role": "assistant", "content": answer},
    ]
    row = {"messages": messages} | ({"scenario": scenario} if scenario else {})
    bare = episode_from_row(row, ImportOptions(), f"{scenario}{answer}{asked}{rewards}")
    feedback = tuple(
        Feedback(f"f{n}", bare.id, "outcome", value, "check", created_at=n)
        for n, value in enumerate(rewards)
    )
    return Episode(bare.id, bare.completions, scenario, feedback=feedback)


def learned_from(count: int) -> list[str]:
    return [s for s in (f"s{n}" for n in range(4 * count)) if split_of(s) == "train"][:count]


def test_pairs_are_episodes_of_one_scenario_whose_feedback_differs() -> None:
    a, b, c, d, e, f = learned_from(6)
    heldout = next(s for s in (f"s{n}" for n in range(999)) if split_of(s) == "heldout")
    episodes = [
        episode(a, "left", 1.0), episode(a, "right", 0.0), episode(a, "up", 1.0),
        episode(b, "left", 0.0, 1.0), episode(b, "right", 0.5),  # the latest word counts
        episode(c, "left", 1.0), episode(c, "right", 1.0),
        episode(d, "left", 1.0), episode(d, "right", 0.0, asked="And now?"),
        episode(e, "left", 1.0), episode(e, "left", 0.0),
        episode(f, "left", 1.0), episode(f, "right"),
        episode(heldout, "left", 1.0),
    ]  # fmt: skip
    pairs, left_out = pairs_of(episodes, "outcome", "train", 4, seed=0)
    shown = Counter(
        (p.chosen.completion[0]["content"], p.rejected.completion[0]["content"]) for p in pairs
    )
    assert shown == {("left", "right"): 2, ("up", "right"): 1}
    assert all(p.chosen.prompt == p.rejected.prompt and len(p.chosen.prompt) == 2 for p in pairs)
    assert left_out == {
        "scenarios, whose feedback does not differ": 1,
        "pairs, of different prompts": 1,
        "pairs, of equal completions": 1,
        "episodes, alone in their scenario": 1,
        "episodes, no feedback named outcome": 1,
        "episodes, not of the split train": 1,
    }
    _, alone = pairs_of([episode(None, "left", 1.0)], "outcome", "all", 4, seed=0)
    assert alone == {"episodes, without a scenario to compare within": 1}
    few, left_out = pairs_of(episodes, "outcome", "train", 1, seed=0)
    assert len(few) == 2
    assert left_out["pairs, more than a scenario gives"] == 1
    assert pairs_of(list(reversed(episodes)), "outcome", "train", 1, seed=0)[0] == few


def test_thumbs_are_conversations_with_feedback() -> None:
    episodes = [episode("a", "left", 1.0), episode("a", "right", 0.0), episode("b", "up")]
    thumbs, left_out = thumbs_of(episodes, "outcome", "all", 1.0)
    found = {t.said.completion[0]["content"]: t.desirable for t in thumbs}
    assert found == {"left": True, "right": False}
    assert left_out == {"episodes, no feedback named outcome": 1}


def test_files_of_pairs_are_read_and_broken_lines_counted(tmp_path: Path) -> None:
    user = {"role": "user", "content": "Which?"}
    left, right = ({"role": "assistant", "content": w} for w in ("left", "right"))
    lines = [
        {"prompt": [user], "chosen": [left], "rejected": [right]},
        {"chosen": [user, left], "rejected": [user, right]},
        {"prompt": "Which?", "chosen": "left", "rejected": "right"},
        {"prompt": [user], "chosen": [left], "rejected": [user]},
        {"chosen": [left], "rejected": [right]},
        {"prompt": [user], "chosen": [left], "rejected": [right], "tools": "[{}]"},
        [1],
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "\n{\n")
    pairs, left_out = read_pairs(file)
    assert [(p.chosen.prompt, p.chosen.completion) for p in pairs] == [((user,), (left,))] * 2
    assert sum(left_out.values()) == 6
    assert left_out["lines, not valid JSON"] == left_out["lines, not a JSON object"] == 1
    assert left_out["lines, chosen is not a list of messages"] == 1
    assert left_out["lines, rejected holds no assistant message"] == 1
    assert left_out["lines, there is no prompt"] == 1
    thumbs = [
        {"prompt": [user], "completion": [left], "label": True},
        {"prompt": [user], "completion": [left], "label": "good"},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in thumbs))
    assert [t.desirable for t in read_thumbs(file)[0]] == [True]
    assert read_thumbs(file)[1] == {"lines, label is not true or false": 1}


def test_what_a_run_began_with_is_kept_in_trls_format(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    with Run.create(tmp_path / "run", DpoConfig()) as run:
        why = Counter({"lines, odd": 2})
        assert begun_with(run, "pairs", lambda: (PAIRS, why), read_pairs) == (PAIRS, why)
        later = begun_with(run, "pairs", lambda: (PAIRS[:1], Counter()), read_pairs)
        assert later == (PAIRS, why)
        begun_with(run, "thumbs", lambda: (THUMBS, why), read_thumbs)
        assert read_thumbs(run.artefacts / "thumbs.jsonl")[0] == THUMBS
        row = json.loads((run.artefacts / "pairs.jsonl").read_text().splitlines()[0])
        assert trl.is_conversational(row)
        with pytest.raises(ValueError, match=r"no others to train on: .*'odd': 3"):
            begun_with(run, "others", lambda: ([], Counter(odd=3)), read_pairs)


def test_only_what_was_said_after_the_prompt_is_scored() -> None:
    learner = make_learner("tiny", Lora(rank=2, alpha=4), 0)
    before: list[Message] = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "And?"},
    ]
    row = said_row(Said("s", tuple(before), said(0, "three").completion), learner, 200)
    assert not isinstance(row, str)
    spoken = learner.base.renderer.decode([e.target for e in row.entries])
    assert spoken == "three<|im_end|>"
    assert {e.weight for e in row.entries} == {1.0}
    assert said_row(said(0, "three"), learner, 5) == "longer than max_tokens"


def test_batches_hold_everything_once_an_epoch_and_nothing_alone() -> None:
    steps = batches(9, PreferenceConfig(batch=4, epochs=2))
    assert [len(step) for step in steps] == [4, 5, 4, 5]
    assert sorted(i for step in steps[:2] for i in step) == list(range(9))
    assert steps[:2] != steps[2:]


def losses(run: Run, name: str) -> list[float]:
    return [row["loss"][name] for row in run.metrics().rows]


def test_dpo_learns_to_prefer_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DpoConfig(**SMALL)
    with Run.create(tmp_path / "whole", config) as run:
        whole = dpo(run, PAIRS, config, Counter({"pairs, odd": 1}), quiet=True)
        rows = run.metrics().rows
    assert (whole.used, whole.steps, whole.left_out) == (8, 8, {"pairs, odd": 1})
    assert rows[0]["loss"]["dpo"] == pytest.approx(math.log(2), rel=1e-6)
    assert rows[0]["margin"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["loss"]["dpo"] < 0.4
    assert rows[-1]["accuracy"] == 1
    assert load_adapter(whole.adapter).metadata["recipe"] == "dpo"
    stop_at(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", config) as run:
        dpo(run, PAIRS, config, quiet=True)
    monkeypatch.undo()
    with Run.open(tmp_path / "cut") as run:
        resumed = dpo(run, PAIRS, config, quiet=True)
    same(whole.adapter, resumed.adapter)


def test_a_reference_may_be_the_base_or_what_training_begins_with(tmp_path: Path) -> None:
    config = DpoConfig(**SMALL)
    with Run.create(tmp_path / "first", config) as run:
        first = dpo(run, PAIRS, config, quiet=True)
    margins = {}
    for reference in ("start", "base"):
        again = DpoConfig(**SMALL | {"epochs": 1}, start=str(first.adapter), reference=reference)
        with Run.create(tmp_path / reference, again) as run:
            dpo(run, PAIRS, again, quiet=True)
            margins[reference] = run.metrics().rows[0]["margin"]
    assert margins["start"] == pytest.approx(0, abs=1e-6)
    assert margins["base"] > 0.5


def test_kto_learns_from_thumbs_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = KtoConfig(**SMALL | {"batch": 8})
    with Run.create(tmp_path / "whole", config) as run:
        whole = kto(run, THUMBS, config, quiet=True)
        rows = run.metrics().rows
    assert (whole.used, whole.steps) == (16, 8)
    assert rows[0]["loss"]["kto"] == pytest.approx(0.5, abs=1e-6)
    assert rows[-1]["loss"]["kto"] < 0.45
    assert rows[-1]["margin"] > 0.5
    stop_at(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", config) as run:
        kto(run, THUMBS, config, quiet=True)
    monkeypatch.undo()
    with Run.open(tmp_path / "cut") as run:
        same(whole.adapter, kto(run, THUMBS, config, quiet=True).adapter)


@pytest.mark.parametrize("count", [0, 1])
def test_kto_says_how_many_thumbs_it_lacks(tmp_path: Path, count: int) -> None:
    config, left_out = KtoConfig(**SMALL), Counter({"episodes, without feedback": 3})
    why = f"{count} thumbs are left to train on, 2 are needed: .*without feedback': 3"
    with pytest.raises(ValueError, match=why), Run.create(tmp_path / "run", config) as run:
        kto(run, THUMBS[:count], config, left_out, quiet=True)


def test_prompts_are_paired_with_the_completions_of_others() -> None:
    assert rotated([4, 7, 9]) == [(4, 9), (7, 4), (9, 7)]


def test_the_rarer_thumb_weighs_more() -> None:
    assert weights_of([True] * 6 + [False] * 2, KtoConfig()) == (1.0, 3.0)
    assert weights_of([True, False, False], KtoConfig()) == (2.0, 1.0)
    assert weights_of([True, True], KtoConfig()) == (1.0, 1.0)
    assert weights_of([True, False, False], KtoConfig(desirable_weight=0.5)) == (0.5, 1.0)


def test_a_reward_model_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RewardModelConfig(**SMALL)
    with Run.create(tmp_path / "whole", config) as run:
        whole = reward_model(run, PAIRS, config, quiet=True)
    stop_at(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "cut", config) as run:
        reward_model(run, PAIRS, config, quiet=True)
    monkeypatch.undo()
    with Run.open(tmp_path / "cut") as run:
        same(whole.adapter, reward_model(run, PAIRS, config, quiet=True).adapter)


async def test_a_reward_model_is_an_adapter_that_a_judge_reads(tmp_path: Path) -> None:
    config = RewardModelConfig(**SMALL)
    with Run.create(tmp_path / "run", config) as run:
        result = reward_model(run, PAIRS, config, quiet=True)
        rows = run.metrics().rows
    assert rows[-1]["accuracy"] == 1
    assert rows[-1]["loss"]["reward_model"] < 0.3 < rows[0]["loss"]["reward_model"]
    judge, engine = await load_judge(result.adapter, threads=1)
    try:
        group = Group("s", tuple(as_episode(s) for p in PAIRS for s in (p.chosen, p.rejected)))
        verdicts = await judge.judge(Group("s", (*group.episodes, Episode("none", ()))))
        values = [v.value for v in verdicts if isinstance(v, Feedback)]
        assert len(values) == 16
        assert all(a > b for a, b in zip(values[::2], values[1::2], strict=True))
        assert verdicts[-1] == JudgeFailed("none", "the episode holds no messages")
        long = Said("l", (), ({"role": "assistant", "content": "word " * 5000},))
        (failed,) = await judge.judge(Group("s", (as_episode(long),)))
        assert isinstance(failed, JudgeFailed)
        assert "context" in failed.reason
        learner = make_learner("tiny", Lora(), 0, result.adapter)  # the trainer's own score
        last = PAIRS[0].chosen
        ids = judge.verdict.prompt_ids((*last.prompt, *last.completion), (), judge.renderer)
        logits = learner.base.model(input_ids=torch.tensor([ids])).logits[0, -1].tolist()
        expected = logits[judge.verdict.good] - logits[judge.verdict.bad]
        assert values[0] == pytest.approx(expected, abs=1e-4)
    finally:
        await engine.aclose()
    (result.adapter / "understudy.json").write_text("{}")
    with pytest.raises(ValueError, match="is no reward model"):
        await load_judge(result.adapter)


def as_episode(one: Said) -> Episode:
    messages = [dict(m) for m in (*one.prompt, *one.completion)]
    return episode_from_row({"messages": messages}, ImportOptions(), one.id)


def test_commands_train_on_a_store_and_on_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "s.db")
    rows = [
        {"messages": [*map(dict, s.prompt), *map(dict, s.completion)], "reward": float(good),
         "scenario": f"s{n}"}
        for n, pair in enumerate(PAIRS)
        for s, good in ((pair.chosen, True), (pair.rejected, False))
    ]  # fmt: skip
    captured = tmp_path / "captured.jsonl"
    captured.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["import", str(captured), "--store", store]) == 0
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair.row()) + "\n" for pair in PAIRS) + "{\n")
    options = ["--store", store, "--set", "batch=8", "--set", "lora.rank=2", "--quiet"]
    first = str(tmp_path / "dpo")
    assert main(["train", "dpo", first, *options, "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "1 steps on " in said
    assert "episodes, not of the split train" in said or "1 steps on 8 pairs" in said
    thumbs = ["train", "kto", str(tmp_path / "kto"), *options, "--start", first, "--threads", "1"]
    assert main([*thumbs, "--set", "feedback=outcome", "--set", "split=all"]) == 0
    assert "2 steps on 16 thumbs" in capsys.readouterr().out
    judge = ["train", "reward-model", str(tmp_path / "judge"), "--pairs", str(file)]
    assert main([*judge, "--set", "lora.rank=2", "--threads", "1", "--quiet"]) == 0
    assert "left out: 1 lines, not valid JSON" in capsys.readouterr().out
    assert main(["train", "dpo", str(tmp_path / "x"), *options, "--set", "feedback=x"]) == 1
    assert "there are no pairs to train on" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["dpo", "kto", "reward-model"])
def test_commands_say_what_they_do_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", command, "--help"]) == 0
    assert f"understudy train {command} runs/" in capsys.readouterr().out


def same(a: Path, b: Path) -> None:
    one, two = load_adapter(a).tensors, load_adapter(b).tensors
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
