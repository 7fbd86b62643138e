"""Turns of the demo's incumbent that show one of its flaws, and what somebody would say of them."""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


@dataclass(frozen=True, slots=True)
class Flaw:
    """`shows`: whether a reply has it; `obeys`: whether one does what the words demand."""

    words: str
    shows: Callable[[Any, Any], bool]
    obeys: Callable[[Any], bool]


def _call(message: Any) -> tuple[str, dict[str, Any]]:
    """What a reply calls; nothing, where it only talks or its arguments cannot be read."""
    for call in message.get("tool_calls") or ():
        try:
            return call["function"]["name"], dict(json.loads(call["function"]["arguments"]))
        except ValueError:
            return "", {}
    return "", {}


def _searches(message: Any, sorted_: bool) -> bool:
    name, arguments = _call(message)
    return name == "search_stays" and ("sort" in arguments) == sorted_


def _after_error(messages: Any) -> bool:
    return messages[-1]["role"] == "tool" and "error" in str(messages[-1]["content"])


FLAWS = {
    "forgets_sort": Flaw(
        "Always set sort when you search.",
        lambda said, before: _searches(said, sorted_=False),
        lambda said: _searches(said, sorted_=True),
    ),
    "gives_up": Flaw(
        "Do not give up at an error, call again.",
        lambda said, before: _after_error(before) and not said.get("tool_calls"),
        lambda said: bool(said.get("tool_calls")),
    ),
}


def following(out: Path, traffic: int, n: int) -> dict[str, float]:
    """Of a model that was distilled from the incumbent's traffic, greedily, at up to n turns of
    each flaw: the shares that do what the words demand, unread and where they are read in either
    place. Remembered in `out`."""
    from traffic import conversations, write_jsonl
    from understudy.core.chat_files import import_file
    from understudy.recipes.sft import SftConfig, sft
    from understudy.runs.directory import Run

    file, path = out / f"demo-{traffic}-{n}.json", out / f"demo-{traffic}"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        rows = asyncio.run(conversations(out, traffic))
        episodes = list(import_file(write_jsonl(out / "demo.jsonl", rows)))
        config = SftConfig(split="all")
        begun = (path / "run.json").exists()
        with Run.open(path) if begun else Run.create(path, config) as run:
            adapter = sft(run, episodes, config).adapter
        file.write_text(json.dumps(asyncio.run(_following(adapter, episodes, n))))
    found: dict[str, float] = json.loads(file.read_text())
    return found


async def _following(adapter: Path | None, episodes: Sequence[Any], n: int) -> dict[str, float]:
    from understudy.core.types import ModelRef, Request, Sampling
    from understudy.models.loading import load_base
    from understudy.recipes.corrections import Correction, hindsight, turns_of
    from understudy.recipes.learner import make_engine

    base = load_base("tiny")
    engine, chat = make_engine(base)
    model = ModelRef(base.name, "asked", 1) if adapter else ModelRef(base.name)
    gate = asyncio.Semaphore(64)

    async def ask(messages: Any, turn: Any) -> Any:
        greedy = Sampling(temperature=0.0, max_tokens=80)
        async with gate:
            return (
                await chat.complete(Request(tuple(messages), model, turn.request.tools, greedy))
            ).message

    figures: dict[str, float] = {}
    try:
        if adapter is not None:
            await engine.load(model, str(adapter))
        for name, flaw in FLAWS.items():
            turns = [t for e in episodes for t in turns_of(e)
                     if flaw.shows(t.message, t.request.messages)][:n]  # fmt: skip
            if not turns:
                continue
            plain = await asyncio.gather(*[ask(t.request.messages, t) for t in turns])
            figures[f"{name}_obeys_unread"] = sum(map(flaw.obeys, plain)) / len(turns)
            for place in ("system", "episode"):
                said = [Correction("", t, flaw.words, None) for t in turns]
                read = [hindsight(c.turn.request.messages, c, place, "Correction: {text}")
                        for c in said]  # fmt: skip
                replies = await asyncio.gather(
                    *[ask(m, t) for m, t in zip(read, turns, strict=True)]
                )
                figures[f"{name}_obeys_{place}"] = sum(map(flaw.obeys, replies)) / len(turns)
    finally:
        await engine.aclose()
    return figures
