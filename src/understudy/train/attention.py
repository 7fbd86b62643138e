"""Exact attention over a token tree, inside any Hugging Face causal LM.

Nodes lie on one axis in depth-first order, so whatever a chain of nodes may look at is a few
slices of that axis: the part of each ancestor chain above the branching point, then the chain
itself, causally. GPUs attend by one mask (tree_flex.py), CPUs chain by chain in a C kernel
(tree_kernel.py), or where there is no compiler, and in double precision, slice by slice in torch's
own (tree_flash.py).

The model is not patched: the function is registered with transformers' attention interface and
chosen by the configuration while a tree runs; the plan travels as a keyword argument.
Dimensions: N nodes, H query heads, G key/value heads, D head width.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from understudy.core.token_tree import Ints, TokenTree
from understudy.train.pointwise import pointwise
from understudy.train.tree_flash import Slices, TreeFlash, slices_of
from understudy.train.tree_flex import Spans, attend
from understudy.train.tree_kernel import ChainTable, TreeKernel, filled, kernel

NAME = "understudy_tree"


class Plan:
    """What each part of a tree looks at, in the form that each kernel reads.

    With `looked_at` only these nodes' attention is wanted, ascending: the C kernel leaves out what
    is before and after them in each chain.
    """

    def __init__(self, tree: TokenTree, looked_at: Ints | None = None) -> None:
        self.tree, self.looked_at = tree, looked_at

    @cached_property
    def table(self) -> ChainTable:
        return ChainTable(self.tree, self.looked_at)

    @cached_property
    def slices(self) -> Slices:
        return slices_of(self.tree)

    @cached_property
    def spans(self) -> Spans:
        return Spans(self.tree.end_N)


def tree_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    understudy_plan: Plan | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, heads, N, D) in, (1, N, heads, D) out."""
    if understudy_plan is None:
        raise ValueError(f"{NAME} attention was called without a plan; use train.tree_batch")
    if dropout or (sliding_window is not None and sliding_window < len(understudy_plan.tree)):
        raise ValueError("tree attention knows neither dropout nor sliding windows")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = query[0], key[0], value[0]
    how = kernel_for(v)
    if how == "c":
        out = TreeKernel.apply(q, k, v, understudy_plan.table, scale)  # type: ignore[no-untyped-call]
        return out.unsqueeze(0), None
    # under autocast norms and rotations leave float32 behind
    if how == "flex":
        out = attend(q.to(v.dtype), k.to(v.dtype), v, understudy_plan.spans, scale)
    else:
        wide = torch.promote_types(v.dtype, torch.float32)
        given = (x.to(wide) for x in (q, k, v))
        out = TreeFlash.apply(*given, understudy_plan.slices, scale).to(v.dtype)  # type: ignore[no-untyped-call]
    return out.unsqueeze(0), None


def kernel_for(value: Tensor) -> Literal["flex", "c", "slices"]:
    """How attention over this is computed."""
    if value.device.type != "cpu":
        return "flex"
    if value.dtype == torch.float64 or kernel(filled(value.shape[-1])) is None:
        return "slices"
    return "c"


def prepare_kernel(config: Any) -> None:
    """Compiles the C kernels for a model's configuration now: before forks would do it all at once,
    or a compiler can no longer be started."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for half in (False, True):
        kernel(filled(width), half)
    pointwise()


@contextmanager
def tree_attention(model: Any) -> Iterator[None]:
    """The model attends by plan while this is open."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, tree_attention_forward)
    with _attending(model, NAME):
        yield


def attention_in_use(model: Any) -> AbstractContextManager[None]:
    """Opened later, the model attends as it does now."""
    return _attending(model, model.config._attn_implementation)


@contextmanager
def _attending(model: Any, name: str) -> Iterator[None]:
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
