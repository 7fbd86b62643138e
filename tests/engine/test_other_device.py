"""Whatever a step of the engine makes is where its weights are: shown on a second device, which
refuses what a GPU refuses."""

import random
from contextlib import nullcontext

import numpy as np
import torch
from engine_models import VOCAB, make_model
from test_adapters import adapted
from test_engine_exactness import BASE
from torch import Tensor

from train.another_device import AWAY, HOME, Away, two_devices
from understudy.core.types import ModelRef
from understudy.engine.adapters import Model, lora_sites
from understudy.engine.cache import BLOCK, Cache
from understudy.engine.decoder import DecodeBatch, Decoder, PrefillBatch
from understudy.engine.graphs import Graphs
from understudy.engine.lora_batch import LoraBatch, Stacks
from understudy.engine.sampling import draw
from understudy.engine.weights import fuse, rope_tables, shape_of
from understudy.models.lora import adapter_tensors

ROWS = 12


def steps(away: bool) -> list[Tensor]:
    """A prefill; decoding by itself, with adapters that have many rows and few, in static batches
    without and with adapters; and tokens drawn in each way."""
    model, device = make_model().double(), AWAY if away else HOME

    def there(t: Tensor) -> Tensor:
        return Away(t.detach()) if away else t.detach()  # type: ignore[no-any-return]

    shape = shape_of(model.config)
    weights = fuse({k: there(v) for k, v in model.state_dict().items()}, shape, True)
    cache = Cache(shape, 64, torch.float64, device, 100 * BLOCK, static=True)
    cosine, sine = rope_tables(model, 1024, HOME, torch.float64)
    decoder = Decoder(cache, (there(cosine), there(sine)), None)
    base, rng = Model(BASE, weights=weights), random.Random(0)
    slots, runs = [], []
    for n in range(5, 5 + ROWS):
        ids = np.array(rng.choices(range(3, VOCAB), k=n), dtype=np.int32)
        slot = cache.take()
        assert slot is not None
        cache.reserve(slot, n + 1)
        cache.activate(slot, base.kv, ids, n + 1)
        slots.append(slot)
        runs.append(ids)
    found = [decoder.forward(weights, PrefillBatch(decoder, slots, runs))]
    where = np.array([s.index for s in slots])
    cache.lengths[where] = [len(r) for r in runs]
    next_ids = np.array(rng.choices(range(3, VOCAB), k=ROWS))
    adapters = []
    for seed in (1, 2, 3):
        tuned, config = adapted("qwen3", seed, 2 * seed)
        sites = lora_sites(adapter_tensors(tuned), config, shape, weights.embed)
        adapters.append(Model(ModelRef("base", f"a{seed}", 1), lora=sites))
    rows = [adapters[0]] * 8 + [base, *adapters]
    batch, graphs = DecodeBatch(decoder, where, next_ids, []), Graphs(decoder, weights)
    found.append(decoder.forward(weights, batch))
    found.append(decoder.forward(weights, batch, LoraBatch(rows, Stacks(), device)))
    for models in ([], rows):
        hidden = graphs.hidden(weights, where, next_ids, models)
        assert hidden is not None
        found.append(hidden)
    temperature, top_p = np.linspace(0, 2, ROWS), np.where(np.arange(ROWS) % 3, 1.0, 0.5)
    top_k, uniform = np.where(np.arange(ROWS) % 4, 0, 5), np.linspace(0, 0.99, ROWS)
    drawn = draw(decoder.logits(weights, found[1]), temperature, top_p, top_k, uniform)
    return [*found, drawn.ids_R, drawn.logprobs_R]


@torch.no_grad()
def test_a_step_is_computed_where_the_weights_are() -> None:
    found = []
    for away in (False, True):
        with two_devices() if away else nullcontext():
            tensors = steps(away)
        assert all(isinstance(t, Away) == away for t in tensors)
        found.append([t.held if away else t for t in tensors])  # type: ignore[attr-defined]
    for there, here in zip(*found, strict=True):
        assert torch.equal(there, here)
