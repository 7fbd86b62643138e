"""Does a learned world rank policies as the real service does? Scripted agents in both.

A world is learned from 1,000 episodes of the demo's incumbent, without HTTP; then the incumbent,
a flawless agent and agents with one flaw each play in the world (judged by the owner's check) and
in the service (judged by its database), on different customers.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "demo")]

TRAFFIC, PLAYED = 1000, 300


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return _run(Path(folder))


def _run(folder: Path) -> dict[str, Any]:
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
    from understudy.runs.statistics import kendall_tau, wilson
    from understudy.world.learn import learn

    class Scripted:
        """A chat that answers by script: the demo's incumbent with some flaw rates."""

        def __init__(self, rates: FlawRates) -> None:
            self.rates = rates

        async def complete(self, request: Request) -> Completion:
            message = decide(list(request.messages), 0, self.rates)
            return Completion(uuid7(), request, "ok", message=message, finish_reason="stop")

    rows = asyncio.run(conversations(folder, TRAFFIC))
    world = learn(list(import_file(write_jsonl(folder / "traffic.jsonl", rows))))
    check = Check.from_file(str(owner_check.__file__))
    policies = {"flawless": NO_FLAWS, "incumbent": FlawRates()}
    for flaw in ("one_method", "gives_up", "forgets_cap", "forgets_sort"):
        policies[flaw] = NO_FLAWS.model_copy(update={flaw: 1.0})
    drawn = world.scenarios(PLAYED, 5)
    figures: dict[str, Any] = {}
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
            for s in scenarios("proof", PLAYED, 1)
        )
        system.close()
        real = wilson(wins, PLAYED)
        for where, found in (("world", success(played)), ("service", real)):
            figures[f"{name}_{where}"] = {
                "value": found.mean, "unit": "success", "low": found.low, "high": found.high
            }  # fmt: skip
    pairs = [(figures[f"{n}_world"]["value"], figures[f"{n}_service"]["value"]) for n in policies]
    tau = kendall_tau([a for a, _ in pairs], [b for _, b in pairs])
    figures["kendall_tau"] = {"value": tau, "unit": "world against service"}
    return figures
