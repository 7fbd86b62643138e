"""How faithful a world is: held-out episodes, step by step, each call with its true history."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from understudy.core.types import Episode, ToolResult, canonical_json
from understudy.world.listings import list_in
from understudy.world.model import World, content
from understudy.world.transitions import Step, steps, transitions
from understudy.world.values import columns, parse

Figure = dict[str, float]  # value, low, high, n


@dataclass(slots=True)
class FidelityReport:
    """Figures by name for `overall`, each tool, and the retrieval `floor` beside them.

    Figures: exact; exact_but_free (free leaves aside); leaf_f1 over all leaves; known_f1 over
    leaves that could be known (their value is in the arguments, earlier in the episode or in
    the training traffic) and free_type, the share of right types among the rest; flag (error
    flag right); class_f1 (macro F1 of outcome classes); list_f1 (records of listings as sets);
    real_errors and world_errors (rates, the world's from sampled results) with rate_gap.
    Intervals are 95%, by bootstrap over episodes. `left_out` counts the calls in all episodes
    that the world could not learn from, by reason. `unmeasured` says why there are no figures.
    """

    episodes: int
    calls: int
    overall: dict[str, Figure] = field(default_factory=dict)
    floor: dict[str, Figure] = field(default_factory=dict)
    tools: dict[str, dict[str, Figure]] = field(default_factory=dict)
    floor_tools: dict[str, dict[str, Figure]] = field(default_factory=dict)
    misses: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    unmeasured: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "FidelityReport":
        """The report of `to_json`."""
        return cls(**data)

    def table(self) -> str:
        """The report as text."""
        from rich.console import Console
        from rich.table import Table

        names = [
            "n",
            "exact",
            "exact_but_free",
            "known_f1",
            "flag",
            "class_f1",
            "list_f1",
            "rate_gap",
        ]
        table = Table(title=f"fidelity on {self.episodes} held-out episodes, {self.calls} calls")
        for head in ("", *names):
            table.add_column(head, justify="left" if not head else "right")
        rows = [("all", self.overall), ("retrieval floor", self.floor), *sorted(self.tools.items())]
        for name, figures in rows:
            table.add_row(name, *(_cell(figures, n) for n in names))
        console = Console(width=150, record=True, file=open_null())
        console.print(f"fidelity: {self.unmeasured}" if self.unmeasured else table)
        for reason, count in self.left_out.items():
            console.print(f"left out: {count} calls, {reason}")
        return console.export_text()


def open_null() -> Any:
    import io

    return io.StringIO()


def _cell(figures: dict[str, Figure], name: str) -> str:
    if name == "n":
        return str(int(figures.get("exact", {}).get("n", 0)))
    f = figures.get(name)
    if f is None or f["n"] == 0:
        return "-"
    return f"{100 * f['value']:.1f} [{100 * f['low']:.0f}, {100 * f['high']:.0f}]"


def fidelity(
    world: World, episodes: Sequence[Episode], samples: int = 4, seed: int = 0
) -> FidelityReport:
    """Predict every call of held-out episodes with the true history before it.

    Raises ValueError where the episodes hold no call.
    """
    scored: list[dict[str, Any]] = []
    for n, episode in enumerate(episodes):
        scored += _score_episode(world, episode, n, samples, seed)
    if not scored:
        raise ValueError("these episodes hold no tool call with a result: nothing to compare")
    report = FidelityReport(len({s["episode"] for s in scored}), len(scored))
    report.overall = _figures(scored, "world", seed)
    report.floor = _figures(scored, "floor", seed)
    by_tool: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for s in scored:
        by_tool[s["tool"]].append(s)
    for tool, own in by_tool.items():
        report.tools[tool] = _figures(own, "world", seed)
        report.floor_tools[tool] = _figures(own, "floor", seed)
    wrong = sorted((s for s in scored if not s["world"]["exact"]), key=lambda s: s["world"]["leaf"])
    report.misses = [
        {k: s[k] for k in ("tool", "arguments", "real", "predicted", "doubt")} for s in wrong[:10]
    ]
    return report


def _score_episode(
    world: World, episode: Episode, n: int, samples: int, seed: int
) -> list[dict[str, Any]]:
    session = world.session(seed + n)
    shown: dict[str, tuple[str, bool]] = {}
    seen: set[str] = set()
    scored = []
    for s in steps(transitions(episode), n, world.failures):
        rng = random.Random(f"fidelity:{seed}:{n}:{s.index}")
        guess = predict_step(world, session, s.name, s.args, rng)
        known = {_text(v) for _, v in columns(s.args)} | seen | world_values(world)
        floor = shown.get(_call(s)) or _nearest(world, s)
        drawn = [
            world.predict(session.state, s.name, s.args, rng, False)[0].outcome.startswith("err")
            for _ in range(samples)
        ]
        scored.append({
            "episode": n, "tool": s.name, "arguments": json.dumps(s.args), "real": s.content[:2000],
            "predicted": guess.content[:2000], "doubt": guess.doubt, "failed": s.failed,
            "world": _compare(world, s, guess.content, guess.is_error, known),
            "floor": _compare(world, s, floor[0], floor[1], known),
            "drawn": sum(drawn) / samples,
        })  # fmt: skip
        shown[_call(s)] = (s.content, s.flag)
        seen |= {_text(v) for part in (s.args, s.value) for _, v in columns(part)}
        session.observe(s.name, s.args, s.content, s.flag)
    return scored


def predict_step(
    world: World, session: Any, name: str, args: dict[str, Any], rng: random.Random
) -> ToolResult:
    """The most probable result of a call in a session; the session is not changed."""
    p, _ = world.predict(session.state, name, args, rng, greedy=True)
    model = world.models.get(name)
    text = content(p, model) if model is not None else p.text or ""
    doubt = 1 - (1 - p.doubt) * p.chances.get(p.outcome, 1.0)
    return ToolResult(text, p.flag, None, world.provenance(p), doubt)


_VALUES: dict[int, set[str]] = {}


def world_values(world: World) -> set[str]:
    """Every scalar that the world remembers, as text."""
    if id(world) not in _VALUES:
        _VALUES.clear()
        found: set[str] = set()
        for things in world.memory.versions.values():
            for held in things.values():
                for _, fields in held:
                    found |= {_text(v) for _, v in columns(fields)}
        for model in world.models.values():
            for answers in model.recall.values():
                found |= {_text(v) for _, a in answers for _, v in columns(a)}
        _VALUES[id(world)] = found
    return _VALUES[id(world)]


def _text(value: Any) -> str:
    return str(value)


def _call(s: Step) -> str:
    return s.name + canonical_json(s.args)


def _nearest(world: World, s: Step) -> tuple[str, bool]:
    """The result of the training call with the most equal arguments."""
    model = world.models.get(s.name)
    if model is None or not model.recall:
        return "", True
    own = {(k, canonical_json(v)) for k, v in s.args.items()}

    def overlap(key: str) -> float:
        other = {(k, canonical_json(v)) for k, v in json.loads(key[len(s.name) :]).items()}
        return len(own & other) / max(1, len(own | other))

    best = max(model.recall, key=overlap)
    value = model.recall[best][-1][1]
    return (value if isinstance(value, str) else json.dumps(value)), False


def _compare(
    world: World, s: Step, text: str, flag: bool, known: set[str]
) -> dict[str, float | str | None]:
    guess = parse(text)
    real = Counter((p, canonical_json(v)) for p, v in columns(s.value))
    got = Counter((p, canonical_json(v)) for p, v in columns(guess))
    knowable = [(p, v) for p, v in columns(s.value) if v is None or _text(v) in known]
    free = {p for p, _ in columns(s.value)} - {p for p, _ in knowable}
    part = Counter((p, canonical_json(v)) for p, v in knowable if p not in free)
    own = Counter((p, v) for (p, v), k in got.items() for _ in range(k) if p not in free)
    types = [type(v).__name__ for p, v in columns(s.value) if p in free]
    guessed = [type(v).__name__ for p, v in columns(guess) if p in free]
    right = sum((Counter(types) & Counter(guessed)).values())
    listed = None
    both = list_in(s.value), list_in(guess)
    if both[0] is not None and not s.failed:
        a = {canonical_json(r) for r in both[0][1]}
        b = {canonical_json(r) for r in both[1][1]} if both[1] else set()
        listed = 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0
    fake = world.failures.failed
    from understudy.core.types import Transition

    guess_failed = fake(Transition("", 0, (), s.name, "{}", text, flag), guess)
    return {
        "exact": float(text == s.content or guess == s.value),
        "leaf": _f1(got, real),
        "but_free": float(guess == s.value if s.failed else own == part and len(got) == len(real)),
        "known": float(guess == s.value) if s.failed else _f1(own, part),
        "free": right / len(types) if types else None,
        "flag": float(flag == s.flag),
        "list": listed,
        "class": _shape(s.value, s.failed),
        "guess": _shape(guess, guess_failed),
    }


def _shape(value: Any, failed: bool) -> str:
    import re

    if isinstance(value, dict) and not failed:
        return "ok" + canonical_json(sorted(value))
    text = value if isinstance(value, str) else canonical_json(value) if failed else "ok[]"
    return re.sub(r"[\w.-]+", lambda m: "#" if re.search(r"\d", m.group()) else m.group(), text)


def _f1(got: Counter[Any], real: Counter[Any]) -> float:
    total = sum(got.values()) + sum(real.values())
    return 2 * sum((got & real).values()) / total if total else 1.0


def _figures(scored: list[dict[str, Any]], who: str, seed: int) -> dict[str, Figure]:
    names = {
        "exact": "exact", "exact_but_free": "but_free", "leaf_f1": "leaf",
        "known_f1": "known", "free_type": "free", "flag": "flag", "list_f1": "list",
    }  # fmt: skip
    figures = {
        name: _interval([(s["episode"], s[who][key]) for s in scored], seed)
        for name, key in names.items()
    }
    value = _macro_f1([(str(s[who]["class"]), str(s[who]["guess"])) for s in scored])
    figures["class_f1"] = {"value": value, "low": value, "high": value, "n": len(scored)}
    if who == "world":
        real = [(s["episode"], float(s["failed"])) for s in scored]
        drawn = [(s["episode"], s["drawn"]) for s in scored]
        gap = [(e, d - r) for (e, d), (_, r) in zip(drawn, real, strict=True)]
        figures["real_errors"] = _interval(real, seed)
        figures["world_errors"] = _interval(drawn, seed)
        figures["rate_gap"] = _interval(gap, seed)
    return figures


def _macro_f1(pairs: list[tuple[str, str]]) -> float:
    classes = {a for a, _ in pairs}
    scores = []
    for c in classes:
        hit = sum(a == b == c for a, b in pairs)
        total = sum(a == c for a, _ in pairs) + sum(b == c for _, b in pairs)
        scores.append(2 * hit / total)
    return sum(scores) / len(scores)


def _interval(values: Sequence[tuple[int, float | None]], seed: int) -> Figure:
    """Mean with a 95% bootstrap interval over episodes."""
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for episode, value in values:
        if value is not None:
            sums[episode][0] += value
            sums[episode][1] += 1
    groups = np.array(list(sums.values()) or [[0.0, 0.0]])
    n = float(groups[:, 1].sum())
    if not n:
        return {"value": 0.0, "low": 0.0, "high": 0.0, "n": 0}
    drawn = np.random.default_rng(seed).integers(0, len(groups), (400, len(groups)))
    totals = groups[drawn].sum(axis=1)
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])
    return {"value": groups[:, 0].sum() / n, "low": float(low), "high": float(high), "n": n}
