"""Muon for hidden matrices, AdamW for embeddings, head and norms, one step over both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration towards U V^T for a batch of matrices (..., rows <= columns)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).bfloat16()
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.float()


class Optimiser:
    """Muon (Jordan 2024) and AdamW (Loshchilov and Hutter 2019) over named parameters.

    Rates are given at each step, so that the schedule lives outside.
    """

    def __init__(
        self,
        weights: dict[str, nn.Parameter],
        momentum: float = 0.95,
        decay: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.97),
        norm_factor: float = 4.0,
    ) -> None:
        self.weights = weights
        self.momentum, self.decay, self.betas = momentum, decay, betas
        self.norm_factor = norm_factor  # rate of the norms, in AdamW's rates
        self.steps = 0
        self.groups: dict[tuple[int, int], list[str]] = {}
        self.plain: list[str] = []
        for name, value in weights.items():
            if value.dim() == 2 and name not in EMBEDDINGS:
                rows, cols = sorted(value.shape)
                self.groups.setdefault((rows, cols), []).append(name)
            else:
                self.plain.append(name)
        zeros = {n: torch.zeros_like(v) for n, v in weights.items()}
        self.first = zeros
        self.second = {n: torch.zeros_like(weights[n]) for n in self.plain}

    @torch.no_grad()
    def step(self, muon_lr: float, adam_lr: float) -> None:
        """One update from `.grad`; missing gradients are an error."""
        self.steps += 1
        for names in self.groups.values():
            self._muon(names, muon_lr)
        b1, b2 = self.betas
        for name in self.plain:
            p, g = self.weights[name], self.weights[name].grad
            assert g is not None, name
            self.first[name].lerp_(g, 1 - b1)
            self.second[name].lerp_(g.square(), 1 - b2)
            first = self.first[name] / (1 - b1**self.steps)
            second = self.second[name] / (1 - b2**self.steps)
            if p.dim() == 2:
                p.mul_(1 - adam_lr * self.decay)
            lr = adam_lr if p.dim() == 2 else adam_lr * self.norm_factor
            p.sub_(lr * first / (second.sqrt() + 1e-10))

    def _muon(self, names: list[str], lr: float) -> None:
        stack = []
        for name in names:
            g = self.weights[name].grad
            assert g is not None, name
            self.first[name].lerp_(g, 1 - self.momentum)
            g = g.lerp(self.first[name], self.momentum)
            stack.append(g if g.shape[0] <= g.shape[1] else g.T)
        updates = orthogonalise(torch.stack(stack))
        for name, u in zip(names, updates, strict=True):
            p = self.weights[name]
            scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
            p.mul_(1 - lr * self.decay)
            p.sub_((u if p.shape == u.shape else u.T) * (lr * scale))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "first": self.first, "second": self.second}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])
        self.first, self.second = state["first"], state["second"]
