"""Several processes compute one gradient."""

import os
import random
import signal
import sys

import pytest
import torch
from exact_models import gradients, random_rows, relative_error, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import broken

from understudy.core.rows import Row
from understudy.core.token_tree import build
from understudy.train.checkpoint import load, save
from understudy.train.parallel import HelperError, processes_for
from understudy.train.trainer import Trainer, TrainerConfig
from understudy.train.tree_batch import micro_batches, split_rows

torch.set_num_threads(1)
LAYOUTS = ("tree", "packed", "padded")


def _gradient(trainer, rows):
    """The gradient of a step, as the optimiser sees it."""
    seen = []
    trainer.optimiser.register_step_pre_hook(lambda *_: seen.append(gradients(trainer.model)))
    metrics = trainer.step(rows)
    return seen[0], metrics


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("workers", "apart"), [(2, False), (3, False), (1, True), (2, True)])
def test_processes_add_up_to_one(dtype, bound, workers, apart):
    rows = random_rows(random.Random(3), count=9)
    config = TrainerConfig(lr=0.01, grad_clip=None, max_tokens_per_microbatch=60)
    alone, expected = _gradient(Trainer(small_model(dtype=dtype), config), rows)
    with Trainer(small_model(dtype=dtype), config, workers, apart=apart) as trainer:
        together, got = _gradient(trainer, rows)
    assert relative_error(together, alone) < bound
    for name in ("entropy", "ratio_mean", "ratio_max", "kl", "clipped_share", "grad_norm"):
        assert getattr(got, name) == pytest.approx(getattr(expected, name), rel=1e-4)
    assert got.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (got.count, got.tokens_in_rows) == (expected.count, expected.tokens_in_rows)


def test_helpers_see_every_update_and_every_restored_state(tmp_path):
    """Twenty steps by two processes: those of one; and from a checkpoint, bit for bit."""
    rng = random.Random(5)
    batches = [random_rows(rng, count=4, streams=("ce",)) for _ in range(20)]
    config = TrainerConfig(lr=0.01)
    alone = Trainer(small_model(), config)
    with (
        Trainer(small_model(), config, 2) as first,
        Trainer(small_model(seed=1), config, 2) as again,
    ):
        for step, rows in enumerate(batches):
            if step == 10:
                save(tmp_path / "last", first)
                load(tmp_path / "last", again)
            alone.step(rows)
            first.step(rows)
            if step >= 10:
                again.step(rows)
        for name, parameter in alone.parameters.items():
            assert relative_error(first.parameters[name].data, parameter.data) < 1e-8
            assert torch.equal(first.parameters[name], again.parameters[name])


def test_fewer_rows_than_processes_and_processes_left_idle():
    rows = random_rows(random.Random(1), count=3)
    config = TrainerConfig(lr=0.01)
    alone = Trainer(small_model(), config)
    with Trainer(small_model(), config, 3) as trainer:
        for cores, batch in ((3, rows[:1]), (1, rows), (2, rows), (3, rows), (3, [])):
            trainer.use_cores(cores)
            ours, theirs = trainer.step(batch), alone.step(batch)
            assert ours.loss == pytest.approx(theirs.loss)
        assert trainer.steps == alone.steps == 4


def test_a_process_that_fails_says_why_and_the_next_step_works():
    rows = random_rows(random.Random(2), count=6, streams=("ce",))
    with Trainer(small_model(), TrainerConfig(lr=0.01), 2) as trainer:
        broken = [Row((10_000, *row.ids[1:]), row.entries) for row in rows]
        with pytest.raises((HelperError, IndexError), match="index out of range"):
            trainer.step(broken)
        assert trainer.step(rows).skipped is None


def test_a_process_that_was_killed_is_named():
    rows = random_rows(random.Random(2), count=6, streams=("ce",))
    with Trainer(small_model(), TrainerConfig(lr=0.01), 2) as trainer:
        trainer.step(rows)
        (process,) = trainer._helpers._processes
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with pytest.raises(HelperError, match="ended, exit status -9"):
            trainer.step(rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 30), st.integers(1, 6))
def test_shares_are_the_rows_and_of_like_size(seed, count, parts):
    rows = random_rows(random.Random(seed), count=count) if count else []
    shares = split_rows(rows, parts)
    assert len(shares) == parts
    assert sorted(r.ids for share in shares for r in share) == sorted(r.ids for r in rows)
    if rows:
        longest = max(len(r.ids) for r in rows)
        most = max(len(build(share)) for share in shares if share)
        assert most <= len(build(rows)) / parts + 2 * longest  # a row too much, a beginning twice


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 6), st.sampled_from(LAYOUTS))
def test_an_episodes_rows_stay_together_where_they_are_to(seed, count, parts, layout):
    rows = broken(random_rows(random.Random(seed), streams=("rl",), count=count))

    def owners(some):
        return {e.sample_id for row in some for e in row.entries}

    shares = split_rows(rows, parts, whole=True)
    assert len(shares) == parts
    assert sorted(r.ids for share in shares for r in share) == sorted(r.ids for r in rows)
    batches = micro_batches(rows, 60, layout, whole=True)
    assert sorted(i for batch in batches for i in batch.rows) == list(range(count))
    for split in (shares, [[rows[i] for i in batch.rows] for batch in batches]):
        found = [name for some in split for name in owners(some)]
        assert len(found) == len(set(found))
    for batch in batches:
        assert batch.tokens_computed <= 60 or len(owners(rows[i] for i in batch.rows)) <= 1


def test_large_models_keep_to_threads():
    assert processes_for(small_model(), 4) == (4 if sys.platform == "linux" else 1)
    with torch.device("meta"):
        assert processes_for(torch.nn.Linear(20_000, 20_000), 4) == 1


def test_for_a_gpu_micro_batches_are_as_large_as_they_may_be():
    """Rows that share nothing: a CPU is better off with what fits its caches."""
    rng = random.Random(0)
    rows = [Row(tuple(rng.randrange(100, 10_000) for _ in range(900))) for _ in range(8)]
    most = 4 * 900
    sizes = {
        device: [b.tokens_computed for b in micro_batches(rows, most, "tree", device=device)]
        for device in ("cpu", "cuda")
    }
    assert sizes["cuda"] == [most, most]
    assert len(sizes["cpu"]) > 2
