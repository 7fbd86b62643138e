"""What becomes of an episode in which the world doubts its own answer.

Every result of a world has a doubt, the probability that it is wrong. From `threshold` on a step is
doubtful, and then, by `policy`:

    answer    nothing
    flag      the episode says so in a feedback `doubt`, and its advantage is multiplied by
              1 - the worst doubt; its reward and its group's mean stay
    truncate  the episode ends there and has no reward: it is left out of its group and counted
    branch    the rest is played twice, from the moment before the first doubtful step, the second
              time with other draws of the world; the worse of the two is kept
"""

import time
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from understudy.core.ids import uuid7
from understudy.core.protocols import Chat, Environment, Session
from understudy.core.types import (
    Completion,
    Episode,
    Feedback,
    Request,
    Scenario,
    ToolCall,
    ToolResult,
)
from understudy.envs.around import AroundSession
from understudy.runs.config import Config

OTHER_LIFE = 500_009  # what is added to a life's seed where it is drawn again


class Doubt(Config):
    policy: Literal["answer", "flag", "truncate", "branch"] = "answer"
    threshold: float = Field(default=0.5, gt=0, le=1)

    @property
    def truncated(self) -> str:
        """Why an episode that was ended has no reward."""
        return f"truncated at a doubt of {self.threshold:g} or more"


class Truncated(RuntimeError):
    """A step was too doubtful: the episode ends without a reward."""


class WatchedSession(AroundSession):
    """A session that stops or takes a snapshot at its first doubtful step."""

    def __init__(self, session: Session, doubt: Doubt) -> None:
        super().__init__(session)
        self.doubt = doubt
        self.told: list[ToolResult] = []  # before the first doubtful step
        self.before: Any = None  # the snapshot before it
        self.doubtful: str | None = None  # the id of its call

    async def call(self, role: str, tool_call: ToolCall) -> ToolResult:
        """The session's answer. Raises Truncated where the policy says so."""
        if self.doubtful is not None:
            return await self.session.call(role, tool_call)
        branch = self.doubt.policy == "branch"
        before = await self.session.snapshot() if branch else None
        result = await self.session.call(role, tool_call)
        if result.doubt < self.doubt.threshold:
            self.told.append(result)
            return result
        if self.doubt.policy == "truncate":
            raise Truncated(self.doubt.truncated)
        self.doubtful, self.before = tool_call["id"], before
        return result


class RetoldSession(AroundSession):
    """Answers the first calls as they were answered before; a session goes on from there."""

    def __init__(self, session: Session, told: Sequence[ToolResult]) -> None:
        super().__init__(session)
        self.told = list(told)

    async def call(self, role: str, tool_call: ToolCall) -> ToolResult:
        return self.told.pop(0) if self.told else await self.session.call(role, tool_call)


class RetoldChat:
    """Gives the first completions as they were given before; a chat goes on from there."""

    def __init__(self, chat: Chat, told: Sequence[Completion]) -> None:
        self.chat, self.told = chat, list(told)

    async def complete(self, request: Request) -> Completion:
        return self.told.pop(0) if self.told else await self.chat.complete(request)


async def again(
    chat: Chat,
    environment: Environment,
    scenario: Scenario,
    life: int,
    watched: WatchedSession,
    episode: Episode,
) -> tuple[RetoldChat, RetoldSession]:
    """The chat and the session in which an episode is played a second time, from the moment before
    its first doubtful step. What came before is told as it was; users must answer alike to the
    same seed and words."""
    made = next(
        n
        for n, c in enumerate(episode.completions)
        if c.message and watched.doubtful in [t["id"] for t in c.message.get("tool_calls") or []]
    )
    session = await environment.start(scenario, life + OTHER_LIFE, watched.before)
    told = episode.completions[: made + 1]
    return RetoldChat(chat, told), RetoldSession(session, watched.told)


def flagged(episode: Episode, doubt: Doubt) -> tuple[float, Feedback | None]:
    """The episode's weight in training, and what is to be said of it where a step was doubtful."""
    found = {k: r.doubt for k, r in episode.results.items() if r.doubt >= doubt.threshold}
    if doubt.policy != "flag" or not found:
        return 1.0, None
    weight = max(0.0, 1.0 - max(found.values()))
    said = {"calls": found, "weight": weight}
    return weight, Feedback(uuid7(), episode.id, "doubt", said, "check", created_at=time.time())
