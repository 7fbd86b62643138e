"""Does a learned world rank policies as the real service does? Scripted agents in both.

A world is learned from 1,000 episodes of the demo's incumbent, without HTTP; then the incumbent,
a flawless agent and agents with one flaw each play in the world (judged by the owner's check) and
in the service (judged by its database), on different customers. Kendall's tau has the interval of
2,000 resamples of all episodes (a parametric bootstrap).
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.figures import CannotRun, Figure, interval

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "demo")]


def run(traffic: int = 1000, played: int = 300) -> dict[str, Figure]:
    with tempfile.TemporaryDirectory() as folder:
        return _run(Path(folder), traffic, played)


def _run(folder: Path, traffic: int, count: int) -> dict[str, Figure]:
    from helpers import new_system, play

    from traffic import conversations, write_jsonl
    from understudy.core.chat_files import import_file
    from understudy.core.ids import uuid7
    from understudy.core.types import Completion, ModelRef, Policy, Request
    from understudy.demo import owner_check
    from understudy.demo.customers import scenarios
    from understudy.demo.incumbent import NO_FLAWS, FlawRates, decide
    from understudy.judges.check import Check
    from understudy.recipes.evaluate import play_scenarios, success
    from understudy.runs.statistics import Interval, wilson
    from understudy.world.learn import learn

    class Scripted:
        """A chat that answers by script: the demo's incumbent with some flaw rates."""

        def __init__(self, rates: FlawRates) -> None:
            self.rates = rates

        async def complete(self, request: Request) -> Completion:
            message = decide(list(request.messages), 0, self.rates)
            return Completion(uuid7(), request, "ok", message=message, finish_reason="stop")

    rows = asyncio.run(conversations(folder, traffic))
    world = learn(list(import_file(write_jsonl(folder / "traffic.jsonl", rows))))
    check = Check.from_file(str(owner_check.__file__))
    policies = {"flawless": NO_FLAWS, "incumbent": FlawRates()}
    for flaw in ("one_method", "gives_up", "forgets_cap", "forgets_sort"):
        policies[flaw] = NO_FLAWS.model_copy(update={flaw: 1.0})
    drawn = world.scenarios(count, 5)
    figures: dict[str, Figure] = {}
    found: dict[str, list[Interval]] = {"world": [], "service": []}
    systems = folder / "systems"
    systems.mkdir()
    for name, rates in policies.items():
        played = asyncio.run(
            play_scenarios(
                Scripted(rates),
                Policy(name, ModelRef("script")),
                world,
                world.user,
                drawn,
                seed=0,
                check=check,
                max_turns=20,
            )
        )
        system = new_system(systems)
        wins = sum(
            play(system, s, lambda m, rates=rates: decide(m, 0, rates))[1].success
            for s in scenarios("proof", count, 1)
        )
        system.close()
        real = wilson(wins, count)
        for where, share in (("world", success(played)), ("service", real)):
            found[where].append(share)
            figures[f"{name}_{where}"] = interval(share.mean, "success", share.low, share.high)
    world_means, service_means = ([i.mean for i in found[w]] for w in ("world", "service"))
    figures["kendall_tau"] = agreement(world_means, service_means, count)
    return figures


def agreement(world: list[float], service: list[float], count: int) -> Figure:
    """Kendall's tau of the success rates of `count` episodes each, with 95% of what it is where
    the episodes are drawn anew at these rates."""
    from understudy.runs.statistics import kendall_tau

    tau = kendall_tau(world, service)
    if tau is None:
        raise CannotRun("all agents succeed equally often: there is no ranking")
    rng = np.random.default_rng(0)
    drawn = [
        kendall_tau(rng.binomial(count, world).tolist(), rng.binomial(count, service).tolist())
        for _ in range(2000)
    ]
    low, high = np.quantile([t for t in drawn if t is not None], (0.025, 0.975))
    return interval(tau, "world against service", min(low, tau), max(high, tau))
