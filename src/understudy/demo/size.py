"""How much of everything the demo does."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything; the defaults are the demo's, QUICK is for seeing that it runs."""

    traffic: int = 1000
    concurrency: int = 24
    proof: int = 300
    served: int = 40
    sft: tuple[str, ...] = ("batch_episodes=4", "lr=4e-3", "lora.rank=64", "lora.alpha=128")
    sft_epochs: tuple[int, int] = (1, 3)  # of all episodes, of those that pass the check
    # and what `sft` says
    rft: tuple[str, ...] = (
        "scenarios=2600", "readings=2", "in_flight=128",
        "max_tokens_per_microbatch=2048",
    )  # fmt: skip
    grpo: tuple[str, ...] = (
        "steps=12", "lr=3e-4", "max_turns=12", "scenarios_per_step=32", "group_size=4",
        "max_tokens_per_microbatch=2048",
    )  # fmt: skip


FULL = Size()
QUICK = Size(
    traffic=80,
    proof=16,
    served=4,
    sft_epochs=(1, 1),
    rft=("scenarios=24", "reader_warmup_epochs=0", "reader_epochs=1", "readings=1", "max_turns=6"),
    grpo=("steps=2", "scenarios_per_step=2", "group_size=4", "pool=40", "max_turns=8"),
)
