"""The vocabulary: what every room passes to every other. Plain immutable data, no behaviour
beyond views of itself. Messages, tool calls and tools are OpenAI's chat schema, unchanged."""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, Required, TypedDict, TypeGuard

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class FunctionCall(TypedDict):
    name: str
    arguments: str  # JSON text, exactly as the model wrote it


class ToolCall(TypedDict):
    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(TypedDict, total=False):
    role: Required[Literal["system", "developer", "user", "assistant", "tool"]]
    content: str | list[dict[str, Any]] | None
    tool_calls: list[ToolCall]
    tool_call_id: str
    name: str
    refusal: str | None
    reasoning_content: str | None  # what a model thought before it spoke, where its format says
    weight: int  # 0: an assistant's message that is not learned (OpenAI's fine-tuning format)


class FunctionSpec(TypedDict):
    name: str
    description: NotRequired[str]
    parameters: NotRequired[dict[str, Any]]  # JSON Schema
    strict: NotRequired[bool | None]


class Tool(TypedDict):
    type: Literal["function"]
    function: FunctionSpec


Purpose = Literal["agent", "judge", "world", "user", "reflection", "evaluation"]
Status = Literal["started", "ok", "client_disconnected", "upstream_error", "timeout", "invalid"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "abort"]
Split = Literal["train", "heldout"]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model to call: a base, with an adapter version where one is loaded, or a remote name."""

    base: str
    adapter: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        """The name on the wire: `base`, `adapter` or `adapter@version`."""
        if self.adapter is None:
            return self.base
        return self.adapter if self.version is None else f"{self.adapter}@{self.version}"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy; top_p 1 and top_k 0 switch those off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit)
    top_logprobs: int = 0  # how many of the likeliest tokens in each place are told


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. None means not reported; zero is a count."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a Chat."""

    messages: tuple[Message, ...]
    model: ModelRef
    tools: tuple[Tool, ...] = ()
    sampling: Sampling = Sampling()
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None  # False: one call in a message at most
    response_format: Mapping[str, Any] | None = None  # OpenAI's; see core.answer_form
    purpose: Purpose = "agent"
    workload: str = "default"
    episode_id: str | None = None
    scenario_id: str | None = None
    caused_by: str | None = None  # the completion whose tool call started this sub-agent
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """One model call, whole. Started once, finalised once, never edited.

    `prompt_ids` and `output_ids` are exactly what was fed and sampled (a sampled stop token
    included), `logprobs` one natural logarithm per output id under the sampled distribution;
    all three are None where the engine is not ours. Times are Unix seconds.
    """

    id: str
    request: Request
    status: Status
    message: Message | None = None
    finish_reason: FinishReason | None = None
    served: ModelRef | None = None  # the model that answered, when it is not the requested one
    alias: str | None = None  # the deployment that the client named
    usage: Usage = Usage()
    error: str | None = None
    started_at: float = 0.0
    first_token_at: float | None = None
    finished_at: float | None = None
    prompt_ids: tuple[int, ...] | None = None
    output_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


FeedbackSource = Literal["user", "reviewer", "check", "outcome", "judge", "demonstration"]


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody said of an episode, or of one completion in it. Append-only."""

    id: str
    episode_id: str
    name: str  # e.g. "thumb", "outcome", "ruler"
    value: bool | float | str | dict[str, Any] | None
    source: FeedbackSource
    source_version: str = ""
    completion_id: str | None = None
    comment: str | None = None
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Transition:
    """One tool call in its episode: what was known before, the call, the result."""

    episode_id: str
    step: int  # 0-based among the episode's tool calls
    history: tuple[Message, ...]  # the messages before the call's assistant message
    name: str
    arguments: str  # JSON text as the model wrote it
    content: str
    is_error: bool | None = None  # None: the traffic does not say
    latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """One run of an agent on one scenario. The only unit of reward, group and feedback.

    `metadata` is what the client sent with the episode (a ticket, a customer id), never shown
    to the agent. An episode may hold several conversations (sub-agents): see core.forest.
    """

    id: str
    completions: tuple[Completion, ...]
    scenario_id: str | None = None
    workload: str = "default"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    feedback: tuple[Feedback, ...] = ()
    results: Mapping[str, "ToolResult"] = field(default_factory=dict)  # by tool_call_id
    tail: tuple[Message, ...] = ()  # messages after the last completion, where known
    ended: str | None = None  # why a rollout ended: done, user_left, max_turns, error, ...

    def made_for(self, purpose: str) -> tuple[Completion, ...]:
        """Its completions of one purpose: the agent's, say, and not a simulated user's."""
        return tuple(c for c in self.completions if c.request.purpose == purpose)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation that ended last: its request, its reply, what followed. What had come
        of a reply that was cut (its completion is not ok) is not part of it."""
        last = self._last
        if last is None:
            return ()
        if last.message is None or last.status != "ok":
            return last.request.messages
        return (*last.request.messages, last.message, *self.tail)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools offered in that conversation."""
        return () if self._last is None else self._last.request.tools

    @property
    def _last(self) -> Completion | None:
        done = [c for c in self.completions if c.message is not None and c.status == "ok"]
        return (done or self.completions or (None,))[-1]


@dataclass(frozen=True, slots=True)
class Group:
    """Episodes of one scenario, with the reward of each where it is known."""

    scenario_id: str
    episodes: tuple[Episode, ...]
    rewards: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """What an episode starts from. `goal` is hidden from the agent; `metadata` is what the
    episode carries for its owner's check (a ticket)."""

    id: str
    messages: tuple[Message, ...]  # system prompt and the user's first turn, where they are fixed
    goal: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    split: Split = "train"
    tools: tuple[Tool, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""  # where it came from; the split is a hash of it


ProvenanceKind = Literal["observed", "inferred", "remembered", "invented"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one value of a tool result came from. `path` is a JSON pointer (RFC 6901)."""

    path: str
    kind: ProvenanceKind
    source: str = ""  # episode/step, rule or memory that it came from


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool returned. `doubt` is the probability that the world got it wrong (0: real)."""

    content: str
    is_error: bool = False
    latency_s: float | None = None
    provenance: tuple[Provenance, ...] = ()
    doubt: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Tokens sampled by an engine: ids with one logprob each, a sampled stop token included.
    `top`: for each id the likeliest (id, logprob) of the distribution that it was drawn from."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    model: ModelRef
    cached_tokens: int = 0
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Scores:
    """Teacher-forced logprobs of ids[1:], and the top-k alternatives where asked for."""

    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """Who acts: a model, the prompt that it is given, how it is sampled."""

    name: str
    model: ModelRef
    prompt: str | None = None  # replaces the request's system prompt when given
    sampling: Sampling = Sampling()


@dataclass(frozen=True, slots=True)
class Deployment:
    """An alias and the policies behind it with their shares of the traffic (sum 1)."""

    alias: str
    shares: tuple[tuple[Policy, float], ...]
    version: int = 1


@dataclass(frozen=True, slots=True)
class Dataset:
    """A frozen, content-hashed query over the store."""

    name: str
    query: Mapping[str, Any]
    episode_ids: tuple[str, ...]
    content_hash: str
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class JudgeFailed:
    """A judge's failure on one episode. Never a silent zero."""

    episode_id: str
    reason: str


HELDOUT_SHARE = 0.1


def split_of(origin: str, heldout_share: float = HELDOUT_SHARE) -> Split:
    """The split of whatever came from `origin`: fixed once, the same everywhere."""
    digest = hashlib.sha256(origin.encode(errors="surrogatepass")).digest()
    return "heldout" if int.from_bytes(digest[:8]) < heldout_share * 2**64 else "train"


def parted(
    episodes: Iterable[Episode], share: float = 0.5, salt: str = ""
) -> tuple[list[Episode], list[Episode]]:
    """The episodes in two parts that share no scenario, the second with `share` of the scenarios.

    Fixed by a hash of the scenario alone; partings with different salts are independent, and
    without one it is that of `split_of`.
    """
    parts: tuple[list[Episode], list[Episode]] = ([], [])
    for e in episodes:
        parts[split_of(salt + (e.scenario_id or e.id), share) == "heldout"].append(e)
    return parts


def select_reward(feedback: Iterable[Feedback], name: str) -> float | None:
    """Reward is a named selection over feedback: the latest finite number under `name`.

    Booleans count as 0 and 1. None when nobody said one under that name (`why_no_reward`);
    contradictory entries are resolved by the latest `created_at` (then id).
    """
    said = [(f.created_at, f.id, f.value) for f in feedback if f.name == name]
    numbers = [(at, id_, float(v)) for at, id_, v in said if is_number(v)]
    return max(numbers)[2] if numbers else None


def why_no_reward(feedback: Iterable[Feedback], name: str) -> str:
    """Where `select_reward` selects nothing: what is wrong, in words."""
    if any(f.name == name for f in feedback):
        return f"feedback named {name} that is no finite number"
    return f"no feedback named {name}"


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a boolean or a number that a float can hold, neither NaN nor infinite."""
    return isinstance(value, (bool, int, float)) and abs(value) <= sys.float_info.max


def is_function(value: Mapping[str, Any]) -> bool:
    """Whether a tool call or a tool is a function: a custom tool takes free text instead."""
    kind = value.get("type", "function")
    return kind == "function" and isinstance(value.get("function"), dict)


def call_parts(call: Mapping[str, Any]) -> tuple[str, str]:
    """What a tool call names and what it gives it, as text, whatever the call's kind."""
    if is_function(call):
        return call["function"]["name"], call["function"]["arguments"]
    custom = call.get("custom")
    if isinstance(custom, dict) and isinstance(custom.get("name"), str):
        given = custom.get("input")
        return custom["name"], given if isinstance(given, str) else canonical_json(given)
    return "", canonical_json({k: v for k, v in call.items() if k != "id"})


def text_of(content: str | list[dict[str, Any]] | None) -> str:
    """The text of a message's content; content parts other than text are named in brackets."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = [
        p.get("text", "") if p.get("type") == "text" else f"[{p.get('type')}]" for p in content
    ]
    return "".join(parts)


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
