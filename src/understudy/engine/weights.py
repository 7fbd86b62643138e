"""A decoder's weights in fused form, read from a Hugging Face state dict.

One set serves the Llama, Qwen2 and Qwen3 families: pre-norm blocks of grouped-query attention
with rotary positions (q/k norm where there is one, biases where there are some) and SwiGLU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from understudy.engine.matrix import Matrix, matrix

FAMILIES = ("llama", "qwen2", "qwen3")
VOCAB_BLOCK = 64  # the head is padded to a multiple of this, see sampling


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a decoder. `group` query heads share one key/value head."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    eps: float
    context: int

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads


@dataclass(frozen=True, slots=True)
class Block:
    """One layer; qkv and gate_up are stacked along `out`."""

    norm_in: Tensor
    qkv: Matrix
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Matrix
    o_bias: Tensor | None
    norm_mlp: Tensor
    gate_up: Matrix
    gate_up_bias: Tensor | None
    down: Matrix
    down_bias: Tensor | None


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Weights:
    """A whole model, equal to itself alone. `head_bias` is 0, and minus infinity for the padding of
    the vocabulary."""

    shape: Shape
    embed: Tensor
    blocks: tuple[Block, ...]
    norm: Tensor
    head: Matrix
    head_bias: Tensor


def shape_of(config: Any) -> Shape:
    """The shape in a Hugging Face configuration. Raises ValueError for what is not supported."""
    kind = getattr(config, "model_type", "?")
    if kind not in FAMILIES:
        raise ValueError(f"the engine runs {', '.join(FAMILIES)} models, not {kind!r}")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ValueError(f"the engine runs full attention only, not {', '.join(sorted(kinds))}")
    if config.hidden_act != "silu":
        raise ValueError(f"the engine runs SwiGLU models, not {config.hidden_act!r}")
    heads = config.num_attention_heads
    return Shape(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        mlp=config.intermediate_size,
        vocab=config.vocab_size,
        eps=config.rms_norm_eps,
        context=config.max_position_embeddings,
    )


def fuse(state: Mapping[str, Tensor], shape: Shape, tied: bool) -> Weights:
    """Copies of the weights in fused form. Raises KeyError for a missing tensor."""

    def stack(prefix: str, names: tuple[str, ...], kind: str) -> Tensor | None:
        keys = [f"{prefix}.{n}.{kind}" for n in names]
        if kind == "bias" and keys[0] not in state:
            return None
        return torch.cat([state[k].detach() for k in keys]).contiguous()

    def one(key: str) -> Tensor:
        return state[key].detach().clone().contiguous()

    def maybe(key: str) -> Tensor | None:
        return one(key) if key in state else None

    def block(i: int) -> Block:
        p, a = f"model.layers.{i}", f"model.layers.{i}.self_attn"
        qkv, gate_up = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
        fused_qkv, fused_gate_up = stack(a, qkv, "weight"), stack(f"{p}.mlp", gate_up, "weight")
        assert fused_qkv is not None
        assert fused_gate_up is not None
        return Block(
            norm_in=one(f"{p}.input_layernorm.weight"),
            qkv=matrix(fused_qkv),
            qkv_bias=stack(a, qkv, "bias"),
            q_norm=maybe(f"{a}.q_norm.weight"),
            k_norm=maybe(f"{a}.k_norm.weight"),
            o=matrix(one(f"{a}.o_proj.weight")),
            o_bias=maybe(f"{a}.o_proj.bias"),
            norm_mlp=one(f"{p}.post_attention_layernorm.weight"),
            gate_up=matrix(fused_gate_up),
            gate_up_bias=stack(f"{p}.mlp", gate_up, "bias"),
            down=matrix(one(f"{p}.mlp.down_proj.weight")),
            down_bias=maybe(f"{p}.mlp.down_proj.bias"),
        )

    embed = one("model.embed_tokens.weight")
    head = embed if tied else one("lm_head.weight")
    padding = -len(head) % VOCAB_BLOCK
    if padding:
        head = torch.cat([head, head.new_zeros(padding, head.shape[1])])
    bias = head.new_zeros(len(head))
    bias[shape.vocab :] = -torch.inf
    blocks = tuple(block(i) for i in range(shape.layers))
    return Weights(shape, embed, blocks, one("model.norm.weight"), matrix(head), bias)


def rope_tables(
    model: Any, length: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine (length, head_dim / 2) of the model's own rotary frequencies: worked out in
    float32 whatever the model's type, as Hugging Face does, then raised to float64 where that is
    the model's."""
    rotary = model.model.rotary_emb
    if rotary.rope_type in ("dynamic", "longrope"):
        raise ValueError(f"the engine has no {rotary.rope_type!r} RoPE scaling")
    inverse = rotary.inv_freq.to(device=device, dtype=torch.float32)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * inverse
    scaling = float(rotary.attention_scaling)
    wide = torch.promote_types(dtype, torch.float32)
    cosine, sine = ((t * scaling).to(wide).contiguous() for t in (angles.cos(), angles.sin()))
    return cosine, sine
