"""Rejection-sampling fine-tuning in a learned world: play thousands of scenarios, keep what
passes the owner's check, distil it.

Who plays is a *reader*: distilled from the captured episodes that pass, with notes beside what
users say (world.notes). What it did is taught without the notes, to an adapter that also learns
from the captured episodes themselves, and to answer what a message says. Rejection sampling as in
arXiv 2308.01825, its attempts found with hints that training leaves out as in STaR (arXiv
2203.14465). A greedy reader leaves behind the minority of the incumbent's flaws that happened to
pass.
"""

import asyncio
import json
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from understudy.core.chat_files import episode_rows, import_file, write_rows
from understudy.core.protocols import Chat, Environment
from understudy.core.types import (
    Episode,
    Message,
    ModelRef,
    Policy,
    Sampling,
    Scenario,
    split_of,
)
from understudy.judges.check import Check
from understudy.models.loading import load_base
from understudy.recipes.doubt import Doubt
from understudy.recipes.guarding import GuardConfig, Guarding
from understudy.recipes.learner import Lora, make_engine
from understudy.recipes.luck import Luck
from understudy.recipes.rehearsal import Played, gather, play_group
from understudy.recipes.sft import SftConfig, select, sft
from understudy.recipes.slips import Slips
from understudy.recipes.trust import Trust, warn
from understudy.recipes.world_language import Language, filling, language_of
from understudy.runs.config import Config
from understudy.runs.directory import Run
from understudy.runs.progress import Progress
from understudy.world.canaries import Canary
from understudy.world.language import counts_of
from understudy.world.model import World
from understudy.world.notes import NotedUser, without
from understudy.world.wording import flat

REHEARSED, READINGS = "rehearsed.jsonl", "readings.jsonl"


class RftConfig(Config):
    base: str = "tiny"
    renderer: str | None = None  # a chat format in the place of the base's own
    lora: Lora = Lora()
    reader_epochs: PositiveInt = 3
    scenarios: PositiveInt = 3000
    in_flight: PositiveInt = 256  # conversations at a time
    temperature: NonNegativeFloat = 0.0  # the reader's
    attempts: PositiveInt = 4  # at a scenario; those after the first at temperature 1
    max_tokens: PositiveInt = 128  # a turn
    max_turns: PositiveInt = 12
    slips: float = Field(default=0.1, ge=0, lt=1)  # before each call; see recipes.slips
    readings: NonNegativeInt = 3  # of single messages, for each episode; see `_readings`
    epochs: PositiveInt = 1
    batch_episodes: PositiveInt = 4  # and their readings
    lr: PositiveFloat = 3e-3
    precision: Literal["fp32", "bf16"] = "bf16"
    max_tokens_per_microbatch: PositiveInt = 4096
    threshold: float = 1.0  # of the check, for captured and rehearsed episodes alike
    trust: Trust = Trust()  # what the world's fidelity must show, or playing in it warns
    language: str | None = None  # a run whose model fills the world's gaps; see `train world`
    guesses: bool = False  # keep what passes on a guess; see recipes.luck
    doubt: Doubt = Doubt()  # what becomes of steps that the world doubts; see `_passed`
    guards: GuardConfig | None = GuardConfig()  # against holes in the world; None: without
    checkpoint_every: PositiveInt = 50
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RftResult:
    adapter: Path
    captured: int  # episodes that passed
    rehearsed: int
    played: int
    captured_left_out: dict[str, int]  # reason -> captured episodes
    left_out: dict[str, int]  # reason -> played episodes
    stopped: str | None = None  # the alarms that ended the play
    language: dict[str, int] = field(default_factory=dict)  # what became of the world's gaps


async def rft(
    run: Run,
    world: World,
    episodes: Sequence[Episode],
    check: Check,
    config: RftConfig,
    workload: str = "default",
    threads: int | None = None,
    quiet: bool = False,
) -> RftResult:
    """Train an adapter on what passes `check`: captured episodes, and those played in `world`.

    With guards, scenarios are played and looked over in lots of `in_flight`; alarms may end the
    play early: `stopped` says why, and what was kept until then is distilled.

    Resumes from the reader's or its own last checkpoint, or with what was played, whichever came
    last. Raises ValueError where no captured episode passes.
    """
    given = [e for e in episodes if split_of(e.scenario_id or e.id) == "train"]
    chosen = SftConfig(keep="check", threshold=config.threshold)
    captured, failed = select(given, chosen, check)
    failed += Counter({"of the held-out split": len(episodes) - len(given)})
    if not captured:
        raise ValueError("no captured episode passes the check: there is nothing to read from")
    warn(run, world, config.trust)
    language = language_of(config.language)
    file = run.artefacts / REHEARSED
    if not file.exists():
        reader = _reader(run, world, captured, config, quiet)
        guards = Guarding(config.guards, world, check, config.seed) if config.guards else None
        luck = None if config.guesses else Luck(world.notes, check, given, config.threshold)
        kept, counted, became = await _play(
            reader, world, check, config, guards, luck, language, workload, threads, quiet
        )
        played = len(kept) + counted.total()
        told = {"played": played, "left_out": dict(counted), "captured_left_out": failed}
        told |= {"language": became}
        if guards is not None:
            told |= {"stopped": guards.stopped, "alarms": guards.alarms}
        run.write_artefact("rft.json", told)
        count = config.readings * (len(captured) + len(kept))
        write_rows(run.artefacts / READINGS, _readings(world, count, config.seed))
        write_rows(file, kept)
    told = json.loads((run.artefacts / "rft.json").read_text())
    rehearsed = list(import_file(file))
    readings = list(import_file(run.artefacts / READINGS))
    settings = _sft_config(config, config.epochs, config.batch_episodes * (1 + config.readings))
    result = sft(run, [*captured, *rehearsed, *readings], settings, None, quiet)
    return RftResult(
        result.adapter,
        len(captured),
        len(rehearsed),
        told["played"],
        told["captured_left_out"],
        told["left_out"],
        told.get("stopped"),
        told.get("language", {}),
    )


def _reader(
    run: Run, world: World, captured: Sequence[Episode], config: RftConfig, quiet: bool
) -> Path:
    """The adapter that reads with notes; taken as it is where it was trained before."""
    path = run.path / "reader"
    settings = _sft_config(config, config.reader_epochs, config.batch_episodes)
    begun = (path / "run.json").exists()
    opened = Run.open(path) if begun else Run.create(path, settings, config.seed)
    if opened.state == "done":
        return path / "adapter"
    add = world.notes.add
    noted = [_said_with(e, partial(add, fields=world.fields(e))) for e in captured]
    with opened as inner:
        return sft(inner, noted, settings, None, quiet).adapter


async def _play(
    reader: Path,
    world: World,
    check: Check,
    config: RftConfig,
    guards: Guarding | None,
    luck: Luck | None,
    language: Language | None,
    workload: str,
    threads: int | None,
    quiet: bool,
) -> tuple[list[dict[str, Any]], Counter[str], dict[str, int]]:
    """`sample` with the reader's adapter, and what became of the world's gaps where a model fills
    them."""
    base = load_base(config.base, renderer=config.renderer)
    engine, chat = make_engine(base, threads)
    model = ModelRef(base.name, "reader")
    sampling = Sampling(temperature=config.temperature, max_tokens=config.max_tokens)
    policy = Policy("reader", model, sampling=sampling)
    try:
        await engine.load(model, str(reader))
        async with filling(language, threads, chat) as filled:
            answering = filled(world)
            kept, left_out = await sample(
                chat, policy, world, check, config, guards, luck, workload, quiet, answering
            )
            return kept, left_out, counts_of(answering)
    finally:
        await engine.aclose()


async def sample(
    chat: Chat,
    policy: Policy,
    world: World,
    check: Check,
    config: RftConfig,
    guards: Guarding | None = None,
    luck: Luck | None = None,
    workload: str = "default",
    quiet: bool = False,
    environment: Environment | None = None,
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Up to `attempts` episodes of each scenario, until one is kept, users' messages with notes:
    the rows of those kept, without notes, and why the others are left out. `environment` may stand
    for the world (one whose gaps a model fills)."""
    scenarios, notes = world.scenarios(config.scenarios, config.seed), world.notes
    sampling = replace(policy, sampling=replace(policy.sampling, temperature=1.0))
    free, passed, lots = asyncio.Semaphore(config.in_flight), 0, 0
    left_out: Counter[str] = Counter()

    def user(scenario: Scenario, seed: int) -> NotedUser:
        return NotedUser(world.user(scenario, seed), notes, flat(scenario.goal))

    with Progress("play", total=len(scenarios), unit="scenarios", quiet=quiet) as progress:

        async def play(number: int, scenario: Scenario, attempt: int) -> tuple[Played, Slips]:
            nonlocal passed
            noted = tuple(notes.add(scenario.messages, flat(scenario.goal)))
            own_seed = config.seed * 1_000_003 + number + 500_009 * attempt
            slips = Slips(environment or world, config.slips, own_seed)
            async with free:
                played = await play_group(
                    chat,
                    sampling if attempt else policy,
                    slips,
                    user,
                    replace(scenario, messages=noted),
                    1,
                    seed=own_seed,
                    check=check,
                    max_turns=config.max_turns,
                    workload=workload,
                    doubt=config.doubt,
                )
            if number < len(scenarios) and not attempt:
                passed += played.rate >= 1.0
                progress.advance(passed=f"{passed / (progress.done + 1):.0%}")
            return played, slips

        def rows_of(number: int, played: Played, slips: Slips) -> list[dict[str, Any]]:
            kept, reasons = _passed(played, config.threshold, f"{config.seed}:{number}", luck)
            left_out.update(reasons)
            rows = list(episode_rows(kept))  # no more of an episode is held on to
            return [row | {"messages": slips.into(row["messages"])} for row in rows]

        async def one(number: int, scenario: Scenario, attempt: int) -> list[dict[str, Any]]:
            return rows_of(number, *await play(number, scenario, attempt))

        async def looked_over(
            guards: Guarding, left: Sequence[tuple[int, Scenario]], attempt: int
        ) -> dict[int, list[dict[str, Any]]]:
            """The rows of scenarios, as the guards leave them: lot by lot, the next one begun
            before one is looked over. Alarms that stop the play end those begun."""
            nonlocal lots
            own: dict[int, list[dict[str, Any]]] = {}
            parts = [
                left[at : at + config.in_flight] for at in range(0, len(left), config.in_flight)
            ]
            begun: deque[tuple[list[Canary], list[asyncio.Task[tuple[Played, Slips]]]]] = deque()
            async with asyncio.TaskGroup() as tasks:
                for number, drawn in enumerate(parts):
                    for part in parts[number + len(begun) : number + 2]:
                        canaries = guards.canaries(lots, [s for _, s in part])
                        first = len(scenarios) + lots * config.in_flight
                        impossible = enumerate((c.scenario for c in canaries), first)
                        run = [
                            tasks.create_task(play(n, s, attempt)) for n, s in (*part, *impossible)
                        ]
                        begun.append((canaries, run))
                        lots += 1
                    canaries, run = begun.popleft()
                    found = [await task for task in run]
                    played = [item for item, _ in found]
                    tried = list(zip(canaries, played[len(drawn) :], strict=True))
                    kept = guards.watch(lots - len(begun) - 1, played[: len(drawn)], tried)
                    for (n, _), item, (_, slips) in zip(drawn, kept, found, strict=False):
                        own[n] = rows_of(n, item, slips)
                    if guards.stopped:
                        for task in (t for _, run in begun for t in run):
                            task.cancel()
                        break
            return own

        rows: dict[int, list[dict[str, Any]]] = {}
        for attempt in range(config.attempts):
            left = [(n, s) for n, s in enumerate(scenarios) if not rows.get(n)]
            if attempt:
                progress.note(f"attempt {attempt + 1} at {len(left):,} scenarios")
            if guards is None:
                found = await gather([one(n, s, attempt) for n, s in left])
                rows |= {n: own for (n, _), own in zip(left, found, strict=True)}
                continue
            rows |= await looked_over(guards, left, attempt)
            if guards.stopped:
                progress.note(f"stopped: {guards.stopped}")
                break
        return [row for n in sorted(rows) for row in rows[n]], left_out


def _passed(
    played: Played, threshold: float, seed: str, luck: Luck | None = None
) -> tuple[list[Episode], Counter[str]]:
    """The episodes to learn from, without notes, and why the others are left out.

    An episode that doubt flagged is kept with the chance that its weight is: what is distilled
    weighs as it does in the mean.
    """
    rng, kept = random.Random(f"doubt:{seed}"), list[Episode]()
    left_out = Counter({f"unjudged: {reason}": n for reason, n in played.failed.items()})
    left_out.update({f"withheld: {reason}": n for reason, n in played.withheld.items()})
    episodes = played.group.episodes
    weights = played.weights or (1.0,) * len(episodes)
    for episode, reward, weight in zip(episodes, played.group.rewards or (), weights, strict=True):
        if reward < threshold:
            left_out[f"below {threshold:g}"] += 1
        elif rng.random() >= weight:
            left_out["flagged as doubtful, by a draw of its weight"] += 1
        else:
            plain = _said_with(episode, without)
            guess = luck.guessed(plain) if luck is not None else None
            if guess is None:
                kept.append(plain)
            else:
                left_out[f"passed on a guess of {guess}"] += 1
    return kept, left_out


def _readings(world: World, n: int, seed: int) -> Iterator[dict[str, Any]]:
    """First messages of n new scenarios with the question what they say, and the answer.

    Where a policy errs because it misreads its user, this teaches to read in far fewer
    tokens than an episode has. The question is never asked of it again.
    """
    notes = world.notes
    for scenario in world.scenarios(n, seed + 1) if n else ():
        *before, message = scenario.messages
        asked = notes.reading(message, flat(scenario.goal))
        yield {
            "messages": [*before, *asked],
            "tools": list(scenario.tools),
            "scenario": f"reading-{scenario.id}",
        }


def _said_with(
    episode: Episode, change: Callable[[Sequence[Message]], Sequence[Message]]
) -> Episode:
    """The episode with its messages changed; what an engine recorded of others is not kept."""
    completions = tuple(
        replace(
            c,
            request=replace(c.request, messages=tuple(change(c.request.messages))),
            prompt_ids=None,
            output_ids=None,
            logprobs=None,
        )
        for c in episode.completions
    )
    return replace(episode, completions=completions, tail=tuple(change(episode.tail)))


def _sft_config(config: RftConfig, epochs: int, batch_episodes: int) -> SftConfig:
    return SftConfig(
        base=config.base,
        renderer=config.renderer,
        lora=config.lora,
        split="all",  # chosen before
        keep="all",
        epochs=epochs,
        batch_episodes=batch_episodes,
        lr=config.lr,
        precision=config.precision,
        max_tokens_per_microbatch=config.max_tokens_per_microbatch,
        checkpoint_every=config.checkpoint_every,
        seed=config.seed,
    )
