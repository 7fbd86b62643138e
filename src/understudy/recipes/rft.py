"""Rejection-sampling fine-tuning in a learned world: play thousands of scenarios, keep what
passes the owner's check, distil it.

Who plays is a *reader*: distilled from all captured episodes and then from those that pass, with
notes beside what users say (world.users.notes). Where few pass, those that fail show what too few
others do, such as when to ask. What it did is taught without the notes, to an adapter that also
learns from the captured episodes themselves, and to answer what a message says. Rejection sampling
as in arXiv 2308.01825, its attempts found with hints that training leaves out as in STaR (arXiv
2203.14465). A greedy reader leaves behind the minority of the incumbent's flaws that happened to
pass.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from understudy.core.chat_files import ImportReport, import_file, write_rows
from understudy.core.types import (
    Episode,
    ModelRef,
    Policy,
    Sampling,
    split_of,
)
from understudy.judges.check import Check
from understudy.recipes.attempts import AttemptConfig, Attempts, said_with
from understudy.recipes.checkpoints import CAPTURED
from understudy.recipes.computing import Computing
from understudy.recipes.guarding import Guarding
from understudy.recipes.learner import Lora, make_engine
from understudy.recipes.luck import Luck
from understudy.recipes.resuming import begun_with
from understudy.recipes.sft import SftConfig, select, sft
from understudy.recipes.trust import Trust, warn
from understudy.recipes.world_language import Language, filling, language_of
from understudy.runs.directory import Run, read_json
from understudy.world.language.filler import counts_of
from understudy.world.model import World
from understudy.world.users.wording import flat

REHEARSED, READINGS = "rehearsed.jsonl", "readings.jsonl"


class RftConfig(AttemptConfig, Computing):
    base: str = "tiny"
    renderer: str | None = None  # a chat format in the place of the base's own
    lora: Lora = Lora()
    reader_warmup_epochs: NonNegativeInt = 1  # of all captured episodes, those that fail too
    reader_epochs: PositiveInt = 3  # of those that pass
    readings: NonNegativeInt = 3  # of single messages, for each episode; see `_readings`
    epochs: PositiveInt = 1
    echo: NonNegativeFloat = 0.0  # of the reader too: `ce` on what tools and users said
    batch_episodes: PositiveInt = 4  # and their readings
    lr: PositiveFloat = 3e-3
    max_tokens_per_microbatch: PositiveInt = 4096
    trust: Trust = Trust()  # what the world's fidelity must show, or playing in it warns
    checkpoint_every: PositiveInt = 50


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
    apart = len(episodes) - len(given)
    chosen = SftConfig(keep="check", threshold=config.threshold)
    given, captured, failed = begun_with(run, given, lambda es: select(es, chosen, check), CAPTURED)
    failed += Counter({"of the held-out split": apart})
    if not captured:
        why = dict(failed) or "none were given"
        raise ValueError(f"no captured episode passes the check, to read from: {why}")
    warn(run, world, config.trust)
    language = language_of(config.language, config)
    file = run.artefacts / REHEARSED
    if not file.exists():
        reader = _reader(run, world, given, captured, config, quiet)
        guards = Guarding(config.guards, world, check, config.seed) if config.guards else None
        luck = None if config.guesses else Luck(world.notes, check, given, config.threshold)
        kept, counted, became = await _play(
            run, reader, world, check, config, guards, luck, language, workload, threads, quiet
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
    told = read_json(run.artefacts / "rft.json")
    rehearsed, readings = _kept(file), _kept(run.artefacts / READINGS)
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
    run: Run,
    world: World,
    given: Sequence[Episode],
    captured: Sequence[Episode],
    config: RftConfig,
    quiet: bool,
) -> Path:
    """The adapter that reads with notes, of all given episodes and then of the captured ones that
    pass; taken as it is where it was trained before."""
    warmup = config.reader_warmup_epochs if len(given) > len(captured) else 0
    stages = [("reader-warmup", given, warmup), ("reader", captured, config.reader_epochs)]
    adapter: Path | None = None
    for name, episodes, epochs in stages:
        if epochs:
            settings = _sft_config(config, epochs, config.batch_episodes, adapter)
            adapter = _reads(run.path / name, world, episodes, settings, quiet)
    assert adapter is not None  # reader_epochs is positive
    return adapter


def _reads(
    path: Path, world: World, episodes: Sequence[Episode], settings: SftConfig, quiet: bool
) -> Path:
    """An adapter distilled from episodes with notes."""
    begun = (path / "run.json").exists()
    opened = Run.open(path) if begun else Run.create(path, settings, settings.seed)
    if opened.state == "done":
        return path / "adapter"
    add = world.notes.add
    noted = [said_with(e, partial(add, fields=world.fields(e))) for e in episodes]
    with opened as inner:
        return sft(inner, noted, settings, None, quiet).adapter


async def _play(
    run: Run,
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
    """What is kept of the reader's play, why the rest is not, and what became of the world's gaps
    where a model fills them."""
    base = config.load(config.base, config.renderer)
    engine, chat = make_engine(base, threads, run=run)
    model = ModelRef(base.name, "reader")
    sampling = Sampling(temperature=config.temperature, max_tokens=config.max_tokens)
    policy = Policy("reader", model, sampling=sampling)
    try:
        await engine.load(model, str(reader))
        async with filling(language, threads, chat) as filled:
            answering = filled(world)
            play = Attempts(chat, policy, world, check, config, guards, luck, workload, answering)
            return await play.rows(quiet), play.left_out, counts_of(answering)
    finally:
        await engine.aclose()


def _kept(file: Path) -> list[Episode]:
    """What the run wrote there. Raises ValueError where the file is damaged."""
    report = ImportReport()
    found = list(import_file(file, report=report))
    if report.broken:
        raise ValueError(f"{file} is damaged at line {report.broken[0].line}: begin a new run")
    return found


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


def _sft_config(
    config: RftConfig, epochs: int, batch_episodes: int, start: Path | None = None
) -> SftConfig:
    return SftConfig(
        base=config.base,
        start=str(start) if start else None,
        renderer=config.renderer,
        lora=config.lora,
        split="all",  # chosen before
        keep="all",
        epochs=epochs,
        batch_episodes=batch_episodes,
        lr=config.lr,
        device=config.device,
        dtype=config.dtype,
        echo=config.echo,
        **config.of_steps(),
        max_tokens_per_microbatch=config.max_tokens_per_microbatch,
        checkpoint_every=config.checkpoint_every,
        seed=config.seed,
    )
