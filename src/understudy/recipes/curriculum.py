"""Which scenarios to rehearse next: new ones, and again those whose outcomes differed.

A group whose episodes all fail or all succeed teaches nothing; p(1 - p) of the last visit is how
much a scenario of pass rate p can teach (Prefix Sampling, arXiv 2605.05112, steers to p = 1/2).
"""

import random
from typing import Any


class Curriculum:
    """Draws scenario numbers 0..n-1. `again` is the share of a draw that is seen anew.

    The state is JSON, so that a resumed run draws what the uninterrupted one would have.
    """

    def __init__(self, n: int, again: float, seed: int) -> None:
        if n < 1 or not 0 <= again < 1:
            raise ValueError("a curriculum needs scenarios, and 0 <= again < 1")
        self.n, self.again, self.seed = n, again, seed
        self.fresh = 0  # how many new ones were drawn
        self.rates: dict[int, float] = {}  # the pass rate of scenarios worth another visit

    def draw(self, count: int, step: int) -> list[int]:
        """`count` different scenario numbers for this step; all of them where there are fewer."""
        count = min(count, self.n)
        rng = random.Random(f"{self.seed}/{step}")
        worth = [(i, p * (1 - p) + 0.02) for i, p in self.rates.items()]
        chosen: list[int] = []
        for _ in range(min(int(count * self.again), len(worth))):
            index = rng.choices(range(len(worth)), [w for _, w in worth])[0]
            chosen.append(worth.pop(index)[0])
        while len(chosen) < count:
            number = self.fresh % self.n
            self.fresh += 1
            if number not in chosen:
                chosen.append(number)
        return chosen

    def saw(self, number: int, rate: float) -> None:
        """The pass rate of a scenario's group: kept for another visit unless all succeeded."""
        if rate < 1.0:
            self.rates[number] = rate
        else:
            self.rates.pop(number, None)

    def state(self) -> dict[str, Any]:
        return {"fresh": self.fresh, "rates": list(self.rates.items())}

    def restore(self, state: dict[str, Any]) -> None:
        self.fresh = int(state["fresh"])
        self.rates = {int(i): float(p) for i, p in state["rates"]}
