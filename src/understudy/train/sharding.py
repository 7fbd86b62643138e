"""Models that do not fit one process: each holds a part of every parameter (torch's FSDP2).

A layer's parameters are gathered while it computes, forward and again backward, and let go of
after it; what is outside the layers (embeddings, the last norm, the head) is gathered for the
whole of a micro-batch. With an adapter only the frozen base is sharded: adapters are small, stay
whole in every process and are summed as without sharding. Gradients of sharded parameters are
summed over the processes by the backward pass, and each process updates its parts.

Gathering is done together: every process makes as many passes as the one with the most
micro-batches (train.gradients).
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import Tensor, nn

METHOD = "with_whole_parameters"  # of a sharded model: calls what it is given


def shard(model: Any, whole: set[nn.Parameter]) -> None:
    """Shards a Hugging Face causal LM over the processes, in place, but for the parameters in
    `whole`. Raises ValueError for a model whose layers are not found."""
    from torch.distributed import get_world_size
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    layers = getattr(model.get_decoder(), "layers", None)
    if not layers:
        raise ValueError(f"sharding is not supported for {type(model).__name__}: it has no layers")
    place = next(model.parameters()).device.type
    mesh = init_device_mesh(place, (get_world_size(),))
    for part in (*layers, model):
        sharded: Any = fully_shard(part, mesh=mesh, ignored_params=whole)
        sharded.set_gradient_divide_factor(1.0)  # a sum: losses are divided by whole counts
        sharded.set_force_sum_reduction_for_comms(True)
    setattr(model, METHOD, MethodType(_call, model))
    register_fsdp_forward_method(model, METHOD)


def _call(_: nn.Module, compute: Callable[[], Any]) -> Any:
    return compute()


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds but a part of it."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on the CPU. Of a sharded one all processes have to ask."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return full.detach().contiguous().cpu()


def put(tensor: Tensor, like: Tensor) -> Tensor:
    """All of a tensor, which every process has, where `like` is: sharded as that is."""
    if not is_sharded(like) or not tensor.dim():
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    there: Any = like
    return distribute_tensor(
        tensor.to(like.device), there.device_mesh, there.placements, src_data_rank=None
    )


def gather(model: nn.Module, keep: bool) -> None:
    """Ends the sharding of what is trained: where `keep`, the model has whole parameters again.
    To be called by all processes; nothing is computed with the model afterwards."""
    found: dict[int, nn.Parameter] = {}
    places = [(m, n, p) for m in model.modules() for n, p in m._parameters.items()]
    for module, name, parameter in places:
        if parameter is None or not parameter.requires_grad or not is_sharded(parameter):
            continue
        if id(parameter) not in found:
            full = whole(parameter)  # all take part
            found[id(parameter)] = nn.Parameter(full) if keep else parameter
        module._parameters[name] = found[id(parameter)]
