"""AdamW over whatever requires a gradient, and the learning rate as a function of the step."""

import math
from typing import Literal, Self

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)  # fmt: skip
from torch import nn

from understudy.train.losses import LossConfig
from understudy.train.tree_batch import Layout
from understudy.train.value_head import ValueConfig

Schedule = Literal["constant", "linear", "cosine"]


class TrainerConfig(BaseModel):
    """How rows become a step. Defaults: LoRA policy gradients (LoRA Without Regret; prime-rl)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lr: PositiveFloat = 1e-4
    schedule: Schedule = "constant"
    warmup_steps: NonNegativeInt = 0
    total_steps: PositiveInt | None = None  # needed by schedules that decay
    min_lr_share: float = Field(default=0.0, ge=0.0, le=1.0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: float = Field(default=0.0, ge=0.0)
    grad_clip: PositiveFloat | None = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast; parameters and head stay
    gradient_checkpointing: bool = False  # hidden states within layers are computed again
    # Layers and head by torch (train.layers), at the first step. None: on a GPU, where it can
    compile: bool | None = None
    max_tokens_per_microbatch: PositiveInt = 4096
    layout: Layout = "tree"
    temperature: PositiveFloat = 1.0  # of the sampled distribution that anchors belong to
    loss: LossConfig = LossConfig()
    value: ValueConfig = ValueConfig()
    max_skipped: PositiveInt = 3  # consecutive steps with a non-finite loss or gradient

    @model_validator(mode="after")
    def _can_compile(self) -> Self:
        if self.compile and self.cannot_compile:
            raise ValueError(f"{self.cannot_compile} knows no compiled layers: take compile=false")
        return self

    @property
    def cannot_compile(self) -> str:
        """The option that knows no compiled layers; empty where there is none."""
        if self.gradient_checkpointing:
            return "gradient_checkpointing"
        return "layout=padded" if self.layout == "padded" else ""

    def lr_at(self, step: int) -> float:
        """The learning rate of the step with this 0-based number."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        if self.total_steps is None:
            raise ValueError(f"schedule {self.schedule!r} needs total_steps")
        span = max(1, self.total_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / span)
        share = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.lr * (self.min_lr_share + (1 - self.min_lr_share) * share)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, by name. Raises ValueError where there are none."""
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise ValueError("no parameter requires a gradient; add an adapter or unfreeze the model")
    return found


def make_optimiser(
    parameters: list[nn.Parameter], config: TrainerConfig, head: list[nn.Parameter] | None = None
) -> torch.optim.AdamW:
    """AdamW over the model's parameters and, at a rate of its own, a value head's. A group's
    learning rate is `lr_at` times its `scale`."""
    groups: list[dict[str, object]] = [{"params": parameters, "scale": 1.0}]
    if head:
        groups.append({"params": head, "scale": config.value.lr_scale})
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
