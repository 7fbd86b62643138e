"""Where a model lies and of which type its weights are, as options say it in words."""

import os
import re
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator

NAMES = re.compile(r"auto|cpu|cuda(:\d+)?")


def _spelled(name: str) -> str:
    if not NAMES.fullmatch(name):
        raise ValueError(f"must be auto, cpu, cuda or cuda:N, not {name!r}")
    return name


Device = Annotated[str, AfterValidator(_spelled)]
Dtype = Literal["auto", "fp32", "bf16"]
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def device_of(name: str) -> torch.device:
    """The device that is meant; `auto` is CUDA where there is one, else the CPU. Of several
    processes that a launcher started here, each takes the GPU of its own number.

    Raises ValueError for what is no device's name, is not on this machine, or is one GPU for
    several processes.
    """
    if not NAMES.fullmatch(name):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = "was built without CUDA" if torch.version.cuda is None else "finds no GPU"
        raise ValueError(f"device={name}: PyTorch {built} here; take device=cpu")
    count = torch.cuda.device_count()
    if ":" not in name:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % count)
    if int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
        raise ValueError(f"device={name} is one GPU for several processes; take device=cuda")
    device = torch.device(name)
    if device.index is not None and device.index >= count:
        raise ValueError(f"device={name}: this machine's last GPU is cuda:{count - 1}")
    return device


def dtype_of(name: Dtype, device: torch.device, whole: bool = False) -> torch.dtype:
    """The type of a base's weights; `auto` is bf16 on CUDA, else fp32. `whole`: they are trained
    themselves, in fp32: most updates are smaller than what bf16 can tell from a weight.

    Raises ValueError where `whole` weights are to be bf16.
    """
    if whole and name == "bf16":
        raise ValueError("tune=full trains weights in fp32: leave dtype=bf16 out")
    if name == "auto":
        name = "bf16" if device.type == "cuda" and not whole else "fp32"
    return TYPES[name]
