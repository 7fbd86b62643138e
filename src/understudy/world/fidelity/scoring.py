"""Held-out calls, each predicted with its true history, and how right rows of a table are there."""

import random
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from understudy.core.types import Episode, canonical_json
from understudy.world.data.values import call_key, columns
from understudy.world.fidelity.compare import Scores, Truth, changes, failed, label_of
from understudy.world.fidelity.floor import Floor, Said
from understudy.world.fidelity.forms import Forms
from understudy.world.fidelity.gaps import Situation, situation
from understudy.world.fidelity.stored import Stored
from understudy.world.known.context import Context
from understudy.world.language.plausible import Plausible
from understudy.world.model import World, WorldSession
from understudy.world.tools import Prediction
from understudy.world.traffic.transitions import Step, steps, transitions
from understudy.world.written import content


@dataclass(slots=True)
class Moment:
    """A real call before the session has seen its result. Use it before the next one is drawn."""

    truth: Truth
    session: WorldSession
    prediction: Prediction
    context: Context | None
    text: str  # of the prediction
    shown: Said | None  # what the episode answered to this very call before


@dataclass(slots=True)
class Scored:
    """One call: what was real, what was said, and the columns of each row."""

    scenario: str
    step: Step
    label: str  # real outcome class
    labels: dict[str, str]  # row -> its outcome class
    scores: dict[str, Scores]
    said: str
    doubt: float
    failure: float  # probability of an error flag
    drawn: float  # share of sampled results that fail
    where: Situation


def walk(
    world: World,
    episode: Episode,
    n: int,
    traffic: set[str],
    seed: int = 0,
    without: Container[int] | None = None,
    tools: Container[str] | None = None,
) -> Iterator[Moment]:
    """The calls of an episode in order, of some `tools` or of all, each predicted at its most
    probable; the session is given the real results. `traffic` holds the values that the world
    remembers, as text; the episodes `without`, by the world's numbers, are forgotten."""
    session = world.session(seed + n, at=world.moment(episode))
    if without is not None:
        session.state.without = without
    shown: dict[str, Said] = {}
    seen: set[str] = set()
    for s in steps(transitions(episode), n, world.failures):
        call = s.name + canonical_json(s.args)
        if tools is None or s.name in tools:
            rng = random.Random(f"fidelity:{seed}:{n}:{s.index}")
            p, c = world.predict(session.state, s.name, s.args, rng, greedy=True)
            before = shown.get(call)
            reveals = before is not None and s.read(before[0]) != s.value
            truth = Truth.of(s, seen, traffic, reveals)
            yield Moment(truth, session, p, c, text_of_prediction(world, s.name, p), before)
        shown[call] = (s.content, s.flag)
        seen |= {str(v) for part in (s.args, s.value) for _, v in columns(part)}
        session.observe(s.name, s.args, s.content, s.flag)


def text_of_prediction(world: World, name: str, p: Prediction) -> str:
    """A predicted result as the tool would write it."""
    model = world.models.get(name)
    return content(p, model, world.failures.around(name)) if model is not None else p.text or ""


class Scorer:
    """Scores episodes against a world that has not learned from them.

    `floor`: the calls that it has learned from; None where they are not at hand, then there are no
    rows `nearest`, `floor` and `entities`. `told`: what the world says with a language model, by
    episode and step: a row `model`.
    """

    def __init__(
        self,
        world: World,
        floor: Floor | None,
        samples: int = 4,
        seed: int = 0,
        told: Mapping[tuple[int, int], Said] | None = None,
    ) -> None:
        self.world, self.floor, self.told = world, floor, told
        self.samples, self.seed = samples, seed
        self.traffic = world_values(world)
        self.forms = Forms(world)
        self.plausible = Plausible(floor, world.failures) if floor is not None else None

    def episode(self, episode: Episode, n: int) -> Iterator[Scored]:
        """The calls of one episode; `n` tells episodes apart."""
        stored, at = None, self.world.moment(episode)
        if self.floor is not None:
            stored = Stored(self.world, self.floor, self.seed + n, at)
        for m in walk(self.world, episode, n, self.traffic, self.seed):
            s, p = m.truth.step, m.prediction
            said = {"world": (m.text, p.flag)}
            if self.floor is not None:
                nearest = self.floor.nearest(s.name, s.args).said
                said |= {"nearest": nearest, "floor": m.shown or nearest}
            if stored is not None:
                said["entities"] = stored.answer(s.name, s.args)
            if self.told is not None:
                said["model"] = self.told[n, s.index]
            scores = {row: m.truth.scores(*answer) for row, answer in said.items()}
            fails = {row: failed(self.world.failures, s.name, *a) for row, a in said.items()}
            for row, (text, _) in said.items():
                valid = self.forms.valid(m.context, text, fails[row])
                scores[row]["schema"] = None if valid is None else float(valid)
                if self.plausible is not None:
                    free = self.plausible.share(s.name, m.truth.free, s.read(text))
                    scores[row]["free_range"] = None if s.failed else free
            scores["ceiling"] = m.truth.ceiling() | {"schema": scores["world"]["schema"] and 1.0}
            if self.plausible is not None and not s.failed:
                real = self.plausible.share(s.name, m.truth.free, s.value)
                scores["ceiling"]["free_range"] = real
            self._changes(m, said, fails, scores)
            yield Scored(
                episode.scenario_id or episode.id, s, m.truth.label,
                {row: label_of(s.read(a[0]), fails[row]) for row, a in said.items()},
                scores, m.text, p.wrong, self._flag_chance(s.name, p), self._drawn(m, n),
                situation(s.name, p, m.context),
            )  # fmt: skip
            if stored is not None:
                stored.observe(s.name, s.args, s.content, s.flag)

    def _changes(
        self, m: Moment, said: dict[str, Said], fails: dict[str, bool], scores: dict[str, Scores]
    ) -> None:
        """F1 of the changes to known things that results show, under how many are real."""
        s, state = m.truth.step, m.session.state
        real = changes(state, s, s.value, not s.failed) if m.context is not None else set()
        column = next(f"changes_{low}" for low in (5, 2, 1, 0) if len(real) >= low)
        for row in scores.values():
            row |= dict.fromkeys(("changes", "changes_0", "changes_1", "changes_2", "changes_5"))
        if s.failed or m.context is None:
            return
        names = [column] + ["changes"] * bool(real)
        scores["ceiling"] |= dict.fromkeys(names, 1.0)
        for name, (text, _) in said.items():
            got = changes(state, s, s.read(text), not fails[name])
            total = len(got) + len(real)
            f1 = 2 * len(got & real) / total if total else 1.0
            scores[name] |= dict.fromkeys(names, f1)

    def _drawn(self, m: Moment, n: int) -> float:
        s = m.truth.step
        rng = random.Random(f"drawn:{self.seed}:{n}:{s.index}")
        state, world = m.session.state, self.world
        drawn = [
            world.predict(state, s.name, s.args, rng, greedy=False)[0].outcome.startswith("err")
            for _ in range(self.samples)
        ]
        return sum(drawn) / max(1, len(drawn))

    def _flag_chance(self, name: str, p: Prediction) -> float:
        model = self.world.models.get(name)
        if model is None:
            return p.failure
        rates = {
            label: model.texts[label].flag
            if label in model.texts
            else model.flags.get(label, float(label.startswith("err")))
            for label in p.chances
        }
        return sum(chance * rates[label] for label, chance in p.chances.items())


def disjoint(world: World, episode: Episode, n: int, seed: int = 0) -> Iterator[Scores]:
    """The world's columns for the calls of an episode, all that the traffic showed of the things
    in it forgotten; what could be known is what the episode shows."""
    without = _sharing(world, episode, n)
    for m in walk(world, episode, n, set(), seed, without):
        yield m.truth.scores(m.text, m.prediction.flag)


def _sharing(world: World, episode: Episode, n: int) -> frozenset[int]:
    """The episodes of the traffic from which a thing of this one, or one of its calls, is
    remembered."""
    found: set[int] = set()
    memory = world.memory
    for s in steps(transitions(episode), n, world.failures):
        things = [(domain, item) for _, domain, item in world.ids.of_args(s.name, s.args)]
        if not s.failed:
            things += [own[:2] for own in world.ids.shown(s.name, s.args, s.value)]
        for domain, item in things:
            found |= {e for e, _ in memory.versions.get(domain, {}).get(item, ())}
            found |= set(memory.mentions.get(item, ())) if isinstance(item, str) else set()
        model = world.models.get(s.name)
        held = model.recall.get(call_key(s.name, s.args), ()) if model is not None else ()
        found |= {e for e, _ in held}
    return frozenset(found)


def world_values(world: World) -> set[str]:
    """Every scalar that the world remembers, as text."""
    found: set[str] = set()
    for things in world.memory.versions.values():
        for held in things.values():
            for _, fields in held:
                found |= {str(v) for _, v in columns(fields)}
    for model in world.models.values():
        for answers in model.recall.values():
            found |= {str(v) for _, a in answers for _, v in columns(a)}
    return found
