"""A decoder's last layer, where somebody looks at it.

Below the last layer every node is seen by its descendants. What the last layer makes of a node is
seen by the heads alone, and they look at nodes with entries: prompts and what tools said need only
their keys and values there. The layer's MLP leaves out all other nodes, and its attention on a CPU
(train.tree_kernel) those before and after them in each chain.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from understudy.core.token_tree import Ints
from understudy.train.attention import Plan
from understudy.train.layers import How, are_known, forwards, in_pieces, layers_of


def can_leave_out(decoder: Any) -> bool:
    """Whether the last layer is one whose parts are known here."""
    return are_known(layers_of(decoder)[-1:])


@contextmanager
def only_at(decoder: Any, nodes_U: Ints, plan: Plan, how: How = "plain") -> Iterator[None]:
    """While this is open, the decoder's hidden states are (1, U, hidden): of these nodes alone."""
    layer = decoder.layers[-1]
    used = torch.from_numpy(nodes_U).to(next(layer.parameters()).device)
    needed = Plan(plan.tree, nodes_U)

    def last(hidden_states: Tensor, **given: Any) -> Tensor:
        given["understudy_plan"] = needed
        return in_pieces(layer, hidden_states, used_U=used, how=how, **given)

    with forwards([layer], [last]):
        yield
