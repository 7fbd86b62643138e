"""The paths that an agent takes through its tools: where success parts, loops, dead ends.

An episode is read as its calls in order, each a tool and what came of it: `ok`, `ok, nothing
listed`, or a failure's wording with what varies left open. Counts are of episodes; success is
whatever the owner's feedback or check says, and episodes that neither judged count without it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from understudy.core.types import Episode
from understudy.runs.progress import Progress
from understudy.runs.statistics import Interval, wilson
from understudy.world.data.values import call_key
from understudy.world.known.context import Context, ToolFacts
from understudy.world.known.memory import Memory
from understudy.world.known.state import State
from understudy.world.lists.listings import list_in
from understudy.world.outcomes.templates import abstract
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Failures, Step, steps, transitions

Point = tuple[str, str]  # tool, outcome
END: Point = ("", "ends")
START: Point = ("", "begins")
Judged = Callable[[Episode], bool | None]
_FORMS = 12  # wordings of a tool's failures that are told apart
_NODES = 20_000  # of the tree, while it grows
_DEEP = 40  # calls of an episode that the tree holds


@dataclass(slots=True)
class Tally:
    """Episodes, how many of them were judged, how many judged well."""

    episodes: int = 0
    judged: int = 0
    well: int = 0

    def add(self, success: bool | None) -> None:
        self.episodes += 1
        self.judged += success is not None
        self.well += success is True

    @property
    def rate(self) -> Interval | None:
        """The success rate with its interval (95%, Wilson); None where nothing was judged."""
        return wilson(self.well, self.judged) if self.judged else None


@dataclass(slots=True)
class Node:
    """A beginning that episodes share."""

    tally: Tally = field(default_factory=Tally)
    children: dict[Point, "Node"] = field(default_factory=dict)


@dataclass(slots=True)
class Branch:
    """After the first time that `after` was seen: what came next, and how that ended. `kind` is
    `choice` (which tool the agent took, or that it ended) or `answer` (what the tool said).
    `gain`: what the way taken tells of success, in bits over all its episodes."""

    after: Point
    kind: str
    ways: dict[str, Tally]
    gain: float


@dataclass(slots=True)
class Loop:
    """The same call with the same result again. `most`: how often in one episode at most;
    `ends`: what came after the last time."""

    point: Point
    tally: Tally = field(default_factory=Tally)
    repeats: int = 0
    most: int = 0
    ends: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class DeadEnd:
    """An outcome after which episodes end well less often than the others, beyond chance."""

    point: Point
    tally: Tally
    others: Tally
    last: int  # of its episodes, those in which it was the last


@dataclass(slots=True)
class Paths:
    """The paths of a traffic. `cut` counts the episodes whose end the bounded tree does not hold;
    `left_out` those without a call, by reason."""

    tally: Tally
    tree: Node
    branches: list[Branch]
    loops: list[Loop]
    dead_ends: list[DeadEnd]
    unused: dict[Point, tuple[int, list[str]]]
    """After a failure: how many episodes had it, the tools that none of them called later."""
    cut: int
    left_out: dict[str, int]


def paths(
    episodes: Sequence[Episode],
    judged: Judged,
    least: int = 5,
    progress: Progress | None = None,
) -> Paths:
    """The paths of episodes. What fewer than `least` episodes show is in the tree alone. Raises
    ValueError where no episode has a call with a result."""
    found = [transitions(e) for e in episodes]
    failures = Failures.learn([t for ts in found for t in ts])
    taken = [steps(made, n, failures) for n, made in enumerate(found)]
    outcomes = _Outcomes([s for own in taken for s in own])
    miner = _Miner(least)
    for episode, own in zip(episodes, taken, strict=True):
        miner.follow([(s, (s.name, outcomes.of(s))) for s in own], judged(episode))
        if progress is not None:
            progress.advance()
    if not miner.tally.episodes:
        raise ValueError("no tool call with a result in these episodes: there are no paths")
    return miner.result()


class _Outcomes:
    """Outcome classes of results, by their wording alone. A tool lists records where it ever did:
    one whose records all have an empty list (of tags, say) does not."""

    def __init__(self, seen: Sequence[Step]) -> None:
        self.forms: dict[str, set[str]] = defaultdict(set)
        self.state = State(Ids(), Memory())
        self.listing = {
            s.name
            for s in seen
            if not s.failed and (listed := list_in(s.value)) is not None and listed[1]
        }

    def of(self, s: Step) -> str:
        if not s.failed:
            listed = list_in(s.value) if s.name in self.listing else None
            return "ok, nothing listed" if listed is not None and not listed[1] else "ok"
        form, _ = abstract(s.content, Context(self.state, ToolFacts(s.name), s.args))
        form = form.replace("{{", "{").replace("}}", "}").replace("{}", "...")
        known = self.forms[s.name]
        if form not in known and len(known) >= _FORMS:
            return "another failure"
        known.add(form)
        return form


def ok(point: Point) -> bool:
    """Whether the outcome is no failure."""
    return point[1].startswith("ok")


Walked = Sequence[tuple[Step, Point]]


class _Miner:
    """Counts episodes one by one."""

    def __init__(self, least: int) -> None:
        self.least = least
        self.tally, self.tree, self.nodes, self.cut = Tally(), Node(), 0, 0
        self.empty = 0
        self.choices: dict[Point, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
        self.answers: dict[Point, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
        self.visits: dict[Point, Tally] = defaultdict(Tally)
        self.last: Counter[Point] = Counter()
        self.loops: dict[Point, Loop] = {}
        self.later: dict[Point, Counter[str]] = defaultdict(Counter)
        self.tools: set[str] = set()

    def follow(self, walked: Walked, success: bool | None) -> None:
        """Count an episode."""
        if not walked:
            self.empty += 1
            return
        self.tally.add(success)
        points = [p for _, p in walked]
        self.tools.update(tool for tool, _ in points)
        self.last[points[-1]] += 1
        for point in set(points):
            self.visits[point].add(success)
        self._grow(points, success)
        self._branch(points, success)
        self._loop(walked, success)
        for point in {p for p in points if not ok(p)}:
            first = points.index(point)
            self.later[point].update({tool for tool, _ in points[first + 1 :]})

    def _grow(self, points: Sequence[Point], success: bool | None) -> None:
        node = self.tree
        node.tally.add(success)
        for point in [*points[:_DEEP], END]:
            child = node.children.get(point)
            if (point == END and len(points) > _DEEP) or (child is None and self.nodes >= _NODES):
                self.cut += 1
                return
            if child is None:
                child = node.children[point] = Node()
                self.nodes += 1
            child.tally.add(success)
            node = child

    def _branch(self, points: Sequence[Point], success: bool | None) -> None:
        seen: set[Point] = set()
        for before, point in zip([START, *points], [*points, END], strict=True):
            if before not in seen:
                seen.add(before)
                self.choices[before][point[0] or "(ends)"].add(success)
            asked = (point[0], "")
            if point != END and asked not in seen:
                seen.add(asked)
                self.answers[asked][point[1]].add(success)

    def _loop(self, walked: Walked, success: bool | None) -> None:
        seen: set[tuple[str, str]] = set()
        again: dict[Point, list[int]] = defaultdict(list)
        for i, (s, point) in enumerate(walked):
            exchange = call_key(s.name, s.args), s.content
            if exchange in seen:
                again[point].append(i)
            seen.add(exchange)
        for point, where in again.items():
            loop = self.loops.setdefault(point, Loop(point))
            loop.tally.add(success)
            loop.repeats += len(where)
            loop.most = max(loop.most, len(where))
            after = walked[where[-1] + 1][1] if where[-1] + 1 < len(walked) else END
            loop.ends[point_text(after)] += 1

    def result(self) -> Paths:
        """The report of what was counted."""
        branches = [
            *self._branches(self.choices, "choice"),
            *self._branches(self.answers, "answer"),
        ]
        loops = [lp for lp in self.loops.values() if lp.tally.episodes >= self.least]
        unused = {
            point: (self.visits[point].episodes, sorted(self.tools - self.later[point].keys()))
            for point in self.later
            if self.visits[point].episodes >= self.least
        }
        return Paths(
            self.tally,
            self.tree,
            sorted(branches, key=lambda b: -b.gain),
            sorted(loops, key=lambda lp: -lp.repeats),
            sorted(self._dead_ends(), key=_lost, reverse=True),
            dict(sorted(unused.items(), key=lambda u: -u[1][0])),
            self.cut,
            {"without a call that has a result": self.empty} if self.empty else {},
        )

    def _branches(self, table: dict[Point, dict[str, Tally]], kind: str) -> Iterator[Branch]:
        """The branches whose ways differ in success beyond chance: a G test, as trees of outcomes
        are split by (world.outcomes.tree)."""
        for after, ways in table.items():
            judged = [t for t in ways.values() if t.judged]
            shown = sum(t.judged >= self.least for t in judged)
            gain = _gain(judged)
            if shown > 1 and gain > math.log(max(1, len(table))) + 5.5 + len(judged) - 2:
                ordered = dict(sorted(ways.items(), key=lambda w: -w[1].episodes))
                yield Branch(after, kind, ordered, gain / math.log(2))

    def _dead_ends(self) -> Iterator[DeadEnd]:
        for point, own in self.visits.items():
            others = Tally(
                self.tally.episodes - own.episodes,
                self.tally.judged - own.judged,
                self.tally.well - own.well,
            )
            here, there = own.rate, others.rate
            if own.judged >= self.least and here and there and here.high < there.low:
                yield DeadEnd(point, own, others, self.last[point])


def _lost(end: DeadEnd) -> float:
    """How many episodes more would end well if they did as the others do."""
    here, there = end.tally.rate, end.others.rate
    return end.tally.judged * (there.mean - here.mean) if here and there else 0.0


def _gain(ways: Sequence[Tally]) -> float:
    """What the way taken tells of success, in nats over all episodes."""
    n, well = sum(t.judged for t in ways), sum(t.well for t in ways)
    return _entropy(well, n) - sum(_entropy(t.well, t.judged) for t in ways)


def _entropy(well: int, n: int) -> float:
    return -sum(k * math.log(k / n) for k in (well, n - well) if k)


def point_text(point: Point) -> str:
    """A point of a path in words."""
    tool, outcome = point
    return f"{tool}: {outcome}" if tool and outcome else tool or f"({outcome})"
