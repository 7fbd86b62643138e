"""Corrections: a wrong behaviour before and after thirty corrections in words, and all others

The tiny model in invented services of its pretraining corpus (bench/generated.py): it calls again
after a passing error. A reviewer says so of thirty such turns, in the corpus's words, each in a
service of its own; `train correct` learns from them beside traffic that nobody corrected, of which
forty turns show the behaviour too. Then, in services that nobody has seen, greedily: how often it
still shows, and paired with before what else the model does: other behaviours, at like turns too,
and the probes of docs/tiny-model.md. `follows` is the share of turns where the model obeys a
correction that it reads, `demo` the same at the turns of a distilled incumbent of the demo.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.demo_turns import following
from bench.figures import Figure, figure, interval
from bench.generated import BEHAVIOURS, episode, first, same, speaks_of

HOURS = True  # at its full size
ROOT = Path(__file__).resolve().parents[1]
TRAFFIC = 400  # turns that nobody corrected, of which some show the behaviour


def run(
    seeds: Sequence[int] = (0, 1, 2),
    n: int = 2000,
    behaviour: str = "retries",
    corrections: int = 30,
    traffic: int = TRAFFIC,
    unreviewed: int = 40,
    demo: int = 1000,
    settings: Sequence[str] = (),
    out: Path = ROOT / "build" / "bench" / "correct",
) -> dict[str, Figure]:
    """One seed after the other, each from where it was cut off; see `out` for their reports."""
    from understudy.runs.statistics import wilson

    asked = questions(behaviour, n)
    before = answered(out / f"before-{behaviour}-{n}.json", None, asked)
    reports = [
        one_seed(
            out,
            seed,
            behaviour,
            captured(behaviour, corrections, traffic, unreviewed, seed),
            settings,
            asked,
            before,
            n,
        )
        for seed in seeds
    ]
    figures: dict[str, Figure] = {}
    for place in ("system", "episode"):
        told = answered(out / f"follows-{place}-{behaviour}-{n}.json", None,
                        reading(behaviour, min(n, 400), place))  # fmt: skip
        obeyed = wilson(told.count(1), len(told))
        figures[f"follows_{place}"] = interval(obeyed.mean, "share", obeyed.low, obeyed.high)
    for name, share in following(out, demo, 200).items():
        figures[f"demo_{name}"] = interval(share, "share", share, share)
    for name in reports[0]:
        values = [report[name]["value"] for report in reports]
        figures[name] = figure(values, reports[0][name]["unit"])
        if len(reports) == 1:
            figures[name] = reports[0][name]
    return figures


@dataclass(frozen=True, slots=True)
class Question:
    """A turn to answer: of which group, behind which prompt, and the replies that are told apart:
    what the model does by itself first, then what a rule demands."""

    group: str
    messages: tuple[Any, ...]
    tools: tuple[Any, ...]
    replies: tuple[Any, ...]


def questions(behaviour: str, n: int) -> list[Question]:
    """Turns of the behaviour and of the others, and the probes of the corpus that it does not show
    at."""
    found = [
        Question(name, t.messages, t.tools, (t.own, t.ruled))
        for name in BEHAVIOURS
        for t in first(n, name, "new", 1)
    ]
    return found + probes(behaviour, n)


def probes(behaviour: str, n: int) -> list[Question]:
    """n probes of each kind, of dialogues that training never saw."""
    from tiny_corpus import FAMILIES, generate
    from tiny_pretrain.evaluate import FIRST_SEED
    from understudy.core.chatml import render_text

    kinds = ("copy", "bind", "lookup", "amount", "ranking", "choice", "rule", "correction",
             "compare", "talk")  # fmt: skip
    held: dict[str, list[Question]] = {kind: [] for kind in kinds}
    for i in range(400 * n):
        if all(len(of) >= n for of in held.values()):
            break
        dialogue = generate(FIRST_SEED + i, "new", FAMILIES[i % len(FAMILIES)])
        for kind in {p.kind for p in dialogue.probes}:
            probe = next(p for p in dialogue.probes if p.kind == kind)
            messages: Any = dialogue.messages[: probe.message]
            prompt = render_text(messages, dialogue.tools, add_generation_prompt=True)  # type: ignore[arg-type]
            if len(held[kind]) >= n or len(prompt) > 6000 or speaks_of(behaviour, prompt):
                continue
            expected = dialogue.messages[probe.message]
            held[kind].append(
                Question(f"probe_{kind}", tuple(messages), tuple(dialogue.tools), (expected,))
            )
    return [question for of in held.values() for question in of]


def reading(behaviour: str, n: int, place: Any) -> list[Question]:
    """The behaviour's turns as one reads them who has read the reviewer's words."""
    from understudy.recipes.correct import CorrectConfig
    from understudy.recipes.corrections import corrections_of, hindsight

    found = []
    for turn in first(n, behaviour, "new", 2):
        (said,), _ = corrections_of(episode(turn, corrected=True))
        messages = hindsight(said.turn.request.messages, said, place, CorrectConfig().form)
        found.append(Question("follows", messages, turn.tools, (turn.own, turn.ruled)))
    return found


def answered(file: Path, adapter: Path | None, asked: Sequence[Question]) -> list[int]:
    """Which of its replies each question was answered with, greedily; -1: another. Remembered in a
    file."""
    if not file.exists():
        said = asyncio.run(_answer(adapter, asked))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(said))
    found: list[int] = json.loads(file.read_text())
    return found


async def _answer(adapter: Path | None, asked: Sequence[Question]) -> list[int]:
    from understudy.core.types import ModelRef, Request, Sampling
    from understudy.models.loading import load_base
    from understudy.recipes.learner import make_engine
    from understudy.runs.progress import Progress

    base = load_base("tiny")
    engine, chat = make_engine(base)
    model = ModelRef(base.name, "corrected", 1) if adapter else ModelRef(base.name)
    gate = asyncio.Semaphore(128)
    with Progress("ask", total=len(asked), unit="turns") as progress:

        async def one(question: Question) -> int:
            greedy = Sampling(temperature=0.0, max_tokens=120)
            async with gate:
                done = await chat.complete(
                    Request(question.messages, model, question.tools, greedy)
                )
            progress.advance()
            alike = [same(done.message, reply) for reply in question.replies]
            return alike.index(True) if True in alike else -1

        try:
            if adapter:
                await engine.load(model, str(adapter))
            return await asyncio.gather(*[one(question) for question in asked])
        finally:
            await engine.aclose()


def one_seed(
    out: Path,
    seed: int,
    behaviour: str,
    episodes: Sequence[Any],
    settings: Sequence[str],
    asked: Sequence[Question],
    before: Sequence[int],
    n: int,
) -> dict[str, Figure]:
    """What one run of `train correct` changed."""
    from understudy.recipes.correct import CorrectConfig, correct
    from understudy.runs.config import load_config
    from understudy.runs.directory import Run

    path = out / f"{behaviour}-{seed}"
    config = load_config(CorrectConfig, None, settings, {"seed": seed, "split": "all"})
    begun = (path / "run.json").exists()
    opened = Run.open(path) if begun else Run.create(path, config, seed)
    if opened.state != "done" or not (path / "artefacts" / "correct.json").exists():
        with opened:
            asyncio.run(correct(opened, episodes, config))
    else:
        opened.close()
    told = json.loads((path / "artefacts" / "correct.json").read_text())
    after = answered(out / f"after-{behaviour}-{seed}-{n}.json", path / "adapter", asked)
    figures = compared(behaviour, asked, before, after)
    for name in ("gap_before", "gap", "drift"):
        figures[name] = interval(told[name], "nats", told[name], told[name])
    (path / "report.json").write_text(json.dumps(figures, indent=1))
    return figures


def captured(
    behaviour: str, corrections: int, traffic: int, unreviewed: int, seed: int
) -> list[Any]:
    """Corrected turns of the behaviour; `traffic` turns of the others, that nobody corrected; and
    so many of the behaviour itself that nobody looked at."""
    found = [episode(t, True) for t in first(corrections, behaviour, "train", 100 + seed)]
    share = -(-traffic // (len(BEHAVIOURS) - 1))
    for name in BEHAVIOURS:
        count = unreviewed if name == behaviour else share
        found += [episode(t, False) for t in first(count, name, "train", 200 + seed)]
    return found


def compared(
    behaviour: str, asked: Sequence[Question], before: Sequence[int], after: Sequence[int]
) -> dict[str, Figure]:
    """The behaviour before and after, and by how many points each other one dropped, paired."""
    from understudy.runs.statistics import paired_difference, wilson

    figures: dict[str, Figure] = {}
    groups: dict[str, list[tuple[int, int]]] = {}
    for question, was, now in zip(asked, before, after, strict=True):
        groups.setdefault(question.group, []).append((was, now))
    own = groups.pop(behaviour)
    for n, name in enumerate(("wrong", "right")):
        for when in (0, 1):
            share = wilson(sum(pair[when] == n for pair in own), len(own))
            label = f"{name}_{('before', 'after')[when]}"
            figures[label] = interval(share.mean, "share", share.low, share.high)
    shown = [sum(pair[when] == 0 for pair in own) for when in (0, 1)]
    fell = 1 - shown[1] / max(1, shown[0])
    figures["fell"] = interval(fell, "share of the behaviour", fell, fell)
    drops = []
    for name, pairs in groups.items():
        was, now = ([float(pair[when] == 0) for pair in pairs] for when in (0, 1))
        dropped = paired_difference(now, was)
        low, value, high = (100 * x for x in (dropped.low, dropped.mean, dropped.high))
        figures[f"dropped_{name}"] = interval(value, f"points of {len(pairs)} turns", low, high)
        drops.append(value)
    figures["largest_drop"] = interval(max(drops), "points", max(drops), max(drops))
    return figures
