"""Doubt made honest: predictions of episodes that a world did not learn from say how often it is
wrong where it doubts so much.

The episodes are parted in two halves by scenario, each half is predicted by a world that learned
from the other, and two small trees over (tool, outcome class, doubt, chance) hold how often such
results were wrong. Results of calls with numbers beyond all experience (world.data.ranges) are
doubted as much as such ones were wrong at least, by half where there were none. Only doubt is
corrected; what the world answers is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from understudy.world.outcomes.features import Feature
from understudy.world.outcomes.tree import Node, decide, grow
from understudy.world.tools import Prediction

LEAST = 100  # predictions below which nothing is corrected
_LEAF = 10  # predictions that a corrected doubt rests on at least
_WEIGHT = 2.0  # predictions that the overall rate counts as in each leaf
Row = dict[Feature, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One prediction of a call that the world had not seen, before correction."""

    row: Row
    wrong: bool  # on leaves that could be known
    same_class: bool  # whether the outcome class was right
    outside: float = 0.0  # how far beyond all experience the call was


@dataclass(frozen=True, slots=True)
class Doubts:
    """How often results were wrong: `given`, the outcome class being right; `whole`, chance of the
    outcome included."""

    given: Node
    whole: Node
    outside: tuple[float, float] = (0.0, 0.0)  # of calls beyond all experience: wrong ones, all

    @classmethod
    def fit(cls, evidence: Sequence[Evidence]) -> "Doubts | None":
        """None where there is too little evidence, of either kind."""
        given = [e for e in evidence if e.same_class]
        if len(given) < LEAST:
            return None
        wrong = sum(e.outside for e in given if e.wrong)
        return cls(_tree([_without_chance(e.row) for e in given], given),
                   _tree([e.row for e in evidence], evidence),
                   (wrong, sum(e.outside for e in given)))  # fmt: skip

    def correct(self, name: str, p: Prediction) -> None:
        """Replace a prediction's doubts by how often such results were wrong."""
        row = row_of(name, p)
        p.doubt, p.wrong = _rate(self.given, _without_chance(row)), _rate(self.whole, row)
        doubt_beyond(p, *self.outside)


def doubt_beyond(p: Prediction, wrong: float = 0.0, times: float = 0.0) -> None:
    """Raise a prediction's doubts by how far the call is beyond all experience, and how often such
    calls' results were wrong."""
    least = p.outside * (wrong + 1) / (times + 2)
    p.doubt, p.wrong = max(p.doubt, least), max(p.wrong, least)


def row_of(name: str, p: Prediction) -> Row:
    """What is known of a prediction of a tool's result before correction."""
    return {
        ("val", "tool"): name,
        ("val", "class"): p.outcome,
        ("num", "doubt"): round(p.doubt, 2),
        ("num", "chance"): round(p.chances.get(p.outcome, 1.0), 2),
    }


def _without_chance(row: Row) -> Row:
    return {k: v for k, v in row.items() if k != ("num", "chance")}


def _tree(rows: list[Row], evidence: Sequence[Evidence]) -> Node:
    return grow(rows, ["wrong" if e.wrong else "right" for e in evidence], least=_LEAF)


def _rate(tree: Node, row: Row) -> float:
    counts, every = decide(tree, row.get), tree["counts"]
    overall = every.get("wrong", 0) / sum(every.values())
    share: float = (counts.get("wrong", 0) + _WEIGHT * overall) / (sum(counts.values()) + _WEIGHT)
    return share
