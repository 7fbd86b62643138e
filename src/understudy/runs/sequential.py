"""Alarms that may be looked at after every step: e-processes.

An e-process is wealth won by betting against a hypothesis. Where the hypothesis holds, the chance
that it ever reaches 1/alpha is at most alpha (Ville's inequality), however long the run and however
often one looks (A. Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference",
Statistical Science 38, 2023). Observations that depend on each other, such as the episodes of one
group, are averaged before they are bet on, which is valid under any dependence. Half of the wealth
is there from the start, the rest is paid in as time goes on, so that what goes wrong late is seen
too, though later: what was lost before does not count against it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_BETS = (0.1, 0.25, 0.5)  # shares of the largest bet; each has a third of the wealth
_REST = 0.1  # of its due: how rare a class that hardly comes is taken to be


@dataclass(slots=True)
class Wealth:
    """What is left and won of one bet that is made again and again: its logarithm, and how often it
    was made."""

    log: float = -math.log(2)
    bets: int = 0

    def bet(self, gain: float) -> None:
        """Take the logarithm of what a bet multiplies the wealth by. Before the n-th, 1 of
        2 n (n + 1) is paid in: 1/2 in all."""
        self.bets += 1
        self.log = _log_sum([self.log, -math.log(2 * self.bets * (self.bets + 1))]) + gain


class Share:
    """Does a share in [0, 1] stay at or below `most` in the mean?"""

    def __init__(self, most: float, alpha: float) -> None:
        if not (0 < most < 1 and 0 < alpha < 1):
            raise ValueError(f"most and alpha lie between 0 and 1, got {most} and {alpha}")
        self.most, self.alpha = most, alpha
        self.bets = [Wealth() for _ in _BETS]

    def see(self, values: Sequence[float]) -> bool:
        """Take independent shares; whether the alarm goes off, which begins anew then."""
        for wealth, bet in zip(self.bets, _BETS, strict=True):
            wealth.bet(sum(math.log1p(bet * (value / self.most - 1)) for value in values))
        alarm = self.level >= 1.0
        if alarm:
            self.bets = [Wealth() for _ in _BETS]
        return alarm

    @property
    def level(self) -> float:
        """How far the alarm is on its way: 1 is the alarm."""
        wealth = _log_mean([w.log for w in self.bets])
        return max(0.0, wealth / -math.log(self.alpha))

    def state(self) -> list[list[float]]:
        """As JSON, for `restore`."""
        return [[w.log, w.bets] for w in self.bets]

    def restore(self, state: Sequence[Sequence[float]]) -> None:
        self.bets = [Wealth(log, int(n)) for log, n in state]


class Rates:
    """Does each class come about as often as is expected: `factor` times at most, and at least
    once in `factor` times? `alpha` is shared by the classes and the two sides of each."""

    def __init__(self, classes: int, factor: float, alpha: float) -> None:
        if factor <= 1 or classes < 1 or not 0 < alpha < 1:
            raise ValueError("need classes, a factor above 1, and alpha between 0 and 1")
        self.factor, self.bar = factor, math.log(2 * classes / alpha)
        self.bets: dict[str, Wealth] = {}

    def see(
        self, group: Sequence[Mapping[str, tuple[float, int]]], limits: Collection[str] = ()
    ) -> list[str]:
        """Take the episodes of one group, each with (expected, came) by class; what has come too
        often or too rarely, which begins anew then. Classes of `limits` may come as rarely as they
        like.

        Given what came before, a call has class k with probability at most f p. Then the mean of
        exp(x log f - (f - 1) f p) over x = 0, 1 is at most 1; for at least p / f the same with
        exp(x log r + (1 - r) p / f), r < 1.
        """
        f = self.factor
        gains: dict[str, list[float]] = {}
        for n, episode in enumerate(group):
            for name, (expected, came) in episode.items():
                often = came * math.log(f) - (f - 1) * f * expected
                rare = came * math.log(_REST) + (1 - _REST) * expected / f
                sides = [(f"{name}: too often", often), (f"{name}: too rarely", rare)]
                for side, gain in sides[: 1 if name in limits else 2]:
                    gains.setdefault(side, [0.0] * len(group))[n] = gain
        alarms = []
        for side, found in gains.items():
            wealth = self.bets.setdefault(side, Wealth())
            wealth.bet(_log_mean(found))
            if wealth.log >= self.bar:
                alarms.append(side)
                del self.bets[side]
        return alarms

    @property
    def level(self) -> float:
        """How far the nearest alarm is on its way: 1 is the alarm."""
        return max((w.log for w in self.bets.values() if w.log > 0), default=0.0) / self.bar

    def state(self) -> dict[str, list[float]]:
        """As JSON, for `restore`."""
        return {side: [w.log, w.bets] for side, w in self.bets.items()}

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        self.bets = {side: Wealth(log, int(n)) for side, (log, n) in state.items()}


def _log_mean(logs: Sequence[float]) -> float:
    """The logarithm of the mean of what these are logarithms of."""
    return _log_sum(logs) - math.log(len(logs))


def _log_sum(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(v - top) for v in logs))
