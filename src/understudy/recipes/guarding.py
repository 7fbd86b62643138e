"""Guards of a run in a learned world: what a hole in it wins earns nothing, and is noticed.

A reward is withheld, which leaves the episode out of its group, where the check says less of the
episode as the evidence has it: with null for invented values, and for those values of doubtful
results that were not seen as they are (world.data.masking); and, where there is a second world,
learned from other scenarios of the traffic, with null for outcomes and numbers that are all but
impossible there, and with records as it knows them (world.guarding.guards). What the agent said
and did stays.

Some groups play canaries, tasks that nobody can do (world.guarding.canaries); they are never
trained on.

Alarms, each with the chance `alpha` at most of ever being raised where nothing is wrong
(runs.sequential): more novel steps than `factor` times what real episodes show the second world;
a greater share of the reward withheld than `withheld`; an outcome class that comes more than
`factor` times as often as the second world says, or less than once in `factor` times. A success in
a canary is an alarm too. Scenarios that are tried again because they failed (rft's attempts) count
neither as novel nor by their outcomes. After `stop_after` alarms the run stops; without a second
world they are told and it goes on.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field, NonNegativeInt

from understudy.core.types import Episode, Feedback, Scenario, call_parts, is_function
from understudy.judges.check import Check
from understudy.recipes.rehearsal import Played
from understudy.runs.config import Config
from understudy.runs.sequential import Rates, Share
from understudy.world.data.masking import masked, with_results
from understudy.world.guarding.canaries import Canary, crippled, essential, strange
from understudy.world.guarding.guards import OTHER, Guard, Look
from understudy.world.model import World

_LEAST_NOVELTY = 0.02  # of real steps, where fewer were seen
_KEPT = 200  # successes of which the tools are remembered


class GuardConfig(Config):
    second: str | None = None  # the folder of a second world; see `understudy world learn --second`
    doubtful: float = Field(default=0.5, ge=0, le=1)  # 0: only invented values are masked
    canaries: float = Field(default=0.05, ge=0, lt=1)  # groups, for each that is trained on
    alpha: float = Field(default=0.01, gt=0, lt=1)  # of each kind of alarm, over the whole run
    factor: float = Field(default=3.0, gt=1)
    withheld: float = Field(default=0.05, gt=0, lt=1)  # of the reward, at most, in the mean
    # alarms; 0: never; None: 1 where there is a second world, else never
    stop_after: NonNegativeInt | None = None


class Guarding:
    """The guards of one run. `alarms` are those raised so far, in words."""

    def __init__(self, config: GuardConfig, world: World, check: Check, seed: int) -> None:
        self.config, self.world, self.check, self.seed = config, world, check, seed
        self.guard = Guard.load(config.second) if config.second else None
        self.alarms: list[str] = []
        self.figures: dict[str, Any] = {}  # of the last step
        self._winners: list[frozenset[str]] = []  # the tools that successes called
        self._withheld = Share(config.withheld, config.alpha)
        self._novel: Share | None = None
        self._rates: Rates | None = None
        if self.guard is not None:
            most = min(0.9, config.factor * max(_LEAST_NOVELTY, self.guard.novelty))
            models = self.guard.world.models.values()
            classes = sum(len(m.texts) + len(m.shapes) + 1 for m in models)
            self._novel = Share(most, config.alpha)
            self._rates = Rates(classes, config.factor, config.alpha)

    @property
    def stopped(self) -> str | None:
        """Why the run is to stop, where it is."""
        most = self.config.stop_after
        if most is None:
            most = 1 if self.guard is not None else 0
        return "; ".join(self.alarms[-most:]) if 0 < most <= len(self.alarms) else None

    def canaries(self, step: int, scenarios: Sequence[Scenario]) -> list[Canary]:
        """The impossible tasks of a step, made from its scenarios."""
        rng = random.Random(f"canaries:{self.seed}:{step}")
        tools = essential(self._winners, _KEPT)
        found: list[Canary] = []
        for scenario in scenarios:
            if rng.random() >= self.config.canaries:
                continue
            offered = {t["function"]["name"] for t in scenario.tools if is_function(t)}
            needed = [t for t in tools if t in offered or not offered]
            if needed and rng.random() < 0.5:
                found.append(crippled(self.world, scenario, rng.choice(needed)))
            elif (made := strange(self.world, scenario, rng)) is not None:
                found.append(made)
        return found

    def watch(
        self,
        step: int,
        played: Sequence[Played],
        tried: Sequence[tuple[Canary, Played]] = (),
        again: bool = False,
    ) -> list[Played]:
        """The groups of a step without the episodes whose reward is withheld. `tried` are its
        canaries. Raises alarms. `again`: the scenarios are those that failed before, in which
        failures and odd outcomes are frequent; how often they come is then no sign of a hole."""
        kept: list[Played] = []
        shares: list[float] = []
        novel: list[float] = []
        raised: list[str] = []
        for item in played:
            looks = [self.guard.look(e) for e in item.group.episodes] if self.guard else []
            rest, share = self._withhold(item, looks)
            kept.append(rest)
            if share is not None:
                shares.append(share)
            if looks and self._rates is not None and not again:
                novel.append(sum(look.novelty for look in looks) / len(looks))
                named = [{": ".join(k): v for k, v in look.came.items()} for look in looks]
                limits = {": ".join(k) for look in looks for k in look.came if k[1] == OTHER}
                raised += self._rates.see(named, limits)
        if self._novel is not None and self._novel.see(novel):
            raised.append(f"more than {self._novel.most:.0%} of the steps are novel")
        if self._withheld.see(shares):
            raised.append(f"more than {self._withheld.most:.0%} of the reward is withheld")
        won = [canary.why for canary, item in tried if item.rate > 0]
        raised += [f"success in a task that nobody can do ({why})" for why in won]
        self.alarms += [f"step {step}: {what}" for what in raised]
        self.figures = {
            "withheld": sum(shares) / len(shares) if shares else 0.0,
            "novelty": sum(novel) / len(novel) if novel else None,
            "canaries": len(tried),
            "canaries_won": len(won),
            "alarm_level": self.level,
            "alarms": len(self.alarms),
        }
        return kept

    @property
    def level(self) -> float:
        """How far the nearest alarm is on its way: 1 is the alarm."""
        watches = (self._novel, self._rates, self._withheld)
        return max((w.level for w in watches if w is not None), default=0.0)

    def _withhold(self, item: Played, looks: Sequence[Look]) -> tuple[Played, float | None]:
        """A group without what its reward is withheld from, counted; and the share of the reward
        that was, None where there was none."""
        rewards = item.group.rewards or ()
        reasons: Counter[str] = Counter()
        stays: list[int] = []
        for n, (episode, reward) in enumerate(zip(item.group.episodes, rewards, strict=True)):
            why = self._why(episode, reward, looks[n] if looks else None) if reward > 0 else None
            if why is None:
                stays.append(n)
                if reward >= 1.0:
                    self._winners = [*self._winners, _tools(episode)][-_KEPT:]
            else:
                reasons[why] += 1
        total, left = sum(r for r in rewards if r > 0), sum(max(0.0, rewards[n]) for n in stays)
        share = 1 - left / total if total else None
        if not reasons:
            return item, share
        group = replace(
            item.group,
            episodes=tuple(item.group.episodes[n] for n in stays),
            rewards=tuple(rewards[n] for n in stays),
        )
        weights = tuple(item.weights[n] for n in stays) if item.weights is not None else None
        return Played(group, item.failed, weights, item.withheld + reasons), share

    def _why(self, episode: Episode, reward: float, look: Look | None) -> str | None:
        """Why an episode's reward is withheld."""
        signs = look.signs if look else ()
        contents = masked(episode, self.config.doubtful) | (look.instead if look else {})
        if not contents:
            return None
        verdict = self.check.judge_episode(with_results(episode, contents))
        stands = isinstance(verdict, Feedback) and float(verdict.value) >= reward  # type: ignore[arg-type]
        if stands:
            return None
        return f"against the second world ({signs[0]})" if signs else "rests on what was made up"

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on from, as JSON."""
        return {
            "alarms": self.alarms,
            "winners": [sorted(w) for w in self._winners],
            "withheld": self._withheld.state(),
            "novel": self._novel and self._novel.state(),
            "rates": self._rates and self._rates.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.alarms = list(state["alarms"])
        self._winners = [frozenset(w) for w in state["winners"]]
        self._withheld.restore(state["withheld"])
        if self._novel is not None and self._rates is not None:
            self._novel.restore(state["novel"])
            self._rates.restore(state["rates"])


def _tools(episode: Episode) -> frozenset[str]:
    """The tools that an episode called."""
    calls = [c for m in episode.messages for c in m.get("tool_calls") or []]
    return frozenset(call_parts(c)[0] for c in calls)
