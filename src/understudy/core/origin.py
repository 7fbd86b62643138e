"""Where ids come from: the base that sampled them, and how its prompts were written.

Ids mean nothing to another tokenizer, and logprobs nothing under another base or chat template.
An origin is recorded with every completion that has ids and with every adapter; training on what
is of another origin is refused. What has no origin recorded (older stores) is taken as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from understudy.core.types import Completion

ORIGIN = "ids_origin"  # the key in a completion's `extra` and in an adapter's metadata
_WORDS = {"renderer": "chat format", "template": "chat template"}


class OriginError(ValueError):
    """Ids or an adapter of another base, chat template or tokenizer."""


@dataclass(frozen=True, slots=True)
class Origin:
    """`template` and `tokenizer` are hashes of the chat template and of the vocabulary."""

    base: str
    renderer: str
    template: str
    tokenizer: str

    def __str__(self) -> str:
        """What is recorded."""
        return "/".join(getattr(self, f.name) for f in fields(self))

    @classmethod
    def read(cls, recorded: object) -> "Origin":
        """What `str` wrote. Raises OriginError for anything else."""
        parts = recorded.rsplit("/", 3) if isinstance(recorded, str) else []
        if len(parts) != 4:
            raise OriginError(f"{recorded!r} is no origin: base/renderer/template/tokenizer")
        return cls(*parts)

    def check(self, recorded: object, what: str) -> None:
        """Raises OriginError where `what` was recorded with another origin."""
        if recorded is None:
            return
        then = Origin.read(recorded)
        for field in fields(self):
            a, b = getattr(then, field.name), getattr(self, field.name)
            if a != b:
                word = _WORDS.get(field.name, field.name)
                raise OriginError(
                    f"{what} was made with the {word} {a}, and here it is {b}: "
                    "use the model that it was made with, or make it anew"
                )

    def check_completions(self, completions: Iterable[Completion]) -> None:
        """Raises OriginError for the first completion with ids of another origin."""
        for completion in completions:
            if completion.output_ids:
                self.check(completion.extra.get(ORIGIN), f"completion {completion.id}")
