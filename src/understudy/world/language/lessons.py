"""What a model learns to fill a world's gaps from, and is tried on: calls that the world has not
seen, each with its open values as they really were."""

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.core.types import Completion, Episode, Message, ModelRef, Request
from understudy.world.data.values import kind_of, leaves
from understudy.world.fidelity.crossfit import unremembered
from understudy.world.known.context import Context
from understudy.world.language.filler import Earlier, LanguageWorld, filled, gaps, view, written_as
from understudy.world.language.trial import Case
from understudy.world.model import Foretold, World, WorldSession
from understudy.world.traffic.transitions import Step, steps, transitions


@dataclass(frozen=True, slots=True)
class Lesson:
    """A call with gaps. `times`: how often it is taught; what changes a thing, or fails, twice."""

    id: str
    origin: str  # the scenario
    foretold: Foretold  # in the class of outcome that the call really had
    messages: tuple[Message, ...]  # what the model sees
    real: dict[str, Any]  # by path
    times: int

    def conversations(self) -> Iterator[Episode]:
        """The call as it is taught: conversations of one answer."""
        numbered = {str(n): value for n, value in enumerate(self.real.values(), 1)}
        answer: Message = {"role": "assistant", "content": written_as(numbered)}
        for again in range(self.times):
            name = f"{self.id}-{again}"
            request = Request(self.messages, ModelRef("world"))
            done = Completion(name, request, "ok", answer, finish_reason="stop")
            yield Episode(name, (done,), scenario_id=name)


def left_open(world: World, episodes: Sequence[Episode]) -> dict[str, Container[str]]:
    """The gaps, by the lesson's id, that a world leaves in the episodes that it has learned from,
    with nothing remembered of their scenarios; where state lasts, of their episodes and of later
    ones. What the world of them all determines, a world of half of them may not."""
    earlier, found = Earlier(world), dict[str, Container[str]]()
    for n, (e, without) in enumerate(unremembered(world, episodes)):
        session = world.session(n, at=world.moment(e))
        session.state.without = without
        found |= {lesson.id: lesson.real.keys() for lesson in _of_episode(earlier, session, e)}
    return found


def lessons(
    world: World, episodes: Sequence[Episode], within: Mapping[str, Container[str]] | None = None
) -> Iterator[Lesson]:
    """The calls with gaps of episodes that the world has not learned from, those gaps aside that
    the real result lacks or fills with another JSON type; of `left_open`, `within` those alone."""
    earlier = Earlier(world)
    for n, episode in enumerate(episodes):
        session = world.session(n, at=world.moment(episode))
        yield from _of_episode(earlier, session, episode, within)


def _of_episode(
    earlier: Earlier,
    session: WorldSession,
    episode: Episode,
    within: Mapping[str, Container[str]] | None = None,
) -> Iterator[Lesson]:
    world = earlier.world
    for s in steps(transitions(episode), 0, world.failures):
        if not s.bad_json and s.name in world.models:
            ident = f"{episode.id}-{s.index}"
            known = None if within is None else within.get(ident, ())
            found = _lesson(earlier, session, s, episode, ident, known)
            if found is not None:
                yield found
        session.observe(s.name, s.args, s.content, s.flag)


def _lesson(
    earlier: Earlier,
    session: WorldSession,
    s: Step,
    episode: Episode,
    ident: str,
    within: Container[str] | None,
) -> Lesson | None:
    world = earlier.world
    c: Context = world.models[s.name].context(session.state, s.args)
    label = world.classify(c, s.content, s.failed)
    foretold = session.foretell(s.name, json.dumps(s.args), greedy=True, outcome=label)
    p, real = foretold.prediction, dict(leaves(s.value))
    draft = dict(leaves(p.value))
    asked = [
        path for path in gaps(p, c) if path in real and kind_of(real[path]) == kind_of(draft[path])
    ]
    asked = [path for path in asked if within is None or path in within]
    if not asked:
        return None
    return Lesson(
        ident,
        episode.scenario_id or episode.id,
        foretold,
        tuple(view(c, p, asked, earlier.like(c))),
        {path: real[path] for path in asked},
        1 + (s.failed or bool(world.models[s.name].effects)),
    )


async def tried(owner: LanguageWorld, lesson: Lesson) -> Case:
    """A model's values for a lesson that it was not taught, beside the draft's and the real."""
    p, asked = lesson.foretold.prediction, list(lesson.real)
    name = lesson.foretold.name
    values = await owner.ask(name, p, asked, asked, list(lesson.messages), 0)
    value, fits = filled(owner.world, owner.bounds, lesson.foretold, values)
    owner.counted["fit"] += len(fits)
    owner.counted["asked"] += len(asked)
    draft, told = dict(leaves(p.value)), dict(leaves(value))
    return Case(name, {k: told[k] for k in fits}, {k: draft[k] for k in asked}, lesson.real)
