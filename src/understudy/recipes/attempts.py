"""Scenarios that are played until one attempt at each is kept: what rejection sampling keeps."""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from understudy.core.chat_files import episode_rows
from understudy.core.protocols import Chat, Environment
from understudy.core.types import Episode, Message, Policy, Scenario
from understudy.judges.check import Check
from understudy.recipes.doubt import Doubt
from understudy.recipes.guarding import GuardConfig, Guarding
from understudy.recipes.luck import Luck
from understudy.recipes.rehearsal import Played, gather, play_group
from understudy.recipes.slips import Slips
from understudy.runs.config import Config
from understudy.runs.progress import Progress
from understudy.world.guarding.canaries import Canary
from understudy.world.model import World
from understudy.world.users.notes import NotedUser, without
from understudy.world.users.wording import flat

Numbered = tuple[int, Scenario]
Rows = list[dict[str, Any]]


class AttemptConfig(Config):
    """How scenarios are played, and what of them is kept."""

    scenarios: PositiveInt = 3000
    in_flight: PositiveInt = 256  # conversations at a time
    temperature: NonNegativeFloat = 0.0  # of the first attempt
    attempts: PositiveInt = 4  # at a scenario; those after the first at temperature 1
    max_tokens: PositiveInt = 128  # a turn
    max_turns: PositiveInt = 12
    slips: float = Field(default=0.1, ge=0, lt=1)  # before each call; see recipes.slips
    threshold: float = 1.0  # of the check, for captured and rehearsed episodes alike
    language: str | None = None  # a run whose model fills the world's gaps; see `train world`
    guesses: bool = False  # keep what passes on a guess; see recipes.luck
    doubt: Doubt = Doubt()  # what becomes of steps that the world doubts; see `passed`
    guards: GuardConfig | None = GuardConfig()  # against holes in the world; None: without
    seed: int = 0


class Attempts:
    """The play of one run. `left_out` says why episodes are not kept.

    `environment` may stand for the world (one whose gaps a model fills).
    """

    def __init__(
        self,
        chat: Chat,
        policy: Policy,
        world: World,
        check: Check,
        config: AttemptConfig,
        guards: Guarding | None = None,
        luck: Luck | None = None,
        workload: str = "default",
        environment: Environment | None = None,
    ) -> None:
        self.chat, self.world, self.check, self.config = chat, world, check, config
        self.guards, self.luck, self.workload = guards, luck, workload
        self.environment = environment or world
        self.first = policy
        self.later = replace(policy, sampling=replace(policy.sampling, temperature=1.0))
        self.scenarios = world.scenarios(config.scenarios, config.seed)
        self.left_out: Counter[str] = Counter()
        self._free = asyncio.Semaphore(config.in_flight)
        self._lots = 0

    async def rows(self, quiet: bool = False) -> Rows:
        """The rows of up to one episode of each scenario. Users' messages have notes while they
        are played, and none in the rows."""
        rows: dict[int, Rows] = {}
        total = len(self.scenarios)
        with Progress("play", total=total, unit="scenarios", quiet=quiet) as self._progress:
            self._won = 0
            for attempt in range(self.config.attempts):
                left = [(n, s) for n, s in enumerate(self.scenarios) if not rows.get(n)]
                if attempt:
                    self._progress.note(f"attempt {attempt + 1} at {len(left):,} scenarios")
                if self.guards is None:
                    found = await gather([self._unguarded(n, s, attempt) for n, s in left])
                    rows |= {n: own for (n, _), own in zip(left, found, strict=True)}
                    continue
                rows |= await self._looked_over(self.guards, left, attempt)
                if self.guards.stopped:
                    self._progress.note(f"stopped: {self.guards.stopped}")
                    break
        return [row for n in sorted(rows) for row in rows[n]]

    async def _play(self, number: int, scenario: Scenario, attempt: int) -> tuple[Played, Slips]:
        notes, config = self.world.notes, self.config
        noted = tuple(notes.add(scenario.messages, flat(scenario.goal)))
        seed = config.seed * 1_000_003 + number + 500_009 * attempt
        slips = Slips(self.environment, config.slips, seed)

        def user(scenario: Scenario, seed: int) -> NotedUser:
            return NotedUser(self.world.user(scenario, seed), notes, flat(scenario.goal))

        async with self._free:
            played = await play_group(
                self.chat,
                self.later if attempt else self.first,
                slips,
                user,
                replace(scenario, messages=noted),
                1,
                seed=seed,
                check=self.check,
                max_turns=config.max_turns,
                workload=self.workload,
                doubt=config.doubt,
            )
        if number < len(self.scenarios) and not attempt:
            self._won += played.rate >= 1.0
            self._progress.advance(passed=f"{self._won / (self._progress.done + 1):.0%}")
        return played, slips

    async def _unguarded(self, number: int, scenario: Scenario, attempt: int) -> Rows:
        return self._kept(number, *await self._play(number, scenario, attempt))

    async def _looked_over(
        self, guards: Guarding, left: Sequence[Numbered], attempt: int
    ) -> dict[int, Rows]:
        """The rows of scenarios, as the guards leave them: lot by lot, the next one begun before
        one is looked over. Alarms that stop the play end those begun."""
        own: dict[int, Rows] = {}
        size = self.config.in_flight
        lots = [left[at : at + size] for at in range(0, len(left), size)]
        begun: deque[tuple[int, list[Canary], list[asyncio.Task[tuple[Played, Slips]]]]] = deque()
        async with asyncio.TaskGroup() as tasks:
            for number, drawn in enumerate(lots):
                for lot in lots[number + len(begun) : number + 2]:
                    canaries = guards.canaries(self._lots, [s for _, s in lot])
                    first = len(self.scenarios) + self._lots * size
                    impossible = enumerate((c.scenario for c in canaries), first)
                    playing = [self._play(n, s, attempt) for n, s in (*lot, *impossible)]
                    begun.append((self._lots, canaries, [tasks.create_task(p) for p in playing]))
                    self._lots += 1
                step, canaries, started = begun.popleft()
                found = [await task for task in started]
                played = [item for item, _ in found]
                tried = list(zip(canaries, played[len(drawn) :], strict=True))
                kept = guards.watch(step, played[: len(drawn)], tried, again=attempt > 0)
                for (n, _), item, (_, slips) in zip(drawn, kept, found, strict=False):
                    own[n] = self._kept(n, item, slips)
                if guards.stopped:
                    for task in (task for *_, more in begun for task in more):
                        task.cancel()
                    break
        return own

    def _kept(self, number: int, played: Played, slips: Slips) -> Rows:
        config = self.config
        kept, reasons = passed(played, config.threshold, f"{config.seed}:{number}", self.luck)
        self.left_out.update(reasons)
        rows = list(episode_rows(kept))  # no more of an episode is held on to
        return [row | {"messages": slips.into(row["messages"])} for row in rows]


def passed(
    played: Played, threshold: float, seed: str, luck: Luck | None = None
) -> tuple[list[Episode], Counter[str]]:
    """The episodes to learn from, without notes, and why the others are left out.

    An episode that doubt flagged is kept with the chance that its weight is: what is distilled
    weighs as it does in the mean.
    """
    rng, kept = random.Random(f"doubt:{seed}"), list[Episode]()
    left_out = played.without_reward
    episodes = played.group.episodes
    weights = played.weights or (1.0,) * len(episodes)
    for episode, reward, weight in zip(episodes, played.group.rewards or (), weights, strict=True):
        if reward < threshold:
            left_out[f"below {threshold:g}"] += 1
        elif rng.random() >= weight:
            left_out["flagged as doubtful, by a draw of its weight"] += 1
        else:
            plain = said_with(episode, without)
            guess = luck.guessed(plain) if luck is not None else None
            if guess is None:
                kept.append(plain)
            else:
                left_out[f"passed on a guess of {guess}"] += 1
    return kept, left_out


def said_with(
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
