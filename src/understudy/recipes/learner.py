"""What every training recipe begins and ends with: a base with an adapter to train, or to be
trained as a whole, and the result written where engines can load it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator

from understudy.core.binding import Prompts
from understudy.core.origin import ORIGIN
from understudy.core.types import Completion, Episode, Message, Scenario, Tool
from understudy.engine.chat import LocalChat
from understudy.engine.jobs import Counters
from understudy.engine.kernel import build_kernel
from understudy.engine.torch_engine import TorchEngine
from understudy.engine.weights import shape_of
from understudy.models.adapters import check_origin, load_adapter, save_adapter
from understudy.models.full import save_model
from understudy.models.loading import LoadedBase, folder_of
from understudy.models.lora import (
    LoraConfig,
    adapter_tensors,
    full_parameters,
    inject_lora,
    set_adapter_tensors,
)
from understudy.recipes.computing import ON_CPU, Computing
from understudy.runs.config import Config
from understudy.runs.directory import Run
from understudy.runs.launch import place
from understudy.runs.machine import give_back_memory
from understudy.train import attention
from understudy.train.optimiser import TrainerConfig
from understudy.train.parallel import processes_for
from understudy.train.trainer import Trainer
from understudy.train.value_head import FILE, ValueHead


class Lora(Config):
    """Every linear layer of the blocks; rank 16, alpha 2r ("LoRA Without Regret", 2025)."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0

    @model_validator(mode="before")
    @classmethod
    def _no_dropout(cls, given: Any) -> Any:
        """Without the key that runs of older versions have in their configuration."""
        if not isinstance(given, dict) or "dropout" not in given:
            return given
        if given["dropout"]:
            raise ValueError(
                "dropout is not applied: what is trained would be another distribution than what "
                "is sampled; leave lora.dropout out"
            )
        return {k: v for k, v in given.items() if k != "dropout"}


Tune = Literal["lora", "full"]  # an adapter, or every parameter; full takes a tenth of the rate


@dataclass(frozen=True, slots=True)
class Learner:
    """A base whose adapter is trained, or (`lora` None) all of it."""

    base: LoadedBase
    lora: LoraConfig | None

    @property
    def kind(self) -> str:
        """What the result is, and its folder's name in a run."""
        return "adapter" if self.lora is not None else "model"

    def tensors(self) -> dict[str, Any]:
        """What is trained as it is now, for `TorchEngine.load_weights`, which copies it: the
        adapter under PEFT's names (copies), or the model's own state dict (no copies)."""
        if self.lora is None:
            return dict(self.base.model.state_dict())
        return {k: v.clone() for k, v in adapter_tensors(self.base.model).items()}

    def check_completions(self, completions: Iterable[Completion]) -> None:
        """Raises ValueError for the first completion with ids of another model: of another origin,
        or outside of the base's vocabulary."""
        model: Any = self.base.model
        size = int(model.config.vocab_size)
        for completion in completions:
            self.base.origin.check_completions([completion])
            for ids in (completion.prompt_ids, completion.output_ids):
                if ids and not 0 <= min(ids) <= max(ids) < size:
                    odd = next(i for i in ids if not 0 <= i < size)
                    raise ValueError(
                        f"completion {completion.id} holds the token id {odd}, and "
                        f"{self.base.name} has {size} tokens: another model sampled it"
                    )

    def save(
        self, path: Path, metadata: Mapping[str, Any], value_head: ValueHead | None = None
    ) -> Path:
        """The adapter's folder, or a Hugging Face folder that is a base again; with a value head
        beside it."""
        said = {ORIGIN: str(self.base.origin), **metadata}
        beside = {} if value_head is None else {FILE: value_head.tensors()}
        if self.lora is None:
            return save_model(path, self.base.model, self.base.tokenizer, said, beside)
        return save_adapter(path, self.tensors(), self.lora, self.base.source, said, beside)


def make_learner(
    base: str,
    lora: Lora,
    seed: int,
    start: Path | None = None,
    tune: Tune = "lora",
    renderer: str | None = None,
    computing: Computing = ON_CPU,
) -> Learner:
    """The base with a fresh adapter, or with the adapter in the folder `start` to go on from; or
    all of the base, thawed. `renderer` names a chat format in the place of the one that the base's
    chat template is; `computing` says where the base is, and of which type.

    Raises FileNotFoundError or ValueError where `start` holds no adapter that fits the base, its
    tokenizer and its chat template, where full fine-tuning is given one, or for a device that is
    not there.
    """
    if tune == "full" and start is not None:
        raise ValueError("full fine-tuning starts from a base: name its folder as base=FOLDER")
    loaded = computing.load(base, renderer, whole=tune == "full")
    if tune == "full":
        full_parameters(loaded.model)
        return Learner(loaded, None)
    config = LoraConfig(rank=lora.rank, alpha=lora.alpha, seed=seed)
    if start is not None:
        file = load_adapter(start)
        check_origin(file, loaded.origin, start)
        config = LoraConfig(rank=file.config.rank, alpha=file.config.alpha, seed=seed)
        inject_lora(loaded.model, config)
        try:
            set_adapter_tensors(loaded.model, file.tensors)
        except ValueError as error:
            raise ValueError(f"{start} does not fit the base {loaded.name}: {error}") from None
    else:
        inject_lora(loaded.model, config)
    return Learner(loaded, config)


def make_value_head(learner: Learner, start: Path | None = None) -> ValueHead:
    """A value head for the learner's base: that beside the adapter in `start`, or beside the base
    where all of it is trained, else a fresh one."""
    head = ValueHead.of(learner.base.model)
    beside = folder_of(learner.base.source) if learner.lora is None else start
    if beside is not None and (beside / FILE).exists():
        head.load(beside)
    return head


@contextmanager
def training(
    learner: Learner,
    config: TrainerConfig,
    cores: int,
    value_head: ValueHead | None = None,
    beside: bool = False,
    shard: bool = False,
) -> Iterator[Trainer]:
    """A trainer of what the learner trains, and of a value head where there is one, on up to
    `cores` cores: for a small model on the CPU as many processes of one thread each, else threads.
    To be entered before an engine is made. `beside`: it will step while this process does something
    else, so others compute its batches.

    In the first process of several (recipes.several) the others take each step with it. `shard`:
    each of them holds a part of the base (train.sharding). Raises ValueError for that where there
    is but one.
    """
    before = torch.get_num_threads()
    if place()[1] > 1:
        from understudy.recipes.several import leading

        try:
            with leading(learner, config, cores, value_head, shard) as trainer:
                yield trainer
        finally:
            torch.set_num_threads(before)
        return
    if shard:
        raise ValueError("shard=true needs several processes: start the command by torchrun")
    workers = processes_for(learner.base.model, cores)
    if workers > 1:
        give_back_memory()
    try:
        apart = beside and workers > 1
        with Trainer(learner.base.model, config, workers, value_head, apart) as trainer:
            trainer.use_cores(cores)
            yield trainer
    finally:
        torch.set_num_threads(before)


def prepare_kernel(base: str) -> None:
    """Compile the engine's and the trainer's kernels for a base now, while a compiler may still be
    started."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder_of(base), local_files_only=True)
    shape = shape_of(config)
    build_kernel(shape.head_dim, shape.kv_heads, shape.group)
    attention.prepare_kernel(config)


def make_engine(
    base: LoadedBase,
    threads: int | None = None,
    keep_versions: int = 2,
    lockstep: bool = False,
    run: Run | None = None,
) -> tuple[TorchEngine, LocalChat]:
    """The embedded engine over a base, and the chat that speaks the base's format to it. For
    `keep_versions` and `lockstep` see TorchEngine. A run counts the tokens that it is asked for."""
    engine = TorchEngine(
        base.model,
        base.name,
        base.renderer.stop_ids,
        decode_text=base.renderer.decode,
        tokenizer=base.tokenizer,
        threads=threads or "auto",
        keep_versions=keep_versions,
        lockstep=lockstep,
        origin=base.origin,
    )
    if run is not None:
        each = [shard.counters for shard in engine.shards]  # the engine may go, with its memory
        run.watch(lambda: tokens_of(sum(each, Counters())))
    return engine, LocalChat(engine, base.renderer, base.name, origin=base.origin)


def tokens_of(c: Counters) -> dict[str, int]:
    """What an engine has counted since it was made, in the words of core.meter."""
    return {"prompt": c.prompt_tokens, "cached": c.cached_tokens, "sampled": c.sampled_tokens}


Conversation = tuple[str, Sequence[Message], Sequence[Tool]]  # its id, messages and tools


def bound_to(
    given: Iterable[Episode | Scenario | Conversation], tools: Sequence[Tool] = ()
) -> dict[str, Any]:
    """The metadata that binds what is trained to the prompts and tools of what it is trained on
    (core.binding): all of an episode's agents', a scenario's (`tools` where it names none), or a
    conversation's."""
    prompts = Prompts()
    for conversation in (c for one in given for c in conversations_of(one, tools)):
        prompts.add(*conversation)
    return prompts.metadata()


def conversations_of(
    given: Episode | Scenario | Conversation, tools: Sequence[Tool] = ()
) -> Iterator[Conversation]:
    """What `core.binding.Prompts.add` takes."""
    if isinstance(given, Episode):
        done = [c.request for c in given.completions if c.status == "ok"]
        yield from ((given.id, request.messages, request.tools) for request in done)
    elif isinstance(given, Scenario):
        yield given.id, given.messages, given.tools or tools
    else:
        yield given
