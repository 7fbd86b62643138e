"""A value head: what return the model's state lets one expect, as a linear map of it.

It reads the last hidden state, after the norm, of the very forward pass that trains the policy, so
that a value costs one product of D numbers a position and a shared position has one value. Its
loss is the `value` stream's; `share` of that loss's gradient goes on into the model. A batch of
`value` entries alone trains the head alone, whatever the share: how a head is warmed up.
Dimensions: U positions, E entries, D hidden.
"""

from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from understudy.train.losses import StreamLoss

FILE = "value_head.safetensors"


class ValueConfig(BaseModel):
    """Options of the `value` stream."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share: float = Field(default=0.0, ge=0.0)  # of the gradient that reaches the model
    clip: PositiveFloat | None = None  # how far a value may go from `before`: PPO's clipped loss
    # the head's learning rate over the model's: a step moves a value by the rate times the sum of
    # the state's D numbers, hundredths at the rates that models of any width take
    lr_scale: PositiveFloat = 1.0


class ValueHead(nn.Module):
    """`hidden . weight + bias`, from zero: (U, D) -> (U,). Half precision is raised to float32."""

    def __init__(self, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(1, dtype=dtype))

    @classmethod
    def of(cls, model: Any) -> Self:
        """A head for a Hugging Face causal LM, where the model is."""
        weight: Tensor = model.get_output_embeddings().weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        return cls(weight.shape[1], wide).to(weight.device)

    def forward(self, hidden_UD: Tensor, share: float = 1.0) -> Tensor:
        with torch.autocast(hidden_UD.device.type, enabled=False):
            hidden = hidden_UD.to(self.weight.dtype)
            held = hidden.detach()
            if share == 1.0:
                held = hidden
            elif share:
                held = held + share * (hidden - held)
            return held @ self.weight + self.bias

    def tensors(self) -> dict[str, Tensor]:
        """The head as it is now; copies."""
        return {name: p.detach().clone() for name, p in self.named_parameters()}

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Takes the head that lies beside an adapter. Raises ValueError where it is corrupt or of
        another width."""
        file = folder / FILE
        try:
            found = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        for name, parameter in self.named_parameters():
            if name not in found or found[name].shape != parameter.shape:
                raise ValueError(f"{file} is the value head of another model: {name} does not fit")
            if not found[name].isfinite().all():
                raise ValueError(f"{file} is corrupt: {name} is not finite")
            parameter.copy_(found[name])


def value_loss(
    value_E: Tensor,
    weight_E: Tensor,
    return_E: Tensor,
    before_E: Tensor,
    clip: float | None = None,
) -> StreamLoss:
    """weight * (value - return)^2 / 2, summed. With `clip` the larger of that and the same of the
    value held within `clip` of `before` (PPO's implementation, arXiv 2005.12729); entries without
    `before` (NaN) are not clipped."""
    apart = (value_E - return_E).square()
    if clip is not None:
        before = torch.where(before_E.isnan(), value_E.detach(), before_E)
        held = before + (value_E - before).clamp(-clip, clip)
        apart = torch.maximum(apart, (held - return_E).square())
    return StreamLoss((weight_E * apart).sum() / 2)
