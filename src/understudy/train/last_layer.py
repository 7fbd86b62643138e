"""A decoder's last layer, where somebody looks at it.

Below the last layer every node is seen by its descendants. What the last layer makes of a node is
seen by the heads alone, and they look at nodes with entries: prompts and what tools said need only
their keys and values there. The layer's attention leaves out chains without such a node, and its
MLP all other nodes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from understudy.core.token_tree import Ints
from understudy.train.attention import Plan
from understudy.train.layers import are_known, forwards, in_pieces, layers_of
from understudy.train.tree_flash import Below, Chains, Slices

WHOLE = 32  # a chain that so few nodes could be left out of stays beside its like


def can_leave_out(decoder: Any) -> bool:
    """Whether the last layer is one whose parts are known here."""
    return are_known(layers_of(decoder)[-1:])


@contextmanager
def only_at(decoder: Any, nodes_U: Ints, plan: Plan, compile: bool = False) -> Iterator[None]:
    """While this is open, the decoder's hidden states are (1, U, hidden): of these nodes alone."""
    layer = decoder.layers[-1]
    used = torch.from_numpy(nodes_U).to(next(layer.parameters()).device)
    needed = plan_at(plan, nodes_U)

    def last(hidden_states: Tensor, **how: Any) -> Tensor:
        how["understudy_plan"] = needed
        return in_pieces(layer, hidden_states, used_U=used, compile=compile, **how)

    with forwards([layer], [last]):
        yield


def plan_at(plan: Plan, nodes_U: Ints) -> Plan:
    """The plan with these nodes' attention, ascending; that of others is left out where that saves
    something. By one mask all of it is computed."""

    def looked_at(start: int, stop: int) -> tuple[int, int] | None:
        """From the first of the nodes within start..stop to the last."""
        a, b = nodes_U.searchsorted([start, stop])
        return (int(nodes_U[a]), int(nodes_U[b - 1]) + 1) if a < b else None

    blocks = []
    for block in plan.blocks:
        if (own := looked_at(block.start, block.stop)) is not None:
            blocks.append(replace(block, start=own[0], stop=own[1]))
    chains: list[Chains] = []
    below: list[Below] = []
    for group in plan.slices.chains:
        for start in range(group.start, group.start + group.count * group.length, group.length):
            if (own := looked_at(start, start + group.length)) is None:
                continue
            first, stop = own
            if first < start + WHOLE:
                first, stop = start, start + group.length
            else:
                below.append(Below(first, stop, start, first))
            last = chains[-1] if chains else None
            if (
                last
                and last.length == stop - first
                and last.start + last.count * last.length == first
            ):
                chains[-1] = replace(last, count=last.count + 1)
            else:
                chains.append(Chains(first, 1, stop - first))
    for part in plan.slices.below:
        if (own := looked_at(part.start, part.stop)) is not None:
            below.append(replace(part, start=own[0], stop=own[1]))
    return Plan(tuple(blocks), Slices(tuple(chains), tuple(below)), plan.spans, plan.nodes)
