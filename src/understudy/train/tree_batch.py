"""Micro-batches: rows arranged for one forward pass of a Hugging Face causal LM.

`tree`    shared beginnings once, attention by plan (see attention.py)
`packed`  rows end to end, nothing shared, attention by plan
`padded`  a right-padded batch under the model's own causal attention: what any trainer would do

All three compute the same numbers. Rows are put in lexicographic order of ids and cut into
micro-batches where neighbours share least, so the caller's order does not matter. A loss that looks
at whole episodes (LossConfig.of_sequences) needs their rows in one micro-batch, and in one process:
`whole` keeps rows together whose `rl` entries have one sample id.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from understudy.core.rows import Row
from understudy.core.token_tree import (
    STREAMS,
    Ints,
    TokenTree,
    build,
    build_apart,
    shared_lengths,
    sorted_rows,
)
from understudy.train.attention import Plan, tree_attention
from understudy.train.checkpointing import checkpointed
from understudy.train.head import head_logprobs
from understudy.train.last_layer import can_leave_out, only_at
from understudy.train.layers import fused_layers, fusing
from understudy.train.value_head import ValueHead

Layout = Literal["tree", "packed", "padded"]
# A micro-batch costs about as much as this many tokens beside its tokens: where cutting at a
# shared beginning is cheaper than one more micro-batch.
MICROBATCH_COST = 256
# Beyond so many tokens it leaves the caches of a CPU, and each costs so much more: what shares
# little is better cut, which also takes less memory (`python -m bench.train_microbatches`).
CACHED, BEYOND = 1536, 0.25
# On a GPU one that is large is no dearer, but each has to ask for thousands of kernels.
GPU_MICROBATCH_COST = 8192
# Nodes are filled up to a multiple of this: oneDNN compiles a kernel for each number that it meets.
NODES = 128


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that go through the model together; `rows` indexes the caller's list."""

    tree: TokenTree
    rows: tuple[int, ...]
    layout: Layout

    @property
    def tokens_computed(self) -> int:
        """Positions that the model runs on, padding included."""
        if self.layout == "padded":
            return len(self.tree.chains_C2) * int((self.tree.depth_N.max()) + 1)
        return len(self.tree)


@dataclass(frozen=True, slots=True)
class Forward:
    """Logprobs of the tree's entries in their order, entropies of each entry's distribution; both
    0 for `value` entries, whose values `value_E` has (0 for all others)."""

    logprobs_E: Tensor
    entropy_E: Tensor
    value_E: Tensor


def micro_batches(
    rows: Sequence[Row], max_tokens: int, layout: Layout, whole: bool = False, device: str = "cpu"
) -> list[MicroBatch]:
    """All rows with tokens, in micro-batches of at most `max_tokens` computed tokens each. A row
    that is longer by itself gets a micro-batch of its own, and with `whole` an episode that is.
    `device` is the type of the one where they are computed: it has a say in where to cut."""
    kept = [i for i, row in enumerate(rows) if row.ids]
    order, shared = sorted_rows([rows[i] for i in kept])
    if layout == "padded":
        order = sorted(order, key=lambda k: len(rows[kept[k]].ids))  # stable: still canonical
    groups = _together([rows[i] for i in kept], order) if whole else [[k] for k in order]
    if whole:
        order = [k for group in groups for k in group]
        shared = shared_lengths([rows[i] for i in kept], order)
    if layout != "tree":
        shared = np.zeros_like(shared)
    lengths = [len(rows[kept[k]].ids) for k in order]
    begins = {0, *accumulate(len(group) for group in groups)}
    costs = (MICROBATCH_COST, BEYOND) if device == "cpu" else (GPU_MICROBATCH_COST, 0.0)
    cuts = _cuts(lengths, shared.tolist(), begins, max_tokens, layout == "padded", costs)
    batches = []
    for start, stop in pairwise(cuts):
        members = tuple(kept[k] for k in order[start:stop])
        chosen = [rows[i] for i in members]
        tree = build(chosen) if layout == "tree" else build_apart(chosen)
        batches.append(MicroBatch(tree, members, layout))
    return batches


def split_rows(rows: Sequence[Row], parts: int, whole: bool = False) -> list[list[Row]]:
    """Exactly `parts` lists, some possibly empty, of about equal work; rows that share a
    beginning stay together, so that little is computed twice, and with `whole` an episode's."""
    order, shared = sorted_rows(rows)
    groups = _together(rows, order) if whole else [[r] for r in order]
    if whole:
        order = [r for group in groups for r in group]
        shared = shared_lengths(rows, order)
    cost = {r: len(rows[r].ids) - int(s) for r, s in zip(order, shared, strict=True)}
    if len(cost) > 1:
        cost[order[0]] -= int(shared[1:].min())  # what all share, every part computes
    split: list[list[Row]] = [[] for _ in range(parts)]
    total, before = sum(cost.values()), 0
    for group in groups:
        own = sum(cost[r] for r in group)
        part = min(parts - 1, int(parts * (before + own / 2) / max(1, total)))
        split[part] += [rows[r] for r in group]
        before += own
    return split


def _together(rows: Sequence[Row], order: Sequence[int]) -> list[list[int]]:
    """The rows' numbers in this order, but those of one episode together, at its first one's place.
    A row is of the episode that its first `rl` entry names."""
    groups: dict[str | int, list[int]] = {}
    for r in order:
        named = next((e.sample_id for e in rows[r].entries if e.stream == "rl"), "")
        groups.setdefault(named or r, []).append(r)
    return list(groups.values())


def _cuts(
    lengths: list[int],
    shared: list[int],
    begins: set[int],
    max_tokens: int,
    padded: bool,
    costs: tuple[float, float],
) -> list[int]:
    """Where to cut the ordered rows, at some of `begins`: least total work (dynamic programme over
    the last cut). `costs` are those of a micro-batch and of each token beyond the cached ones."""
    n = len(lengths)
    best = [0.0] + [float("inf")] * n
    last = [0] * (n + 1)
    for start in sorted(begins - {n}):
        size, longest, alone = 0, 0, True
        for stop in range(start + 1, n + 1):
            longest = max(longest, lengths[stop - 1])
            size += lengths[stop - 1] - (0 if stop == start + 1 else shared[stop - 1])
            if stop not in begins:
                continue
            tokens = longest * (stop - start) if padded else size
            if tokens > max_tokens and not alone:
                break
            alone = False
            cost = best[start] + tokens + costs[0] + costs[1] * max(0, tokens - CACHED)
            if cost < best[stop]:
                best[stop], last[stop] = cost, start
    cuts = [n]
    while cuts[-1] > 0:
        cuts.append(last[cuts[-1]])
    return cuts[::-1]


def forward(
    model: Any,
    batch: MicroBatch,
    temperature: float = 1.0,
    value_head: ValueHead | None = None,
    share: float = 1.0,
    checkpointing: bool = False,
    compile: bool = False,
) -> Forward:
    """The batch through decoder and heads. Gradients flow into the logprobs and the values, and
    `share` of the values' gradient into the decoder. With `checkpointing` the backward pass
    computes each layer again from its input, with `compile` torch compiles layers and head.

    Raises ValueError for a model whose logits are changed after the head (soft-capping, scaling),
    for `value` entries without a value head, or where layers cannot be computed again.
    """
    _check(model)
    tree = batch.tree
    device = next(model.parameters()).device
    is_value = tree.stream_E == STREAMS.index("value")
    order = np.argsort(tree.node_E, kind="stable")
    said, valued = order[~is_value[order]], order[is_value[order]]
    if len(valued) and value_head is None:
        raise ValueError("there are value entries and no value head: Trainer(..., value_head=...)")
    learns = torch.is_grad_enabled() and (len(said) > 0 or share != 0.0)
    saving = checkpointed(model.get_decoder()) if checkpointing and learns else nullcontext()
    nodes_U = np.unique(tree.node_E)
    with torch.set_grad_enabled(learns), saving:
        hidden_UD = _hidden(model, batch, nodes_U, checkpointing, compile, device)
    wide = torch.promote_types(hidden_UD.dtype, torch.float32)
    nothing = torch.zeros(len(order), dtype=wide, device=device)
    logprobs_E = entropy_E = value_E = nothing
    if len(said):
        used, owner_E = _owners(nodes_U.searchsorted(tree.node_E[said]), device)
        head = head_logprobs(
            hidden_UD.index_select(0, used),
            model.get_output_embeddings(),
            owner_E,
            torch.from_numpy(tree.target_E[said]).to(device),
            temperature,
            fused=compile,
        )
        places = torch.from_numpy(said).to(device)
        logprobs_E = nothing.index_copy(0, places, head.logprobs_E)
        entropy_E = nothing.index_copy(0, places, head.entropy_U[owner_E])
    if len(valued) and value_head is not None:
        used, owner_V = _owners(nodes_U.searchsorted(tree.node_E[valued]), device)
        values_U = value_head(hidden_UD.index_select(0, used), share)
        value_E = nothing.index_copy(0, torch.from_numpy(valued).to(device), values_U[owner_V])
    return Forward(logprobs_E, entropy_E, value_E)


def _owners(nodes_E: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """What entries look at, each once and ascending, and which of them is whose."""
    nodes, owner = np.unique(nodes_E, return_inverse=True)
    return torch.from_numpy(nodes).to(device), torch.from_numpy(owner.reshape(-1)).to(device)


def _hidden(
    model: Any,
    batch: MicroBatch,
    nodes_U: Ints,
    checkpointing: bool,
    compile: bool,
    device: torch.device,
) -> Tensor:
    """Hidden states (U, hidden) after the last norm, of these nodes."""
    tree = batch.tree
    decoder = model.get_decoder()
    if batch.layout == "padded":
        ids, rows_N = _padded(tree)
        out = decoder(input_ids=torch.from_numpy(ids).to(device), use_cache=False)
        hidden: Tensor = out.last_hidden_state.flatten(0, 1)
        return hidden.index_select(0, torch.from_numpy(rows_N[nodes_U]).to(device))
    filling = (0, -len(tree) % NODES)  # seen by nobody, not looked at
    plan = Plan(tree)
    # a layer that is computed again needs its own forward pass
    trims = not checkpointing and len(nodes_U) > 0 and can_leave_out(decoder)
    used = np.pad(nodes_U, (0, -len(nodes_U) % NODES), mode="edge")
    how = fusing(decoder, compile)
    narrow = only_at(decoder, used, plan, how) if trims else nullcontext()
    with tree_attention(decoder), fused_layers(decoder, how), narrow:
        out = decoder(
            input_ids=torch.from_numpy(np.pad(tree.tokens_N, filling)).to(device).unsqueeze(0),
            position_ids=torch.from_numpy(np.pad(tree.depth_N, filling)).to(device).unsqueeze(0),
            use_cache=False,
            understudy_plan=plan,
        )
    hidden = out.last_hidden_state[0]
    if trims:
        return hidden[: len(nodes_U)]
    return hidden.index_select(0, torch.from_numpy(nodes_U).to(device))


def _padded(tree: TokenTree) -> tuple[Any, Any]:
    """(rows, longest) ids padded on the right, and each node's place in it, flattened. Causal
    attention never looks right, so padding needs no mask."""
    chains = tree.chains_C2
    longest = int((chains[:, 1] - chains[:, 0]).max())
    row_N = np.repeat(np.arange(len(chains)), chains[:, 1] - chains[:, 0])
    place_N = row_N * longest + tree.depth_N
    ids = np.zeros(len(chains) * longest, dtype=np.int64)
    ids[place_N] = tree.tokens_N
    return ids.reshape(len(chains), longest), place_N


def _check(model: nn.Module) -> None:
    config: Any = model.config
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, name, None) not in (None, 1.0):
            raise ValueError(f"models with {name} are not supported by the trainer's head")
