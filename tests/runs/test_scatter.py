"""Points stand where their numbers are, and names do not lie on each other."""

import re
from itertools import pairwise

from understudy.runs.plots import percent
from understudy.runs.scatter import Point, ScatterChart


def test_points_are_in_order_and_names_are_apart() -> None:
    points = (
        Point("low", 58.0, 0.75, 0.72, 0.78, "a"),
        Point("lower", 58.2, 0.74, 0.7, 0.77, "a"),
        Point("lowest", 58.1, 0.74, 0.7, 0.77, "b"),
        Point("<top>", 100.0, 0.99, 0.98, 1.0, "b"),
    )
    for width in (340, 720):
        drawn = ScatterChart("t", points, "x", percent).svg(width)
        assert "<top>" not in drawn
        circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="5"', drawn)[2:]  # the legend
        at = [(float(x), float(y)) for x, y in circles]
        assert [x for x, _ in at] == sorted(x for x, _ in at)
        assert at[-1][1] < min(y for _, y in at[:-1])
        names = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>(low\w*)<', drawn)
        heights = sorted(float(y) for _, y, _ in names)
        assert len(heights) == 3
        assert all(b - a >= 13 for a, b in pairwise(heights))
        assert all(0 <= float(x) <= width for x, _, _ in names)
