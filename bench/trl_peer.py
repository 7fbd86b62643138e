"""TRL's GRPOTrainer on rollouts that are given to it, or that it samples itself: the peer of
`bench_train`. It runs its own loop; what is measured is read off beside it."""

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from bench.gpu import wait


@dataclass(frozen=True, slots=True)
class Rollout:
    """What one episode fed and sampled: token ids, and which of those after the prompt were
    sampled (the others came from tools)."""

    prompt: tuple[int, ...]
    rest: tuple[int, ...]
    sampled: tuple[bool, ...]
    advantage: float


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Seconds of one step: all of it, and the forward and backward passes with the update."""

    whole: float
    training: float


def trl_steps(
    base: str,
    rollouts: Sequence[Rollout],
    precision: Literal["fp32", "bf16"],
    group: int,
    steps: int,
    between: Callable[[], None],
    *,
    micro: int | None = None,
    sample_tokens: int | None = None,
    adapter: Mapping[str, torch.Tensor] | None = None,
    loaded: Callable[[], None] = lambda: None,
    dtype: torch.dtype = torch.float32,
) -> list[StepSeconds]:
    """Seconds of TRL's steps, `between` called after each.

    With LoRA of rank 16 on every linear layer (`adapter` under PEFT's names, else PEFT's own
    start), CISPO's loss as ours, no KL, `micro` rows a forward pass (default all). The rollouts
    are given, or with `sample_tokens` sampled from their prompts, so many tokens each. `loaded` is
    called when everything is in memory and nothing was computed. `dtype` is the base's.
    """
    import transformers
    from datasets import Dataset
    from peft import LoraConfig, set_peft_model_state_dict
    from trl import GRPOConfig, GRPOTrainer

    from understudy.models.loading import load_base

    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*(rollout_func|gradient_checkpointing).*")
    loaded_base = load_base(base, dtype)
    seconds: list[StepSeconds] = []
    rows = micro or len(rollouts)

    class Timed(GRPOTrainer):  # type: ignore[misc]
        rolling = 0.0

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            wait()
            begun = time.perf_counter()
            made = super()._generate_and_score_completions(inputs)
            wait()
            self.rolling += time.perf_counter() - begun
            return made

    class Watch(transformers.TrainerCallback):
        begun = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            wait()
            trainer.rolling, self.begun = 0.0, time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait()
            whole = time.perf_counter() - self.begun
            seconds.append(StepSeconds(whole, whole - trainer.rolling))
            between()

    def given(prompts: Sequence[Any], _trainer: Any) -> dict[str, Any]:
        return {
            "prompt_ids": [list(r.prompt) for r in rollouts],
            "completion_ids": [list(r.rest) for r in rollouts],
            "logprobs": None,
            "env_mask": [[int(s) for s in r.sampled] for r in rollouts],
        }

    def reward(prompts: Sequence[Any], **_: Any) -> list[float]:
        return [r.advantage for r in rollouts]

    more: dict[str, Any] = {"rollout_func": given}
    sampling: dict[str, Any] = {}
    if sample_tokens is not None:
        more = {}
        sampling = {"max_completion_length": sample_tokens}
        sampling["generation_kwargs"] = {"min_new_tokens": sample_tokens}
    prompts = [r.prompt for r in rollouts[::group]]
    texts = [loaded_base.tokenizer.decode(list(p)) for p in prompts]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            model=loaded_base.model,
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=len(rollouts) // rows,
                num_generations=group,
                loss_type="cispo",
                epsilon_high=5.0,
                beta=0.0,
                scale_rewards="none",
                learning_rate=1e-5,
                lr_scheduler_type="constant",
                max_grad_norm=1.0,
                max_steps=steps,
                bf16=precision == "bf16",
                gradient_checkpointing=False,
                use_cpu=not torch.cuda.is_available(),
                shuffle_dataset=False,
                logging_strategy="no",
                log_level="error",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                **sampling,
            ),
            train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
            processing_class=loaded_base.tokenizer,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
            callbacks=[Watch()],
            **more,
        )
        if adapter is not None:
            set_peft_model_state_dict(trainer.model, dict(adapter))
        loaded()
        trainer.train()
    return seconds
