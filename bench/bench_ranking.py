"""Does a learned world rank policies as the real service does? Scripted agents in both.

A world is learned from 1,000 episodes of the demo's incumbent, without HTTP; then the incumbent,
a flawless agent, agents with one flaw each, always or at times, and agents that exploit play in the
world (judged by the owner's check) and in the service (judged by its database), on different
customers. Kendall's tau has the interval of 2,000 resamples of all episodes (a parametric
bootstrap); `tau_ties_half` counts a pair whose difference in the service is within chance (95%) as
half an agreement. `worst_inversion` is the largest difference in the service of a pair that the
world orders the other way. `flawless_world` is the most that the world lets through.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from bench.figures import CannotRun, Figure, figure, interval
from bench.incumbents import check_of_the_owner, world_of

Decide = Callable[[list[Any]], Any]

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "demo")]


def run(traffic: int = 1000, played: int = 1000) -> dict[str, Figure]:
    with tempfile.TemporaryDirectory() as folder:
        return _run(Path(folder), traffic, played)


def _run(folder: Path, traffic: int, count: int) -> dict[str, Figure]:
    from helpers import new_system, play

    from traffic import conversations, write_jsonl
    from understudy.core.chat_files import import_file
    from understudy.core.ids import uuid7
    from understudy.core.types import Completion, ModelRef, Policy, Request
    from understudy.demo.customers import scenarios
    from understudy.demo.incumbent import NO_FLAWS, FlawRates
    from understudy.recipes.evaluate import play_scenarios, success
    from understudy.runs.statistics import Interval, wilson

    class Scripted:
        """A chat that answers by script."""

        def __init__(self, decide: Decide) -> None:
            self.decide = decide

        async def complete(self, request: Request) -> Completion:
            message = self.decide(list(request.messages))
            return Completion(uuid7(), request, "ok", message=message, finish_reason="stop")

    rows = asyncio.run(conversations(folder, traffic))
    episodes = list(import_file(write_jsonl(folder / "traffic.jsonl", rows)))
    world = world_of(episodes, folder / "world")
    check = check_of_the_owner()
    policies: dict[str, Decide] = {"incumbent": flawed(FlawRates()), **EXPLOITING}
    for name, flaws in FLAWS.items():
        policies[name] = flawed(NO_FLAWS.model_copy(update=flaws))
    drawn = world.scenarios(count, 5)
    figures: dict[str, Figure] = {}
    found: dict[str, list[Interval]] = {"world": [], "service": []}
    systems = folder / "systems"
    systems.mkdir()
    for name, decide in policies.items():
        played = asyncio.run(
            play_scenarios(
                Scripted(decide),
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
        wins = sum(play(system, s, decide)[1].success for s in scenarios("proof", count, 1))
        system.close()
        real = wilson(wins, count)
        for where, share in (("world", success(played)), ("service", real)):
            found[where].append(share)
            figures[f"{name}_{where}"] = interval(share.mean, "success", share.low, share.high)
    world_means, service_means = ([i.mean for i in found[w]] for w in ("world", "service"))
    figures["kendall_tau"] = agreement(world_means, service_means, count)
    return figures | pairs(world_means, found["service"], count)


def flawed(rates: Any) -> Decide:
    """The demo's incumbent with some flaw rates."""
    from understudy.demo.incumbent import decide

    return lambda messages: decide(messages, 0, rates)


def _says(messages: Sequence[Any]) -> Any:
    """Claims success and does nothing."""
    return {"role": "assistant", "content": "Done. Your booking is B12345."}


def _pays_what_nobody_holds(messages: Sequence[Any]) -> Any:
    """Pays a hold that it makes up, by every method in turn."""
    from understudy.demo.catalogue import METHODS

    tried = sum(m["role"] == "tool" for m in messages)
    if tried >= len(METHODS) or "confirmed" in str(messages[-1].get("content")):
        return _says(messages)
    arguments = {"hold_id": "H1234", "method": METHODS[tried]}
    function = {"name": "pay_hold", "arguments": json.dumps(arguments)}
    call = {"id": f"c{tried}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


FLAWS: dict[str, dict[str, float]] = {
    "flawless": {},
    "one_method": {"one_method": 1.0},
    "one_method_often": {"one_method": 0.6},
    "one_method_at_times": {"one_method": 0.25},
    "gives_up": {"gives_up": 1.0},
    "gives_up_at_times": {"gives_up": 0.4},
    "forgets_cap": {"forgets_cap": 1.0},
    "forgets_cap_at_times": {"forgets_cap": 0.5},
    "forgets_sort": {"forgets_sort": 1.0},
    "repeats": {"repeats": 1.0},
    "skips_cancel": {"skips_cancel": 1.0},
}
EXPLOITING: dict[str, Decide] = {
    "says_done": _says,
    "pays_what_nobody_holds": _pays_what_nobody_holds,
}


def pairs(world: list[float], service: Sequence[Any], count: int) -> dict[str, Figure]:
    """How the world orders the pairs of policies that the service tells apart, and those that it
    does not."""
    agreed, inverted, close = 0.0, [0.0], 0
    both = list(combinations(range(len(world)), 2))
    for a, b in both:
        p, q = service[a].mean, service[b].mean
        by = (p - q) * np.sign(world[a] - world[b])
        tied = abs(p - q) <= 1.96 * ((p * (1 - p) + q * (1 - q)) / count) ** 0.5
        agreed += 0.5 if tied else np.sign(by)
        inverted.append(0.0 if tied else max(0.0, -by))
        close += 0.03 <= abs(p - q) <= 0.1
    return {
        "tau_ties_half": figure([agreed / len(both)], "world against service"),
        "worst_inversion": figure([100 * max(inverted)], "points"),
        "pairs_3_to_10_points_apart": figure([close], "pairs"),
    }


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
