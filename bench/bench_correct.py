"""Corrections: a wrong behaviour before and after thirty corrections in words, and all others

The tiny model in invented services of its pretraining corpus (bench/generated.py): it calls again
after a passing error. A reviewer says so of thirty such turns, in the corpus's words, each in a
service of its own; `train correct` learns from them beside traffic that nobody corrected, of which
forty turns show the behaviour too. Then, in services that nobody has seen, other ones for each
seed, greedily: how often it still shows, and paired with before what else the model does: other
behaviours, at like turns too, and the probes of docs/tiny-model.md. `follows` is the share of turns
where the model obeys a correction that it reads, `demo` the same at the turns of a distilled
incumbent of the demo.

`fell` and `dropped_...` are over all seeds' turns, with 95% intervals of a paired bootstrap.
`largest_drop` is the worst of `dropped_...`; its interval holds for all of them at once
(Bonferroni), so that its high end bounds every drop. `..._over_seeds`: the median and range of the
seeds' own.

One to one and a half hours on two cores, reckoned from 20 replies a second on one busy core: 67,000
replies, and six minutes of training for each seed and the demo's incumbent. What is measured is
kept in docs/measured/correct, a file for each seed, and not measured again; what was cut off goes
on from build/bench/correct.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.demo_turns import following
from bench.figures import Figure, figure, interval
from bench.generated import BEHAVIOURS, episode, first, same, speaks_of
from bench.incumbents import run_at
from bench.measured import MEASURED, measured, measured_once

HOURS = True  # at its full size
ROOT = Path(__file__).resolve().parents[1]
KEPT = MEASURED / "correct"
TRAFFIC = 400  # turns that nobody corrected, of which some show the behaviour
LOT = 1000  # questions that are answered at a time; the answers are remembered then
OTHER = "-"  # a reply that is none of those told apart
RESAMPLES = 10_000

Pairs = dict[str, list[tuple[str, str]]]  # of each group its turns' answers before and after


def run(
    seeds: Sequence[int] = (0, 1, 2),
    n: int = 700,
    behaviour: str = "retries",
    corrections: int = 30,
    traffic: int = TRAFFIC,
    unreviewed: int = 40,
    demo: int = 1000,
    settings: Sequence[str] = (),
    out: Path = ROOT / "build" / "bench" / "correct",
    kept: Path = KEPT,
) -> dict[str, Figure]:
    """`n` turns of each group for each seed. Raises CannotRun where what is kept was measured in
    another setting."""
    setting = {"behaviour": behaviour, "n": n, "corrections": corrections, "traffic": traffic,
               "unreviewed": unreviewed, "settings": list(settings)}  # fmt: skip

    def of_seed(seed: int) -> dict[str, Any]:
        episodes = captured(behaviour, corrections, traffic, unreviewed, seed)
        return one_seed(out, seed, behaviour, episodes, settings, n)

    cells = [
        measured_once(kept / f"{seed}.json", setting, lambda s=seed: of_seed(s)) for seed in seeds
    ]
    asked = min(n, 400)
    follows = measured_once(
        kept / "follows.json",
        {"behaviour": behaviour, "n": asked},
        lambda: {place: _follows(out, behaviour, asked, place) for place in ("system", "episode")},
    )
    flaws = measured_once(
        kept / "demo.json", {"traffic": demo}, lambda: dict(following(out, demo, 200))
    )
    return _obeyed(follows, flaws) | compared(behaviour, cells)


def _follows(out: Path, behaviour: str, n: int, place: str) -> str:
    file = out / f"follows-{place}-{behaviour}-{n}.json"
    return answered(file, None, reading(behaviour, n, place))


def _obeyed(follows: dict[str, str], flaws: dict[str, float]) -> dict[str, Figure]:
    from understudy.runs.statistics import wilson

    figures: dict[str, Figure] = {}
    for place, told in follows.items():
        obeyed = wilson(told.count("1"), len(told))
        figures[f"follows_{place}"] = interval(obeyed.mean, "share", obeyed.low, obeyed.high)
    for name, share in flaws.items():
        figures[f"demo_{name}"] = interval(share, "share", share, share)
    return figures


def kept_figures(kept: Path = KEPT) -> dict[str, Figure]:
    """`fell` and `largest_drop` of the seeds that were measured; nothing where none was."""
    found = [measured(file) for file in sorted(kept.glob("[0-9]*.json"))]
    if not found:
        return {}
    figures = compared(found[0]["setting"]["behaviour"], [one["told"] for one in found])
    return {name: figures[name] for name in ("fell", "largest_drop")}


@dataclass(frozen=True, slots=True)
class Question:
    """A turn to answer: of which group, behind which prompt, and the replies that are told apart:
    what the model does by itself first, then what a rule demands."""

    group: str
    messages: tuple[Any, ...]
    tools: tuple[Any, ...]
    replies: tuple[Any, ...]


def questions(behaviour: str, n: int, seed: int) -> list[Question]:
    """Turns of the behaviour and of the others, and the probes of the corpus that it does not show
    at: n of each group, other ones for each seed."""
    found = [
        Question(name, t.messages, t.tools, (t.own, t.ruled))
        for name in BEHAVIOURS
        for t in first(n, name, "new", 1 + seed)
    ]
    return found + probes(behaviour, n, seed)


def probes(behaviour: str, n: int, seed: int) -> list[Question]:
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
        number = FIRST_SEED + 10_000_000 * seed + i
        dialogue = generate(number, "new", FAMILIES[i % len(FAMILIES)])
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
    for turn in first(n, behaviour, "new", 1_000_000):
        (said,), _ = corrections_of(episode(turn, corrected=True))
        messages = hindsight(said.turn.request.messages, said, place, CorrectConfig().form)
        found.append(Question("follows", messages, turn.tools, (turn.own, turn.ruled)))
    return found


def answered(file: Path, adapter: Path | None, asked: Sequence[Question]) -> str:
    """Which of its replies each question was answered with, greedily: a character each, its number
    or OTHER. Remembered in a file, lot by lot."""
    from understudy.runs.directory import write_atomic

    said = file.read_text() if file.exists() else ""
    for begin in range(len(said), len(asked), LOT):
        said += asyncio.run(_answer(adapter, asked[begin : begin + LOT]))
        write_atomic(file, said)
    return said


async def _answer(adapter: Path | None, asked: Sequence[Question]) -> str:
    from understudy.core.types import ModelRef, Request, Sampling
    from understudy.models.loading import load_base
    from understudy.recipes.learner import make_engine
    from understudy.runs.progress import Progress

    base = load_base("tiny")
    engine, chat = make_engine(base)
    model = ModelRef(base.name, "corrected", 1) if adapter else ModelRef(base.name)
    gate = asyncio.Semaphore(128)
    with Progress("ask", total=len(asked), unit="turns") as progress:

        async def one(question: Question) -> str:
            greedy = Sampling(temperature=0.0, max_tokens=120)
            async with gate:
                done = await chat.complete(
                    Request(question.messages, model, question.tools, greedy)
                )
            progress.advance()
            alike = [same(done.message, reply) for reply in question.replies]
            return str(alike.index(True)) if True in alike else OTHER

        try:
            if adapter:
                await engine.load(model, str(adapter))
            return "".join(await asyncio.gather(*[one(question) for question in asked]))
        finally:
            await engine.aclose()


def one_seed(
    out: Path,
    seed: int,
    behaviour: str,
    episodes: Sequence[Any],
    settings: Sequence[str],
    n: int,
) -> dict[str, Any]:
    """What one run of `train correct` changed: of each group the answers before and after."""
    from understudy.recipes.correct import CorrectConfig, correct
    from understudy.runs.config import load_config
    from understudy.runs.directory import read_json

    asked = questions(behaviour, n, seed)
    told = {"before": answered(out / f"before-{behaviour}-{seed}-{n}.txt", None, asked)}
    config = load_config(CorrectConfig, None, settings, {"seed": seed, "split": "all"})
    with run_at(out / f"{behaviour}-{seed}", config, seed) as run:
        report = run.artefacts / "correct.json"  # written last
        if not report.exists():
            asyncio.run(correct(run, episodes, config))
        adapter, figures = run.path / "adapter", read_json(report)
    told["after"] = answered(out / f"after-{behaviour}-{seed}-{n}.txt", adapter, asked)
    answers: dict[str, dict[str, str]] = {}
    for when, said in told.items():
        for question, answer in zip(asked, said, strict=True):
            of = answers.setdefault(question.group, {})
            of[when] = of.get(when, "") + answer
    return {"answers": answers} | {name: figures[name] for name in ("gap_before", "gap", "drift")}


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


def compared(behaviour: str, cells: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    """The behaviour before and after, and by how many points each other one dropped, paired."""
    from understudy.runs.statistics import wilson

    pairs = paired(cells)
    own = pairs.pop(behaviour)
    figures: dict[str, Figure] = {}
    for answer, name in (("0", "wrong"), ("1", "right")):
        for when in (0, 1):
            share = wilson(sum(pair[when] == answer for pair in own), len(own))
            label = f"{name}_{('before', 'after')[when]}"
            figures[label] = interval(share.mean, "share", share.low, share.high)
    figures["fell"] = fell(own)
    figures |= {f"dropped_{name}": dropped(of) for name, of in pairs.items()}
    figures["largest_drop"] = largest_drop(pairs)
    if len(cells) > 1:
        each = [paired([cell]) for cell in cells]
        falls = [fell(of.pop(behaviour))["value"] for of in each]
        figures["fell_over_seeds"] = figure(falls, figures["fell"]["unit"])
        drops = [largest_drop(of)["value"] for of in each]
        figures["largest_drop_over_seeds"] = figure(drops, "points")
    for name in ("gap_before", "gap", "drift"):
        figures[name] = figure([cell[name] for cell in cells], "nats")
    return figures


def paired(cells: Sequence[dict[str, Any]]) -> Pairs:
    """All seeds' turns."""
    found: Pairs = {}
    for cell in cells:
        for group, said in cell["answers"].items():
            found.setdefault(group, []).extend(zip(said["before"], said["after"], strict=True))
    return found


def fell(pairs: Sequence[tuple[str, str]]) -> Figure:
    """By which share of the turns that showed the behaviour it shows less often. The interval is
    of draws of as many pairs: how many of each of the four kinds are drawn is multinomial."""
    kinds = [(was, now) for was in (True, False) for now in (True, False)]
    shown = [(was == "0", now == "0") for was, now in pairs]
    counts = np.array([shown.count(kind) for kind in kinds])
    draws = np.random.default_rng(0).multinomial(len(shown), counts / len(shown), RESAMPLES)
    value, low, high = _less(counts[None])[0], *np.quantile(_less(draws), (0.025, 0.975))
    return interval(value, "share of the behaviour", min(low, value), max(high, value))


def _less(counts_R4: Any) -> Any:
    """1 - after / before of each row of counts: of both, before alone, after alone, neither."""
    both, before, after, _ = counts_R4.T
    return 1 - (both + after) / np.maximum(1, both + before)


def dropped(pairs: Sequence[tuple[str, str]], confidence: float = 0.95) -> Figure:
    """By how many points of the turns the model does less often what it did by itself."""
    from understudy.runs.statistics import paired_difference

    was, now = ([float(pair[when] == "0") for pair in pairs] for when in (0, 1))
    by = paired_difference(now, was, confidence=confidence)
    low, value, high = (100 * x for x in (by.low, by.mean, by.high))
    unit = f"points of {len(pairs)} turns"
    return interval(value, unit, min(low, value), max(high, value))


def largest_drop(pairs: Pairs) -> Figure:
    """The largest of the groups' drops. Each group's interval is so wide that all of them hold at
    once with 95%: the largest of their ends hold the largest drop."""
    found = [dropped(of, 1 - 0.05 / len(pairs)) for of in pairs.values()]
    value, low, high = (max(f[end] for f in found) for end in ("value", "low", "high"))
    return interval(value, "points", low, high)
