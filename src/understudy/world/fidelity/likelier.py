"""Which tools answer as their nearest remembered call was answered, because that was right more
often than the rules on calls that neither had learned from.

Every call of the cross-fitted episodes (world.fidelity.crossfit) is answered by the rules and in
several ways by the nearest call (world.retrieval: failures too or not, with the session's knowledge
or not, however far it is or not). A call scores the mean of what is exact, free values aside, and
of the F1 of its knowable leaves. The best way is taken where its scores lie above those of the
rules with confidence, scenarios being what is drawn, and neither of the two figures falls in either
of the two worlds; and where that is so too of the rules of the world of all episodes (a call's own
scenario is forgotten then): what a half of the traffic does not show, all of it may. A tool that
makes new identifiers keeps its rules: a remembered one would be another thing's.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from understudy.world.calibration import Evidence, Row
from understudy.world.fidelity.compare import failed, label_of
from understudy.world.fidelity.scoring import Moment, text_of_prediction
from understudy.world.model import World
from understudy.world.nearest import answer
from understudy.world.retrieval import FAR, LEVELS, Held, Retrieval, Tally
from understudy.world.tools import ToolModel

LEAST = 5  # scenarios in which the ways must differ
_LEVEL = 1.645  # of a one-sided test at 95%, of a normal distribution
_TWO = (False, True)
_ASKED = [(whole, current) for whole in _TWO for current in reversed(_TWO)]
_WAYS = [(*asked, far) for asked in _ASKED for far in reversed(_TWO)]
Way = tuple[bool, bool, bool]  # `whole`, `current` and `far` of world.retrieval


@dataclass(frozen=True, slots=True)
class Right:
    """How right an answer was."""

    exact: bool
    but_free: float
    known: float
    same_class: bool

    @property
    def score(self) -> float:
        return (self.but_free + self.known) / 2


@dataclass(frozen=True, slots=True)
class Near:
    """An answer as the nearest call had it: how right it was, on which level of nearness, whether
    the outcome class was that call's too; the class and its probability by the rules."""

    right: Right
    level: int
    whole: bool
    outcome: str
    chance: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One call, answered by the rules of a world, by its number, and as nearest calls were, by
    (`whole`, `current`)."""

    tool: str
    scenario: str
    world: int
    rules: Right
    others: Mapping[tuple[bool, bool], Near]

    def near(self, way: Way) -> Near | None:
        """The nearest call's answer in a way; None where the rules answer."""
        near = self.others.get(way[:2])
        return near if near is not None and (way[2] or near.level < FAR) else None

    def by(self, way: Way) -> Right:
        near = self.near(way)
        return self.rules if near is None else near.right


class Comparison:
    """Answers calls of tools from those that a world, the one of a number, learned from."""

    def __init__(self, world: World, number: int, held: Mapping[str, list[Held]]) -> None:
        self.world, self.number = world, number
        self.ways = {
            tool: {(w, c): Retrieval(w, c, True, [Tally()] * len(LEVELS), 0, 0, 0, own)
                   for w, c in _ASKED}
            for tool, own in held.items()
            if tool in world.models and not makes(world.models[tool])
        }  # fmt: skip

    def of(self, m: Moment, scenario: str) -> Compared | None:
        """A held-out call; None for a tool that cannot be answered from others."""
        name, c = m.truth.step.name, m.context
        ways = self.ways.get(name)
        if c is None or ways is None:
            return None
        seen = {(m.text, m.prediction.flag): self._right(m, m.text, m.prediction.flag)}
        others = {}
        for way, how in ways.items():
            p = replace(m.prediction)
            got = answer(self.world, self.world.models[name], how, c, p)
            if got is None:
                continue
            said = text_of_prediction(self.world, name, p), p.flag
            if said not in seen:
                seen[said] = self._right(m, *said)
            chance = m.prediction.chances.get(p.outcome, 1.0)
            others[way] = Near(seen[said], *got, p.outcome, chance)
        return Compared(name, scenario, self.number, next(iter(seen.values())), others)

    def _right(self, m: Moment, text: str, flag: bool) -> Right:
        scores, step = m.truth.scores(text, flag), m.truth.step
        fails = failed(self.world.failures, step.name, text, flag)
        same = label_of(step.read(text), fails) == m.truth.label
        but_free, known = scores["exact_but_free"] or 0.0, scores["known_f1"] or 0.0
        return Right(scores["exact"] == 1.0, but_free, known, same)


def makes(model: ToolModel) -> bool:
    """Whether a tool's results have identifiers that each call makes anew."""
    return any(
        leaf.made or leaf.fresh is not None or any(s[0] == "next" for s, _ in leaf.sources)
        for shape in model.shapes.values()
        for leaf in shape.leaves
    )


def choose(found: Sequence[Compared]) -> dict[str, Retrieval]:
    """The tools that do better by their nearest calls, each with its best way and nothing
    remembered yet."""
    by_tool: dict[str, list[Compared]] = defaultdict(list)
    for c in found:
        by_tool[c.tool].append(c)
    chosen = {}
    for tool, own in sorted(by_tool.items()):
        way = max(_WAYS, key=lambda w: sum(c.by(w).score for c in own))
        if wins(own, way):
            chosen[tool] = _retrieval(own, way)
    return chosen


def _holds(own: Sequence[Compared], way: Way) -> bool:
    """Whether neither figure falls in a way of answering calls."""
    return all(
        sum(getattr(c.by(way), figure) - getattr(c.rules, figure) for c in own) >= 0
        for figure in ("but_free", "known")
    )


def wins(own: Sequence[Compared], way: Way) -> bool:
    """Whether calls are answered better in a way, with confidence and by every world's rules."""
    worlds = {c.world for c in own}
    if not all(_holds([c for c in own if c.world == world], way) for world in worlds):
        return False
    gained: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for c in own:
        gained[c.scenario] += c.by(way).score - c.rules.score
        calls[c.scenario] += 1
    if sum(abs(g) > 1e-9 for g in gained.values()) < LEAST:
        return False
    n, mean = len(gained), sum(gained.values()) / len(own)
    spread = sum((gained[s] - mean * calls[s]) ** 2 for s in gained) * n / (n - 1)
    return mean > quantile(n - 1) * math.sqrt(spread) / len(own)


def quantile(freedom: int) -> float:
    """The 95% quantile of Student's t (Abramowitz and Stegun 1964, 26.7.5)."""
    z = _LEVEL
    first = (z**3 + z) / (4 * freedom)
    return z + first + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _retrieval(own: Sequence[Compared], way: Way) -> Retrieval:
    levels = [Tally() for _ in LEVELS]
    for c in own:
        near = c.near(way)
        if near is not None:
            tally = levels[near.level]
            tally.calls += 1
            tally.wrong += near.right.known != 1.0
            tally.classes += near.right.same_class
    rules, nearest = sum(c.rules.exact for c in own), sum(c.by(way).exact for c in own)
    return Retrieval(*way, levels, len(own), rules, nearest)


def as_done(e: Evidence, c: Compared | None, how: Retrieval | None) -> Evidence:
    """The evidence on a prediction as the world makes it now."""
    near = None if how is None or c is None else c.near(how.way)
    if how is None or near is None:
        return e
    tally = how.levels[near.level]
    row: Row = {
        **e.row,
        ("val", "class"): near.outcome,
        ("num", "doubt"): round(tally.doubt, 2),
        ("num", "chance"): round(tally.sure if near.whole else near.chance, 2),
    }
    return Evidence(row, near.right.known != 1.0, near.right.same_class, e.outside)
