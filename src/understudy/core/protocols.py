"""What the rooms promise to each other. Structural types: nothing inherits from them."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from understudy.core.answer_form import AnswerForm
from understudy.core.types import (
    Completion,
    Dataset,
    Deployment,
    Episode,
    Feedback,
    Group,
    JudgeFailed,
    Message,
    ModelRef,
    Policy,
    Request,
    Sample,
    Sampling,
    Scenario,
    Scores,
    Tool,
    ToolCall,
    ToolResult,
)


class Engine(Protocol):
    """Tokens in, tokens out. What is in flight keeps the adapter version that it started with.

    `grammar` is a grammar of llguidance as text: Lark, or its JSON (what `grammar_from_json_schema`
    and `grammar_from_lark` of its LLMatcher return). A sample follows it from its first id on,
    logprobs are of what it allowed, and the sample ends where it leaves nothing but a stop. One
    that nothing can follow is refused with a ValueError.
    """

    async def sample(
        self,
        prompt_ids: Sequence[int],
        model: ModelRef,
        sampling: Sampling,
        grammar: str | None = None,
        on_chunk: Callable[[Sequence[int]], None] | None = None,
    ) -> Sample: ...

    async def score(self, ids: Sequence[int], model: ModelRef, top_k: int = 0) -> Scores: ...

    async def load(self, model: ModelRef, path: str) -> None: ...

    async def unload(self, model: ModelRef) -> None: ...


class ChatError(RuntimeError):
    """A request was not answered. `completion` is the record of it, with `status` and `error`;
    `http_status` is the upstream's where there was one, `retry_after_s` when there may be room
    where too many requests are pending."""

    def __init__(
        self,
        completion: Completion,
        http_status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(completion.error or completion.status)
        self.completion, self.http_status = completion, http_status
        self.retry_after_s = retry_after_s


class Chat(Protocol):
    """Messages in, a completion out: what agents, judges, users and worlds call. Raises
    ChatError for a request that is not answered."""

    async def complete(self, request: Request) -> Completion: ...


class Session(Protocol):
    """One single-use life of an environment."""

    def tools(self, role: str = "agent") -> tuple[Tool, ...]: ...

    async def call(self, role: str, tool_call: ToolCall) -> ToolResult: ...

    async def snapshot(self) -> Any: ...

    async def outcome(self) -> list[Feedback]: ...

    async def aclose(self) -> None: ...


class Environment(Protocol):
    """Starts sessions: real, replayed or learned. `snapshot` is another session's."""

    async def start(
        self, scenario: Scenario, seed: int, snapshot: Any | None = None
    ) -> Session: ...


class User(Protocol):
    """The person on the other side. None: the user has left."""

    async def reply(self, seen: Sequence[Message]) -> Message | None: ...


class Judge(Protocol):
    """Turns a group into feedback: one entry per episode, or why there is none."""

    async def judge(self, group: Group) -> list[Feedback | JudgeFailed]: ...


class Renderer(Protocol):
    """Messages to token ids and back, for one model's chat format.

    A prompt ends with the generation prompt, `opening_ids`. `next_prompt_ids` continues what was
    fed and sampled by the format's glue and `following_ids(new)`, and re-tokenises none of it; a
    format that writes history anew gives its own prompt. `assistant_ids` are what the model should
    have sampled, stop token included. `call_marks`: what begins something in sampled text that is
    no content. Raises core.turns.FormatError for what the format cannot say. `grammar` is that of a
    message of a form (see Engine); `parse` without `calls` takes what looks like one for text.
    `thought_ids`: the tokens that begin and end what the model thinks before it speaks, where it
    does; the content of a message is what stands behind the last that ends it.
    """

    name: str
    stop_ids: tuple[int, ...]
    opening_ids: tuple[int, ...]
    call_marks: tuple[str, ...]
    thought_ids: tuple[int, int] | None

    def decode(self, ids: Sequence[int], /) -> str: ...

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]: ...

    def next_prompt_ids(
        self, fed_ids: Sequence[int], new: Sequence[Message], finish_reason: str | None
    ) -> list[int]: ...

    def following_ids(self, new: Sequence[Message]) -> list[int]: ...

    def assistant_ids(self, message: Message) -> list[int]: ...

    def grammar(self, form: AnswerForm) -> str: ...

    def parse(self, output_ids: Sequence[int], calls: bool = True) -> Message: ...


class Store(Protocol):
    """Where everything that was seen is kept. Appending is idempotent by id."""

    async def append(
        self, records: Sequence[Completion | Feedback | Episode], durable: bool = False
    ) -> None: ...

    async def episode(self, episode_id: str) -> Episode | None: ...

    def episodes(self, **query: Any) -> AsyncIterator[Episode]: ...

    async def freeze(self, name: str, **query: Any) -> Dataset: ...

    async def deploy(
        self, alias: str, shares: Sequence[tuple[Policy, float]], expected: int | None = None
    ) -> Deployment: ...

    async def deployment(self, alias: str) -> Deployment | None: ...

    async def erase(self, subject: str) -> int: ...
