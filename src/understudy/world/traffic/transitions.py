"""Transitions in captured episodes: which call got which result, and which results are failures."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from understudy.core.types import (
    Episode,
    Message,
    ToolCall,
    ToolResult,
    Transition,
    call_parts,
    canonical_json,
    is_function,
    text_of,
)
from understudy.world.data import envelope, layouts
from understudy.world.data.envelope import Envelope
from understudy.world.data.layouts import Layout
from understudy.world.data.values import parse
from understudy.world.traffic import silent
from understudy.world.traffic.delays import waits
from understudy.world.traffic.failing import looks_failed


def transitions(episode: Episode) -> list[Transition]:
    """Every call of a function in an episode with its result, in order.

    Results are looked for after the call in any later request of the episode and in its tail;
    sub-agents and branches are followed, a call that several requests repeat counts once, under
    a system prompt that changes on the way too, and tool call ids may recur in later turns. A
    call without a result is left out, and so is a custom tool's: see `custom_calls`.
    """
    found: list[Transition] = []
    waited = waits(episode)
    for made in _made(episode):
        if not is_function(made.call):
            continue
        answer, recorded = made.answer, made.recorded
        is_error: bool | None = None
        if answer is not None and isinstance(answer.get("is_error"), bool):
            is_error = bool(answer.get("is_error"))
        if recorded is not None:
            is_error = recorded.is_error
        content = recorded.content if recorded and not answer else ""
        latency = recorded.latency_s if recorded is not None else None
        found.append(
            Transition(
                episode_id=episode.id,
                step=len(found),
                history=made.history,
                name=made.call["function"]["name"],
                arguments=made.call["function"]["arguments"],
                content=text_of(answer.get("content")) if answer else content,
                is_error=is_error,
                latency_s=waited.get(made.call["id"]) if latency is None else latency,
            )
        )
    return found


def custom_calls(episode: Episode) -> int:
    """How many calls with a result `transitions` leaves out because they are of custom tools.

    Such a call gives free text, and nobody who rehearses in a world makes one.
    """
    return sum(not is_function(made.call) for made in _made(episode))


def unanswered_calls(episode: Episode) -> int:
    """How many calls `transitions` leaves out because no result of theirs was captured."""
    made = {key for thread, keys in _threads(episode) for key in _calls_of(thread, keys)}
    return len(made) - sum(1 for _ in _made(episode))


def uncalled_results(episode: Episode) -> int:
    """How many results answer no call that was captured, or one that has another answer."""
    told: set[_Key] = set()
    taken: set[_Key] = set()
    named: set[str] = set()  # ids of calls and of tool messages
    for thread, keys in _threads(episode):
        for i, message in enumerate(thread):
            if message["role"] == "tool":
                told.add(keys[i])
                named.add(message.get("tool_call_id") or "")
            calls = message.get("tool_calls") or []
            answers = _answers(thread, i) if calls else []
            for n, call in enumerate(calls):
                named.add(call["id"])
                picked = _pick(answers, call["id"], n, len(calls))
                if picked is not None:
                    taken.add(keys[i + 1 + picked])
    return len(told - taken) + len(episode.results.keys() - named)


def _calls_of(thread: Sequence[Message], keys: Sequence["_Key"]) -> Iterator[tuple["_Key", int]]:
    for message, key in zip(thread, keys, strict=True):
        yield from ((key, n) for n in range(len(message.get("tool_calls") or [])))


@dataclass(frozen=True, slots=True)
class _Made:
    """A call that was made once, and what is known of its result."""

    history: tuple[Message, ...]
    call: ToolCall
    answer: dict[str, Any] | None  # the tool's message
    recorded: ToolResult | None


def _made(episode: Episode) -> Iterator[_Made]:
    """The calls of an episode that have a result, each once."""
    ids = Counter(
        call["id"]
        for c in episode.completions
        if c.message
        for call in c.message.get("tool_calls") or []
    )
    seen: set[tuple[_Key, int]] = set()
    for thread, keys in _threads(episode):
        for i, message in enumerate(thread):
            calls = message.get("tool_calls") or []
            answers = _answers(thread, i) if calls else []
            for n, call in enumerate(calls):
                if (keys[i], n) in seen:
                    continue
                picked = _pick(answers, call["id"], n, len(calls))
                answer = None if picked is None else dict(answers[picked])
                recorded = episode.results.get(call["id"]) if ids[call["id"]] <= 1 else None
                if answer is None and recorded is None:
                    continue
                seen.add((keys[i], n))
                yield _Made(tuple(thread[:i]), call, answer, recorded)


_Key = tuple[int, int]  # of a message in its history, and of the prompt where that tells two apart


def _threads(episode: Episode) -> list[tuple[list[Message], list[_Key]]]:
    """The episode's conversations, none a beginning of another, with a key for each message.

    Equal keys mean the same message. System messages are no part of a history: a prompt that
    tells the time is another one each turn. They tell apart what several agents said alike.
    """
    chains: list[tuple[list[Message], list[int], int]] = []
    speakers: dict[int, set[int]] = defaultdict(set)  # a reply in its history -> its prompts
    last = len(episode.completions) - 1
    for n, completion in enumerate(episode.completions):
        messages = list(completion.request.messages)
        if completion.message is not None:
            messages.append(completion.message)
        if n == last:
            messages.extend(episode.tail)
        chain, hashes = 0, []
        for message in messages:
            if not _is_system(message):
                chain = hash((chain, _fingerprint(message)))
            hashes.append(chain)
        prompt = hash(tuple(_fingerprint(m) for m in completion.request.messages if _is_system(m)))
        if completion.message is not None:
            speakers[hashes[len(completion.request.messages)]].add(prompt)
        chains.append((messages, hashes, prompt))
    threads: list[tuple[list[Message], list[_Key], list[_Key]]] = []
    for messages, hashes, prompt in chains:
        alike = (speakers[h] if len(speakers[h]) > 1 else () for h in hashes)
        keys = [(h, prompt if prompt in a else 0) for h, a in zip(hashes, alike, strict=True)]
        said = [k for m, k in zip(messages, keys, strict=True) if not _is_system(m)]
        threads.append((messages, keys, said))
    inner = {key for _, _, said in threads for key in said[:-1]}
    kept: list[tuple[list[Message], list[_Key]]] = []
    ends: set[_Key] = set()
    for messages, keys, said in threads:
        if said and said[-1] not in inner and said[-1] not in ends:
            ends.add(said[-1])
            kept.append((messages, keys))
    return kept


def _is_system(message: Message) -> bool:
    return message["role"] in ("system", "developer")


def _fingerprint(message: Message) -> tuple[Any, ...]:
    calls = tuple((c["id"], *call_parts(c)) for c in message.get("tool_calls") or [])
    text = text_of(message.get("content"))
    return message["role"], text, calls, message.get("tool_call_id")


def _answers(thread: Sequence[Message], i: int) -> list[Message]:
    answers = []
    for message in thread[i + 1 :]:
        if message["role"] != "tool":
            break
        answers.append(message)
    return answers


def _pick(answers: list[Message], call_id: str, n: int, calls: int) -> int | None:
    """The number of the answer to the n-th call of a message."""
    by_id = [i for i, a in enumerate(answers) if a.get("tool_call_id") == call_id]
    if len(by_id) == 1:
        return by_id[0]
    return n if len(answers) == calls else None


@dataclass(slots=True)
class Step:
    """A transition as the learner reads it."""

    episode: int  # position among the episodes learned from
    origin: int  # the first of the episodes of the same scenario
    index: int  # position in the episode
    name: str
    args: dict[str, Any]
    content: str
    value: Any  # parsed content, out of its envelope
    flag: bool  # the error flag that the agent's client saw
    failed: bool  # whether the result says that the call failed, whatever the flag
    bad_json: bool = False
    latency_s: float | None = None
    envelope: Envelope = field(default_factory=Envelope)

    def read(self, text: str) -> Any:
        """What a result in this one's place says."""
        return self.envelope.read(text)


@dataclass(slots=True)
class Failures:
    """What failure looks like in this traffic, learned from flags where there are some."""

    keysets: dict[str, float] = field(default_factory=dict)  # key set -> share of failures
    labelled: bool = False
    silent: list[list[str]] = field(default_factory=list)  # key sets, see world.traffic.silent
    texts: list[str] = field(default_factory=list)  # tools whose texts are failures
    envelope: Envelope = field(default_factory=Envelope)
    layouts: dict[str, Layout] = field(default_factory=dict)  # by tool

    @classmethod
    def learn(cls, seen: Sequence[Transition]) -> "Failures":
        said: dict[str, list[bool]] = defaultdict(list)
        labelled = sum(t.is_error is not None for t in seen)
        flagged = any(t.is_error for t in seen)
        for t in seen:
            value = parse(t.content)
            if isinstance(value, dict):
                guess = looks_failed(value)
                said[_keyset(value)].append(bool(t.is_error) or guess)
        shares = {k: sum(v) / len(v) for k, v in said.items()}
        found = cls(shares, flagged and labelled > 0.9 * len(seen))
        calls = [
            (t.name, args, value)
            for t in seen
            if not found.failed(t, value := parse(t.content))
            and isinstance(args := parse(t.arguments or "{}"), dict)
        ]
        found.silent, found.texts = silent.mine(calls), silent.texts(calls)
        good = [(t.name, v) for t in seen if not found.failed(t, v := parse(t.content))]
        found.envelope = envelope.mine(good)
        found.layouts = layouts.mine([(tool, v) for tool, v in good if isinstance(v, str)])
        return found

    def around(self, tool: str) -> Envelope:
        """What is around the results of a tool that are no failures."""
        layout = self.layouts.get(tool)
        return self.envelope if layout is None else replace(self.envelope, layout=layout)

    def failed(self, transition: Transition, value: Any) -> bool:
        """Whether a result says that its call failed."""
        if transition.is_error:
            return True
        if isinstance(value, dict):
            share = self.keysets.get(_keyset(value), 0.0)
            if sorted(value) in self.silent:
                return True
            return looks_failed(value) or (share > 0.9 and transition.is_error is None)
        if self.labelled and transition.is_error is False:
            return False
        return looks_failed(value) or (isinstance(value, str) and transition.name in self.texts)


def _keyset(value: dict[str, Any]) -> str:
    return canonical_json(sorted(value))


def steps(
    transitions_: Sequence[Transition], episode: int, failures: Failures, origin: int | None = None
) -> list[Step]:
    """Transitions of one episode, read."""
    origin = episode if origin is None else origin
    out = []
    for i, t in enumerate(transitions_):
        args = parse(t.arguments or "{}")
        bad = not isinstance(args, dict)
        if bad:
            args = {}
        value = parse(t.content)
        failed = failures.failed(t, value)
        flag = t.is_error if t.is_error is not None else failed
        if not failed:
            value = failures.around(t.name).opened(value)
        out.append(
            Step(
                episode, origin, i, t.name, args, t.content, value, flag, failed, bad, t.latency_s,
                failures.around(t.name),
            )
        )  # fmt: skip
    return out
