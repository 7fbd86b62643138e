"""Episodes of an adapter in the demo's real service, as a deployment of it would leave them: exact
ids and logprobs at temperature 1, and the thumbs that customers give."""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.incumbents import service_at


def logs_at(folder: Path, name: str, adapter: Path, n: int, seed: int, each: int = 1) -> list[Any]:
    """The episodes of `play_logged` in a service of their own. They are kept in the store
    `folder`/`name`.db: what was played once is read from there."""
    from understudy.store import SQLiteStore

    file, new = folder / f"{name}.db", Path(tempfile.mkdtemp(dir=folder)) / f"{name}.db"
    if not file.exists():

        async def played() -> list[Any]:
            async with service_at(folder) as (_, service):
                return await play_logged(service, adapter, n, seed, each=each)

        episodes = asyncio.run(played())
        with SQLiteStore.open(new) as db:
            db.write(episodes)
        new.rename(file)
    with SQLiteStore.open(file) as db:
        return list(db.read_episodes())


async def play_logged(
    service: Any,
    adapter: Path,
    n: int,
    seed: int,
    threads: int | None = None,
    version: int = 1,
    each: int = 1,
) -> list[Any]:
    """`each` episodes of each of `n` customers of the traffic's kind (`seed` says which), in their
    order. Those of one customer are one scenario from one start: sampling alone differs.

    Feedback is "outcome", from the service's database, and "thumb" where the customer left one.
    `service` is a `ServiceClient` that is open.
    """
    from understudy.core.types import ModelRef, Policy, Sampling
    from understudy.demo.agent import MAX_TURNS, SYSTEM_PROMPT, WORKLOAD
    from understudy.demo.customers import Customer, scenarios
    from understudy.demo.env import ServiceEnvironment
    from understudy.models.loading import load_base
    from understudy.recipes.learner import make_engine
    from understudy.recipes.rehearsal import gather, play_group

    base = load_base("tiny")
    engine, chat = make_engine(base, threads)
    model = ModelRef(base.name, "deployed", version)
    policy = Policy("deployed", model, SYSTEM_PROMPT, Sampling(temperature=1.0, max_tokens=128))
    free = asyncio.Semaphore(max(1, 256 // each))

    async def one(number: int, scenario: Any) -> list[Any]:
        async with free:
            played = await play_group(
                chat, policy, ServiceEnvironment(service), lambda s, _: Customer(s), scenario, each,
                seed=1_000_003 * seed + number, check=None, max_turns=MAX_TURNS, workload=WORKLOAD,
            )  # fmt: skip
        return [with_thumb(episode, scenario) for episode in played.group.episodes]

    try:
        await engine.load(model, str(adapter))
        customers = enumerate(scenarios("traffic", n, seed))
        found = await gather([one(number, scenario) for number, scenario in customers])
    finally:
        await engine.aclose()
    return [episode for episodes in found for episode in episodes]


def with_thumb(episode: Any, scenario: Any) -> Any:
    """The episode with its customer's thumb, if any, after its outcome."""
    from understudy.core.ids import uuid7
    from understudy.demo.customers import Customer

    outcome = episode.feedback[-1]
    thumb = Customer(scenario).thumb(bool(outcome.value))
    if thumb is None:
        return episode
    said = replace(outcome, id=uuid7(), name="thumb", value=thumb, source="user", comment=None)
    return replace(episode, feedback=(*episode.feedback, said))


def sampled_tokens(episodes: Sequence[Any]) -> int:
    return sum(len(c.output_ids or ()) for e in episodes for c in e.completions)
