"""Predictions of a benchmark folder: learn from its train split, predict its test split.

The folder holds `replays.jsonl.gz`: episodes in the order of time, with `split` and `messages`
(OpenAI chat, one tool call a message, tool messages with `is_error`).
"""

import asyncio
import gzip
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

from understudy.core.types import Completion, Episode, ModelRef, Request, ToolResult
from understudy.runs.machine import own_peak_mb
from understudy.world.config import WorldConfig
from understudy.world.fidelity.crossfit import calibrated
from understudy.world.fidelity.freerun import free_runs
from understudy.world.fidelity.report import calibration, told
from understudy.world.language.filler import LanguageWorld
from understudy.world.model import Foretold, World
from understudy.world.traffic.renaming import Renaming
from understudy.world.traffic.transitions import steps, transitions

AT_ONCE = 16  # episodes that a model is asked about
Filler = AbstractAsyncContextManager[Callable[[World], LanguageWorld]]
Language = Callable[[World, Sequence[Episode]], Filler]


def replay_rows(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a benchmark folder: `episode`, `split` ("train" or "test") and `messages`. Raises
    ValueError, naming the line, for one that is no such row."""
    path = Path(folder) / "replays.jsonl.gz"
    with gzip.open(path, "rt") as file:
        rows = []
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: no JSON object")
            lacks = [k for k in ("episode", "split", "messages") if not row.get(k)]
            if lacks:
                raise ValueError(f"{path}, line {number}: without {lacks[0]}")
            rows.append(row)
    return rows


def episode_of(row: dict[str, Any]) -> Episode:
    """A row of a benchmark folder as an episode."""
    messages: list[Any] = []
    results: dict[str, ToolResult] = {}
    for message in row["messages"]:
        if message["role"] == "tool":
            flag = bool(message.get("is_error"))
            results[message["tool_call_id"]] = ToolResult(message["content"] or "", flag)
        messages.append({k: v for k, v in message.items() if k != "is_error"})
    request = Request(messages=tuple(messages), model=ModelRef("recorded"))
    completion = Completion(id=row["episode"], request=request, status="ok")
    return Episode(row["episode"], (completion,), row.get("scenario"), results=results)


def bench(
    folder: str | Path,
    out: str | Path,
    config: WorldConfig | None = None,
    rename: int | None = None,
    language: Language | None = None,
) -> dict[str, Any]:
    """Write one prediction a test call (episode, step, content, is_error, doubt, provenance);
    returns seconds of learning (its doubt's calibration among them, see world.fidelity.crossfit),
    milliseconds a prediction in the median, MiB of memory at the most, the calibration errors of
    the error flag and of doubt (world.fidelity.report), and the figures of free-running rollouts
    (world.fidelity.freerun).

    With `rename`, a seed, the world sees random words for all tools, arguments and fields; what is
    written has their names back. `language` opens, from the world and the train split, a model for
    the world's gaps; what became of them is returned too.
    """
    given = replay_rows(folder)
    names = Renaming(given, rename) if rename is not None else None
    every = [episode_of(names.row(r) if names else r) for r in given]
    train, test = [
        [e for e, r in zip(every, given, strict=True) if (r["split"] == "train") == first]
        for first in (True, False)
    ]
    began = time.perf_counter()
    world = calibrated(train, config)
    world.moments.place(world.episode_ids, every)
    learned = time.perf_counter()
    opening = language(world, train) if language is not None else None
    rows, seconds, counted = asyncio.run(_predictions(world, test, opening))
    if names:
        rows = [{**row, "content": names.back(row["content"])} for row in rows]
    with open(out, "w") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return {
        "calls": len(rows),
        "learn_seconds": learned - began,
        "call_ms": 1000 * statistics.median(seconds) if seconds else 0.0,
        "peak_mb": own_peak_mb(),
        "calibration": calibration(world, test),
        "rollouts": free_runs(world, train, test),
        **({"language": counted} if language is not None else {}),
    }


async def _predictions(
    world: World,
    test: Sequence[Episode],
    opening: Filler | None,
) -> tuple[list[dict[str, Any]], list[float], dict[str, int]]:
    """The predictions, the seconds that each took, and what became of gaps."""
    async with AsyncExitStack() as stack:
        filling = None
        if opening is not None:
            filling = (await stack.enter_async_context(opening))(world)
        gate, seconds = asyncio.Semaphore(AT_ONCE), list[float]()

        async def one(n: int, episode: Episode) -> list[dict[str, Any]]:
            async with gate:
                return await predictions(world, episode, n, filling, seconds)

        found = await asyncio.gather(*(one(n, e) for n, e in enumerate(test)))
        rows = [row for own in found for row in own]
        return rows, seconds, dict(filling.counted) if filling else {}


async def predictions(
    world: World,
    episode: Episode,
    seed: int,
    filling: LanguageWorld | None = None,
    seconds: list[float] | None = None,
) -> list[dict[str, Any]]:
    """What the world says to each call of an episode, with the true history before it. `seconds` is
    given how long each took."""
    session = world.session(seed, at=world.moment(episode))
    rows = []
    for s in steps(transitions(episode), seed, world.failures):
        rng, began = random.Random(s.index), time.perf_counter()
        foretold = Foretold(
            s.name, s.args, *world.predict(session.state, s.name, s.args, rng, greedy=True), rng
        )
        if filling is not None:
            await filling.fill(foretold, seed)
        p = told(world, s.name, foretold.prediction)
        if seconds is not None:
            seconds.append(time.perf_counter() - began)
        rows.append(
            {
                "episode": episode.id,
                "step": s.index,
                "content": p.content,
                "is_error": p.is_error,
                "doubt": round(p.doubt, 4),
                "provenance": [{"path": v.path, "kind": v.kind} for v in p.provenance],
            }
        )
        session.observe(s.name, s.args, s.content, s.flag)
    return rows
