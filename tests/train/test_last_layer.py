"""The last layer, computed where entries look, is what the whole layer says there."""

import random

import numpy as np
import pytest
import torch
from exact_models import VOCABULARY, relative_error, small_model
from test_exactness import BOUND, oracle, step_gradient

from understudy.core.rows import Entry, Row
from understudy.core.token_tree import build
from understudy.train import last_layer
from understudy.train.tree_kernel import ChainTable

torch.set_num_threads(1)


def sparse_rows(rng, count=8, prompt=70, turn=45):
    """Rows that share a long prompt and part ways turn by turn, entries late in some turns."""
    rows = []
    for n in range(count):
        start = list(rng.choice(rows).ids) if rows else []
        keep = rng.randint(prompt, max(prompt, len(start))) if start else 0
        ids = start[:keep] or [rng.randrange(VOCABULARY) for _ in range(prompt)]
        entries = []
        for _ in range(rng.randint(1, 2)):
            begin = len(ids)
            ids += [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, turn))]
            at = range(max(begin, len(ids) - rng.randint(0, 6)), len(ids))
            entries += [Entry(t - 1, ids[t], "rl", rng.uniform(-1, 1), -3.0, f"s{n}") for t in at]
        rows.append(Row(tuple(ids), tuple(entries)))
    return [row for row in rows if row.entries]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("seed", range(4))
def test_nodes_that_nobody_looks_at_are_left_out_exactly(kind, seed, dtype):
    rows = sparse_rows(random.Random(seed))
    model = small_model(kind, dtype, seed)
    loss, wanted, _ = oracle(model, rows)
    for layout in ("tree", "packed"):
        got, gradient, _ = step_gradient(small_model(kind, dtype, seed), rows, layout=layout)
        assert abs(got - loss) <= BOUND[dtype] * max(abs(loss), 0.1)  # a sum, some of it negative
        assert relative_error(gradient, wanted) < BOUND[dtype]


def test_little_of_a_prompt_and_nothing_of_an_unlooked_chain_is_attended():
    rows = [Row((1,) * 300 + (t,) * 40, (Entry(339 - 1, t, "rl", 1.0, -3.0, "s"),)) for t in (2, 3)]
    rows.append(Row((1,) * 300 + (4,) * 40, ()))
    tree = build(rows)
    table = ChainTable(tree, np.unique(tree.node_E))
    assert ChainTable(tree).queries == len(tree) == 300 + 3 * 40
    assert table.queries == 2
    assert table.first[table.first < table.stop].tolist() == np.unique(tree.node_E).tolist()


def test_other_kinds_of_layers_are_computed_whole():
    model = small_model("qwen3")
    assert last_layer.can_leave_out(model.get_decoder())

    class Other(type(model.get_decoder().layers[-1])):
        pass

    model.get_decoder().layers[-1].__class__ = Other
    assert not last_layer.can_leave_out(model.get_decoder())
