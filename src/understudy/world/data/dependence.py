"""Whether two things that were seen together depend on each other."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from understudy.world.data.values import is_number


def coded(values: Sequence[Any]) -> list[Any]:
    """The values, or their fifths where they are more than eight different numbers."""
    numbers = sorted(v for v in values if is_number(v))
    if len(set(numbers)) > 8:
        cuts = [numbers[int(len(numbers) * q)] for q in (0.2, 0.4, 0.6, 0.8)]
        return [sum(v > c for c in cuts) if is_number(v) else None for v in values]
    return list(values)


def dependent(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """A G test against independence, far out in its tail: many pairs of things are asked for.

    A pair of which one is None is left aside. Nearly unique values count as dependent.
    """
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    n = len(pairs)
    left, right, both = Counter(x for x, _ in pairs), Counter(y for _, y in pairs), Counter(pairs)
    if len(left) < 2 or len(right) < 2:
        return False
    if max(len(left), len(right)) > 0.5 * n:
        return True  # nearly unique values: nothing can be said, they stay together
    g = 2 * sum(k * math.log(k * n / (left[x] * right[y])) for (x, y), k in both.items())
    freedom = (len(left) - 1) * (len(right) - 1)
    return g > freedom + 3.5 * math.sqrt(2 * freedom) + 6
