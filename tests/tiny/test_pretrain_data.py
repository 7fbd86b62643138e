"""What pretraining reads: batches that follow from their seed."""

from pathlib import Path

import numpy as np
import pytest

from tiny_pretrain.data import Batch, DataOptions, Encoder, chunk_batches, stage
from tiny_pretrain.prepare import prepare
from tiny_pretrain.recipe import STAGES

SMALL = DataOptions(tokens=1280, chunk=12, longest=1280, chunks=4)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    run = tmp_path_factory.mktemp("run")
    prepare(run, 1)
    return Encoder(Path(run))


def test_a_chunk_follows_from_its_seed_rank_and_number(encoder: Encoder) -> None:
    first = chunk_batches(encoder, SMALL, 5, 0, 1)
    again = chunk_batches(encoder, SMALL, 5, 0, 1)
    assert len(first) == len(again)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.ids, b.ids)
        assert np.array_equal(a.weight, b.weight)
    for other in ((6, 0, 1), (5, 1, 1), (5, 0, 2)):
        assert not np.array_equal(chunk_batches(encoder, SMALL, *other)[0].ids, first[0].ids)


def test_the_stages_cover_the_run() -> None:
    ends = [s.end for s in STAGES]
    assert ends == sorted(ends)
    assert ends[-1] == 1.0
    for share in (0.0, 0.3, 0.99, 1.0, 1.2):
        assert min(stage(share).mixture.values()) > 0
        assert sum(stage(share).mixture.values()) == pytest.approx(1.0, abs=0.02)  # weights


def test_batches_hold_whole_documents_and_the_token_after_each_position(encoder: Encoder) -> None:
    batches: list[Batch] = [b for c in range(4) for b in chunk_batches(encoder, SMALL, 1, 0, c)]
    assert [b.final for b in chunk_batches(encoder, SMALL, 1, 0, 0)][-1]
    for batch in batches:
        assert sum(batch.lengths) <= len(batch.ids) == SMALL.tokens
        ends = np.cumsum(batch.lengths)
        for begin, end in zip(ends - batch.lengths, ends, strict=True):
            assert batch.position[begin:end].tolist() == list(range(end - begin))
            assert batch.ids[begin] == encoder.start
        real = batch.weight > 0
        assert real.any()
        assert np.array_equal(batch.target[real], batch.ids[batch.pick[real] + 1])
        assert not set((batch.pick[real] + 1).tolist()) & set(ends.tolist())
