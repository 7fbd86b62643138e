"""A decoder layer in two pieces, before attention and after it, for the layers whose parts are
known here. So its last steps can be left out where nobody looks (train.last_layer), and what lies
between its products can be fused: on a CPU by C (train.pointwise), or where the caller wants it by
torch's compiler (train.compiling), once for all layers of a model and any number of tokens, once
more for a layer whose input needs no gradient, and for passes without one.
Dimensions: N nodes, U nodes that somebody looks at, H heads, G key/value heads, D head width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from understudy.train.attention import tree_attention_forward
from understudy.train.compiling import any_number, compiled
from understudy.train.pointwise import TYPES, norm, pointwise, rotate, swiglu

How = Literal["plain", "c", "compiled"]
KINDS = (LlamaDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer)


def layers_of(decoder: Any) -> list[Any]:
    """The decoder's layers; none where it has no list of them."""
    return list(getattr(decoder, "layers", ()))


def are_known(layers: Sequence[Any]) -> bool:
    """Whether there are layers, all of a kind that is known here."""
    return bool(layers) and all(type(layer) in KINDS for layer in layers)


def fusing(decoder: Any, compile: bool) -> How:
    """How the decoder's layers run on a tree. Raises ValueError where they are to be compiled and
    one is not of a kind that is known here."""
    layers = layers_of(decoder)
    if compile:
        if not are_known(layers):
            kind = type(decoder).__name__
            raise ValueError(f"compile knows no layers of {kind}: take compile=false")
        return "compiled"
    return "c" if are_known(layers) and all(map(_fuses, layers)) else "plain"


def _fuses(layer: Any) -> bool:
    """Whether C knows all of the layer."""
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    norms += [getattr(layer.self_attn, name, None) for name in ("q_norm", "k_norm")]
    weights = [n.weight for n in norms if n is not None]
    return (
        all(w.device.type == "cpu" and w.dtype in TYPES for w in weights)
        and isinstance(layer.mlp.act_fn, (nn.SiLU, SiLUActivation))
        and pointwise() is not None
    )


@contextmanager
def fused_layers(decoder: Any, how: How) -> Iterator[None]:
    """While this is open, the decoder's layers run so, on a tree."""
    layers = layers_of(decoder) if how != "plain" else []
    with forwards(layers, [partial(_run, layer, how) for layer in layers]):
        yield


def _run(layer: Any, how: How, hidden_states: Tensor, **given: Any) -> Tensor:
    """The layer in pieces, which is computed again in the backward pass where it says so: its class
    does that in the forward pass that this one replaces (train.checkpointing)."""
    if not (layer.training and getattr(layer, "gradient_checkpointing", False)):
        return in_pieces(layer, hidden_states, how=how, **given)
    inner = partial(in_pieces, layer, how=how, **given)
    again: Tensor = layer._gradient_checkpointing_func(inner, hidden_states)
    return again


@contextmanager
def forwards(layers: Sequence[Any], instead: Sequence[Callable[..., Tensor]]) -> Iterator[None]:
    """The layers' forward passes are others while this is open."""
    before = [vars(layer).get("forward") for layer in layers]
    for layer, own in zip(layers, instead, strict=True):
        layer.forward = own
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own


def in_pieces(
    layer: Any,
    hidden_states: Tensor,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    understudy_plan: Any,
    used_U: Tensor | None = None,
    how: How = "plain",
    **_: Any,
) -> Tensor:
    """The layer's output (1, N, hidden), or with `used_U` (1, U, hidden) of these nodes alone."""
    before, after = before_attention, after_attention
    if how == "c":
        before, after = before_attention_in_c, after_attention_in_c
    if how == "compiled":
        before, after = compiled(before), compiled(after)
        any_number(hidden_states, 1)
        for part in position_embeddings:
            any_number(part, 1)
    q, k, v = before(layer, hidden_states, *position_embeddings)
    own = layer.self_attn
    attended, _weights = tree_attention_forward(
        own, q, k, v, None, own.scaling, 0.0, getattr(own, "sliding_window", None), understudy_plan
    )
    if how == "compiled":
        any_number(attended, 1)
        if used_U is not None:
            any_number(used_U, 0)
    return after(layer, hidden_states, attended, used_U)


def before_attention(
    layer: Any, hidden_states: Tensor, cosine: Tensor, sine: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (1, H, N, D), keys and values (1, G, N, D), rotated. On a GPU all are in the values'
    type: under autocast norms and rotations leave float32 behind."""
    own, inner = layer.self_attn, layer.input_layernorm(hidden_states)
    shape = (*inner.shape[:-1], -1, own.head_dim)
    q, k = own.q_proj(inner).view(shape), own.k_proj(inner).view(shape)
    if hasattr(own, "q_norm"):
        q, k = own.q_norm(q), own.k_norm(k)
    v = own.v_proj(inner).view(shape).transpose(1, 2)
    q, k = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), cosine, sine)
    return (q.to(v.dtype), k.to(v.dtype), v) if v.is_cuda else (q, k, v)


def after_attention(
    layer: Any, hidden_states: Tensor, attended: Tensor, used_U: Tensor | None
) -> Tensor:
    """From what was attended to (1, N, H, D) to the layer's output."""
    hidden = hidden_states + layer.self_attn.o_proj(attended.flatten(2))
    if used_U is not None:
        hidden = hidden.index_select(1, used_U)
    mlp: Tensor = layer.mlp(layer.post_attention_layernorm(hidden))
    return hidden + mlp


def before_attention_in_c(
    layer: Any, hidden_states: Tensor, cosine: Tensor, sine: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, queries and keys in float32."""
    own, inner = layer.self_attn, _normed(layer.input_layernorm, hidden_states[0])
    q, k, v = (p(inner).view(len(inner), -1, own.head_dim)
               for p in (own.q_proj, own.k_proj, own.v_proj))  # fmt: skip
    turned = []
    for x, name in ((q, "q_norm"), (k, "k_norm")):
        before = getattr(own, name, None)
        weight, eps = (None, 0.0) if before is None else (before.weight, before.variance_epsilon)
        turned.append(rotate(x, weight, eps, cosine[0], sine[0]))
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (*turned, v))
    return q, k, v


def after_attention_in_c(
    layer: Any, hidden_states: Tensor, attended: Tensor, used_U: Tensor | None
) -> Tensor:
    """The same."""
    hidden = hidden_states + layer.self_attn.o_proj(attended.flatten(2))
    if used_U is not None:
        hidden = hidden.index_select(1, used_U)
    mlp, inner = layer.mlp, _normed(layer.post_attention_layernorm, hidden)
    made: Tensor = mlp.down_proj(swiglu(mlp.gate_proj(inner), mlp.up_proj(inner)))
    return hidden + made


def _normed(layer: Any, x: Tensor) -> Tensor:
    """The norm in the type in which it is multiplied."""
    half = torch.is_autocast_enabled("cpu") or x.dtype == torch.bfloat16
    dtype = torch.bfloat16 if half else torch.float32
    return norm(x, layer.weight, layer.variance_epsilon, dtype)
