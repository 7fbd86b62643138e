"""A reward model as a judge: an adapter that was trained to answer a question about a conversation
with one of two tokens. The reward is the difference of their logprobs, the log-odds of the answer.

It needs an engine that scores ids; `recipes.reward_model.load_judge` makes one of an adapter.
"""

import asyncio
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from understudy.core.ids import uuid7
from understudy.core.protocols import Engine, Renderer
from understudy.core.types import (
    Episode,
    Feedback,
    Group,
    JudgeFailed,
    Message,
    ModelRef,
    Tool,
    canonical_json,
)
from understudy.judges.check import conversation


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is asked behind a conversation, and the two token ids that answer it."""

    question: str
    good: int
    bad: int

    def prompt_ids(
        self, messages: Sequence[Message], tools: Sequence[Tool], renderer: Renderer
    ) -> list[int]:
        """The conversation with the question behind it, up to where the answer begins."""
        asked: Message = {"role": "user", "content": self.question}
        return renderer.prompt_ids([*messages, asked], tools)


class RewardModel:
    """Judges episodes one by one with `model`, which `engine` has loaded. `name` is the
    feedback's; its value has no unit, and differences of it are log-odds of being preferred."""

    def __init__(
        self,
        engine: Engine,
        model: ModelRef,
        renderer: Renderer,
        verdict: Verdict,
        name: str = "reward_model",
    ) -> None:
        self.engine, self.model, self.renderer = engine, model, renderer
        self.verdict, self.name = verdict, name
        read = canonical_json([str(model), verdict.question, verdict.good, verdict.bad])
        self.version = hashlib.sha256(read.encode()).hexdigest()[:16]

    async def judge(self, group: Group) -> list[Feedback | JudgeFailed]:
        """One entry per episode, in the group's order. Episodes that hold no messages, or that do
        not fit the model, fail."""
        return list(await asyncio.gather(*(self._one(e) for e in group.episodes)))

    async def reward(self, messages: Sequence[Message], tools: Sequence[Tool]) -> float:
        """logprob(good) - logprob(bad). Raises ValueError for what cannot be rendered or is too
        long, RuntimeError where the engine fails."""
        ids = self.verdict.prompt_ids(messages, tools, self.renderer)
        answers = (self.verdict.good, self.verdict.bad)
        good, bad = await asyncio.gather(
            *(self.engine.score([*ids, answer], self.model) for answer in answers)
        )
        return good.logprobs[-1] - bad.logprobs[-1]

    async def _one(self, episode: Episode) -> Feedback | JudgeFailed:
        messages = conversation(episode)
        if not messages:
            return JudgeFailed(episode.id, "the episode holds no messages")
        try:
            value = await self.reward(messages, episode.tools)
        except (ValueError, RuntimeError) as error:
            return JudgeFailed(episode.id, f"{self.name}: {error}")
        if not math.isfinite(value):
            return JudgeFailed(episode.id, f"{self.name}: the reward is {value}")
        return Feedback(
            id=uuid7(),
            episode_id=episode.id,
            name=self.name,
            value=value,
            source="judge",
            source_version=self.version,
            created_at=time.time(),
        )
