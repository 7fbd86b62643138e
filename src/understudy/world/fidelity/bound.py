"""What no world can know of recorded calls, and the predictions of one that knows all the rest.

Without a bound a figure of recorded calls says little: a search of what was never searched has no
right answer, however good the world. A call is unknowable for one of these reasons, each of which
is told from identifiers, arguments and words alone:

- `tool`: the train split shows no call of the tool that went well.
- `listing`: a search that neither the train split nor the episode made before.
- `thing`: neither showed a record of a thing that the call names, and the result tells its record;
  or the call fails, nothing is wrong with it in itself, and things of this kind have records.
- `record`: a failing call in which nothing is wrong in itself, of a tool that looks at whether its
  arguments belong together, whose owner neither showed.
- `words`: a failure that the train split never worded so, of this tool.

In hindsight, an unknowable call gets the answer of the train split (or the world's) that is nearest
to the truth: more than any world that answers from the train split could give, for none sees the
truth before it chooses.

A success of a call that went well before, in either, is knowable whatever it names; so is a failure
that the episode showed of the same call.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from understudy.core.types import Episode, ToolResult
from understudy.world.data.values import parse
from understudy.world.fidelity.bench import episode_of, replay_rows
from understudy.world.fidelity.compare import Leaves, leaf_counts, leaf_f1
from understudy.world.fidelity.report import told
from understudy.world.known.context import Context
from understudy.world.known.memory import Key
from understudy.world.known.owners import relations
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.tools import ToolModel, conditions
from understudy.world.traffic.transitions import Step, steps, transitions


def bound(folder: str | Path, out: str | Path, hindsight: bool = False) -> dict[str, Any]:
    """Write predictions as `bench` does, each one the truth unless the call is unknowable: then it
    is what the world says, or in hindsight the best that it could have said. Returns how many
    calls there are, and by tool and reason those that are unknowable, successes and failures
    apart."""
    rows = replay_rows(folder)
    every = [episode_of(r) for r in rows]
    train = [e for e, r in zip(every, rows, strict=True) if r["split"] == "train"]
    test = [e for e, r in zip(every, rows, strict=True) if r["split"] != "train"]
    world = learn(train)
    world.moments.place(world.episode_ids, every)
    nearest = _Nearest(world, train) if hindsight else None
    found: dict[str, Counter[str]] = {"successes": Counter(), "failures": Counter()}
    calls = 0
    with open(out, "w") as file:
        for n, episode in enumerate(test):
            for row, s, reason in _bounded(world, episode, n, nearest):
                calls += 1
                if reason is not None:
                    found["failures" if s.failed else "successes"][f"{s.name} {reason}"] += 1
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return {"calls": calls, "unknowable": {k: dict(v.most_common()) for k, v in found.items()}}


class _Nearest:
    """Every answer of the train split, by tool."""

    def __init__(self, world: World, train: Sequence[Episode]) -> None:
        self.answers: dict[str, dict[ToolResult, Leaves]] = defaultdict(dict)
        for n, episode in enumerate(train):
            for s in steps(transitions(episode), n, world.failures):
                self.answers[s.name].setdefault(
                    ToolResult(s.content, s.flag), leaf_counts(parse(s.content))
                )

    def to(self, s: Step, said: ToolResult) -> ToolResult:
        """The answer, the world's own among them, that has most leaves of the true one."""
        real = leaf_counts(parse(s.content))
        known = {ToolResult(said.content, said.is_error): leaf_counts(parse(said.content))}
        known |= self.answers.get(s.name, {})
        return max(known, key=lambda answer: leaf_f1(known[answer], real))


def _bounded(
    world: World, episode: Episode, n: int, nearest: _Nearest | None
) -> Iterator[tuple[dict[str, Any], Step, str | None]]:
    """(prediction row, call, why it is unknowable or None) of an episode's calls."""
    session = world.session(n, at=world.moment(episode))
    for s in steps(transitions(episode), n, world.failures):
        p, c = world.predict(session.state, s.name, s.args, random.Random(s.index), greedy=True)
        reason = unknowable(world, c, s)
        said = told(world, s.name, p)
        if nearest is not None and reason is not None:
            said = nearest.to(s, said)
        content, flag = (s.content, s.flag) if reason is None else (said.content, said.is_error)
        row = {"episode": episode.id, "step": s.index, "content": content, "is_error": flag}
        yield row, s, reason
        session.observe(s.name, s.args, s.content, s.flag)


def unknowable(world: World, c: Context | None, s: Step) -> str | None:
    """Why no world could know the result of a recorded call, from the state before it; None where
    it could."""
    model = world.models.get(s.name)
    if model is None or c is None:
        return None if s.failed else "tool"
    if s.failed:
        return _failure(world, model, c, s)
    before = c.state.same.get(c.key)
    if (before is not None and c.state.calls[before].ok) or c.key in model.recall:
        return None
    if model.query is not None:
        return "listing"
    shown = {(d, item) for d, item, _ in world.ids.of_result(s.name, s.value)} or set(_things(c))
    return "thing" if any(key in shown and not c.state.fields(key) for key in _things(c)) else None


def _failure(world: World, model: ToolModel, c: Context, s: Step) -> str | None:
    label = world.classify(c, s.content, failed=True)
    before = c.state.same.get(c.key)
    if before is not None and c.state.calls[before].outcome == label:
        return None
    if label not in model.texts:
        return "words"
    if any(not k.startswith("new:") for k in conditions(c)):
        return None
    if any(c.state.memory.versions.get(key[0]) and not c.state.fields(key) for key in _things(c)):
        return "thing"
    owners = model.facts.owners
    return "record" if owners and not relations(c, owners) else None


def _things(c: Context) -> list[Key]:
    return [(domain, item) for _, domain, item in c.ids]
