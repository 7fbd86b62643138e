"""A pretraining run of a few thousand tokens: it repeats, resumes and exports."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tiny_pretrain.data import DataOptions
from tiny_pretrain.export import export
from tiny_pretrain.loop import Options, train
from tiny_pretrain.net import Shape
from tiny_pretrain.prepare import prepare, vocabulary
from tiny_pretrain.report import history, keep_earlier
from tiny_pretrain.turns import load

TOKENS = 6000


@pytest.fixture(autouse=True)
def _settings_of_this_process() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def _options(run: Path, tokens: float = TOKENS, seed: int = 1) -> Options:
    prepare(run, seed)
    return Options(
        folder=str(run),
        seed=seed,
        minutes=None,
        tokens=tokens,
        workers=1,
        decay_from=2.0,  # a constant rate: a run cut short has the rates of a longer one
        compile=False,
        shape=Shape(vocab=vocabulary(run), layers=2, ff=64),
        data=DataOptions(tokens=768, chunk=8, longest=768, chunks=4),
    )


def _weights(run: Path) -> dict[str, Tensor]:
    saved = load_file(str(run / "checkpoint.safetensors"))
    average = load_file(str(run / "average.safetensors"))
    return saved | {f"average/{n}": t for n, t in average.items()}


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    train(_options(run), resume=False)
    return run


def test_the_same_seed_gives_the_same_weights(whole: Path, tmp_path: Path) -> None:
    for name, seed in (("same", 1), ("other", 2)):
        train(_options(tmp_path / name, seed=seed), resume=False)
    assert _same(_weights(tmp_path / "same"), _weights(whole))
    assert not _same(_weights(tmp_path / "other"), _weights(whole))


def test_a_run_cut_and_resumed_is_the_whole_run(whole: Path, tmp_path: Path) -> None:
    options = _options(tmp_path, tokens=TOKENS / 3)
    train(options, resume=False)
    assert not _same(_weights(tmp_path), _weights(whole))
    train(replace(options, tokens=TOKENS), resume=True)
    assert _same(_weights(tmp_path), _weights(whole))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_run_goes_on_from_an_exported_model(whole: Path, tmp_path: Path) -> None:
    export(whole, tmp_path / "tiny", raw=True)
    start = str(tmp_path / "tiny")
    options = replace(_options(tmp_path / "run", tokens=1), start=start, muon_lr=0.0, adam_lr=0.0)
    train(options, resume=False)
    before, after = _weights(whole), _weights(tmp_path / "run")
    names = [n for n in before if n.startswith("model/")]
    assert all(torch.equal(before[n], after[n]) for n in names)


def test_the_mean_of_two_runs_is_exported(whole: Path, tmp_path: Path) -> None:
    train(_options(tmp_path / "other", seed=3), resume=False)
    export(whole, tmp_path / "tiny", other=tmp_path / "other")
    mean = load_file(str(tmp_path / "tiny" / "model.safetensors"))
    runs = [load_file(str(run / "average.safetensors")) for run in (whole, tmp_path / "other")]
    assert not _same(*runs)
    assert all(torch.equal((runs[0][n] + runs[1][n]) / 2, mean[n]) for n in mean)


def test_the_log_of_a_run_that_goes_on_counts_through(whole: Path, tmp_path: Path) -> None:
    first = history(whole, "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text((whole / "metrics.jsonl").read_text())
    keep_earlier(tmp_path, tmp_path)
    rows = history(tmp_path, "metrics.jsonl")
    assert rows[: len(first)] == first
    assert rows[-1]["tokens"] == 2 * first[-1]["tokens"]
    assert rows[-1]["seconds"] == pytest.approx(2 * first[-1]["seconds"])


def test_the_exported_model_is_the_trained_one(whole: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package = tmp_path / "tiny"
    export(whole, package)
    tokenizer = AutoTokenizer.from_pretrained(str(package))
    model = AutoModelForCausalLM.from_pretrained(str(package), dtype=torch.float32).eval()
    ids = torch.tensor(tokenizer.encode("<|im_start|>user\nfind a zebra<|im_end|>\n"))
    net = load(whole)
    with torch.no_grad():
        hidden = net.hidden(ids, torch.arange(len(ids)), [len(ids)])
        trained = hidden @ net.weights["lm_head.weight"].T
        exported = model(input_ids=ids[None]).logits[0]
    assert (trained - exported).norm() < 0.03 * exported.norm()  # training multiplies in bf16
