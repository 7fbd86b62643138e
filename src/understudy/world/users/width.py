"""How wide simulated users are: held-out real ones against them, and against each other.

Conversations are split at random into two halves, again and again. In each split one half is the
reference; the other half stands against it twice: with its own real users, and with simulated ones
in their place, who hold the same tickets and hear the same agent messages. So every figure of the
simulated users has the same figure of a second real sample beside it, and only the user differs.

A simulated user hears each agent message as it was recorded, after what the real user had said.
Where it leaves, another one takes its place, so that wordings are compared over the whole
conversation; its turns are counted up to where the first one left. Where it stayed to the end of
the recording, what it says there counts as its last turn, and one more where the recording's last
message is the real user's: nobody knows what the agent would have said to it.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Literal, Protocol, cast

import numpy as np

from understudy.core.types import Episode, Message, text_of
from understudy.runs.plots import Bar, BarChart
from understudy.world.data.values import parse
from understudy.world.traffic.failing import looks_failed
from understudy.world.users.clusters import Floats, assign, entropy, gather, masked, tokens, vectors

SPLITS = 40
LARGEST = 2500  # texts of a side whose wordings are compared


class Speaker(Protocol):
    """A user of core.protocols that says whether its last message was its last one."""

    left: bool

    async def reply(self, seen: Sequence[Message]) -> Message | None: ...


Values = tuple[float, float, float, float, float]
# of the reference, of a second real sample, of a simulated one; how far these two are from it
MakeSpeaker = Callable[[Episode, int], Speaker]  # of an episode's ticket, by a seed


Parting = Literal["word", "silent", "open"]  # with a word, at a statement, at a question


@dataclass(frozen=True, slots=True)
class Point:
    """A place where a user spoke or left: what came of it."""

    said: str | None  # None: left
    asked: bool = False  # the agent's message held a question
    first: bool = False
    done: bool = False  # a call had gone well by then


@dataclass(slots=True)
class Talk:
    """One conversation from the user's side. `turns` is how many messages the user wrote before
    it left, `cut` that nobody left: the recording ends with the agent at work; `withdrew` that the
    user left before any call went well."""

    scenario: str
    points: list[Point]
    turns: int
    cut: bool = False
    parting: Parting | None = None  # how it left; None: it did not
    withdrew: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """One figure: of real users, of simulated ones, and how far each is from a second real sample
    (`bound`: what 95 of 100 real halves are within). `within` is what the gate asks for."""

    name: str
    unit: str
    real: float
    simulated: float
    distance: float
    real_distance: float
    bound: float
    within: bool


@dataclass(slots=True)
class WidthReport:
    """The figures, what they were measured on, and what was left out with the reason."""

    conversations: int
    scenarios: int
    lines: list[Line]
    left_out: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        """The report as text."""
        rows = [f"{self.conversations} held-out conversations of {self.scenarios} scenarios"]
        rows += [f"left out: {n} {why}" for why, n in self.left_out.items()]
        head = ("real", "simulated", "distance", "real-real", "95%")
        rows.append(f"{'':28}" + "".join(f"{h:>11}" for h in head))
        for line in self.lines:
            numbers = (line.real, line.simulated, line.distance, line.real_distance, line.bound)
            cells = "".join(f"{n:11.3f}" for n in numbers)
            rows.append(f"{line.name:28}{cells}  {'within' if line.within else 'OUTSIDE'}")
        return "\n".join(rows)

    def plot(self) -> BarChart:
        """How far simulated users are from real ones, beside how far these are from each other."""
        bars = [
            Bar(who, value, high=high, low=None if high is None else 0.0, group=line.name)
            for line in self.lines
            if line.unit != "bits"
            for who, value, high in (
                ("simulated", line.distance, None),
                ("real", line.real_distance, line.bound),
            )
        ]
        return BarChart("Simulated users", tuple(bars), "Distance from held-out users", top=1.0)


def real_talk(e: Episode, fields: Mapping[str, Any]) -> tuple[Talk, list[tuple[Message, ...]]]:
    """An episode from its user's side, and the messages before each of its points."""
    points: list[Point] = []
    before: list[tuple[Message, ...]] = []
    told = [m for m in e.messages if m["role"] not in ("system", "developer")]
    done = False
    for i, m in enumerate(told):
        done = done or (m["role"] == "tool" and _went_well(e, m))
        if m["role"] == "user" and not points:
            points.append(Point(text_of(m.get("content")), first=True))
            before.append(tuple(told[:i]))
        elif points and m["role"] == "assistant" and not m.get("tool_calls"):
            after = told[i + 1] if i + 1 < len(told) else None
            text = text_of(m.get("content"))
            if text and (after is None or after["role"] == "user"):
                said = text_of(after.get("content")) if after else None
                points.append(Point(said, "?" in text, done=done))
                before.append(tuple(told[: i + 1]))
    turns = sum(p.said is not None for p in points)
    left = bool(points) and points[-1].said is None
    parting = _parting(points) if left else "word" if told and told[-1]["role"] == "user" else None
    withdrew = parting is not None and bool(points) and not points[-1].done
    origin = e.scenario_id or e.id
    return Talk(origin, points, turns, parting is None, parting, withdrew, fields), before


def _went_well(e: Episode, m: Message) -> bool:
    """Whether a tool message says that its call went well."""
    recorded = e.results.get(m.get("tool_call_id") or "")
    flagged = recorded is not None and recorded.is_error
    return not flagged and not looks_failed(parse(text_of(m.get("content"))))


def _parting(points: Sequence[Point]) -> Parting:
    """How a user left at the last of these points."""
    before = points[-2] if len(points) > 1 else None
    if before is not None and not before.first and not before.asked:
        return "word"
    return "open" if points[-1].asked else "silent"


async def simulated_talk(
    e: Episode, real: Talk, before: Sequence[tuple[Message, ...]], make: MakeSpeaker, seed: int
) -> Talk:
    """The same conversation with simulated users in the real one's place."""
    points: list[Point] = []
    turns, parting, withdrew = 0, cast(Parting | None, None), False
    user, there = make(e, seed), True
    for n, (point, seen) in enumerate(zip(real.points, before, strict=True)):
        reply = await user.reply(seen)
        said = None if reply is None else text_of(reply.get("content"))
        points.append(Point(said, point.asked, point.first, point.done))
        turns += there and said is not None
        if said is None or user.left:
            if there:
                parting = _parting(points) if said is None else "word"
                withdrew = not point.done
            user, there = make(e, seed + 7919 * (n + 1)), False
    if there and not real.cut and points and not points[-1].first and not points[-1].asked:
        parting, withdrew = "word", not points[-1].done
    goes_on = there and real.parting == "word" and real.points[-1].said is not None
    cut = real.cut and there
    return Talk(real.scenario, points, turns + goes_on, cut, parting, withdrew, real.fields)


def _shares(talks: Sequence[Talk]) -> dict[str, float]:
    """What shares of a sample's questions and conversations ended which way."""
    asked = [p for t in talks for p in t.points if p.asked]
    replies = [p.said for p in asked if p.said is not None]
    parted = [t.parting for t in talks if t.parting is not None]
    return {
        "questions answered": _rate(sum("?" not in r for r in replies), len(asked)),
        "questions asked back": _rate(sum("?" in r for r in replies), len(asked)),
        "questions left open": _rate(parted.count("open"), len(parted)),
        "leaves with a word": _rate(parted.count("word"), len(parted)),
        "withdraws": _rate(sum(t.withdrew for t in talks), len(talks)),
    }


def _rate(k: float, n: int) -> float:
    return k / n if n else 0.0


def spread(a: Sequence[float], b: Sequence[float]) -> float:
    """Kolmogorov's and Smirnov's distance of two samples, 0 to 1."""
    if not a or not b:
        return 0.0
    places = np.unique(np.concatenate([a, b]))
    below = [np.searchsorted(np.sort(x), places, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


@dataclass(slots=True)
class _Sides:
    """Real and simulated talks of the same episodes, and the wordings of both by number."""

    real: list[Talk]
    simulated: list[Talk]
    texts: list[str]
    like_NN: Floats
    where: tuple[list[list[int]], list[list[int]]]  # numbers of texts by talk, of either side


def _sides(real: list[Talk], simulated: list[Talk]) -> _Sides:
    texts: list[str] = []
    where: tuple[list[list[int]], list[list[int]]] = ([], [])
    for side, talks in zip(where, (real, simulated), strict=True):
        for t in talks:
            own = [masked(p.said, t.fields) for p in t.points if p.said is not None]
            side.append(list(range(len(texts), len(texts) + len(own))))
            texts += own
    v = vectors(texts)
    return _Sides(real, simulated, texts, np.asarray(v @ v.T, dtype=np.float32), where)


def compare(real: Sequence[Talk], simulated: Sequence[Talk], seed: int = 0) -> list[Line]:
    """The lines of a report, over SPLITS random halves by scenario. The two are parallel.

    Raises ValueError where there are fewer than four scenarios: two halves need two each."""
    scenarios = sorted({t.scenario for t in real})
    if len(scenarios) < 4:
        raise ValueError(
            f"users speak in {len(scenarios)} of the held-out scenarios: four at least are needed, "
            "with user messages"
        )
    sides = _sides(*_at_most(list(real), list(simulated), seed))
    rng = random.Random(f"width:{seed}")
    seen: dict[str, list[Values]] = {}
    for _ in range(SPLITS):
        rng.shuffle(scenarios)
        reference = set(scenarios[: len(scenarios) // 2])
        a = [n for n, t in enumerate(sides.real) if t.scenario in reference]
        b = [n for n, t in enumerate(sides.real) if t.scenario not in reference]
        for name, values in (_split(sides, a, b, rng)).items():
            seen.setdefault(name, []).append(values)
    return [_line(name, values) for name, values in seen.items()]


def _at_most(real: list[Talk], simulated: list[Talk], seed: int) -> tuple[list[Talk], list[Talk]]:
    """As many conversations as hold LARGEST texts, drawn by the seed."""
    order = list(range(len(real)))
    random.Random(f"most:{seed}").shuffle(order)
    kept, texts = [], 0
    for n in order:
        texts += len(real[n].points)
        if texts > LARGEST:
            break
        kept.append(n)
    return [real[n] for n in sorted(kept)], [simulated[n] for n in sorted(kept)]


def _split(sides: _Sides, a: list[int], b: list[int], rng: random.Random) -> dict[str, Values]:
    """The values of each figure."""
    talks = [[sides.real[n] for n in a], [sides.real[n] for n in b],
             [sides.simulated[n] for n in b]]  # fmt: skip
    found: dict[str, Values] = {}
    for name, of in (
        ("turns", _turns),
        ("words of a first turn", _first),
        ("words of a later turn", _later),
    ):
        x, y, z = (of(t) for t in talks)
        mean = [fmean(v) if v else 0.0 for v in (x, y, z)]
        found[name] = (mean[0], mean[1], mean[2], spread(x, y), spread(x, z))
    shares = [_shares(t) for t in talks]
    for name in shares[0]:
        p, q, r = (s[name] for s in shares)
        found[name] = (p, q, r, abs(p - q), abs(p - r))
    texts = [
        [i for n in a for i in sides.where[0][n]],
        [i for n in b for i in sides.where[0][n]],
        [i for n in b for i in sides.where[1][n]],
    ]
    size = min(len(texts[1]), len(texts[2]))
    texts[1:] = [rng.sample(t, size) for t in texts[1:]]
    found |= _wordings(sides, texts)
    return found


def _turns(talks: Sequence[Talk]) -> list[float]:
    return [float(t.turns) for t in talks if not t.cut]


def _first(talks: Sequence[Talk]) -> list[float]:
    return [float(len(p.said.split())) for t in talks for p in t.points if p.said and p.first]


def _later(talks: Sequence[Talk]) -> list[float]:
    return [float(len(p.said.split())) for t in talks for p in t.points if p.said and not p.first]


def _wordings(sides: _Sides, texts: Sequence[list[int]]) -> dict[str, Values]:
    """Coverage of the reference's clusters and words, entropy over clusters, and the share of
    turns that are like one of the reference's."""
    like, reference = sides.like_NN, texts[0]
    leaders = gather(like, reference)
    covered, spread, near, words = [], [], [], []
    known = {w for i in reference for w in tokens(sides.texts[i])}
    for other in texts[1:]:
        places = assign(like, other, leaders)
        covered.append(_rate(len({p for p in places if p is not None}), len(leaders)))
        near.append(_rate(sum(p is not None for p in places), len(other)))
        all_leaders = gather(like, other, leaders)
        spread.append(entropy(list(Counter(assign(like, other, all_leaders)).values())))
        said = {w for i in other for w in tokens(sides.texts[i])}
        words.append(_rate(len(said & known), len(known)))
    own = entropy(list(Counter(assign(like, reference, leaders)).values()))
    return {
        "clusters covered": (1.0, covered[0], covered[1], 1 - covered[0], 1 - covered[1]),
        "like a real turn": (1.0, near[0], near[1], 1 - near[0], 1 - near[1]),
        "entropy of clusters": (
            own,
            spread[0],
            spread[1],
            abs(own - spread[0]),
            abs(own - spread[1]),
        ),
        "vocabulary covered": (1.0, words[0], words[1], 1 - words[0], 1 - words[1]),
    }


_AT_LEAST = {"clusters covered": 0.9, "like a real turn": 0.9, "vocabulary covered": 0.9}
_UNITS = {"turns": "a conversation", "entropy of clusters": "bits"}


def _line(name: str, values: Sequence[Values]) -> Line:
    """The mean of all splits. Coverages ask for 90% of what a second real sample covers, entropy
    to be lower by no more than real halves differ, others for a distance that these have too."""
    _, real, simulated, near, far = (fmean(v[k] for v in values) for k in range(5))
    bound = float(np.quantile([v[3] for v in values], 0.95))
    if name in _AT_LEAST:
        within = simulated >= _AT_LEAST[name] * real
    elif name == "entropy of clusters":
        within = simulated >= real - near
    else:
        within = far <= bound + 1e-9
    unit = _UNITS.get(name, "words" if name.startswith("words") else "share")
    return Line(name, unit, real, simulated, far, near, bound, within)
