"""Adapters of the shipped base for tests: fresh ones, with what they were trained with."""

from pathlib import Path
from typing import Any

from understudy.core.binding import Prompts
from understudy.recipes.learner import Learner, Lora, make_learner

SYSTEM = "You help customers.\nNever promise a refund."
TOOL: Any = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def asks(text: str = SYSTEM) -> list[Any]:
    """A conversation under a system prompt."""
    return [{"role": "system", "content": text}, {"role": "user", "content": "hello"}]


def learner() -> Learner:
    """The shipped base with a fresh adapter."""
    return make_learner("tiny", Lora(rank=2), seed=0)


def bound_adapter(folder: Path, one: Learner, system: str = SYSTEM) -> Path:
    """An adapter that was trained with this system prompt and TOOL."""
    prompts = Prompts()
    prompts.add("e", asks(system), [TOOL])
    return one.save(folder, prompts.metadata())
