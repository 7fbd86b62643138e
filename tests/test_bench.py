"""Every benchmark runs, at its smallest size, and writes figures of the promised form."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import bench.__main__ as bench
import pytest
from bench.bench_demo import figures as demo_figures
from bench.bench_engine import random_model
from bench.bench_ranking import agreement
from bench.engine_rollouts import Conversations
from bench.measured import measured, write_measured

from traffic import conversations, write_jsonl
from understudy.models.loading import load_base
from walks import folder_of

SMALLEST: dict[str, dict[str, Any]] = {
    "correct": {
        "seeds": (0,), "n": 2, "corrections": 2, "traffic": 6, "unreviewed": 1, "demo": 12,
        "settings": ("steps=1", "turns_per_step=2", "samples=1", "lora.rank=2"),
    },
    "demo": {"seeds": (0,), "quick": True},
    "engine": {
        "repeats": 1, "conversations": Conversations(live=2, turns=2, shared=40, sampled=4),
        "slow_repeats": 1, "slow_live": 2, "adapters": 3, "stored": 4, "working_set": 3, "slots": 2,
        "requests": 80, "prefix": 200,
    },
    "engine_cuda": {
        "shapes": {"small": {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 48,
                             "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
                             "vocab_size": 1024, "tie_word_embeddings": True}},
        "batches": (1, 3), "tokens": 6, "repeats": 1, "adapters": 2, "copied": 1 << 16,
        "device": "cpu",
    },
    "gateway": {"requests": 16, "repeats": 1, "captures": ("batched",)},
    "grpo": {"traffic": 24, "steps": 2, "scenarios": 1, "size": 2, "pairs": 1},
    "guards": {
        "traffic": 60, "steps": 1, "scenarios": 2, "size": 2, "proof": 2, "healthy_proof": 2,
        "holes": ("lenient",), "seeds": (0,),
        "rft": ("scenarios=12", "reader_epochs=1", "readings=1", "max_turns=4"),
        "grpo": ("steps=1", "scenarios_per_step=2", "group_size=2", "pool=12", "max_turns=4"),
    },
    "language": {"traffic": 40, "walks": 15, "settings": ("epochs=1",)},
    "layouts": {"groups": 1, "size": 2, "repeats": 1, "scales": ((256, 1),)},
    "learning": {  # each recipe has a test of its own in test_bench_learning.py
        "seeds": (0,), "traffic": 40, "logged": 12, "proof": 2,
        "recipes": ("checked_sft",), "more": {"checked_sft": ("epochs=1",)},
    },
    "likeness": {"traffic": 40, "seeds": (0,), "splits": 1},
    "ranking": {"traffic": 40, "played": 4},
    "train": {"prompt": 24, "size": 4, "rest": 8, "turns": 2, "pairs": 1, "scales": (1, 2)},
    "train_cuda": {
        "shapes": {"small": {"num_hidden_layers": 1}}, "prompts": 2, "prompt": 24, "size": 2,
        "rest": 8, "pairs": 1, "micro": 2, "side": 64, "device": "cpu",
    },
    "transfer": {
        "levels": (50,), "seeds": (0,), "traffic": 60, "proof": 3,
        "rft": ("scenarios=12", "reader_epochs=1", "readings=1", "max_turns=4"),
        "grpo": ("steps=1", "scenarios_per_step=2", "group_size=2", "pool=12", "max_turns=4"),
        "alone": (50,), "grpo_alone": ("steps=1", "scenarios_per_step=2", "group_size=2"),
    },
    "unseen": {"episodes": 40},
    "users": {"n": 3, "seeds": (0,), "folder": bench.OUT / "demo-quick-0"},
    "world": {"episodes": 40, "sessions": 5, "repeats": 2},
    "world_scale": {"episodes": 12, "scales": (1, 2), "repeats": 1},
}  # fmt: skip


def slow(name: str) -> bool:
    """Whether only the slow set runs it; what the demo does quickly has tests of its own."""
    return bench.takes_hours(name) or name in ("demo", "train", "train_cuda", "users")


def test_every_benchmark_is_tested() -> None:
    assert bench.names() == sorted(SMALLEST)


KEPT = ("correct", "guards", "learning", "transfer")  # what they measure is


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * slow(n)) for n in SMALLEST]
)
def test_figures_have_a_value_a_unit_and_a_range(name: str, tmp_path: Path) -> None:
    kept: dict[str, Any] = {"out": tmp_path} if name in KEPT else {}
    kept |= {"kept": tmp_path / "kept"} if kept else {}
    kept |= {"plot": tmp_path / "t.svg"} if name in ("learning", "transfer") else {}
    kept |= {"corrected": tmp_path / "correct"} if name == "learning" else {}
    if name in ("language", "likeness"):
        kept |= {"airline": real_traffic(tmp_path / "airline")}
    record = bench.measure(name, **SMALLEST[name], **kept)
    if name == "grpo" and record["cannot_run"]:  # so few episodes may all have the same reward
        assert "nothing was trained" in record["cannot_run"]
        return
    if name == "users" and record["cannot_run"]:  # it plays what the demo's benchmark left
        assert "run `python -m bench demo` first" in record["cannot_run"]
        return
    assert record["cannot_run"] is None
    figures = json.loads(json.dumps(record["figures"]))
    assert len(figures) > 2
    assert "load_average" in figures
    for label, figure in figures.items():
        assert set(figure) == {"value", "unit", "low", "high"}, label
        assert isinstance(figure["unit"], str)
        assert figure["unit"]
        numbers = [figure[k] for k in ("low", "value", "high")]
        assert all(math.isfinite(n) for n in numbers), label
        assert numbers == sorted(numbers), label


def real_traffic(folder: Path) -> Path:
    """A folder with files of the form that the benchmarks find real traffic in."""
    folder_of(folder, 20, 4)
    rows = asyncio.run(conversations(folder, 24))
    write_jsonl(folder / "conversations.jsonl.gz", rows)
    return folder


def report(rehearsed: float, removed: float | None) -> dict[str, Any]:
    cell = {"mean": rehearsed, "low": 0.0, "high": 1.0, "n": 4}
    return {
        "seconds": {"total": 100 * rehearsed},
        "peak_rss_mb": 9,
        "success": {"rehearsed": {"t1": cell}},
        "failures_removed": {"t1": removed},
    }


def test_the_demos_figures_are_the_mean_and_the_extremes_of_its_seeds() -> None:
    found = demo_figures([report(0.5, 0.25), report(1.0, None), report(0.75, 0.75)])
    assert found["success_rehearsed_t1"] == {
        "value": 0.75, "unit": "share", "low": 0.5, "high": 1.0
    }  # fmt: skip
    assert found["demo_seconds"] == {"value": 75.0, "unit": "s", "low": 50.0, "high": 100.0}
    assert found["failures_removed_t1"] == {
        "value": 0.5, "unit": "share", "low": 0.25, "high": 0.75
    }  # fmt: skip
    assert "failures_removed_t1" not in demo_figures([report(1.0, None)])


def test_the_engines_random_model_has_the_shipped_ones_shape() -> None:
    shipped = {n: p.shape for n, p in load_base("tiny").model.named_parameters()}
    assert {n: p.shape for n, p in random_model().named_parameters()} == shipped


def test_the_documents_show_value_and_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "OUT", tmp_path / "build" / "bench")
    records = tmp_path / "build" / "bench" / "records"
    records.mkdir(parents=True)
    record = {
        "name": "x",
        "title": "X",
        "date": "2026-01-01",
        "seconds": 1.0,
        "load_before": 0.5,
        "load_after": 0.75,
        "machine": {"cpu": "c"},
        "figures": {"speed": {"value": 2.0, "unit": "1/s", "low": 1.5, "high": 2.5}},
        "cannot_run": None,
    }
    (records / "x.json").write_text(json.dumps(record))
    (tmp_path / "docs").mkdir()
    before = "# Benchmarks\n\n## Engine\n\n`python -m bench engine`, before.\n\n| a | 1 |\n"
    gone = "\n## Gone\n\n`python -m bench gone`, before.\n"
    (tmp_path / "docs" / "benchmarks.md").write_text(before + gone)
    bench.write_docs()
    bench.write_docs()
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "| speed | 2 | 1/s | 1.5 | 2.5 |" in text
    assert "load 0.5 to 0.75" in text
    assert text.count("`python -m bench engine`, before.\n\n| a | 1 |") == 1
    assert "Gone" not in text


def test_agreement_of_the_rankings_is_surer_with_more_episodes() -> None:
    world, service = [0.9, 0.7, 0.5, 0.3], [0.85, 0.7, 0.45, 0.35]
    few, many = agreement(world, service, 10), agreement(world, service, 1000)
    assert few["value"] == many["value"] == 1.0
    assert many["low"] > few["low"]


def test_what_was_measured_is_read_as_it_was_found(tmp_path: Path) -> None:
    file = tmp_path / "a" / "50-0.json"
    found = {"world": {"t1": {"successes": [True, False, True], "turns": 3.5}}, "traffic": 0.4}
    assert measured(file) is None
    write_measured(file, found)
    assert measured(file) == found
    told = json.loads(file.read_text())
    assert told["found"]["world"]["t1"]["successes"] == "101"
    assert {"commit", "date", "machine"} < set(told)
