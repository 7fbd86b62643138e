"""Who says how likely it would have said what a student said."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from understudy.core.rows import SampledRow
from understudy.core.teaching import Top, behind, sampled_at
from understudy.core.types import Message, ModelRef
from understudy.engine.torch_engine import TorchEngine
from understudy.models.loading import LoadedBase
from understudy.recipes.computing import ON_CPU, Computing
from understudy.recipes.learner import make_engine


@dataclass(frozen=True, slots=True)
class Told:
    """The teacher's logprobs of a row's sampled tokens, and in each place its likeliest ones."""

    logprobs: list[float]
    top: list[Top]


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model in an engine. `top_k`: of how many tokens in each place it says how likely they
    are."""

    engine: TorchEngine
    model: ModelRef
    top_k: int = 0

    def fits(self, row: SampledRow, prompt_ids: Sequence[int] | None = None) -> bool:
        """Whether what `told` would have it read is within its context."""
        ids = row.ids if prompt_ids is None else behind(prompt_ids, row)[0]
        return len(ids) < self.engine.context

    async def told(self, row: SampledRow, prompt_ids: Sequence[int] | None = None) -> Told:
        """What the teacher says of a row; with `prompt_ids`, where it reads those in the place of
        the prompt. Raises ValueError where that is longer than its context."""
        ids, moved = (row.ids, 0) if prompt_ids is None else behind(prompt_ids, row)
        scores = await self.engine.score(ids, self.model, self.top_k)
        at = [t + moved - 1 for t in sampled_at(row)]  # logprobs are those of ids[1:]
        return Told(
            [scores.logprobs[t] for t in at], [scores.top[t] for t in at] if self.top_k else []
        )


@asynccontextmanager
async def teacher_beside(
    student: LoadedBase,
    engine: TorchEngine,
    base: str | None,
    adapter: str | None,
    top_k: int = 0,
    threads: int | None = None,
    computing: Computing = ON_CPU,
) -> AsyncIterator[Teacher]:
    """An adapter, or none, of the student's base in the student's engine; of another `base` in an
    engine of its own. Raises ValueError for a base of another tokenizer."""
    if base is None:
        yield Teacher(engine, await _loaded(engine, student.name, adapter), top_k)
        return
    loaded = computing.load(base)
    if loaded.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise ValueError(
            f"{base} has another tokenizer than {student.name}: a teacher scores the student's "
            "own tokens; choose a base of the same family"
        )
    apart, _ = make_engine(loaded, threads)
    try:
        yield Teacher(apart, await _loaded(apart, loaded.name, adapter), top_k)
    finally:
        await apart.aclose()


async def _loaded(engine: TorchEngine, base: str, adapter: str | None) -> ModelRef:
    if adapter is None:
        return ModelRef(base)
    model = ModelRef(base, "teacher", 1)
    await engine.load(model, str(Path(adapter)))
    return model


def under_prompt(messages: Sequence[Message], prompt: str) -> tuple[Message, ...]:
    """The messages with another system prompt."""
    rest = [m for m in messages if m["role"] not in ("system", "developer")]
    return ({"role": "system", "content": prompt}, *rest)
