"""How right predictions of a service's test episodes are, by what the service really did."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world.data.values import columns, parse
from understudy.world.fidelity.bench import episode_of, predictions
from understudy.world.fidelity.crossfit import calibrated
from understudy.world.fidelity.freerun import free_runs
from understudy.world.model import World
from unseen.playing import Service, play_all

CLASSES = ("exact", "malformed", "error", "changing", "revealing")


@dataclass
class Scored:
    """Hits and totals of each column, and what was wrong: (tool, arguments, real, predicted)."""

    hits: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, str, str, str]] = field(default_factory=list)
    rollouts: dict[str, Any] = field(default_factory=dict)

    def note(self, column: str, value: float, possible: bool = True) -> None:
        self.hits[column] += value  # type: ignore[assignment]
        self.totals[column] += 1
        self.hits[column, "ceiling"] += possible  # type: ignore[index]

    def share(self, column: str) -> float:
        """Per cent; 100 where no call is of the column."""
        n = self.totals[column]
        return 100 * self.hits[column] / n if n else 100.0


def score(
    service: Service, episodes: int = 240, names: int | None = None, rollouts: bool = False
) -> Scored:
    """Learn from the train split of so many episodes, predict the test split."""
    played = play_all(service, episodes, names)
    rows = [row for row, _ in played]
    hidden = {(h["episode"], h["step"]): h for _, own in played for h in own}
    train = [episode_of(r) for r in rows if r["split"] == "train"]
    test = [episode_of(r) for r in rows if r["split"] == "test"]
    world = calibrated(train)
    world.moments.place(world.episode_ids, [episode_of(r) for r in rows])
    said = asyncio.run(_said(world, test))
    scored = Scored()
    known = {v for r in rows if r["split"] == "train" for call in calls(r) for v in texts(call)}
    for row in rows:
        if row["split"] == "test":
            _score(scored, row, hidden, said, known)
    if rollouts:
        scored.rollouts = free_runs(world, train, test)["world"]
    return scored


async def _said(world: World, test: Sequence[Any]) -> dict[tuple[str, int], tuple[str, bool]]:
    rows = [r for n, e in enumerate(test) for r in await predictions(world, e, n)]
    return {(r["episode"], r["step"]): (r["content"], r["is_error"]) for r in rows}


Made = tuple[str, dict[str, Any], str, bool]


def calls(row: Mapping[str, Any]) -> Iterator[Made]:
    """(tool, arguments, content, flag) of an episode's calls."""
    for call, told in zip(row["messages"][::2], row["messages"][1::2], strict=True):
        function = call["tool_calls"][0]["function"]
        args = json.loads(function["arguments"])
        yield function["name"], args, told["content"], told["is_error"]


def texts(call: Made) -> set[str]:
    """The values of a call's arguments and result as texts."""
    return {str(v) for part in (call[1], parse(call[2])) for _, v in columns(part)}


def _score(
    scored: Scored,
    row: Mapping[str, Any],
    hidden: Mapping[tuple[str, int], Mapping[str, Any]],
    said: Mapping[tuple[str, int], tuple[str, bool]],
    train: set[str],
) -> None:
    seen: set[str] = set()
    for step, made in enumerate(calls(row)):
        tool, args, content, flag = made
        truth, (guess, guessed_flag) = hidden[row["episode"], step], said[row["episode"], step]
        real, value = parse(content), parse(guess)
        exact = guess == content or value == real
        told = seen | {str(v) for _, v in columns(args)} | train
        possible = truth["failed"] or all(
            v is None or str(v) in told for _, v in columns(real if real is not None else "")
        )
        scored.note("exact", exact, possible)
        scored.note("flag", guessed_flag == flag)
        scored.note("knowable", float(exact) if truth["failed"] else _f1(real, value, told))
        if truth["failed"]:
            scored.note("malformed" if truth["kind"] else "error", exact)
        elif truth["state_changed"]:
            scored.note("changing", exact, possible)
        if truth["effect_revealing"]:
            scored.note("revealing", exact, possible)
        if not exact:
            scored.wrong.append((tool, json.dumps(args), content, guess))
        seen |= texts(made)


def _f1(real: Any, guess: Any, known: set[str]) -> float:
    """Over leaves whose values could be known; predicted leaves at the paths of others are left
    out."""
    free = {p for p, v in columns(real) if v is not None and str(v) not in known}
    one, other = (
        Counter((p, json.dumps(v)) for p, v in columns(part) if p not in free)
        for part in (real, guess)
    )
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0
