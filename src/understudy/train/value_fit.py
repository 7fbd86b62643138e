"""A value head fitted in closed form: ridge regression of returns on the model's states.

A linear head on frozen states has one best fit, and it takes one forward pass to find; gradient
steps at a policy's learning rate end far from it. The penalty is the one of which a fit to one half
of the episodes foretells the other half best, of those that leave the fit few degrees of freedom
beside the episodes: advantages of the same episodes are to be taken from it, and a head that knows
each episode's return by heart leaves none. Where no fit does better than the mean return, the head
says that. Only sums over entries are kept, so that any number of them costs D x D numbers, and
those of earlier fits may fade instead of going (`Known`): in a step a policy changes little.
Dimensions: V entries, D hidden, F = D + 1 with the constant.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.train.value_head import ValueHead

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # over the states' mean square, an entry
EPISODES = 10  # for each degree of freedom, at least


@dataclass(slots=True)
class Moments:
    """Sums over entries of products of states and returns, in float64."""

    squares_FF: Tensor
    products_F: Tensor
    returns: float = 0.0  # of their squares
    count: float = 0.0

    @classmethod
    def of(cls, width: int) -> "Moments":
        return cls(
            torch.zeros(width + 1, width + 1, dtype=torch.float64),
            torch.zeros(width + 1, dtype=torch.float64),
        )

    def add(self, states_VD: Tensor, returns_V: Tensor) -> None:
        """Count entries in."""
        states = states_VD.detach().to("cpu", torch.float64)
        returns = returns_V.detach().to("cpu", torch.float64)
        states_VF = torch.cat([states, states.new_ones(len(states), 1)], dim=1)
        self.squares_FF += states_VF.T @ states_VF
        self.products_F += states_VF.T @ returns
        self.returns += float(returns.square().sum())
        self.count += len(states)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.squares_FF + other.squares_FF,
            self.products_F + other.products_F,
            self.returns + other.returns,
            self.count + other.count,
        )

    def faded(self, by: float) -> "Moments":
        """As if every entry counted so much."""
        return Moments(
            self.squares_FF * by, self.products_F * by, self.returns * by, self.count * by
        )

    @property
    def mean_F(self) -> Tensor:
        """The fit that says the mean return of every state."""
        fit = torch.zeros_like(self.products_F)
        fit[-1] = self.products_F[-1] / (self.count or 1.0)
        return fit

    def fit_F(self, penalty: float) -> Tensor:
        """The ridge fit; the constant is not penalised."""
        return self._solved(penalty, self.products_F.unsqueeze(1)).squeeze(1)

    def freedom(self, penalty: float) -> float:
        """The degrees of freedom of the ridge fit, the constant left out."""
        return float(self._solved(penalty, self.squares_FF).trace()) - 1

    def _solved(self, penalty: float, right_FX: Tensor) -> Tensor:
        diagonal = self.squares_FF.diagonal()
        ridge = torch.full_like(diagonal, penalty * float(diagonal[:-1].mean()))
        ridge[-1] = 0.0
        return torch.linalg.solve(self.squares_FF + torch.diag(ridge), right_FX)

    def error(self, fit_F: Tensor) -> float:
        """The sum of squared errors of a fit."""
        explained = fit_F @ self.squares_FF @ fit_F - 2 * (fit_F @ self.products_F)
        return max(0.0, self.returns + float(explained))


@dataclass(frozen=True, slots=True)
class Known:
    """What a head is fitted to: the moments of two halves of so many episodes, those of earlier
    fits faded."""

    halves: tuple[Moments, Moments]
    episodes: float

    def after(self, earlier: "Known | None", keep: float) -> "Known":
        """With what was known before, which counts `keep` times what it did."""
        if earlier is None:
            return self
        one, other = (a + b.faded(keep) for a, b in zip(self.halves, earlier.halves, strict=True))
        return Known((one, other), self.episodes + keep * earlier.episodes)

    @property
    def finite(self) -> bool:
        """Whether it is of numbers alone."""
        return all(bool(t.isfinite().all()) for t in self.tensors())

    def tensors(self) -> list[Tensor]:
        """Of each half (F + 2, F): the squares, the products, a line of the sum of squared returns
        and the number of entries; then the number of episodes (1,)."""
        found = []
        for half in self.halves:
            last_F = torch.zeros_like(half.products_F)
            last_F[:2] = torch.tensor([half.returns, half.count], dtype=last_F.dtype)
            rows = (half.squares_FF, half.products_F[None], last_F[None])
            found.append(torch.cat(rows))
        return [*found, torch.tensor([self.episodes], dtype=torch.float64)]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "Known":
        """What `tensors` gave."""
        one, other = (
            Moments(t[:-2].clone(), t[-2].clone(), float(t[-1, 0]), float(t[-1, 1]))
            for t in tensors[:2]
        )
        return cls((one, other), float(tensors[2]))


def fit(halves: Sequence[Moments], episodes: float) -> tuple[Tensor, float]:
    """The fit to two halves of so many episodes together (F,), and the share of the variance of one
    half's returns that a fit to the other explains, the mean of both ways."""
    one, other = halves
    both = one + other
    told = float(both.squares_FF.diagonal()[:-1].sum()) > 0  # states that are numbers, not all 0
    few = [p for p in PENALTIES if both.freedom(p) * EPISODES <= episodes] if told else []
    if not few or not one.count or not other.count:
        return both.mean_F, 0.0
    pairs = ((one, other), (other, one))
    plain = sum(b.error(a.mean_F) for a, b in pairs)
    errors = {p: sum(b.error(a.fit_F(p)) for a, b in pairs) for p in few}
    best = min(errors, key=lambda p: errors[p])
    if not plain or errors[best] >= plain:
        return both.mean_F, 0.0
    return both.fit_F(best), 1 - errors[best] / plain


class States(ValueHead):
    """In the place of a value head: remembers the states that it is asked about, and says of each
    its number among them."""

    def forward(self, hidden_UD: Tensor, share: float = 1.0) -> Tensor:
        self.seen_UD = hidden_UD.detach()
        wide = torch.promote_types(hidden_UD.dtype, torch.float32)
        return torch.arange(len(hidden_UD), dtype=wide, device=hidden_UD.device)
