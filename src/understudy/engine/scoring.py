"""Teacher-forced logprobs of one sequence, without a cache."""

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.core.types import Scores
from understudy.engine.adapters import Model
from understudy.engine.cache import BLOCK, Cache, Ids, Slot, blocks_for
from understudy.engine.decoder import Decoder, PrefillBatch
from understudy.engine.lora_batch import LoraBatch, Stacks
from understudy.engine.ops import wide
from understudy.engine.weights import Weights

_CHUNK = 512  # positions whose logits are held at once


@torch.inference_mode()
def score_ids(
    base: Weights, rope: tuple[Tensor, Tensor], model: Model, ids: Ids, top_k: int
) -> Scores:
    """Logprobs at temperature 1 of ids[1:]; `top` has one tuple of (id, logprob) a position."""
    weights = model.weights or base
    room = blocks_for(len(ids)) * BLOCK
    cache = Cache(weights.shape, 1, weights.embed.dtype, weights.embed.device, room)
    slot = cache.take()
    assert isinstance(slot, Slot)
    cache.activate(slot, model.kv, ids, len(ids))
    cache.reserve(slot, len(ids))
    decoder = Decoder(cache, rope, None)
    lora = LoraBatch([model], Stacks(), cache.device, sizes=[len(ids)]) if model.lora else None
    hidden = decoder.forward(weights, PrefillBatch(decoder, [slot], [ids], every=True), lora)
    targets = torch.from_numpy(ids[1:].astype("int64")).to(hidden.device)
    logprobs: list[float] = []
    top: list[tuple[tuple[int, float], ...]] = []
    for rows, wanted in zip(
        torch.split(hidden[:-1], _CHUNK), torch.split(targets, _CHUNK), strict=True
    ):
        all_TV = F.log_softmax(wide(decoder.logits(weights, rows)), -1)
        logprobs += all_TV.gather(1, wanted[:, None])[:, 0].tolist()
        if top_k:
            values, indices = all_TV.topk(min(top_k, weights.shape.vocab), -1)
            for i, v in zip(indices.tolist(), values.tolist(), strict=True):
                top.append(tuple(zip(i, v, strict=True)))
    return Scores(tuple(logprobs), tuple(top))
