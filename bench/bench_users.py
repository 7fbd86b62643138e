"""Does an agent succeed with simulated users as often as with real ones?

The demo's adapters in the demo's real service, greedily and at T = 1, each twice with the same
held-out tickets and the same lives of the service: with the demo's own customers, and with users
mined from the traffic of its incumbent, who word the first message and every answer themselves.
Only the user differs, so differences are of pairs; tickets for which the simulated user found no
words are counted. It plays what `python -m bench demo` left in build/bench/demo-1.
"""

import asyncio
import dataclasses
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from bench.figures import CannotRun, Figure, figure, interval

if TYPE_CHECKING:
    from understudy.core.types import Scenario
    from understudy.recipes.rehearsal import Played
    from understudy.world.users.scenarios import Book

ROOT = Path(__file__).resolve().parents[1]
ADAPTERS = ("distilled-all", "rehearsed")
DECODINGS = {"": 0.0, "_t1": 1.0}  # what figures' names end with -> temperature
Pair = tuple["Played", "Played"]  # with the real user, with the simulated one


def run(
    n: int = 300,
    seeds: Sequence[int] = (0, 1, 2),
    folder: Path = ROOT / "build" / "bench" / "demo-1",
) -> dict[str, Figure]:
    """`n` tickets of each seed. Raises CannotRun where the demo's traffic or an adapter is not
    there."""
    adapters = {name: folder / "runs" / name / "adapter" for name in ADAPTERS}
    for needed in (folder / "store.db", *adapters.values()):
        if not needed.exists():
            raise CannotRun(f"there is no {needed}: run `python -m bench demo` first")
    from understudy.recipes.user_width import mine_users
    from understudy.store import SQLiteStore

    with SQLiteStore.open(folder / "store.db") as store:
        book = mine_users(list(store.read_episodes(workload="booking")))
    pairs = asyncio.run(_play(book, adapters, n, seeds))
    figures: dict[str, Figure] = {}
    for name, own in pairs.items():
        figures |= {f"{name}_{label}": value for label, value in _figures(own).items()}
    return figures


async def _play(
    book: "Book", adapters: dict[str, Path], n: int, seeds: Sequence[int]
) -> dict[str, list[Pair]]:
    """Every ticket with both users, by adapter and decoding."""
    from understudy.core.types import ModelRef, Policy, Sampling
    from understudy.demo.agent import MAX_TURNS, SYSTEM_PROMPT, ServiceClient
    from understudy.demo.customers import Customer, scenarios
    from understudy.demo.env import ServiceEnvironment
    from understudy.models.loading import load_base
    from understudy.recipes.evaluate import play_scenarios
    from understudy.recipes.learner import make_engine
    from understudy.runs.launch import launch
    from understudy.world.users.scenarios import user_seed
    from understudy.world.users.user import Known, MinedUser

    known = Known(book)

    def simulated(scenario: "Scenario", number: int) -> MinedUser:
        return MinedUser(known, scenario.metadata, user_seed(scenario, number))

    def customer(scenario: "Scenario", number: int) -> Customer:
        return Customer(scenario)

    base = load_base("tiny")
    engine, chat = make_engine(base)
    found: dict[str, list[Pair]] = {f"{name}{end}": [] for name in adapters for end in DECODINGS}
    with tempfile.TemporaryDirectory() as made:
        command = [sys.executable, "-m", "understudy.demo.service", "--db", f"{made}/service.db"]
        service = launch("service", command, Path(made) / "service.log")
        try:
            async with ServiceClient(service.url.removesuffix("/v1"), connections=128) as client:
                for name, adapter in adapters.items():
                    model = ModelRef(base.name, name, 1)
                    await engine.load(model, str(adapter))
                    for seed, (end, heat) in itertools.product(seeds, DECODINGS.items()):
                        sampling = Sampling(heat, max_tokens=128)
                        policy = Policy(name, model, SYSTEM_PROMPT, sampling)
                        real = scenarios("proof", n, seed)
                        silent = [dataclasses.replace(s, messages=()) for s in real]
                        both = [
                            await play_scenarios(
                                chat, policy, ServiceEnvironment(client), make, told,
                                seed=seed, max_turns=MAX_TURNS,
                            )
                            for make, told in ((customer, real), (simulated, silent))
                        ]  # fmt: skip
                        found[f"{name}{end}"] += zip(*both, strict=True)
        finally:
            service.stop()
            await engine.aclose()
    return found


def _figures(pairs: Sequence[Pair]) -> dict[str, Figure]:
    from understudy.runs.statistics import paired_difference, wilson

    opened = [pair for pair in pairs if _user_turns(pair[1])]
    wins = [[float(pair[side].rate >= 1.0) for pair in opened] for side in (0, 1)]
    apart = paired_difference(*wins)
    found: dict[str, Figure] = {}
    for side, who in enumerate(("real", "simulated")):
        share = wilson(int(sum(wins[side])), len(opened))
        found[who] = interval(share.mean, "success", share.low, share.high)
        turns = fmean(_user_turns(pair[side]) for pair in opened)
        found[f"{who}_turns"] = figure([turns], "user turns a conversation")
    unit = "success, simulated - real"
    found["difference"] = interval(apart.mean, unit, apart.low, apart.high)
    found["unopened"] = figure([len(pairs) - len(opened)], f"of {len(pairs)} tickets")
    return found


def _user_turns(played: "Played") -> int:
    return sum(m["role"] == "user" for e in played.group.episodes for m in e.messages)
