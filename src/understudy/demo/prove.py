"""The proof: policies in the real service, on customers that nobody has seen.

    python -m understudy.demo.prove --service URL --n 300 --out FILE --adapter NAME=FOLDER ...

Each adapter plays every held-out customer greedily and at temperature 1; success is read from the
service's database. Prints one line for each of them and writes FILE.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from understudy.core.types import ModelRef, Policy, Sampling, Scenario
from understudy.demo.agent import MAX_TURNS, PROOF_WORKLOAD, SYSTEM_PROMPT, ServiceClient
from understudy.demo.customers import Customer, scenarios
from understudy.demo.env import ServiceEnvironment
from understudy.demo.situations import failures_by_situation, met
from understudy.models.loading import load_base
from understudy.recipes.evaluate import episodes_of, play_scenarios, success
from understudy.recipes.learner import make_engine
from understudy.recipes.rehearsal import Played, gather
from understudy.runs.directory import write_json

DECODINGS = {"greedy": 0.0, "t1": 1.0}
KEPT = 60  # conversations kept for the report, per policy, greedy


async def prove(
    service_url: str,
    adapters: Mapping[str, Path | None],
    n: int,
    seed: int,
    threads: int | None,
    base_of: str = "tiny",
) -> dict[str, Any]:
    """`{policy: {decoding: {success, successes, reasons, ...}}}` over `n` held-out customers. A
    policy without an adapter is the base."""
    base = load_base(base_of)
    engine, chat = make_engine(base, threads)
    customers = scenarios("proof", n, seed)
    found: dict[str, Any] = {}
    try:
        async with ServiceClient(service_url, connections=128) as service:
            for name, folder in adapters.items():
                model = ModelRef(base.name) if folder is None else ModelRef(base.name, name, 1)
                if folder is not None:
                    await engine.load(model, str(folder))
                found[name] = {}
                started = time.perf_counter()
                both = await gather(
                    [
                        play_scenarios(
                            chat,
                            Policy(
                                name,
                                model,
                                prompt=SYSTEM_PROMPT,
                                sampling=Sampling(temperature=temperature, max_tokens=128),
                            ),
                            ServiceEnvironment(service),
                            _customer,
                            customers,
                            seed=seed,
                            max_turns=MAX_TURNS,
                            workload=PROOF_WORKLOAD,
                        )
                        for temperature in DECODINGS.values()
                    ]
                )
                seconds = time.perf_counter() - started
                for decoding, played in zip(DECODINGS, both, strict=True):
                    entry: dict[str, Any] = {"success": success(played).as_dict()}
                    entry |= describe(played, customers)
                    if decoding == "greedy":
                        entry["conversations"] = [
                            [dict(m) for e in item.group.episodes for m in e.messages]
                            for item in played[:KEPT]
                        ]
                    found[name][decoding] = entry
                    print(f"{name:>22} {decoding:>7}  {success(played)}", flush=True)
                print(f"{'':>22} {'':>7}  {seconds:.1f} s", flush=True)
    finally:
        await engine.aclose()
    return found


def _customer(scenario: Scenario, seed: int) -> Customer:
    return Customer(scenario)


def describe(played: Sequence[Played], customers: Sequence[Scenario]) -> dict[str, Any]:
    """What the report needs of a policy's episodes, in the order of the scenarios. One that could
    not be judged, because the model did not answer, has failed."""
    episodes = episodes_of(played)
    verdicts = [e.feedback[-1] for e in episodes]
    completions = [c for e in episodes for c in e.completions]
    turn_ms = [
        1000 * (c.finished_at - c.started_at) for c in completions if c.finished_at is not None
    ]
    prompt = sum(c.usage.prompt_tokens or 0 for c in completions)
    cached = sum(c.usage.cached_tokens or 0 for c in completions)
    successes = [item.rate >= 1.0 for item in played]
    situations = [
        met([m for e in item.group.episodes for m in e.messages], customer.metadata["ticket"])
        for item, customer in zip(played, customers, strict=True)
    ]
    return {
        "successes": successes,
        "situations": failures_by_situation(situations, successes),
        "reasons": dict(
            Counter(v.comment for v in verdicts if not v.value)
            + sum((item.failed for item in played), Counter())
        ),
        "ended": dict(Counter(e.ended for e in episodes)),
        "turns": len(completions) / max(1, len(episodes)),
        "turn_ms_median": median(turn_ms) if turn_ms else None,
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "completion_tokens": sum(c.usage.completion_tokens or 0 for c in completions),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="understudy.demo.prove", description=__doc__)
    parser.add_argument("--service", required=True, help="the booking service's URL")
    parser.add_argument("--adapter", action="append", required=True, help="NAME=FOLDER")
    parser.add_argument("--n", type=int, default=300, help="held-out customers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: fitted to the load")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)
    adapters = {name: Path(folder) for name, folder in (a.split("=", 1) for a in given.adapter)}
    found = asyncio.run(prove(given.service, adapters, given.n, given.seed, given.threads or None))
    write_json(given.out, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
