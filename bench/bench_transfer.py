"""Transfer: an agent that trained only in a learned world, in the real service.

For incumbents of four qualities and three seeds: 1,000 episodes of traffic, a world learned from
them; then the agent before (distilled from the episodes that pass the owner's check), after the
demo's recipe in the world, and after the same recipe in the real service with new customers of the
traffic's kind. All three meet customers that nobody has seen in the real service, greedily and at
T = 1. `behind_reality` is how far the world's agent is behind, one-sided 95%, over all seeds.

Hours on two cores: what is measured stays under build/bench/transfer and is not measured again.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.figures import Figure, figure, interval

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "bench" / "transfer"
HOURS = True  # by name only
sys.path[:0] = [str(ROOT / "tests")]
SCALES = {20: 2.05, 35: 1.5, 50: 1.0, 65: 0.7}  # incumbents' success in % -> of their flaw rates


def run(
    levels: Sequence[int] = (50, 35, 20, 65),
    seeds: Sequence[int] = (0, 1, 2),
    proof: int = 1000,
    traffic: int = 1000,
    rft: Sequence[str] = (),
    grpo: Sequence[str] = (),
    out: Path = OUT,
) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for level in levels:
        told = []
        for seed in seeds:
            folder = out / f"{level}-{seed}"
            told.append(_one(folder, level, seed, proof, traffic, rft, grpo))
        found[f"incumbent_{level}_traffic"] = figure([t["traffic"] for t in told], "success")
        for decoding in ("greedy", "t1"):
            for who in ("before", "world", "reality"):
                shares = [_share(t[who][decoding]) for t in told]
                found[f"incumbent_{level}_{who}_{decoding}"] = figure(shares, "success")
            wins = [
                [w for t in told for w in t[who][decoding]["successes"]]
                for who in ("world", "reality")
            ]
            found[f"incumbent_{level}_behind_reality_{decoding}"] = _behind(*wins)
    return found


def _share(entry: dict[str, Any]) -> float:
    return sum(entry["successes"]) / len(entry["successes"])


def _behind(world: Sequence[bool], reality: Sequence[bool]) -> Figure:
    """Reality's success less the world's in points, with the one-sided 95% bound as `high`."""
    from understudy.runs.statistics import paired_difference

    by = paired_difference([float(w) for w in world], [float(r) for r in reality], confidence=0.9)
    return interval(100 * by.mean, "points", 100 * by.low, 100 * by.high)


def _one(
    folder: Path,
    level: int,
    seed: int,
    proof: int,
    traffic: int,
    rft: Sequence[str],
    grpo: Sequence[str],
) -> dict[str, Any]:
    """What one incumbent's traffic makes of the agent."""
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "found.json"
    if not done.exists():
        found = asyncio.run(_train_and_prove(folder, level, seed, proof, traffic, rft, grpo))
        done.write_text(json.dumps(found))
    told: dict[str, Any] = json.loads(done.read_text())
    return told


async def _train_and_prove(
    folder: Path,
    level: int,
    seed: int,
    proof: int,
    traffic: int,
    rft_sizes: Sequence[str],
    grpo_sizes: Sequence[str],
) -> dict[str, Any]:
    from traffic import conversations, write_jsonl
    from understudy.core.chat_files import import_file
    from understudy.core.types import split_of
    from understudy.demo import owner_check
    from understudy.demo.incumbent import FlawRates
    from understudy.demo.prove import prove
    from understudy.demo.size import FULL
    from understudy.judges.check import Check
    from understudy.recipes.grpo import GrpoConfig, grpo
    from understudy.recipes.rft import RftConfig, rft
    from understudy.recipes.sft import SftConfig, sft
    from understudy.runs.config import load_config
    from understudy.world.learn import learn

    captured = folder / "traffic.jsonl.gz"
    if not captured.exists():
        rates = FlawRates().model_dump()
        flawed = FlawRates(**{k: min(0.95, v * SCALES[level]) for k, v in rates.items()})
        (folder / "service.db").unlink(missing_ok=True)
        write_jsonl(captured, await conversations(folder, traffic, seed, flawed))
    episodes = list(import_file(captured))
    train = [e for e in episodes if split_of(e.scenario_id or e.id) == "train"]
    check = Check.from_file(str(owner_check.__file__))
    world = learn(train)
    adapters: dict[str, Path] = {}
    settings = [*FULL.sft, "keep=check", f"seed={seed}", f"epochs={FULL.sft_epochs[1]}"]
    config = load_config(SftConfig, None, settings)
    with _run(folder / "before", config, seed) as begun:
        adapters["before"] = begun.path / "adapter"
        if not adapters["before"].exists():
            sft(begun, episodes, config, check, quiet=True)
    async with _service(folder) as (url, service):
        for where, place in (("world", world), ("reality", Reality(service, world))):
            settings = [*FULL.sft, *FULL.rft, *rft_sizes, f"seed={seed}"]
            sampling = load_config(RftConfig, None, settings)
            with _run(folder / f"{where}-sampled", sampling, seed) as begun:
                start = begun.path / "adapter"
                if not start.exists():
                    await rft(begun, place, episodes, check, sampling, quiet=True)  # type: ignore[arg-type]
            settings = [*FULL.grpo, *grpo_sizes, f"seed={seed}", f"start={start}"]
            reinforcing = load_config(GrpoConfig, None, settings)
            with _run(folder / f"{where}-rehearsed", reinforcing, seed) as begun:
                adapters[where] = begun.path / "adapter"
                if not adapters[where].exists():
                    await grpo(begun, place, check, reinforcing, quiet=True)  # type: ignore[arg-type]
        found = await prove(url, adapters, proof, seed, None)
    for entry in found.values():
        entry["greedy"].pop("conversations", None)
    rewards = [bool(f.value) for e in episodes for f in e.feedback if f.name == "outcome"]
    return found | {"traffic": sum(rewards) / len(rewards)}


def _run(path: Path, config: Any, seed: int) -> Any:
    from understudy.runs.directory import Run

    return Run.open(path) if (path / "run.json").exists() else Run.create(path, config, seed)


@asynccontextmanager
async def _service(folder: Path) -> AsyncIterator[tuple[str, Any]]:
    """The booking service as its own process, on a fresh database."""
    from understudy.demo.agent import ServiceClient
    from understudy.runs.launch import launch, python

    database = tempfile.mkdtemp(dir=folder) + "/service.db"
    command = python("understudy.demo.service", "--db", database, "--seed", "0")
    with launch("service", command, folder / "service.log") as launched:
        async with ServiceClient(launched.url, connections=256) as service:
            yield launched.url, service


class Reality:
    """The real service in the place of a learned world, with new customers of the traffic's kind.

    What reads their messages is the world's; a session is copied by making its calls again in a
    new one, which the service answers alike.
    """

    def __init__(self, service: Any, world: Any) -> None:
        from understudy.demo.env import ServiceEnvironment

        self.environment, self.world, self.notes = ServiceEnvironment(service), world, world.notes
        self.fidelity = world.fidelity  # what training warns of is the world's
        self.customers: dict[str, Any] = {}

    def scenarios(self, n: int, seed: int = 0) -> list[Any]:
        from understudy.demo.agent import SYSTEM_PROMPT, TOOLS
        from understudy.demo.customers import scenarios

        system = {"role": "system", "content": SYSTEM_PROMPT}
        made = scenarios("traffic", n, 1_000_000 + seed)
        self.customers |= {s.id: s for s in made}
        return [
            replace(s, messages=(system, *s.messages), tools=TOOLS, goal=dict(s.metadata))
            for s in made
        ]

    def user(self, scenario: Any, seed: int = 0) -> Any:
        from understudy.demo.customers import Customer

        return Customer(self.customers[scenario.id])

    def fields(self, episode: Any) -> dict[str, Any]:
        told: dict[str, Any] = self.world.fields(episode)
        return told

    async def start(self, scenario: Any, seed: int, snapshot: Any | None = None) -> Any:
        session = await self.environment.start(self.customers[scenario.id], seed)
        again = Repeatable(session)
        for role, call in snapshot or ():
            await again.call(role, call)
        return again


class Repeatable:
    """A session of the service that remembers its calls."""

    def __init__(self, session: Any) -> None:
        self.session, self.calls = session, []
        self.tools, self.outcome, self.aclose = session.tools, session.outcome, session.aclose

    async def call(self, role: str, tool_call: Any) -> Any:
        self.calls.append((role, tool_call))
        return await self.session.call(role, tool_call)

    async def snapshot(self) -> Any:
        return list(self.calls)
