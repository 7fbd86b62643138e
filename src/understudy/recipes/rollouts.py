"""What a run plays in a learned world, step by step: scenarios by a curriculum, canaries by guards,
held-out scenarios for evaluation; and what of it may be trained on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from understudy.core.protocols import Chat, Environment
from understudy.core.types import Sampling, Scenario
from understudy.judges.check import Check
from understudy.recipes.actor import Acting
from understudy.recipes.ahead import Begin
from understudy.recipes.curriculum import Curriculum
from understudy.recipes.doubt import Doubt
from understudy.recipes.evaluate import play_scenarios, success
from understudy.recipes.guarding import GuardConfig, Guarding
from understudy.recipes.rehearsal import Played, play_group
from understudy.recipes.rewards import BOUND, Bound, Silence, lowered, vetted
from understudy.runs.config import Config
from understudy.runs.statistics import Interval
from understudy.world.guarding.canaries import Canary
from understudy.world.model import World


class RolloutConfig(Config):
    """How episodes are played and judged."""

    scenarios_per_step: PositiveInt = 16
    group_size: int = Field(default=8, ge=1)
    max_staleness: NonNegativeInt = 0  # versions; 1 to 4 play while they train (verl, TRL: 4)
    temperature: PositiveFloat = 1.0  # recorded logprobs are those of the sampled distribution
    max_tokens: PositiveInt = 128  # a turn
    max_turns: PositiveInt = 16
    reward_bound: Bound = BOUND  # rewards outside count as the nearer end
    exact: bool = False  # bit for bit the same run each time: on one core, in lockstep
    mask_truncated: bool = False  # episodes that were cut off are not trained on
    cut_off_cost: float = Field(default=0.0, ge=0)  # of a completion that ran into max_tokens
    pool: PositiveInt = 2000  # scenarios recombined from the traffic
    again: float = Field(default=0.25, ge=0, lt=1)  # see recipes.curriculum
    doubt: Doubt = Doubt()  # what becomes of steps that the world doubts
    guards: GuardConfig | None = GuardConfig()  # against holes in the world; None: without
    evaluate_every: NonNegativeInt = 0  # steps; 0: never
    evaluate_scenarios: PositiveInt = 100  # at most, of the held-out split; greedy
    seed: int = 0

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, max_tokens=self.max_tokens)


@dataclass(frozen=True, slots=True)
class _Lot:
    """What a step plays. `fresh` is the curriculum's before it was drawn."""

    numbers: list[int]
    canaries: list[Canary]
    fresh: int


class Rollouts:
    """The rollouts of one run. `plan` begins a step's, `looked_over` ends them.

    Raises ValueError where the world has nothing to rehearse, or nothing to evaluate on.
    """

    def __init__(self, world: World, check: Check, config: RolloutConfig, workload: str) -> None:
        self.world, self.check, self.config, self.workload = world, check, config, workload
        self.scenarios = world.scenarios(config.pool, config.seed)
        if not self.scenarios:
            raise ValueError("the world has no scenario to rehearse: learn it from more episodes")
        wanted = config.evaluate_scenarios if config.evaluate_every else 0
        self.heldout = world.scenarios(wanted, config.seed, "heldout") if wanted else []
        if wanted and not self.heldout:
            raise ValueError("the world has no held-out scenario to evaluate on: evaluate_every=0")
        self.curriculum = Curriculum(len(self.scenarios), config.again, config.seed)
        guards, seed = config.guards, config.seed
        self.guards = Guarding(guards, world, check, seed) if guards else None
        self._silence = Silence()
        self._lots: dict[int, _Lot] = {}

    def on(self, chat: Chat, actor: Acting, environment: Environment) -> None:
        """Where they are played, and by whom."""
        self._chat, self._actor, self._environment = chat, actor, environment

    def plan(self, step: int) -> list[Begin[Played]]:
        """The groups of a step, each to be begun: its scenarios, then its canaries."""
        fresh = self.curriculum.fresh
        numbers = self.curriculum.draw(self.config.scenarios_per_step, step)
        drawn = [(n, self.scenarios[n]) for n in numbers]
        canaries = self.guards.canaries(step, [s for _, s in drawn]) if self.guards else []
        impossible = [(len(self.scenarios) + i, c.scenario) for i, c in enumerate(canaries)]
        self._lots[step] = _Lot(numbers, canaries, fresh)
        return [partial(self._play, step, n, s) for n, s in (*drawn, *impossible)]

    async def _play(self, step: int, number: int, scenario: Scenario) -> Played:
        return await play_group(
            self._chat,
            self._actor.policy,
            self._environment,
            self.world.user,
            scenario,
            self.config.group_size,
            seed=self.config.seed * 1_000_003 + step * 4099 + number,
            check=self.check,
            max_turns=self.config.max_turns,
            workload=self.workload,
            doubt=self.config.doubt,
        )

    def looked_over(self, step: int, played: Sequence[Played]) -> tuple[list[Played], Counter[str]]:
        """The groups of a step as they may be trained on, and what was done to them. The
        curriculum and the guards have seen them.

        Raises RuntimeError where no episode has had a reward for some steps (recipes.rewards).
        """
        lot = self._lots.pop(step)
        kept, counted = vetted(played, self.config.reward_bound, self.config.mask_truncated)
        if self.guards is not None:
            tried = list(zip(lot.canaries, kept[len(lot.numbers) :], strict=True))
            kept = self.guards.watch(step, kept[: len(lot.numbers)], tried)
        for number, item in zip(lot.numbers, kept, strict=True):
            self.curriculum.saw(number, item.rate)
        self._silence.heard(kept)
        kept, ran_on = lowered(kept, self.config.cut_off_cost)
        return kept, counted + ran_on

    def evaluated_after(self, steps: int, total: int) -> bool:
        """Whether to evaluate after so many steps of a run: every so often, and at its end."""
        every = self.config.evaluate_every
        return every > 0 and (steps % every == 0 or steps == total)

    async def evaluate(self) -> Interval:
        """Success of the newest version on held-out scenarios, greedy; the same ones each time."""
        played = await play_scenarios(
            self._chat,
            self._actor.greedy,
            self._environment,
            self.world.user,
            self.heldout,
            seed=self.config.seed,
            check=self.check,
            max_turns=self.config.max_turns,
            workload=self.workload,
        )
        return success(played)

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on from, as JSON: steps that are planned and not looked over
        will be planned anew."""
        fresh = min((lot.fresh for lot in self._lots.values()), default=self.curriculum.fresh)
        state: dict[str, Any] = {"curriculum": self.curriculum.state() | {"fresh": fresh}}
        return state | ({"guards": self.guards.state()} if self.guards else {})

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        if "curriculum" in state:
            self.curriculum.restore(state["curriculum"])
        if self.guards is not None and "guards" in state:
            self.guards.restore(state["guards"])
