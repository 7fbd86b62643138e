"""Where and how the model of a recipe computes: options that all training recipes have."""

from typing import Any, Literal

from understudy.models.devices import Device, Dtype, device_of, dtype_of
from understudy.models.loading import LoadedBase, load_base
from understudy.recipes.isolation import is_isolated
from understudy.runs.config import Config
from understudy.train.tree_batch import Layout


class Computing(Config):
    """What trains, plays and evaluates is on one device. Adapters and the optimiser's states are
    float32 whatever the base's weights are."""

    device: Device = "auto"  # cpu, cuda or cuda:N; auto: CUDA where there is one
    dtype: Dtype = "auto"  # of the base's weights: fp32 or bf16; auto: bf16 on CUDA
    precision: Literal["fp32", "bf16"] = "bf16"  # of a step's products; fp32: of the weights' type
    layout: Layout = "tree"  # of rows in a step: beginnings shared, packed end to end, or padded
    compile: bool | None = None  # a step's kernels (train.compiling); None: on CUDA, where it can
    gradient_checkpointing: bool = False  # less memory, more time

    def of_steps(self) -> dict[str, Any]:
        """Those of these options that a TrainerConfig has too."""
        names = ("precision", "layout", "compile", "gradient_checkpointing")
        return {name: getattr(self, name) for name in names}

    def load(self, base: str, renderer: str | None = None, whole: bool = False) -> LoadedBase:
        """A base where it computes (models.loading); `whole`: to be trained as a whole.

        Raises what `load_base` does, and ValueError for a device or a type that cannot be.
        """
        device = device_of(self.device)
        if device.type == "cuda" and self.layout != "padded" and is_isolated():
            raise ValueError(
                f"--isolated starts no compiler, and on a GPU layout={self.layout} needs one: take "
                "--set layout=padded, or --set device=cpu"
            )
        return load_base(base, dtype_of(self.dtype, device, whole), device, renderer)


ON_CPU = Computing(device="cpu")
