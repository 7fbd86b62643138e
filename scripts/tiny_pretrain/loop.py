"""The training loop: processes that share gradients through memory, a schedule, checkpoints."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from understudy.runs.machine import give_back_memory

from .data import Batch, DataOptions, family_names, stream
from .init import initialise
from .net import Shape, TinyNet
from .optim import Optimiser


@dataclass(frozen=True)
class Options:
    """One training run; `minutes` or `tokens` ends it, whichever is given."""

    folder: str
    seed: int = 1
    minutes: float | None = 70.0
    tokens: float | None = None
    workers: int = 2
    threads: int = 1
    accumulate: int = 1
    muon_lr: float = 0.006
    adam_lr: float = 0.003
    warm_up: float = 0.01
    decay_from: float = 0.22
    start: str = ""  # a model folder whose weights are taken instead of the initialisation
    induction: bool = True
    compile: bool = True
    norm_factor: float = 4.0  # the norms' rate in AdamW's
    save_minutes: float = 2.5
    eval_minutes: float = 0.0
    shape: Shape = field(default_factory=Shape)
    data: DataOptions = field(default_factory=DataOptions)


def schedule(progress: float, o: Options) -> float:
    """Trapezoid: warm up, constant, linear to zero."""
    if progress < o.warm_up:
        return max(progress, 1e-4) / o.warm_up
    if progress > o.decay_from:
        return max(0.0, (1 - progress) / (1 - o.decay_from))
    return 1.0


def write_atomically(tensors: dict[str, Tensor], path: Path) -> None:
    """A safetensors file that is either the old one or the new one."""
    partial = path.with_name(path.name + ".partial")
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, str(partial))
    os.replace(partial, path)


class Position:
    """Where each worker is in its stream of chunks."""

    def __init__(self, workers: int) -> None:
        self.at = torch.zeros(workers, 2, dtype=torch.int64).share_memory_()

    def after(self, rank: int, batch: Batch) -> None:
        self.at[rank, 0] = batch.chunk + int(batch.final)
        self.at[rank, 1] = 0 if batch.final else batch.index + 1


@dataclass
class Shared:
    """What the workers share: gradients, sums, positions, orders from rank 0, a barrier."""

    grads: Tensor  # (workers, parameters)
    sums: Tensor  # (workers, 4 + 2 * families): weight, loss, tokens, skipped, then per family
    position: Position
    orders: Tensor  # rate multiplier, stop
    barrier: Any


FAMILY_SLOTS = 32


def _accumulate(net: TinyNet, batches: list[Batch], sums: Tensor) -> None:
    sums.zero_()
    for b in batches:
        weight = torch.from_numpy(b.weight)
        total, nll = net.loss(
            torch.from_numpy(b.ids),
            torch.from_numpy(b.position),
            b.lengths,
            torch.from_numpy(b.pick),
            torch.from_numpy(b.target),
            weight,
        )
        total.backward()  # type: ignore[no-untyped-call]
        sums[0] += weight.sum()
        sums[1] += total.detach()
        sums[2] += sum(b.lengths)
        sums[3] += b.skipped if b.final else 0
        family = torch.from_numpy(b.family)
        real = family >= 0
        sums[4 : 4 + FAMILY_SLOTS].index_add_(0, family[real], nll[real])
        sums[4 + FAMILY_SLOTS :].index_add_(0, family[real], torch.ones(int(real.sum())))


def run_worker(rank: int, o: Options, shared: Shared, resume: bool) -> None:
    """One process of the run; rank 0 also keeps the schedule, the log and the checkpoints."""
    torch.set_num_threads(o.threads)
    torch.set_flush_denormal(True)
    folder = Path(o.folder)
    net = TinyNet(o.shape, o.compile)
    vocabulary = json.loads((folder / "tokens.json").read_text())
    initialise(net, vocabulary, o.seed, o.induction)
    if o.start:
        net.load(load_file(str(Path(o.start) / "model.safetensors")))
    optimiser = Optimiser(net.weights, norm_factor=o.norm_factor)
    state: dict[str, Any] = {"tokens": 0, "seconds": 0.0, "skipped": 0}
    if resume:
        state = _load(folder, net, optimiser)
    names = list(net.weights)
    average = {n: net.weights[n].detach().clone() for n in names}
    if resume:
        average = load_file(str(folder / "average.safetensors"))
    chunk, index = (int(v) for v in shared.position.at[rank])
    batches = stream(folder, o.data, o.seed, rank, chunk, index)
    keeper = Keeper(o, state, net, optimiser, average, shared) if rank == 0 else None
    shared.barrier.wait(900)
    if keeper:
        keeper.start()
    while True:
        taken = [next(batches) for _ in range(o.accumulate)]
        for p in net.weights.values():
            p.grad = None
        _accumulate(net, taken, shared.sums[rank])
        grads = [net.weights[n].grad for n in names]
        shared.grads[rank].copy_(torch.cat([g.flatten() for g in grads if g is not None]))
        shared.position.after(rank, taken[-1])
        if keeper:
            keeper.order()
        shared.barrier.wait(900)
        rate, stop = (float(v) for v in shared.orders)
        total = shared.grads.detach().sum(0) / shared.sums[:, 0].sum()
        at = 0
        for n in names:
            p = net.weights[n]
            p.grad = total[at : at + p.numel()].view_as(p)
            at += p.numel()
        if keeper:
            keeper.count(shared.sums.sum(0), float(total.detach().norm()))
        shared.barrier.wait(900)
        optimiser.step(o.muon_lr * rate, o.adam_lr * rate)
        if optimiser.steps % 500 == 0:
            give_back_memory()  # the allocator's settings keep all that was ever freed
        if keeper:
            keeper.after_step(bool(stop))
        if stop:
            return


def _load(folder: Path, net: TinyNet, optimiser: Optimiser) -> dict[str, Any]:
    saved = load_file(str(folder / "checkpoint.safetensors"))
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    net.load({n: saved["model/" + n] for n in net.weights})
    optimiser.load_state_dict(
        {
            "steps": state["steps"],
            "first": {n: saved["first/" + n] for n in optimiser.first},
            "second": {n: saved["second/" + n] for n in optimiser.second},
        }
    )
    return state


class Keeper:
    """Rank 0's duties."""

    def __init__(
        self,
        o: Options,
        state: dict[str, Any],
        net: TinyNet,
        optimiser: Optimiser,
        average: dict[str, Tensor],
        shared: Shared,
    ) -> None:
        self.o, self.state, self.net, self.optimiser = o, state, net, optimiser
        self.average, self.shared = average, shared
        self.folder = Path(o.folder)
        self.window = torch.zeros(4 + 2 * FAMILY_SLOTS)
        self.norm = 0.0
        self.evaluation: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        now = time.monotonic()
        self.begun = now - self.state["seconds"]
        self.logged, self.saved, self.evaluated = now, now, now
        self.logged_tokens = self.state["tokens"]

    def progress(self) -> float:
        if self.o.tokens:
            return float(self.state["tokens"] / self.o.tokens)
        return (time.monotonic() - self.begun) / (60 * (self.o.minutes or 1))

    def order(self) -> None:
        progress = self.progress()
        self.shared.orders[0] = schedule(progress, self.o)
        self.shared.orders[1] = float(progress >= 1)

    def count(self, sums: Tensor, norm: float) -> None:
        self.window += sums
        self.norm = norm
        self.state["tokens"] += int(sums[2])
        self.state["skipped"] += int(sums[3])

    @torch.no_grad()
    def after_step(self, stop: bool) -> None:
        if self.optimiser.steps % 4 == 0:
            keep = min(0.98, self.optimiser.steps / (self.optimiser.steps + 40))
            for n, p in self.net.weights.items():
                self.average[n].lerp_(p, 1 - keep)
        now = time.monotonic()
        self.state["seconds"] = now - self.begun
        if now - self.logged > 20 or stop:
            self._log(now)
        if now - self.saved > 60 * self.o.save_minutes or stop:
            self._save()
            self.saved = now
        if self.o.eval_minutes and now - self.evaluated > 60 * self.o.eval_minutes:
            self._evaluate()
            self.evaluated = now

    def _log(self, now: float) -> None:
        w, f = self.window, FAMILY_SLOTS
        speed = (self.state["tokens"] - self.logged_tokens) / (now - self.logged)
        sums, counts = w[4 : 4 + f].tolist(), w[4 + f :].tolist()
        families = {
            name: round(sums[i] / counts[i], 4)
            for i, name in enumerate(family_names())
            if counts[i]
        }
        row = {
            "step": self.optimiser.steps,
            "tokens": self.state["tokens"],
            "seconds": round(self.state["seconds"], 1),
            "loss": round(float(w[1] / w[0]), 4),
            "rate": round(float(self.shared.orders[0]), 4),
            "grad_norm": round(self.norm, 3),
            "tokens_per_second": round(speed),
            "skipped": self.state["skipped"],
            "load": round(os.getloadavg()[0], 2),
            "families": families,
        }
        with (self.folder / "metrics.jsonl").open("a") as out:
            out.write(json.dumps(row) + "\n")
        self.shared_line(row)
        self.window.zero_()
        self.logged, self.logged_tokens = now, self.state["tokens"]

    def shared_line(self, row: dict[str, Any]) -> None:
        from rich.console import Console

        left = max(0.0, 1 - self.progress())
        text = (
            f"[bold]{row['tokens'] / 1e6:7.2f} M[/] tokens  loss [cyan]{row['loss']:.4f}[/]  "
            f"{row['tokens_per_second']:6d} tok/s  rate {row['rate']:.2f}  "
            f"{row['seconds'] / 60:5.1f} min  {100 * left:4.1f}% left"
        )
        Console(width=120).print(text, highlight=False)

    def _save(self) -> None:
        tensors = {"model/" + n: p for n, p in self.net.weights.items()}
        tensors |= {"first/" + n: p for n, p in self.optimiser.first.items()}
        tensors |= {"second/" + n: p for n, p in self.optimiser.second.items()}
        write_atomically(tensors, self.folder / "checkpoint.safetensors")
        write_atomically(self.average, self.folder / "average.safetensors")
        state = {
            **self.state,
            "steps": self.optimiser.steps,
            "position": self.shared.position.at.tolist(),
        }
        partial = self.folder / "state.json.partial"
        partial.write_text(json.dumps(state))
        os.replace(partial, self.folder / "state.json")

    def _evaluate(self) -> None:
        if self.evaluation is not None and self.evaluation.poll() is None:
            return
        self._save()
        script = Path(__file__).parents[1] / "pretrain_tiny.py"
        command = [sys.executable, str(script), "--eval", "--quick", "--run", self.o.folder]
        log = (self.folder / "eval.log").open("ab")
        self.evaluation = subprocess.Popen(command, stdout=log, stderr=log)


def train(o: Options, resume: bool) -> None:
    """Train to the end of the budget, `workers` processes sharing each step."""
    folder = Path(o.folder)
    net = TinyNet(o.shape)
    size = sum(p.numel() for p in net.weights.values())
    context = mp.get_context("spawn")
    shared = Shared(
        torch.zeros(o.workers, size).share_memory_(),
        torch.zeros(o.workers, 4 + 2 * FAMILY_SLOTS).share_memory_(),
        Position(o.workers),
        torch.zeros(2).share_memory_(),
        context.Barrier(o.workers),
    )
    if resume:
        state = json.loads((folder / "state.json").read_text())
        if len(state["position"]) != o.workers:
            raise SystemExit(f"resume with --workers {len(state['position'])}, as it began")
        shared.position.at.copy_(torch.tensor(state["position"]))
        before = json.loads((folder / "options.json").read_text())["data"]
        if before != asdict(o.data):  # other packing or mixture: begin with fresh chunks
            shared.position.at[:, 0] += 1
            shared.position.at[:, 1] = 0
    (folder / "options.json").write_text(json.dumps(asdict(o), indent=2) + "\n")
    others = [
        context.Process(target=run_worker, args=(r, o, shared, resume), daemon=False)
        for r in range(1, o.workers)
    ]
    for process in others:
        process.start()
    try:
        run_worker(0, o, shared, resume)
    finally:
        shared.barrier.abort()
        for process in others:
            process.join(60)
