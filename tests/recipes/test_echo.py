"""`echo`: what tools and users said is taught beside whatever else a recipe's steps are of."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from bench.generated import episode, first
from logs import thumbed

from understudy.core.chat_files import ImportOptions, episode_from_row
from understudy.core.rows import Entry, Row, rows_of
from understudy.core.types import Episode, Message
from understudy.judges.check import Check
from understudy.models.loading import load_base
from understudy.recipes.arrivals import Given
from understudy.recipes.correct import CorrectConfig, correct
from understudy.recipes.dpo import DpoConfig, dpo
from understudy.recipes.kto import KtoConfig, kto
from understudy.recipes.learner import Lora
from understudy.recipes.opd import OpdConfig, opd
from understudy.recipes.ppo import PlayConfig, PpoConfig, ppo
from understudy.recipes.ppo_world import ppo_in_world
from understudy.recipes.preference_data import Pair, Said, Thumb
from understudy.recipes.reward_model import RewardModelConfig
from understudy.recipes.rft import RftConfig, rft
from understudy.recipes.sft import SftConfig, sft
from understudy.recipes.stream import StreamConfig, stream
from understudy.recipes.teach_language import LanguageConfig
from understudy.recipes.user import UserConfig
from understudy.runs.config import Config, ConfigError, load_config
from understudy.runs.directory import Run
from understudy.train.trainer import Trainer
from understudy.world.model import World

LORA = Lora(rank=2, alpha=4)
SHARED: dict[str, Any] = {"lora": LORA, "precision": "fp32"}
ECHO = 0.07
BEGIN, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"

Step = tuple[Trainer, list[Row]]
Decode = Callable[[Sequence[int]], str]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def decode() -> Decode:
    return load_base("tiny").renderer.decode


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """What trainers were given, a step each."""
    seen: list[Step] = []
    step = Trainer.step

    def heeded(self: Trainer, rows: Sequence[Row], share: float = 1.0) -> Any:
        seen.append((self, list(rows)))
        return step(self, rows, share)

    monkeypatch.setattr(Trainer, "step", heeded)
    return seen


def said(name: str, colour: str) -> Said:
    call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": '{"n": 1}'}}
    messages: list[Any] = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": f"{colour} room"},
        {"role": "assistant", "content": f"It is {colour}."},
        {"role": "user", "content": "And the price?"},
        {"role": "assistant", "content": f"Nine, {colour}."},
    ]
    asked: Message = {"role": "user", "content": f"Which room for {name}?"}
    return Said(f"{name}-{colour}", (asked,), tuple(messages))


TALKS = [said(name, colour) for name in ("ann", "bob") for colour in ("green", "red")]
HEARD = sorted(
    text
    for colour in ("green", "green", "red", "red")
    for text in (
        f"\n{BEGIN}<tool_response>\n{colour} room\n</tool_response>{END}",
        f"\n{BEGIN}And the price?{END}",
    )
)


def talked(one: Said) -> Episode:
    messages = [*map(dict, one.prompt), *map(dict, one.completion)]
    return episode_from_row({"messages": messages}, ImportOptions(), one.id)


def entries(rows: Sequence[Row], heard: bool) -> list[Entry]:
    return [e for row in rows for e in row.entries if e.weight and e.heard is heard]


def heard_texts(rows: Sequence[Row], decode: Decode) -> list[str]:
    """What was heard, each run of tokens as a text."""
    found: list[str] = []
    for row in rows:
        places = sorted(e.position + 1 for e in row.entries if e.heard)
        starts = [t for t in places if t - 1 not in places]
        ends = [t + 1 for t in places if t + 1 not in places]
        found += [decode(row.ids[a:b]) for a, b in zip(starts, ends, strict=True)]
    return sorted(found)


def terms(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """What the trainer makes of all that was not heard: each token's share of its stream's mean."""
    count: dict[str, int] = {}
    for e in (*entries(rows, False), *entries(rows, True)):
        count[e.stream] = count.get(e.stream, 0) + 1
    return sorted(
        (e.sample_id, e.stream, e.position, e.target, pytest.approx(e.weight / count[e.stream]))
        for e in entries(rows, False)
    )


def check_weight(rows: Sequence[Row]) -> None:
    """What was heard is `ce` of equal weights, whose mean over its own count is the option's."""
    heard = entries(rows, True)
    count = sum(e.stream == "ce" for e in (*entries(rows, False), *heard))
    assert {e.stream for e in heard} == {"ce"}
    assert len({e.weight for e in heard}) == 1
    assert sum(e.weight for e in heard) / count == pytest.approx(ECHO)


def trained(
    steps: list[Step], path: Path, config: Config, recipe: Callable[[Run, Any], Any]
) -> list[Row]:
    """The rows of a run's first step."""
    steps.clear()
    with Run.create(path, config) as run:
        recipe(run, config)
    return steps[0][1]


RECIPES: dict[str, tuple[Config, Callable[[Run, Any], Any]]] = {
    "sft": (
        SftConfig(**SHARED, epochs=1, split="all"),
        lambda run, config: sft(run, [talked(s) for s in TALKS], config, quiet=True),
    ),
    "dpo": (
        DpoConfig(**SHARED),
        lambda run, config: dpo(
            run, [Pair(*TALKS[:2]), Pair(*TALKS[2:])], config, quiet=True
        ),
    ),
    "kto": (
        KtoConfig(**SHARED),
        lambda run, config: kto(
            run, [Thumb(s, "green" in s.id) for s in TALKS], config, quiet=True
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_what_tools_and_users_said_is_taught_beside_conversations(
    name: str, steps: list[Step], decode: Decode, tmp_path: Path
) -> None:
    plain, recipe = RECIPES[name]
    without = trained(steps, tmp_path / "plain", plain, recipe)
    rows = trained(steps, tmp_path / "echo", plain.model_copy(update={"echo": ECHO}), recipe)
    assert entries(without, True) == []
    assert terms(rows) == terms(without) != []
    assert heard_texts(rows, decode) == HEARD
    check_weight(rows)


@pytest.fixture(scope="module")
def logs(world: World) -> list[Episode]:
    torch.set_num_threads(1)
    return asyncio.run(thumbed(world, 6))


def between(episodes: Sequence[Episode]) -> list[tuple[tuple[int, ...], int]]:
    """Of each row that was sampled, the places between its samples."""
    found = []
    for row in (row for e in episodes for row in rows_of(e.made_for("agent"))[0]):
        sampled = {t for span in row.spans for t in range(span.start, span.end)}
        first, last = row.spans[0].end, row.spans[-1].start
        found += [(row.ids, t - 1) for t in range(first, last) if t not in sampled]
    return sorted(found)


@pytest.mark.parametrize("name", ["ppo", "stream", "opd", "opd top_k"])
async def test_what_tools_and_users_said_is_taught_beside_logs(
    name: str, logs: list[Episode], steps: list[Step], tmp_path: Path
) -> None:
    async def first_step(echo: float) -> list[Row]:
        steps.clear()
        config: Any
        if name == "ppo":
            log = {"split": "all"}
            config = PpoConfig(**SHARED, log=log, epochs=1, kl_bound=None, echo=echo)
            with Run.create(tmp_path / f"ppo-{echo}", config) as run:
                ppo(run, logs, config, quiet=True)
        elif name == "stream":
            log = {"split": "all"}
            config = StreamConfig(**SHARED, log=log, passes=1, value_steps=0, echo=echo)
            with Run.create(tmp_path / f"stream-{echo}", config) as run:
                stream(run, Given(logs), config, quiet=True)
        else:
            small = {"split": "all", "steps": 1, "scenarios_per_step": 2, "group_size": 3}
            small |= {"teacher_prompt": "Be brief.", "top_k": 2 if "top_k" in name else 0}
            config = OpdConfig(**SHARED, **cast(Any, small), echo=echo)
            with Run.create(tmp_path / f"opd-{echo}", config) as run:
                await opd(run, config, None, logs, threads=1, quiet=True)
        return steps[0][1]

    without, rows = await first_step(0.0), await first_step(ECHO)
    assert entries(without, True) == []
    assert terms(rows) == terms(without) != []
    places = [(row.ids, e.position) for row in rows for e in row.entries if e.heard]
    assert sorted(places) == between(logs) != []
    check_weight(rows)


def test_a_log_that_is_cut_is_heard_up_to_there(
    logs: list[Episode], steps: list[Step], tmp_path: Path
) -> None:
    most = sorted(t for _, t in between(logs))[len(between(logs)) // 2]
    log = {"split": "all", "max_tokens": most, "long_rows": "cut"}
    config = PpoConfig(**SHARED, log=log, epochs=1, kl_bound=None, echo=ECHO)
    rows = trained(steps, tmp_path / "r", config, lambda r, c: ppo(r, logs, c, quiet=True))
    places = [(row.ids, e.position) for row in rows for e in row.entries if e.heard]
    assert sorted(places) == sorted((i[:most], t) for i, t in between(logs) if t + 1 < most) != []
    assert len(places) < len(between(logs))


async def test_what_tools_and_users_said_is_taught_beside_play(
    world: World, steps: list[Step], decode: Decode, tmp_path: Path
) -> None:
    partial = Check(lambda messages, ticket: float(len(str(messages)) % 7), "any")
    play = PlayConfig(steps=1, epochs=1, scenarios_per_step=4, pool=12, max_turns=3, max_tokens=24,
                      guards=None)  # fmt: skip
    config = PpoConfig(**SHARED, play=play, echo=ECHO)
    with Run.create(tmp_path / "run", config) as run:
        await ppo_in_world(run, world, partial, config, threads=1, quiet=True)
    rows = steps[0][1]
    texts = heard_texts(rows, decode)
    assert texts
    assert all(text.count(BEGIN) == 1 and text.endswith(END) for text in texts)
    check_weight(rows)


async def test_what_was_said_before_the_turn_is_taught_beside_corrections(
    steps: list[Step], decode: Decode, tmp_path: Path
) -> None:
    reviewed = [episode(turn, corrected=True) for turn in first(2, "retries", "train")]
    reviewed += [episode(turn, corrected=False) for turn in first(2, "takes_another", "train")]
    small = {"split": "all", "steps": 1, "turns_per_step": 2, "samples": 1, "max_tokens": 30}

    async def first_step(echo: float) -> list[Row]:
        steps.clear()
        config = CorrectConfig(**SHARED, **cast(Any, small), echo=echo)
        with Run.create(tmp_path / str(echo), config) as run:
            await correct(run, reviewed, config, threads=1, quiet=True)
        return steps[0][1]

    without, rows = await first_step(0.0), await first_step(ECHO)
    assert entries(without, True) == []
    assert [t[:4] for t in terms(rows)] == [t[:4] for t in terms(without)] != []
    drawn = {e.sample_id for e in entries(rows, True)}
    answers = {
        f"\n{BEGIN}<tool_response>\n{c.request.messages[-1]['content']}\n</tool_response>{END}"
        for e in reviewed for c in e.completions if c.id in drawn
    }  # fmt: skip
    assert set(heard_texts(rows, decode)) == answers
    assert {c.id for e in reviewed[:2] for c in e.completions} < drawn  # and what is replayed
    check_weight(rows)


async def test_a_reader_and_what_it_played_are_distilled_with_echo(
    traffic: list[Episode], world: World, steps: list[Step], tmp_path: Path
) -> None:
    config = RftConfig(**SHARED, reader_epochs=1, scenarios=3, attempts=1, max_turns=2,
                       max_tokens=16, readings=0, guards=None, guesses=True, echo=ECHO)  # fmt: skip
    half = Check(lambda messages, ticket: float(ticket["guests"] <= 2), "half")
    with Run.create(tmp_path / "run", config) as run:
        await rft(run, world, traffic[:12], half, config, threads=1, quiet=True)
    trainers = list(dict.fromkeys(id(trainer) for trainer, _ in steps))
    assert len(trainers) == 3  # the reader's warm-up, the reader, and what was played
    for each in trainers:
        check_weight(next(rows for trainer, rows in steps if id(trainer) == each))


@pytest.mark.parametrize("kind", [UserConfig, LanguageConfig, RewardModelConfig])
def test_what_is_no_agent_is_not_taught_what_an_agent_hears(kind: type[Config]) -> None:
    with pytest.raises(ConfigError, match=r"agent's recipes|unknown key echo") as told:
        load_config(kind, None, ["echo=0.1"])
    assert "\n" not in str(told.value)
    assert load_config(kind).model_dump().get("echo", 0.0) == 0.0
