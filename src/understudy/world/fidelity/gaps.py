"""What traces to collect: the situations in which a world doubts most, as often as agents come
there, and what would help."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from understudy.world.known.context import Context
from understudy.world.tools import Prediction, ToolModel

if TYPE_CHECKING:
    from understudy.world.fidelity.scoring import Scored
    from understudy.world.model import World

_FEW = 20  # calls of a tool below which any trace of it helps
_SURE = 0.8  # the chance of an outcome from which it counts as decided


@dataclass(frozen=True, slots=True)
class Situation:
    """What a call was like before it was answered."""

    new: tuple[str, ...] = ()  # identifier arguments that neither traffic nor session named
    elsewhere: tuple[str, ...] = ()  # those known from other episodes only
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    given: tuple[str, ...] = ()  # arguments that the tool does not require
    outcomes: tuple[tuple[str, float], ...] = ()  # the likeliest two outcome classes
    invented: tuple[str, ...] = ()  # paths of values without a source


@dataclass(frozen=True, slots=True)
class Gap:
    """A situation worth traces. `weight` is the share of all expected errors that lie here."""

    tool: str
    situation: str
    calls: int  # held-out calls in it
    share: float  # of all held-out calls
    doubt: float  # mean
    wrong: float  # share that was wrong
    weight: float
    in_traffic: int  # calls of the tool that the world learned from
    help: str


def situation(name: str, p: Prediction, c: Context | None) -> Situation:
    """The situation of a call whose result was predicted."""
    best = Counter(p.chances).most_common(2)
    invented = tuple(path for path, m in p.marks.items() if m.kind == "invented")
    if c is None:
        return Situation(outcomes=tuple(best), invented=invented)
    standing = {a: c.state.standing((domain, value)) for a, domain, value in c.ids}
    return Situation(
        tuple(a for a, where in standing.items() if where == "new"),
        tuple(a for a, where in standing.items() if where == "memory"),
        tuple(c.tool.missing(c.args)),
        tuple(c.tool.extra(c.args)),
        tuple(p for p in c.tool.known if p in c.args and p not in c.tool.required),
        tuple(best),
        invented,
    )


def collect(scored: Sequence["Scored"], world: "World", most: int = 10) -> list[dict[str, Any]]:
    """The situations with the largest sums of doubt, as JSON of `Gap`."""
    groups: dict[tuple[str, str], list[Scored]] = defaultdict(list)
    for s in scored:
        groups[s.step.name, _words(s.where)].append(s)
    total = sum(s.doubt for s in scored) or 1.0
    found = []
    for (tool, words), own in groups.items():
        doubt = sum(s.doubt for s in own)
        wrong = [s.scores["world"]["known_f1"] != 1.0 for s in own]
        model = world.models.get(tool)
        n = model.calls if model else 0
        found.append(Gap(tool, words, len(own), len(own) / len(scored), doubt / len(own),
                         sum(wrong) / len(own), doubt / total, n, _help(own, model)))  # fmt: skip
    found.sort(key=lambda g: (-g.weight, g.tool, g.situation))
    return [asdict(g) for g in found[:most]]


def _words(s: Situation) -> str:
    told = [f"{a} was never seen" for a in s.new]
    told += [f"{a} is known from other episodes only" for a in s.elsewhere]
    told += [f"{a} is missing" for a in s.missing] + [f"{a} is no known argument" for a in s.extra]
    told = told or ["nothing that it names is new"]
    return "; ".join(told) + (f" (with {', '.join(s.given)})" if s.given else "")


def _help(own: Sequence["Scored"], model: ToolModel | None) -> str:
    if model is None or model.calls < _FEW:
        return "traces that call this tool at all"
    where = own[0].where
    if where.new:
        named = " and ".join(where.new)
        return f"traces in which a result names {named} before this call, with more values of it"
    torn = [s.where.outcomes for s in own if s.where.outcomes and s.where.outcomes[0][1] < _SURE]
    if len(torn) > 0.5 * len(own) and all(len(o) > 1 for o in torn):
        one, other = [Counter(o[i][0] for o in torn).most_common(1)[0][0] for i in (0, 1)]
        chance = sum(o[0][1] for o in torn) / len(torn)
        return (
            f"more calls in this situation: nothing seen decides between {_name(one)} "
            f"({chance:.0%}) and {_name(other)}; what stays open is chance"
        )
    if model.query is not None:
        return "more traces that list with these arguments, and later looks at what was listed"
    paths = Counter(p for s in own for p in s.where.invented if p)
    if paths:
        named = ", ".join(p for p, _ in paths.most_common(3))
        return f"traces that show where {named} comes from: a result before this call that has it"
    if where.elsewhere:
        named = " and ".join(where.elsewhere)
        return f"traces that read what {named} names earlier in the same episode"
    return "more traces with this call"


def _name(label: str) -> str:
    """An outcome class in a few words."""
    kind, _, form = label.partition(":")
    form = form.replace("{{", "{").replace("}}", "}")  # as templates escape them
    text = form if len(form) <= 60 else form[:57] + "..."
    return f"failure {text}" if kind == "err" else f"success {text}"
