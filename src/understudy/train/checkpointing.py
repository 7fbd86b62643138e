"""Gradient checkpointing: keep each layer's input, compute the layer again in the backward pass.

Memory for a layer's inner values is then needed for one layer at a time (arXiv 1604.06174), at the
price of a second forward pass. transformers' own switch works in training mode alone, which the
trainer does not use: dropout would change the distribution. Here the layers' own flag says so and
nothing below them. The backward pass runs when the forward's contexts are closed, so the attention
by plan is opened again for it.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from understudy.train.attention import attention_in_use


@contextmanager
def checkpointed(decoder: Any) -> Iterator[None]:
    """What a decoder computes while this is open, with gradients, is computed again for them.

    Raises ValueError for a model without layers of transformers' kind.
    """
    layers: list[Any] = [m for m in decoder.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(f"gradient checkpointing is not supported for {type(decoder).__name__}")
    contexts = partial(_contexts, decoder)
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.training = layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = again
    try:
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.training, layer.gradient_checkpointing = training, False


def _contexts(decoder: Any) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For the forward pass, and for the same computation in the backward pass."""
    return attention_in_use(decoder), attention_in_use(decoder)
