"""torch.compile: few kernels in the place of many, for what lies between a model's products."""

from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def compiled(function: Any, backend: str = "inductor") -> Any:
    """The function, compiled when it is first called: for tensors of the sizes that it meets, but
    for dimensions of `any_number`."""
    return torch.compile(function, backend=backend)


def any_number(x: Tensor, dimension: int) -> Tensor:
    """The tensor, whose size in this dimension compiled code must not build on; a size of 1 it
    always does."""
    if x.shape[dimension] > 1:
        from torch._dynamo import mark_dynamic  # takes seconds to import

        mark_dynamic(x, dimension)
    return x
