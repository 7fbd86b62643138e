"""Adapters in the engine's form, and their products for a batch that mixes them.

Within a fused linear layer ("site") the parts' A are concatenated, (in, sum of ranks), and their
B placed block-diagonally, (sum of ranks, out), scaled. A batch that uses one adapter alone takes
weights with the adapter merged in (float32: merging rounds at 1e-7); a mixed one adds the low-rank
products: adapters with many rows one after the other, the rest padded into one batched product
(the idea of Punica's SGMV, arXiv 2310.18547, and S-LoRA, arXiv 2311.03285).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
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
_LOOPED_ROWS = 8  # an adapter with this many rows is worth products of its own


@dataclass(eq=False, slots=True)
class Model:
    """One servable version: the base, the base with an adapter, or weights of its own.

    Requests hold the object, so that what is in flight keeps what it started with.
    """

    ref: ModelRef
    weights: Weights | None = None  # of its own: the bare base, or a full fine-tune
    lora: tuple[dict[Site, tuple[Tensor, Tensor]], ...] = ()  # per layer
    path: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)


def part_widths(shape: Shape) -> dict[Site, tuple[int, ...]]:
    """Output widths of the parts of each site."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return {
        "qkv": (q, kv, kv),
        "o": (shape.width,),
        "gate_up": (shape.mlp, shape.mlp),
        "down": (shape.width,),
    }


def lora_sites(
    tensors: Mapping[str, Tensor], config: LoraConfig, shape: Shape, like: Tensor
) -> tuple[dict[Site, tuple[Tensor, Tensor]], ...]:
    """Copies of an adapter's tensors (PEFT's names) in the engine's form.

    Raises ValueError for tensors that do not belong to this base.
    """
    used: set[str] = set()
    widths = part_widths(shape)
    inputs = {"qkv": shape.width, "o": shape.heads * shape.head_dim}
    inputs |= {"gate_up": shape.width, "down": shape.mlp}

    def site(layer: int, name: Site) -> tuple[Tensor, Tensor] | None:
        found: list[tuple[Tensor | None, Tensor | None, int]] = []
        for part, width in zip(_PARTS[name], widths[name], strict=True):
            key = f"{PEFT_PREFIX}model.layers.{layer}.{part}"
            a, b = tensors.get(f"{key}.lora_A.weight"), tensors.get(f"{key}.lora_B.weight")
            if a is None or b is None:
                found.append((None, None, width))
                continue
            used.update((f"{key}.lora_A.weight", f"{key}.lora_B.weight"))
            if a.shape[1] != inputs[name] or b.shape[0] != width or a.shape[0] != b.shape[1]:
                raise ValueError(f"the adapter is for another base: {key} does not fit")
            found.append((a, b, width))
        ranks = [0 if a is None else len(a) for a, _, _ in found]
        if not any(ranks):
            return None
        whole_a = like.new_zeros(inputs[name], sum(ranks))
        whole_b = like.new_zeros(sum(ranks), sum(widths[name]))
        row = column = 0
        for (a, b, width), rank in zip(found, ranks, strict=True):
            if a is not None and b is not None:
                whole_a[:, row : row + rank] = a.detach().T
                whole_b[row : row + rank, column : column + width] = b.detach().T * config.scale
            row, column = row + rank, column + width
        return whole_a, whole_b

    layers = []
    for i in range(shape.layers):
        sites: dict[Site, tuple[Tensor, Tensor]] = {}
        for name in SITES:
            pair = site(i, name)
            if pair is not None:
                sites[name] = pair
        layers.append(sites)
    unused = sorted(tensors.keys() - used)
    if unused or not used:
        raise ValueError(f"the adapter is for another base: unknown {(unused or ['nothing'])[0]}")
    return tuple(layers)


def merge(base: Weights, model: Model) -> Weights:
    """The base's weights with the adapter added; what it leaves alone is shared, not copied."""

    def block(old: Block, sites: dict[Site, tuple[Tensor, Tensor]]) -> Block:
        merged: dict[str, Any] = {
            n: matrix(torch.addmm(getattr(old, n).dense(), b.T, a.T)) for n, (a, b) in sites.items()
        }
        return replace(old, **merged)

    blocks = tuple(block(o, s) for o, s in zip(base.blocks, model.lora, strict=True))
    return replace(base, blocks=blocks)


class LoraBatch:
    """The low-rank products of one batch: which rows of it use which adapter."""

    def __init__(self, models: Sequence[Model], stacks: "Stacks", device: torch.device) -> None:
        rows: dict[int, list[int]] = {}
        by_id: dict[int, Model] = {}
        for i, model in enumerate(models):
            if model.lora:
                rows.setdefault(id(model), []).append(i)
                by_id[id(model)] = model
        few = {k: r for k, r in rows.items() if len(r) < _LOOPED_ROWS}
        if len(few) <= 1:
            few = {}
        self.looped = [
            (torch.tensor(r, device=device), by_id[k].lora) for k, r in rows.items() if k not in few
        ]
        self.stacked = bool(few)
        if few:
            self.stack = stacks.get([by_id[k] for k in few])
            place = {id(m): i for i, m in enumerate(self.stack.models)}
            most = max(len(r) for r in few.values())
            padded = np.full((len(self.stack.models), most), -1, dtype=np.int64)
            for k, r in few.items():
                padded[place[k], : len(r)] = r
            flat = padded.reshape(-1)
            valid = np.flatnonzero(flat >= 0)
            self.padded = torch.from_numpy(np.where(flat < 0, 0, flat)).to(device)
            self.valid = torch.from_numpy(valid).to(device)
            self.rows = torch.from_numpy(flat[valid]).to(device)
            self.most = most

    def add(self, layer: int, site: Site, x: Tensor, y: Tensor) -> None:
        """y += the adapters' products of x, in place. x (N, in), y (N, out)."""
        for rows, lora in self.looped:
            pair = lora[layer].get(site)
            if pair is not None:
                y.index_add_(0, rows, x[rows] @ pair[0] @ pair[1])
        if self.stacked:
            pair = self.stack.sites[layer].get(site)
            if pair is not None:
                padded = x[self.padded].view(len(self.stack.models), self.most, -1)
                product = torch.bmm(torch.bmm(padded, pair[0]), pair[1])
                y.index_add_(0, self.rows, product.view(-1, y.shape[1])[self.valid])


@dataclass(eq=False, slots=True)
class Stack:
    """Adapters stacked for batched products, ranks padded with zeros to the largest."""

    models: list[Model]
    sites: list[dict[Site, tuple[Tensor, Tensor]]]


class Stacks:
    """The stack of the current working set; rebuilt when an adapter joins or most have left."""

    def __init__(self) -> None:
        self.current: Stack | None = None

    def get(self, models: list[Model]) -> Stack:
        have = {id(m) for m in self.current.models} if self.current else set()
        if self.current and len(have) <= 2 * len(models) and all(id(m) in have for m in models):
            return self.current
        self.current = _stack(models)
        return self.current


def _stack(models: list[Model]) -> Stack:
    sites: list[dict[Site, tuple[Tensor, Tensor]]] = []
    for layer in range(len(models[0].lora)):
        row: dict[Site, tuple[Tensor, Tensor]] = {}
        for site in SITES:
            pairs = [m.lora[layer].get(site) for m in models]
            known = [p for p in pairs if p is not None]
            if not known:
                continue
            a0, b0 = known[0]
            rank = max(a.shape[1] for a, _ in known)
            a_all = a0.new_zeros(len(models), a0.shape[0], rank)
            b_all = b0.new_zeros(len(models), rank, b0.shape[1])
            for i, pair in enumerate(pairs):
                if pair is not None:
                    a_all[i, :, : pair[0].shape[1]] = pair[0]
                    b_all[i, : pair[1].shape[0]] = pair[1]
            row[site] = (a_all, b_all)
        sites.append(row)
    return Stack(list(models), sites)
