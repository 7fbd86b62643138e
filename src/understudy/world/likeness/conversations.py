"""Conversations in a world beside real ones: figures of each, and how far real ones are apart.

Every figure stands three times: of real conversations that nobody learned from (the reference), of
a second real sample (those that were learned from), and of simulated ones. The distance of the two
real samples, over random halves by scenario, says how far is far.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from understudy.core.types import Episode, text_of
from understudy.world.fidelity.compare import failed
from understudy.world.language.filler import became
from understudy.world.traffic.transitions import Failures, transitions
from understudy.world.users.clusters import masked, tokens
from understudy.world.users.width import spread

HALVES = 200  # random halves of the real conversations
LEAST = 40  # calls of a tool from which its errors are a figure of their own
OTHERS = "(other tools)"
Values = tuple[float | None, float | None, float]  # of the reference, of another sample; distance


@dataclass(frozen=True, slots=True)
class Seen:
    """A conversation as the figures see it: its calls with whether they failed, the lengths of
    the user's turns in words, and their words without what is one person's own."""

    scenario: str
    calls: tuple[tuple[str, bool], ...]
    lengths: tuple[int, ...] = ()
    words: tuple[frozenset[str], ...] = ()


def see(e: Episode, failures: Failures, fields: Mapping[str, Any]) -> Seen:
    """A conversation; `fields` are its user's own values."""
    made = [(t.name, failed(failures, t.name, t.content, bool(t.is_error))) for t in transitions(e)]
    said = [text_of(m.get("content")) for m in e.messages if m["role"] == "user"]
    return Seen(
        e.scenario_id or e.id,
        tuple(made),
        tuple(len(text.split()) for text in said),
        tuple(frozenset(tokens(masked(text, fields))) for text in said),
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One figure. `bound` is what 95 of 100 random real halves are within; `within` says whether
    the simulated ones' mean distance is, `splits_within` in how many splits it was. What no second
    real sample has (None) has no bound."""

    group: str
    name: str
    unit: str
    other: float | None
    real: float | None
    simulated: float | None
    real_distance: float | None
    distance: float
    bound: float | None
    within: bool | None
    splits_within: int
    splits: int

    @property
    def verdict(self) -> str:
        """`yes`, `mean` where the mean distance is within, but that of most splits is not, `NO`;
        empty without a bound."""
        if self.within is None:
            return ""
        most = 2 * self.splits_within > self.splits
        return ("yes" if most else "mean") if self.within else "NO"


@dataclass(slots=True)
class Likeness:
    """All figures. `rollouts` is the survival of free-running rollouts, the world's and the
    retrieval floor's; `left_out` counts by reason, over all splits."""

    episodes: int
    scenarios: int
    splits: int
    agent: str
    lines: list[Line]
    rollouts: dict[str, dict[str, float]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    language: dict[str, int] = field(default_factory=dict)  # what became of the world's gaps

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def judged(self) -> list[Line]:
        """The figures that real halves bound."""
        return [line for line in self.lines if line.within is not None]

    def counted(self) -> str:
        """How many figures are within, by their means and by each split."""
        judged = self.judged()
        means = sum(line.within is True for line in judged)
        most = sum(line.verdict == "yes" for line in judged)
        every = sum(line.splits_within == line.splits for line in judged)
        return (
            f"{most} of {len(judged)} in most of {self.splits} splits, {every} in every one, "
            f"{means} by the mean"
        )

    def table(self) -> str:
        """The report as text, at most 100 columns wide."""
        rows = [
            f"{self.episodes} conversations of {self.scenarios} scenarios, {self.splits} splits",
            f"played by {self.agent}",
        ]
        head = ("other", "fit half", "simulated", "distance", "real-real", "95%")
        rows.append(f"{'':{_NAME + 2}}{''.join(f'{h:>{_CELL}}' for h in head)}  within")
        group = ""
        for line in self.lines:
            if line.group != group:
                group = line.group
                rows.append(group)
            numbers = (line.other, line.real, line.simulated, line.distance, line.real_distance,
                       line.bound)  # fmt: skip
            cells = "".join(f"{'-':>{_CELL}}" if n is None else f"{n:{_CELL}.3f}" for n in numbers)
            told = f"{line.verdict:4} {line.splits_within}/{line.splits}" if line.verdict else ""
            long = len(line.name) > _NAME
            rows += [f"  {line.name}"] if long else []
            rows.append(f"  {'' if long else line.name:{_NAME}}{cells}  {told}".rstrip())
        if self.judged():
            rows += ["within the distance of real ones: " + self.counted(), *_VERDICTS]
        for who, lived in self.rollouts.items():
            said = ", ".join(f"{100 * v:.1f}% at {k}" for k, v in lived.items())
            rows.append(f"free-running rollouts exact so far, {who}: {said}")
        rows += [became(self.language)] if self.language else []
        rows += [f"left out: {n} {why}" for why, n in self.left_out.items()]
        return "\n".join(rows)


_NAME, _CELL = 28, 10  # columns of a figure's name, of a number
_VERDICTS = (
    "  yes: the mean distance is within the 95% of real halves, and that of most splits is",
    "  mean: the mean distance is, that of most splits is not; N/M: N of M splits are within",
)


class Figures:
    """The figures of two samples of conversations; tools with too few real calls are one."""

    def __init__(self, real: Sequence[Seen]) -> None:
        calls = Counter(tool for s in real for tool, _ in s.calls)
        self.tools = sorted(tool for tool, n in calls.items() if n >= LEAST)

    def errors(self, reference: Sequence[Seen], other: Sequence[Seen]) -> dict[str, Values]:
        """The rates of failure, of all calls and by tool."""
        both = _rates(reference, self.tools), _rates(other, self.tools)
        return {
            name: (both[0][name], both[1][name], abs(both[0][name] - both[1][name]))
            for name in both[0]
            if name in both[1]
        }

    def all(
        self, reference: Sequence[Seen], other: Sequence[Seen], size: int, seed: int
    ) -> dict[str, Values]:
        """All figures. Vocabularies are of `size` turns of the other sample, drawn by the seed."""
        found: dict[str, Values] = {"tool mix": (None, None, _mix(reference, other))}
        for name, of in _LISTS.items():
            a, b = ([x for s in sample for x in of(s)] for sample in (reference, other))
            found[name] = fmean(a) if a else 0.0, fmean(b) if b else 0.0, spread(a, b)
        covered = _vocabulary(reference, other, size, seed)
        found["vocabulary covered"] = 1.0, covered, 1 - covered
        return found | self.errors(reference, other)


_LISTS: dict[str, Callable[[Seen], Sequence[float]]] = {
    "calls": lambda s: [float(len(s.calls))],
    "turns": lambda s: [float(len(s.lengths))],
    "words of a first turn": lambda s: s.lengths[:1],
    "words of a later turn": lambda s: s.lengths[1:],
}
UNITS = {"calls": "a conversation", "turns": "a conversation", "tool mix": "total variation"}


def unit_of(name: str) -> str:
    return UNITS.get(name, "words" if name.startswith("words") else "share")


def _rates(sample: Sequence[Seen], tools: Sequence[str]) -> dict[str, float]:
    made: dict[str, list[bool]] = {}
    for tool, bad in (call for s in sample for call in s.calls):
        made.setdefault("errors", []).append(bad)
        made.setdefault(f"errors: {tool if tool in tools else OTHERS}", []).append(bad)
    return {name: fmean(made[name]) for name in sorted(made)}


def _mix(a: Sequence[Seen], b: Sequence[Seen]) -> float:
    """The total variation of which tool a call is of, 0 to 1; 1 where one of them makes none."""
    counts = [Counter(tool for s in sample for tool, _ in s.calls) for sample in (a, b)]
    if not counts[0] or not counts[1]:
        return float(counts[0] != counts[1])
    totals = [max(1, c.total()) for c in counts]
    tools = counts[0] | counts[1]
    return sum(abs(counts[0][t] / totals[0] - counts[1][t] / totals[1]) for t in tools) / 2


def _vocabulary(reference: Sequence[Seen], other: Sequence[Seen], size: int, seed: int) -> float:
    """The share of the reference's words that as many turns of the other sample hold."""
    known = set().union(*(w for s in reference for w in s.words))
    turns = [w for s in other for w in s.words]
    drawn = random.Random(f"turns:{seed}").sample(turns, min(size, len(turns)))
    said = set().union(*drawn)
    return len(known & said) / len(known) if known else 1.0


def halves(scenarios: Sequence[str], n: int, seed: int = 0) -> Iterator[set[str]]:
    """Random halves of scenarios. Raises ValueError where there are fewer than four."""
    order = sorted(set(scenarios))
    if len(order) < 4:
        raise ValueError(f"{len(order)} scenarios make no two samples: four at least are needed")
    rng = random.Random(f"halves:{seed}")
    for _ in range(n):
        rng.shuffle(order)
        yield set(order[: len(order) // 2])


def bounds(real: Sequence[Seen], figures: Figures, seed: int = 0) -> dict[str, float]:
    """For each figure the distance that 95 of 100 random halves of real ones are within."""
    found: dict[str, list[float]] = {}
    for n, half in enumerate(halves([s.scenario for s in real], HALVES, seed)):
        a = [s for s in real if s.scenario in half]
        b = [s for s in real if s.scenario not in half]
        size = min(sum(len(s.words) for s in side) for side in (a, b))
        for name, (_, _, distance) in figures.all(a, b, size, n).items():
            found.setdefault(name, []).append(distance)
    return {name: float(np.quantile(values, 0.95)) for name, values in found.items()}


def line(
    group: str,
    name: str,
    real: Sequence[Values],
    simulated: Sequence[Values],
    bound: float | None,
) -> Line:
    """A figure over all splits that have it: means, and what of it is within the bound."""
    far = [v[2] for v in simulated]
    mean = fmean(far)
    return Line(
        group,
        name,
        unit_of(name),
        _mean([v[0] for v in simulated]),
        _mean([v[1] for v in real]),
        _mean([v[1] for v in simulated]),
        fmean(v[2] for v in real) if real else None,
        mean,
        bound,
        None if bound is None else mean <= bound + 1e-9,
        0 if bound is None else sum(d <= bound + 1e-9 for d in far),
        len(far),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if known else None
