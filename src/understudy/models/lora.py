"""Low-rank adapters (LoRA, arXiv 2106.09685) on every linear layer of a causal LM's blocks.

The base weight stays in place under its own name (`...q_proj.weight`) with `lora_A` and `lora_B`
beside it, so that a state dict of an adapted model still holds the base model's keys. All linear
layers including the MLP are adapted, as "LoRA Without Regret" found necessary.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from understudy.models.linear import linear

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Rank and scale (alpha / rank); the seed fixes A's initialisation."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = PROJECTIONS
    seed: int = 0

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class LoRALinear(nn.Module):
    """`base(x) + scale * (x A^T) B^T`, A (rank, in) and B (out, rank); the base is frozen.

    A and B are float32, or float64 where the base is. Beside a base in half precision they take
    part in its type, each for itself: in one rounded matrix with the base's weights they would be
    lost, being small beside them.

    Where A and B are large beside the base weight, one matrix is made of them first: a token then
    costs three products with it, forward and back, against two with the base and three each with A
    and B. Under autocast that matrix is rounded once, as the weights of full fine-tuning are.
    """

    def __init__(self, base: nn.Linear, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.scale, self.enabled = config.scale, True
        a = torch.empty(config.rank, base.in_features)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        b = torch.zeros(base.out_features, config.rank)
        wide = torch.promote_types(base.weight.dtype, torch.float32)
        self.lora_A = nn.Parameter(a.to(base.weight.device, wide))
        self.lora_B = nn.Parameter(b.to(base.weight.device, wide))

    @property
    def merges(self) -> bool:
        """Whether one matrix is made of the base weight, A and B before the product."""
        if self.weight.dtype != self.lora_A.dtype:
            return False
        return 3 * (self.lora_A.numel() + self.lora_B.numel()) > self.weight.numel()

    def forward(self, x: Tensor) -> Tensor:
        if self.enabled and self.merges:
            with torch.autocast(x.device.type, enabled=False):
                weight = torch.addmm(self.weight, self.lora_B, self.lora_A, alpha=self.scale)
            return linear(x, weight, self.bias)
        y = linear(x, self.weight, self.bias)
        if not self.enabled:
            return y
        a, b = self.lora_A.to(self.weight.dtype), self.lora_B.to(self.weight.dtype)
        return y + self.scale * linear(linear(x, a), b)


def inject_lora(model: nn.Module, config: LoraConfig | None = None) -> list[str]:
    """Freeze `model` and adapt its blocks' linear layers; returns the adapted layers' names.

    Raises ValueError when the model is adapted already or has none of the targets.
    """
    config = config or LoraConfig()
    if any(isinstance(m, LoRALinear) for m in model.modules()):
        raise ValueError("the model already has LoRA layers; load a fresh base")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(config.seed)
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in config.targets
    ]
    if not names:
        raise ValueError(f"the model has no linear layers named {', '.join(config.targets)}")
    for name in names:
        parent, _, leaf = name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, leaf, LoRALinear(getattr(owner, leaf), config, generator))
    return names


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """The adapted layers by their names in the base model."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What a LoRA run trains: A and B of every adapted layer, in the model's order."""
    return [p for _, layer in lora_layers(model) for p in (layer.lora_A, layer.lora_B)]


def full_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What full fine-tuning trains: every parameter, thawed. The model has no adapters."""
    if any(isinstance(m, LoRALinear) for m in model.modules()):
        raise ValueError("full fine-tuning needs a model without LoRA layers")
    model.requires_grad_(True)
    return list(model.parameters())


def set_lora_enabled(model: nn.Module, enabled: bool) -> None:
    """Switch all adapters on or off."""
    for _, layer in lora_layers(model):
        layer.enabled = enabled


@contextmanager
def base_only(model: nn.Module) -> Iterator[None]:
    """The bare base within the block, e.g. as a reference model."""
    set_lora_enabled(model, False)
    try:
        yield
    finally:
        set_lora_enabled(model, True)


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A and B (detached, not copied) under PEFT's names, as vLLM reads them too."""
    tensors: dict[str, Tensor] = {}
    for name, layer in lora_layers(model):
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = layer.lora_A.detach()
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = layer.lora_B.detach()
    if not tensors:
        raise ValueError("the model has no LoRA layers")
    return tensors


@torch.no_grad()
def set_adapter_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write A and B under PEFT's names into the model. Raises ValueError on any mismatch."""
    own = adapter_tensors(model)
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())
        raise ValueError(f"the adapter's layers are not the model's; e.g. {odd[0]}")
    for name, parameter in own.items():
        if parameter.shape != tensors[name].shape:
            given, needed = tuple(tensors[name].shape), tuple(parameter.shape)
            raise ValueError(f"{name} has shape {given}, the model's is {needed}")
        parameter.copy_(tensors[name])
