"""Whether a language model's values may stand in a world's results: a comparison on calls that
neither the world nor the model had seen.

A place (a tool and a path with list positions collapsed) is the model's only where its values were
closer to the truth than the world's own draft in so many more calls that a sign test says so, or
where in MANY calls neither ever was. A tool whose results, taken together, are exact less often
then keeps its drafts. Values of one call are no evidence apart from each other: a call counts once.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from understudy.world.data.values import same
from understudy.world.language.bounds import Place, collapsed

MANY = 60  # calls without a difference: by the rule of three it comes in 5% of them at most
_LEVEL = 0.05  # of the sign test
_WORDS = 5  # from which on a text is prose, that may be right in part


@dataclass(slots=True)
class Tally:
    """Values of a model that fitted at a place: in how many calls, in how many of those the model
    or the draft was closer; how many values, and how many of them each had exactly; and the sums
    over the values of the closeness of each."""

    calls: int = 0
    wins: int = 0
    losses: int = 0
    values: int = 0
    model_exact: int = 0
    draft_exact: int = 0
    model_close: float = 0.0
    draft_close: float = 0.0

    def add(self, found: Sequence[tuple[Any, Any, Any]]) -> None:
        """Note the values of a call: the model's, the draft's and the real one of each."""
        own = sum(closeness(model, real) for model, _, real in found)
        other = sum(closeness(draft, real) for _, draft, real in found)
        self.calls += 1
        self.wins += own > other
        self.losses += own < other
        self.values += len(found)
        self.model_exact += sum(same(model, real) for model, _, real in found)
        self.draft_exact += sum(same(draft, real) for _, draft, real in found)
        self.model_close += own
        self.draft_close += other

    @property
    def taken(self) -> bool:
        """Whether the model's values may stand here."""
        if self.model_exact < self.draft_exact:
            return False
        n = self.wins + self.losses
        tail = sum(math.comb(n, k) for k in range(self.wins, n + 1)) / 2**n
        return tail <= _LEVEL or (n == 0 and self.calls >= MANY)


@dataclass(frozen=True, slots=True)
class Case:
    """A result's open values by path: as the model has those that fit, as the draft has them, and
    as they really were."""

    tool: str
    model: Mapping[str, Any]
    draft: Mapping[str, Any]
    real: Mapping[str, Any]


@dataclass(slots=True)
class Trial:
    """What such a comparison showed. `kept`: tools whose results were exact less often, with the
    model's values at all its places, than with the drafts."""

    places: dict[Place, Tally] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)  # what became of the model's answers

    @classmethod
    def of(cls, cases: Iterable[Case], counted: Mapping[str, int] | None = None) -> "Trial":
        """The trial of these cases."""
        cases, tallies = list(cases), defaultdict[Place, Tally](Tally)
        for case in cases:
            found = defaultdict[str, list[tuple[Any, Any, Any]]](list)
            for path, value in case.model.items():
                found[collapsed(path)].append((value, case.draft[path], case.real[path]))
            for path, values in found.items():
                tallies[case.tool, path].add(values)
        trial = cls(dict(sorted(tallies.items())), [], dict(counted or {}))
        gained: Counter[str] = Counter()
        for case in cases:
            mixed = {p: v if trial.takes(case.tool, p) else case.draft[p]
                     for p, v in case.model.items()}  # fmt: skip
            mixed = {**case.draft, **mixed}
            gained[case.tool] += _all_same(mixed, case.real) - _all_same(case.draft, case.real)
        trial.kept = sorted(tool for tool, n in gained.items() if n < 0)
        return trial

    def takes(self, tool: str, path: str) -> bool:
        """Whether the model's value may stand at a path of a tool's results."""
        tally = self.places.get((tool, collapsed(path)))
        return tally is not None and tally.taken and tool not in self.kept

    def table(self) -> list[str]:
        """A line for each tool: its places and cases, those that are the model's, and how often
        model and draft were exact in all of them."""
        lines = []
        for tool in sorted({tool for tool, _ in self.places}):
            own = [(path, t) for (name, path), t in self.places.items() if name == tool]
            n = sum(t.values for _, t in own)
            model, draft = (
                sum(getattr(t, who) for _, t in own) / n for who in ("model_exact", "draft_exact")
            )
            taken = sum(self.takes(tool, path) for path, _ in own)
            lines.append(f"{tool}: {n} values of {len(own)} places, exact {model:.1%} by the model "
                         f"and {draft:.1%} by the draft; {taken} places taken")  # fmt: skip
        return lines

    def to_json(self) -> dict[str, Any]:
        places = [[tool, path, asdict(t)] for (tool, path), t in self.places.items()]
        return {"places": places, "kept": self.kept, "counted": self.counted}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Trial":
        """The trial of `to_json`."""
        places = {(tool, path): Tally(**t) for tool, path, t in data["places"]}
        return cls(places, list(data["kept"]), dict(data["counted"]))


def closeness(value: Any, real: Any) -> float:
    """1 for an equal value; for prose the F1 of its words; else 0."""
    if same(value, real):
        return 1.0
    if not (isinstance(value, str) and isinstance(real, str) and len(real.split()) >= _WORDS):
        return 0.0
    return word_f1(value, real)


def word_f1(text: str, real: str) -> float:
    """The F1 of a text's words, whatever their case and order."""
    a, b = Counter(text.lower().split()), Counter(real.lower().split())
    both = (a & b).total()
    return 2 * both / (a.total() + b.total()) if both else 0.0


def _all_same(values: Mapping[str, Any], real: Mapping[str, Any]) -> bool:
    return all(same(values[path], value) for path, value in real.items())
