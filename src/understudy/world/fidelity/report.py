"""How faithful a world is: held-out episodes, step by step, each call with its true history."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from understudy.core.types import Episode, ToolResult, canonical_json
from understudy.world.describing.facts_of_time import facts_of_time
from understudy.world.fidelity import latency, reliability
from understudy.world.fidelity.consistency import consistency
from understudy.world.fidelity.figures import Figure, auroc, ece, macro_f1, mean
from understudy.world.fidelity.floor import Floor, Said
from understudy.world.fidelity.gaps import collect
from understudy.world.fidelity.scoring import Scored, Scorer, disjoint, text_of_prediction, walk
from understudy.world.fidelity.survival import survival
from understudy.world.language.filler import LanguageWorld
from understudy.world.model import Foretold, World
from understudy.world.tools import Prediction

COLUMNS = (
    "exact", "exact_but_free", "leaf_f1", "known_f1", "determined_f1", "recalled_f1", "free_type",
    "free_range", "schema", "flag", "list_f1", "revealing", "changes", "changes_0", "changes_1",
    "changes_2", "changes_5",
)  # fmt: skip
_AT_ONCE = 16  # episodes that a model is asked about
_LEAST = 50  # calls from which the calibration of a tool says anything
_TEXT = 4000  # characters of a miss's results that are kept
UNMEASURED = {
    "users": "user coverage: measured by the width report of simulated users, not here",
    "ranking": "policy ranking and transfer: measured by benchmarks on real services, not here",
    "floor": "floor and `+ state`: the episodes that the world learned from are not at hand",
    "model": "row `+ model`: `world report --language RUN --store STORE` measures it",
}


@dataclass(slots=True)
class FidelityReport:
    """Figures by column for rows over all calls, and for each tool.

    Rows: `nearest` (the training call with the most equal arguments), `floor` (the same after
    copying what the episode already answered to this very call: world.fidelity.floor), `entities`
    (the entity store without induced rules: world.fidelity.stored), `overall` (the world),
    `disjoint` (the world where the things of each episode are new: what the traffic showed of them
    is forgotten, and only what the episode shows can be known), `model` (the world with a language
    model in its gaps, where one is measured), `ceiling` (who is right about all that could be
    known). `tools` and `floor_tools` are the world's and the floor's rows by tool.

    Columns: exact; exact_but_free (free leaves aside); leaf_f1 over all leaves; known_f1 over
    leaves that could be known, of which determined_f1 over those in the arguments or earlier in
    the episode, and recalled_f1 over those in the training traffic only; free_type, the share of
    right types among the rest; free_range, the share of them that are like the traffic's values
    there (world.language.plausible); schema (the result has a form that the traffic shows of this
    tool and outcome); flag (error flag right); class_f1 (macro F1 of outcome classes); list_f1
    (records of listings as sets); revealing (exact, where the episode gave this very call another
    answer before); changes: F1 of the changed fields of known things, of calls that change some;
    changes_0, _1, _2, _5: of calls with no change, one, two to four, five or more. The world's row
    alone: free_kept, how often what was made up stays what it was (world.fidelity.consistency);
    flag_auroc and flag_ece of the predicted probability of an error flag; doubt_auroc and doubt_ece
    of the probability that a result is wrong on knowable leaves; real_errors and world_errors
    (rates, the world's from sampled results) with rate_gap.

    Intervals are 95%, by bootstrap over scenarios. `calibration` has bins [stated, true, calls] of
    `flag` and `doubt`, `coverage` (see reliability.coverage), and the calibration error that exact
    probabilities would show in a sample of this size (`flag_chance`, `doubt_chance`). `survival`:
    see world.fidelity.survival. `latency`: see world.fidelity.latency. `collect`: see
    world.fidelity.gaps. `retrieved`: the tools that answer as their nearest remembered call was
    answered, and why (world.fidelity.likelier). `left_out` counts the calls in all episodes that
    the world could not learn from, by reason. `unmeasured` says why there are no figures.
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
    nearest: dict[str, Figure] = field(default_factory=dict)
    ceiling: dict[str, Figure] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    survival: dict[str, Figure] = field(default_factory=dict)
    latency: dict[str, dict[str, float]] = field(default_factory=dict)
    collect: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Figure] = field(default_factory=dict)
    language: dict[str, int] = field(default_factory=dict)  # what became of the gaps
    entities: dict[str, Figure] = field(default_factory=dict)
    disjoint: dict[str, Figure] = field(default_factory=dict)
    time: list[str] = field(default_factory=list)  # see world.describing.facts_of_time
    retrieved: dict[str, str] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=lambda: dict(UNMEASURED))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "FidelityReport":
        """The report of `to_json`."""
        return cls(**data)

    def table(self) -> str:
        """The report as text."""
        from understudy.world.fidelity.table import table

        return table(self)


def fidelity(
    world: World,
    episodes: Sequence[Episode],
    train: Sequence[Episode],
    samples: int = 4,
    seed: int = 0,
    each: Callable[[], None] = lambda: None,
    filled: Mapping[tuple[int, int], Said] | None = None,
) -> FidelityReport:
    """Predict every call of held-out episodes with the true history before it; `each` is called
    after each episode. `train`: the episodes that the world has learned from, for the rows
    `nearest`, `floor` and `entities`; where there are none, these are missing. `filled`: the row
    `model`, of `filled_results`.

    Raises ValueError where the episodes hold no call.
    """
    floor = Floor.of(train, world.failures) if train else None
    scorer = Scorer(world, floor, samples, seed, filled)
    scored: list[Scored] = []
    for n, episode in enumerate(episodes):
        scored += scorer.episode(episode, n)
        each()
    if not scored:
        raise ValueError("these episodes hold no tool call with a result: nothing to compare")
    report = FidelityReport(len({s.step.episode for s in scored}), len(scored))
    report.time = facts_of_time(world)
    report.overall = _figures(scored, "world", seed)
    if floor is not None:
        report.floor = _figures(scored, "floor", seed)
        report.nearest = _figures(scored, "nearest", seed)
        report.entities = _figures(scored, "entities", seed)
        del report.elsewhere["floor"]
    report.ceiling = _figures(scored, "ceiling", seed)
    if filled is not None:
        report.model = _figures(scored, "model", seed)
        del report.elsewhere["model"]
    by_tool: dict[str, list[Scored]] = defaultdict(list)
    for s in scored:
        by_tool[s.step.name].append(s)
    for tool, own in by_tool.items():
        report.tools[tool] = _figures(own, "world", seed)
        if floor is not None:
            report.floor_tools[tool] = _figures(own, "floor", seed)
    report.disjoint = _disjoint(world, episodes, seed)
    report.overall["free_kept"] = consistency(world, episodes, scorer.traffic, seed)
    report.calibration = _calibration(scored, seed)
    report.survival = survival(world, episodes, scorer.traffic, seed=seed)
    report.latency = latency.latencies(world, episodes)
    report.collect = collect(scored, world)
    report.misses = _misses(scored)
    report.retrieved = retrieved(world)
    return report


async def filled_results(
    owner: LanguageWorld,
    episodes: Sequence[Episode],
    seed: int = 0,
    each: Callable[[], None] = lambda: None,
) -> dict[tuple[int, int], Said]:
    """What a world with a language model in its gaps says to every call of held-out episodes, by
    episode and step. Raises ChatError where the model never answers."""
    found: dict[tuple[int, int], Said] = {}
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(n: int, episode: Episode) -> None:
        async with gate:
            for m in walk(owner.world, episode, n, set(), seed):
                s, p = m.truth.step, m.prediction
                foretold = Foretold(s.name, s.args, p, m.context, random.Random(s.index))
                await owner.fill(foretold, seed + n)
                found[n, s.index] = text_of_prediction(owner.world, s.name, p), p.flag
            each()

    await asyncio.gather(*(one(n, e) for n, e in enumerate(episodes)))
    return found


def retrieved(world: World) -> dict[str, str]:
    """Why tools answer as their nearest remembered call was answered, of those that do."""
    how = {name: model.retrieval for name, model in world.models.items()}
    return {name: own.told() for name, own in how.items() if own is not None}


def told(world: World, name: str, p: Prediction) -> ToolResult:
    """A prediction as a result, its doubt with the chance of another outcome in it."""
    text = text_of_prediction(world, name, p)
    return ToolResult(text, p.flag, None, world.provenance(p, name), p.wrong)


def _figures(scored: Sequence[Scored], row: str, seed: int) -> dict[str, Figure]:
    """The columns of a row."""
    scenarios = [s.scenario for s in scored]
    figures = {
        name: mean([s.scores[row].get(name) for s in scored], scenarios, seed) for name in COLUMNS
    }
    real = [s.label for s in scored]
    guess = real if row == "ceiling" else [s.labels[row] for s in scored]
    figures["class_f1"] = macro_f1(real, guess, scenarios, seed)
    if row == "world":
        failed, drawn = [float(s.step.failed) for s in scored], [s.drawn for s in scored]
        gap = [d - r for d, r in zip(drawn, failed, strict=True)]
        figures["real_errors"] = mean(failed, scenarios, seed)
        figures["world_errors"] = mean(drawn, scenarios, seed)
        figures["rate_gap"] = mean(gap, scenarios, seed)
        figures |= _trusted(scored, seed)
    return figures


def _trusted(scored: Sequence[Scored], seed: int) -> dict[str, Figure]:
    """How well what the world states of errors comes true; nothing of too few calls."""
    figures: dict[str, Figure] = {}
    scenarios = [s.scenario for s in scored]
    for what, (stated, true) in _stated(scored).items() if len(scored) >= _LEAST else ():
        figures[f"{what}_auroc"] = auroc(stated, true, scenarios, seed)
        figures[f"{what}_ece"] = ece(stated, true, scenarios, seed)
    return figures


def calibration(world: World, episodes: Sequence[Episode], seed: int = 0) -> dict[str, Figure]:
    """Of the report the columns flag_auroc, flag_ece, doubt_auroc and doubt_ece alone."""
    scorer = Scorer(world, None, 1, seed)
    return _trusted([s for n, e in enumerate(episodes) for s in scorer.episode(e, n)], seed)


def _disjoint(world: World, episodes: Sequence[Episode], seed: int) -> dict[str, Figure]:
    """The columns of an entity-disjoint split."""
    found = [
        (scores, episode.scenario_id or episode.id)
        for n, episode in enumerate(episodes)
        for scores in disjoint(world, episode, n, seed)
    ]
    scenarios = [scenario for _, scenario in found]
    return {c: mean([scores.get(c) for scores, _ in found], scenarios, seed) for c in COLUMNS}


def _stated(scored: Sequence[Scored]) -> dict[str, tuple[list[float], list[float]]]:
    """(stated, came true): an error flag; a result wrong on leaves that could be known."""
    wrong = [float(s.scores["world"]["known_f1"] != 1.0) for s in scored]
    return {
        "flag": ([s.failure for s in scored], [float(s.step.flag) for s in scored]),
        "doubt": ([s.doubt for s in scored], wrong),
    }


def _calibration(scored: Sequence[Scored], seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for what, (stated, true) in _stated(scored).items():
        found[what] = reliability.bins(stated, true)
        found[f"{what}_chance"] = reliability.error_of_chance(stated, seed=seed)
    found["coverage"] = reliability.coverage(*_stated(scored)["doubt"])
    return found


def _misses(scored: Sequence[Scored], most: int = 10) -> list[dict[str, Any]]:
    """The worst misses on knowable leaves, of one tool and pair of outcome classes two at most
    while there are others."""

    def grade(s: Scored) -> tuple[float, float]:
        own = s.scores["world"]
        return own["known_f1"] or 0.0, own["leaf_f1"] or 0.0

    wrong = sorted((s for s in scored if s.scores["world"]["known_f1"] != 1.0), key=grade)
    kinds: dict[tuple[str, str, str], int] = defaultdict(int)
    first: list[Scored] = []
    rest: list[Scored] = []
    for s in wrong:
        kind = s.step.name, s.label, s.labels["world"]
        (first if kinds[kind] < 2 else rest).append(s)
        kinds[kind] += 1
    return [
        {
            "tool": s.step.name, "arguments": canonical_json(s.step.args),
            "real": s.step.content[:_TEXT], "predicted": s.said[:_TEXT], "doubt": s.doubt,
        }
        for s in sorted((first + rest)[:most], key=grade)
    ]  # fmt: skip
