"""A second device on a machine that has none: the CPU under another number, where tensors are
wrapped. As between a CPU and a GPU, an operation on tensors of both is refused, but for numbers."""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

HOME, AWAY = torch.device("cpu"), torch.device("cpu", 1)
# of two devices by what they are
CROSSING = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Away(torch.Tensor):
    """A tensor of the other device; its numbers are in `held`."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=AWAY,
        )  # fmt: skip

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"Away({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class _Made(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class _Spelled(TorchFunctionMode):
    """`torch.tensor` and `tolist` do not reach the dispatcher."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") == AWAY:
            return Away(torch.tensor(*args, **kwargs | {"device": HOME}))
        if func is torch.Tensor.tolist and isinstance(args[0], Away):
            return args[0].held.tolist()
        return func(*args, **kwargs)


@contextmanager
def two_devices():
    """While it is open, `AWAY` can be named where tensors are made."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # by `Module.to`: others are copied
    try:
        with _Made(), _Spelled():
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def run(func, args, kwargs):
    flat, spec = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    away = [t for t in tensors if isinstance(t, Away)]
    here = [t for t in tensors if not isinstance(t, Away) and t.dim()]
    if away and here and func not in CROSSING:
        raise RuntimeError(f"{func}: tensors of two devices, {[tuple(t.shape) for t in here]} here")
    named = [x for x in flat if isinstance(x, torch.device)]
    there = named[-1] == AWAY if named else bool(away)
    if func is torch.ops.aten.copy_.default:
        there = isinstance(args[0], Away)
    plain = [x.held if isinstance(x, Away) else HOME if isinstance(x, torch.device) else x
             for x in flat]  # fmt: skip
    new_args, new_kwargs = tree_unflatten(plain, spec)
    out = func(*new_args, **new_kwargs)
    known = {id(x.held): x for x in flat if isinstance(x, Away)}
    results, how = tree_flatten(out)
    wrapped = [
        known.get(id(x)) if id(x) in known else Away(x) if there and isinstance(x, torch.Tensor)
        else x
        for x in results
    ]  # fmt: skip
    return tree_unflatten(wrapped, how)


def move(module):
    """The module's parameters and buffers, on the other device."""
    for part in module.modules():
        for name, p in list(part._parameters.items()):
            if p is not None:
                part._parameters[name] = _moved(p)
        for name, b in list(part._buffers.items()):
            if b is not None:
                part._buffers[name] = Away(b.detach())
    return module


_known = {}


def _moved(parameter):
    """One parameter for one: tied ones stay tied."""
    if id(parameter) not in _known:
        new = torch.nn.Parameter(Away(parameter.detach()), parameter.requires_grad)
        _known[id(parameter)] = (new, parameter)  # which keeps its id
    return _known[id(parameter)][0]
