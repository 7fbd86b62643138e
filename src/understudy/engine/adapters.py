"""Adapters in the engine's form.

Within a fused linear layer ("site") the parts' A lie side by side, (in, sum of ranks); each part
has a B of its own, scaled. A batch that uses one adapter alone takes weights with the adapter
merged in (float32: merging rounds at 1e-7); for one that mixes them see `lora_batch`. The C kernel
reads adapters in bfloat16 too, which take half the memory: those that are stored so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from understudy.core.types import ModelRef
from understudy.engine.matrix import matrix
from understudy.engine.weights import Block, Shape, Weights
from understudy.models.lora import PEFT_PREFIX, LoraConfig

Site = Literal["qkv", "o", "gate_up", "down"]
SITES: tuple[Site, ...] = ("qkv", "o", "gate_up", "down")
_PARTS: dict[Site, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


class Part(NamedTuple):
    """Columns `first`... of A with their B, (rank, width), that end at `column`... of the site."""

    first: int
    column: int
    b: Tensor


class SiteLora(NamedTuple):
    """One site's adapter: A (in, sum of ranks), and the parts that it has."""

    a: Tensor
    parts: tuple[Part, ...]
    width: int  # of the site's output

    def b(self) -> Tensor:
        """The parts' B block-diagonally: (sum of ranks, width)."""
        whole = self.a.new_zeros(self.a.shape[1], self.width)
        for first, column, b in self.parts:
            whole[first : first + len(b), column : column + b.shape[1]] = b
        return whole


Lora = tuple[dict[Site, SiteLora], ...]  # per layer


@dataclass(eq=False, slots=True)
class Model:
    """One servable version: the base, the base with an adapter, or weights of its own.

    Requests hold the object, so that what is in flight keeps what it started with.
    """

    ref: ModelRef
    weights: Weights | None = None  # of its own: the bare base, or a full fine-tune
    lora: Lora = ()
    table: Any = None  # of `lora` for the kernel, see lora_batch
    kv: object = field(default_factory=object)  # whose keys and values are the same
    path: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    leaving: bool = False  # nobody can name it any more; what is in flight finishes on it


def part_widths(shape: Shape) -> dict[Site, tuple[int, ...]]:
    """Output widths of the parts of each site."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return {
        "qkv": (q, kv, kv),
        "o": (shape.width,),
        "gate_up": (shape.mlp, shape.mlp),
        "down": (shape.width,),
    }


def site_inputs(shape: Shape) -> dict[Site, int]:
    """Input width of each site."""
    heads = shape.heads * shape.head_dim
    return {"qkv": shape.width, "o": heads, "gate_up": shape.width, "down": shape.mlp}


Narrow = Literal["never", "exact", "always"]


def lora_sites(
    tensors: Mapping[str, Tensor],
    config: LoraConfig,
    shape: Shape,
    like: Tensor,
    narrow: Narrow = "never",
) -> Lora:
    """Copies of an adapter's tensors (PEFT's names) in the engine's form, on the device of `like`
    and of its type; or in bfloat16, where that loses nothing ("exact") or though it rounds.

    Raises ValueError for tensors that do not belong to this base.
    """
    used: set[str] = set()
    if narrow == "always" or (narrow == "exact" and _fits_half(tensors, config)):
        like = like.new_empty(0, dtype=torch.bfloat16)
    widths = part_widths(shape)
    inputs = site_inputs(shape)

    def site(layer: int, name: Site) -> SiteLora | None:
        each_a: list[Tensor] = []
        parts: list[Part] = []
        first = column = 0
        for part, width in zip(_PARTS[name], widths[name], strict=True):
            key = f"{PEFT_PREFIX}model.layers.{layer}.{part}"
            a, b = tensors.get(f"{key}.lora_A.weight"), tensors.get(f"{key}.lora_B.weight")
            if a is not None and b is not None:
                used.update((f"{key}.lora_A.weight", f"{key}.lora_B.weight"))
                if a.shape[1] != inputs[name] or b.shape[0] != width or len(a) != b.shape[1]:
                    raise ValueError(f"the adapter is for another base: {key} does not fit")
                scaled = (_wide(b.detach()).T * config.scale).to(like)
                parts.append(Part(first, column, scaled.contiguous()))
                each_a.append(a.detach().to(like))
                first += len(a)
            column += width
        if not parts:
            return None
        return SiteLora(torch.cat(each_a).T.contiguous(), tuple(parts), column)

    layers = []
    for i in range(shape.layers):
        sites: dict[Site, SiteLora] = {}
        for name in SITES:
            found = site(i, name)
            if found is not None:
                sites[name] = found
        layers.append(sites)
    unused = sorted(tensors.keys() - used)
    if unused or not used:
        raise ValueError(f"the adapter is for another base: unknown {(unused or ['nothing'])[0]}")
    return _in_one(tuple(layers))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _fits_half(tensors: Mapping[str, Tensor], config: LoraConfig) -> bool:
    """Whether an adapter in bfloat16 is what it was: stored so, and scaled by a power of two."""
    power_of_two = math.frexp(config.scale)[0] == 0.5
    return power_of_two and all(t.dtype == torch.bfloat16 for t in tensors.values())


def matrices(lora: Lora) -> list[Tensor]:
    """All of an adapter's matrices, in the order in which they are read."""
    return [t for sites in lora for s in sites.values() for t in (s.a, *(p.b for p in s.parts))]


def _in_one(lora: Lora) -> Lora:
    """The same in one piece of memory, in the order in which it is read."""
    each = matrices(lora)
    whole = torch.cat([t.reshape(-1) for t in each])
    left = iter(torch.split(whole, [t.numel() for t in each]))

    def moved(own: SiteLora) -> SiteLora:
        a = next(left).view(own.a.shape)
        return SiteLora(
            a, tuple(p._replace(b=next(left).view(p.b.shape)) for p in own.parts), own.width
        )

    return tuple({name: moved(own) for name, own in sites.items()} for sites in lora)


def merge(base: Weights, model: Model) -> Weights:
    """The base's weights with the adapter added; what it leaves alone is shared, not copied."""

    def block(old: Block, sites: dict[Site, SiteLora]) -> Block:
        merged: dict[str, Any] = {}
        for n, s in sites.items():
            dense = getattr(old, n).dense()
            merged[n] = matrix(torch.addmm(dense, s.b().T.to(dense), s.a.T.to(dense)))
        return replace(old, **merged)

    blocks = tuple(block(o, s) for o, s in zip(base.blocks, model.lora, strict=True))
    return replace(base, blocks=blocks)
