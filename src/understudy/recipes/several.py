"""A training recipe in several processes: the first runs it, the others compute for its trainers.

Recipes do not know of it. The first process owns the run: it reads the store, plays, judges, logs
and saves. Whenever it makes a trainer (recipes.learner.training) the others make the same one from
what it tells them, and each step is told to them with its rows. They need the base, in a folder of
the same name, and nothing else of the run's: adapters and checkpoints are handed to them.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from understudy.core.rows import Row
from understudy.models.lora import LoraConfig, full_parameters, inject_lora
from understudy.recipes.computing import Computing
from understudy.recipes.learner import Learner
from understudy.train.optimiser import TrainerConfig
from understudy.train.processes import Processes, joined, rows_from, words_of
from understudy.train.sharding import gather, shard
from understudy.train.trainer import KNOWN, NonFiniteError, StepMetrics, Trainer
from understudy.train.value_head import ValueHead


class Leader(Trainer):
    """The first process's trainer: what it does, it tells the others to do."""

    processes: Processes

    def step(self, rows: Sequence[Row], share: float = 1.0) -> StepMetrics:
        rows = list(rows)
        told = {"rows": words_of(rows), "share": share, "threads": torch.get_num_threads()}
        self.processes.tell({"do": "step", **told})
        return super().step(rows, share)

    def fit_values(self, rows: Sequence[Row], keep: float = 0.0) -> float:
        explained = super().fit_values(rows, keep)
        assert self.value_head is not None
        self.processes.tell({"do": "head"})
        for parameter in self.value_head.parameters():
            self.processes.hand(parameter.detach().cpu().contiguous())
        return explained

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        self.processes.tell({"do": "tensors"})
        yield from super().tensors()

    def restore(
        self, tensors: Iterable[tuple[str, Tensor]], steps: int, skipped: int, head: int = 0
    ) -> None:
        all_of = list(tensors)
        known = [(name, t) for name, t in all_of if name.startswith(KNOWN)]  # of nobody else
        given = [(name, t) for name, t in all_of if not name.startswith(KNOWN)]
        what = [[name, list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in given]
        done = [steps, skipped, head]
        self.processes.tell({"do": "restore", "what": what, "done": done})
        handed = ((name, self.processes.hand(t.detach().cpu().contiguous())) for name, t in given)
        super().restore([*handed, *known], *done)

    def use_cores(self, cores: int) -> None:
        super().use_cores(max(1, cores // self.processes.here))


@contextmanager
def leading(
    learner: Learner,
    config: TrainerConfig,
    cores: int,
    value_head: ValueHead | None = None,
    sharded: bool = False,
) -> Iterator[Leader]:
    """In the first process: a trainer of what the learner trains, and the others' part in it."""
    processes = joined()
    if processes.rank:
        raise ValueError("the first process runs the recipe; call recipes.several.follow in others")
    made = {
        "do": "train",
        "base": learner.base.source,
        "origin": str(learner.base.origin),
        "renderer": learner.base.renderer.name,
        "device": learner.base.device.type,
        "dtype": "bf16" if learner.base.dtype == torch.bfloat16 else "fp32",
        "lora": None if learner.lora is None else asdict(learner.lora),
        "config": config.model_dump(mode="json"),
        "value_head": value_head is not None,
        "sharded": sharded,
    }
    processes.tell(made)
    if sharded:
        _shard(learner)
    model = learner.base.model
    trainer = Leader(model, config, value_head=value_head, processes=processes)
    if learner.lora is not None or not sharded:  # what is sharded, all have read from one folder
        trainer.restore(list(Trainer.tensors(trainer)), 0, 0)
    trainer.use_cores(cores)
    yield trainer
    processes.tell({"do": "end"})
    gather(model, keep=True)


def follow() -> None:
    """In every process but the first: compute for its trainers until `dismiss`."""
    processes = joined()
    while (said := processes.tell())["do"] != "dismiss":
        _follow(processes, said)


def dismiss() -> None:
    """In the first process, when all is done: the others end."""
    joined().tell({"do": "dismiss"})


def _follow(processes: Processes, made: dict[str, Any]) -> None:
    """One trainer's life."""
    placed = Computing(device=made["device"], dtype=made["dtype"])
    base = placed.load(made["base"], made["renderer"], whole=made["lora"] is None)
    if str(base.origin) != made["origin"]:
        raise ValueError(f"the base {made['base']} is another here than in the first process")
    lora = None
    if made["lora"] is None:
        full_parameters(base.model)
    else:
        lora = LoraConfig(**made["lora"] | {"targets": tuple(made["lora"]["targets"])})
        inject_lora(base.model, lora)
    config = TrainerConfig.model_validate(made["config"])
    head = ValueHead.of(base.model) if made["value_head"] else None
    if made["sharded"]:
        _shard(Learner(base, lora))
    trainer = Trainer(base.model, config, value_head=head, processes=processes)
    while (said := processes.tell())["do"] != "end":
        if said["do"] == "step":
            torch.set_num_threads(said["threads"])
            with suppress(NonFiniteError):  # it ends the first process, which says so
                trainer.step(rows_from(said["rows"]), said["share"])
        elif said["do"] == "tensors":
            for _ in trainer.tensors():
                pass
        elif said["do"] == "head":
            for parameter in head.parameters() if head else ():
                fitted = torch.empty_like(parameter, device="cpu")
                parameter.data.copy_(processes.hand(fitted))
        else:
            told = ((name, processes.hand(torch.empty(shape, dtype=getattr(torch, kind))))
                    for name, shape, kind in said["what"])  # fmt: skip
            trainer.restore(told, *said["done"])
    gather(base.model, keep=False)


def _shard(learner: Learner) -> None:
    """The base alone, where there is an adapter."""
    model = learner.base.model
    adapter = () if learner.lora is None else (p for p in model.parameters() if p.requires_grad)
    shard(model, set(adapter))
