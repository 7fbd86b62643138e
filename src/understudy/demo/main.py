"""`understudy demo`: the whole loop, once, for real.

Services run as processes of their own. Whatever learns runs as `understudy ... --isolated`: it
reads the store and what it has itself written, and nothing of the demo. Stages are kept on disk;
an interrupted demo goes on where it was.
"""

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.core.allocator import advised
from understudy.core.cores import usable_cores
from understudy.core.trained import told_by
from understudy.core.types import ModelRef, Policy, Sampling
from understudy.demo import owner_check
from understudy.demo.agent import PROOF_WORKLOAD, WORKLOAD, Served, ServiceClient, run_traffic
from understudy.demo.customers import scenarios
from understudy.demo.figures import time_table
from understudy.demo.incumbent_server import MODEL as INCUMBENT
from understudy.demo.jobs import Job, jobs
from understudy.demo.report import write_demo_report
from understudy.demo.situations import failures_by_situation, met
from understudy.demo.size import FULL, QUICK, Size
from understudy.demo.stages import Stages
from understudy.demo.words import console, headline, say_calls, say_results, say_traffic
from understudy.runs.directory import Run, write_json
from understudy.runs.launch import Launched, launch, python
from understudy.runs.machine import PeakMemory
from understudy.runs.progress import Progress
from understudy.runs.statistics import wilson
from understudy.store import SQLiteStore

ON_CPU = ("--set", "device=cpu")  # where the demo was measured; a tiny model gains nothing on a GPU


@dataclass(slots=True)
class Demo:
    """What the stages share."""

    out: Path
    seed: int
    size: Size
    memory: PeakMemory
    urls: dict[str, str]

    @property
    def store(self) -> Path:
        return self.out / "store.db"

    @property
    def check(self) -> Path:
        return self.out / "owner_check.py"

    def run(self, name: str) -> Path:
        return self.out / "runs" / name


def run_demo(out: Path, seed: int = 0, quick: bool = False, fresh: bool = False) -> int:
    """The whole loop into the folder `out`; the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the services in order
    out = out.resolve()
    setting = {"seed": seed, "quick": quick, "version": 1}
    size = QUICK if quick else FULL
    with PeakMemory() as memory:
        stages = Stages(out, setting, fresh, console.print, lambda: memory.peak_mb)
        shutil.copyfile(str(owner_check.__file__), out / "owner_check.py")
        demo = Demo(out, seed, size, memory, {})
        with _services(demo, stages):
            try:
                _play(demo, stages)
            except KeyboardInterrupt:
                console.print("\ninterrupted; the same command goes on from the last whole stage")
                return 130
    seconds = time_table(stages.seconds, stages.elapsed)
    report = write_demo_report(out, stages.results, seconds, stages.peak_mb, setting)
    stages.finish()
    say_results(report)
    console.print(f"\n  {out / 'report.html'}\n")
    return 0 if say_calls(report["service_calls"]) else 1


def _play(demo: Demo, stages: Stages) -> None:
    headline(1, "An agent in production, its traffic captured through the gateway")
    traffic = stages.run("traffic", lambda: _traffic(demo))
    say_traffic(traffic)
    headline(2, "A world learned from that traffic, and the traffic distilled")
    learned = stages.run("learn", lambda: _learn(demo))
    console.print(learned["table"], markup=False)
    for name, line in learned["distilled"].items():
        console.print(f"  {name}: {line}")
    console.print(f"  calls that the real service saw meanwhile: {learned['service_calls']}")
    headline(3, "Rehearsal, in the world only: what passes is learned, then reinforced")
    stages.run("sample", lambda: _sample(demo), goes_on=True)
    stages.run("rehearse", lambda: _rehearse(demo), goes_on=True)
    headline(4, f"Proof: {demo.size.proof} customers that nobody has seen, in the real service")
    stages.run("prove", lambda: _prove(demo))
    headline(5, "The understudy goes on: same client, same endpoint, same alias")
    served = stages.run("serve", lambda: _serve(demo))
    console.print(
        f"  {served['successes']} of {served['n']} customers served well by {served['model']}, "
        f"{served['turn_ms_median']:.0f} ms a turn"
    )


# -- processes ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _services(demo: Demo, stages: Stages) -> Iterator[None]:
    """The booking service, the incumbent and the gateway, ended with the block.

    The gateway knows the engine's address from the start; the engine itself is started when
    there is something to serve.
    """
    logs = demo.out / "logs"
    database = demo.out / f"service-{int(time.time())}.db"
    with contextlib.ExitStack() as stack:

        def start(name: str, command: Sequence[str], **more: Any) -> Launched:
            launched = launch(name, command, logs / f"{name}.log", **more)
            stack.callback(launched.stop)
            demo.memory.add(launched.pid)
            demo.urls[name] = launched.url.removesuffix("/v1")
            return launched

        start("service", python("understudy.demo.service", "--db", str(database), "--seed", "0"))
        start("incumbent", python("understudy.demo.incumbent", "--seed", str(demo.seed)))
        if not stages.done("traffic"):
            for file in demo.out.glob("store.db*"):
                file.unlink()
        config = demo.out / "gateway.json"
        engine_port = _free_port()
        demo.urls["engine"] = f"http://127.0.0.1:{engine_port}"
        upstreams = {
            "incumbent": {"base_url": f"{demo.urls['incumbent']}/v1"},
            "engine": {"base_url": f"{demo.urls['engine']}/v1", "kind": "engine"},
        }
        models = {INCUMBENT: "incumbent", "rehearsed": "engine"}
        write_json(config, {"store": str(demo.store), "upstreams": upstreams, "models": models})
        with SQLiteStore.open(demo.store) as db:
            _deploy(db, Policy("incumbent", ModelRef(INCUMBENT)))
        start("gateway", python("understudy.gateway", "--config", str(config), "--port", "0"))
        yield


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _deploy(db: SQLiteStore, policy: Policy, adapter: Path | None = None) -> None:
    trained = None if adapter is None else told_by(adapter)
    db.deploy_now(
        "prod", [(policy, 1.0)], trained={str(policy.model): trained} if trained else None
    )


def _understudy(*arguments: str) -> list[str]:
    """The command line of an `understudy` command."""
    return python("understudy.cli", *arguments)


# -- stages ------------------------------------------------------------------------------------


def _traffic(demo: Demo) -> dict[str, Any]:
    """Customers talk with the incumbent through the gateway."""
    customers = scenarios("traffic", demo.size.traffic, demo.seed)
    served = _talk(demo, customers, "traffic")
    with SQLiteStore.open(demo.store) as db:
        counts = db.counts()
    thumbs = [s.thumb for s in served if s.thumb is not None]
    return {
        "n": len(served),
        "successes": sum(s.verdict.success for s in served),
        "reasons": dict(Counter(s.verdict.reason for s in served if not s.verdict.success)),
        "thumbs": len(thumbs),
        "thumbs_up": sum(thumbs),
        "ended": dict(Counter(s.ended for s in served)),
        "captured": {k: counts[k] for k in ("completions", "episodes", "feedback", "dropped")},
        "service_calls": asyncio.run(_calls(demo)),
    }


def _talk(demo: Demo, customers: Any, what: str, workload: str = WORKLOAD) -> list[Served]:
    success = 0
    with Progress(what, total=len(customers), unit="customers") as progress:

        def on_progress(served: Served) -> None:
            nonlocal success
            success += served.verdict.success
            progress.advance(success=f"{success / (progress.done + 1):.0%}")

        return asyncio.run(
            run_traffic(
                f"{demo.urls['gateway']}/v1",
                demo.urls["service"],
                customers,
                concurrency=demo.size.concurrency,
                on_progress=on_progress,
                workload=workload,
            )
        )


async def _calls(demo: Demo) -> int:
    async with ServiceClient(demo.urls["service"]) as service:
        return int((await service.calls())["total"])


def _learn(demo: Demo) -> dict[str, Any]:
    """The world, and the two distillations: of all episodes, and of those that pass the check."""
    world, store = demo.out / "world", ["--store", str(demo.store)]
    where = [*store, "--workload", WORKLOAD, "--isolated"]
    settings = [x for item in demo.size.sft for x in ("--set", item)]
    settings += ["--set", f"seed={demo.seed}", *ON_CPU, "--quiet", "--threads", "1"]
    logs = demo.out / "logs"
    calls = asyncio.run(_calls(demo))
    console.print("  learning the world and distilling, side by side ...")
    for name in ("world", "runs/distilled-all", "runs/distilled-checked"):
        shutil.rmtree(demo.out / name, ignore_errors=True)
    whole, passed = demo.size.sft_epochs
    with jobs(demo.memory) as start:
        distilling: dict[str, Job] = {}
        for name, more in (
            ("all", ["--set", f"epochs={whole}"]),
            ("checked", ["--set", f"epochs={passed}", "--check", str(demo.check)]),
        ):
            run, log = str(demo.run(f"distilled-{name}")), logs / f"distilled-{name}.log"
            command = _understudy("train", "sft", run, *where, *more, *settings)
            distilling[name] = start(f"distilling ({name})", command, log=log, threads=1)
        command = _understudy("world", "learn", str(world), *where)
        learning = start("learning the world", command, log=logs / "world.log", threads=1)
        table = learning.output()
        lines = {f"distilled ({k})": v.output().splitlines()[0] for k, v in distilling.items()}
    return {
        "table": table.rstrip(),
        "fidelity": json.loads((world / "fidelity.json").read_text()),
        "distilled": lines,
        "service_calls": asyncio.run(_calls(demo)) - calls,
    }


def _sample(demo: Demo) -> dict[str, Any]:
    """Scenarios played in the learned world; the episodes that pass are distilled."""
    settings = [x for item in (*demo.size.sft, *demo.size.rft) for x in ("--set", item)]
    command = _understudy(
        "train", "rft", str(demo.run("sampled")), "--world", str(demo.out / "world"),
        "--check", str(demo.check), "--store", str(demo.store),
        "--workload", WORKLOAD, "--isolated", "--set", f"seed={demo.seed}", *ON_CPU, *settings,
    )  # fmt: skip
    return _in_the_world(demo, "sampled", command)


def _rehearse(demo: Demo) -> dict[str, Any]:
    """GRPO in the learned world, from what was distilled of the episodes that passed in it."""
    settings = [x for item in demo.size.grpo for x in ("--set", item)]
    command = _understudy(
        "train", "grpo", str(demo.run("rehearsed")), "--world", str(demo.out / "world"),
        "--check", str(demo.check), "--start", str(demo.run("sampled")),
        "--workload", WORKLOAD, "--isolated", "--set", f"seed={demo.seed}", *ON_CPU, *settings,
    )  # fmt: skip
    return _in_the_world(demo, "rehearsed", command)


def _in_the_world(demo: Demo, name: str, command: Sequence[str]) -> dict[str, Any]:
    """Runs what trains in the world: interrupted, it goes on; done, it is taken as it is."""
    counted = demo.out / f"{name}_calls.json"
    with _calls_counted(demo, counted):
        line = _done_before(demo.run(name))
        if line is None:
            with jobs(demo.memory) as start:
                line = start(f"the run {name}", command, threads=usable_cores()).output().strip()
    service_calls = json.loads(counted.read_text())
    console.print(f"  {line}", markup=False)
    console.print(f"  calls that the real service saw meanwhile: {service_calls}")
    return {"line": line, "service_calls": service_calls}


def _done_before(path: Path) -> str | None:
    """What came of the run at `path`, where there is one and it is done."""
    if not (path / "run.json").exists():
        return None
    with Run.open(path, read_only=True) as run:
        if run.state != "done":
            return None
        last = run.metrics().rows[-1]
    found = ""
    if "reward" in last:  # in a distillation it has none
        found = f"; in the world then: reward {last['reward']:.3f}, success {last['success']:.0%}"
    return f"{last['step'] + 1} steps, done before{found}; adapter in {path / 'adapter'}"


@contextlib.contextmanager
def _calls_counted(demo: Demo, file: Path) -> Iterator[None]:
    """Adds the calls that the service sees during the block to the number in `file`."""
    before = asyncio.run(_calls(demo))
    try:
        yield
    finally:
        known = json.loads(file.read_text()) if file.exists() else 0
        write_json(file, known + asyncio.run(_calls(demo)) - before)


def _prove(demo: Demo) -> dict[str, Any]:
    """Incumbent, both distillations and the rehearsed policy on held-out customers."""
    customers = scenarios("proof", demo.size.proof, demo.seed)
    incumbent = _talk(demo, customers, "incumbent", PROOF_WORKLOAD)
    file = demo.out / "proof.json"
    names = {
        "distilled_all": "distilled-all",
        "distilled_checked": "distilled-checked",
        "rehearsed": "rehearsed",
    }
    adapters = [
        x for k, v in names.items() for x in ("--adapter", f"{k}={demo.run(v) / 'adapter'}")
    ]
    command = python(
        "understudy.demo.prove", "--service", demo.urls["service"], "--n", str(demo.size.proof),
        "--seed", str(demo.seed), "--out", str(file), *adapters,
    )  # fmt: skip
    with jobs(demo.memory) as start:
        start("the proof", command, stdout=sys.stderr).output()
    found = json.loads(file.read_text())
    successes = [s.verdict.success for s in incumbent]
    reasons = Counter(s.verdict.reason for s in incumbent if not s.verdict.success)
    found["incumbent"] = {
        "heldout": {
            "success": wilson(sum(successes), len(successes)).as_dict(),
            "successes": successes,
            "reasons": dict(reasons),
            "situations": failures_by_situation(
                [met(s.messages, s.scenario.metadata["ticket"]) for s in incumbent], successes
            ),
            "conversations": [list(s.messages) for s in incumbent[:60]],
        }
    }
    return dict(found)


def _serve(demo: Demo) -> dict[str, Any]:
    """The alias is switched; the same client code is answered by the rehearsed adapter."""
    port = demo.urls["engine"].rsplit(":", 1)[1]
    command = _understudy(
        "engine", "serve", "tiny", "--port", port, "--device", "cpu",
        "--adapter", f"rehearsed={demo.run('rehearsed')}",
    )  # fmt: skip
    log = demo.out / "logs" / "engine.log"
    with launch("engine", command, log, env=advised()) as engine:
        demo.memory.add(engine.pid)
        with SQLiteStore.open(demo.store) as db:
            sampling = Sampling(temperature=0.0, max_tokens=128)
            rehearsed = Policy("rehearsed", ModelRef("rehearsed"), sampling=sampling)
            _deploy(db, rehearsed, demo.run("rehearsed") / "adapter")
        time.sleep(0.5)  # longer than the gateway's poll for deployments
        customers = scenarios("proof", demo.size.proof + demo.size.served, demo.seed)
        customers = customers[demo.size.proof :]
        served = _talk(demo, customers, "served by the understudy", PROOF_WORKLOAD)
    with SQLiteStore.open(demo.store) as db:
        episodes = [e for s in served if (e := db.read_episode(s.episode_id)) is not None]
    completions = [c for e in episodes for c in e.completions]
    turns = sorted(
        1000 * (c.finished_at - c.started_at) for c in completions if c.finished_at is not None
    )
    models = Counter(str(c.served or c.request.model) for c in completions)
    return {
        "n": len(served),
        "successes": sum(s.verdict.success for s in served),
        "model": models.most_common(1)[0][0] if models else "nobody",
        "turn_ms_median": turns[len(turns) // 2] if turns else 0.0,
    }
