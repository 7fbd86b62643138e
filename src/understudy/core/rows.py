"""Rows: token sequences with weighted targets, what every algorithm hands to the trainer.

A row is cut from what was fed and sampled, never from re-tokenised text. A turn joins the row of
the turn before only if its prompt ids begin with exactly that row's ids; otherwise a new row
begins, and is counted. Whatever the number of rows, each sampled token is in exactly one `rl`
entry, so an episode's weight does not depend on how often its history broke.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Literal, NamedTuple

from understudy.core.origin import Origin
from understudy.core.protocols import Renderer
from understudy.core.turns import FormatError
from understudy.core.types import Completion, Episode, Message, Tool

Stream = Literal["rl", "ce", "kl", "value"]
TooLong = Literal["refuse", "cut"]  # of a row longer than a limit: left out, or its end is
_Slice = tuple[int, int]


class Entry(NamedTuple):
    """One trained prediction.

    `position` indexes the token whose hidden state predicts `target`: the target is normally the
    row's id at position + 1. `weight` multiplies the loss term (`rl`: the advantage, signed).
    `anchor` is a recorded natural-log probability of the target: the sampler's for `rl` (the
    denominator of the importance ratio), the teacher's for `kl`, None for `ce`. A `value` entry
    predicts a number and no token: `anchor` is the return that is to be expected at `position`,
    `before` what the value head said there when the return was estimated (where the loss is
    clipped), and `target` is not looked at. `heard` marks what the environment said: a step gives
    those entries a mean of their own, beside whatever else is in their stream (train.aggregate).
    """

    position: int
    target: int
    stream: Stream
    weight: float
    anchor: float | None = None
    sample_id: str = ""
    before: float | None = None
    heard: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids and what is trained on them."""

    ids: tuple[int, ...]
    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        for entry in self.entries:
            if not 0 <= entry.position < len(self.ids):
                raise ValueError(
                    f"entry at position {entry.position} of a row of {len(self.ids)} tokens"
                )


@dataclass(frozen=True, slots=True)
class Span:
    """ids[start:end] of a row were sampled by one completion, with these logprobs."""

    start: int
    end: int
    logprobs: tuple[float, ...]
    completion_id: str


@dataclass(frozen=True, slots=True)
class SampledRow:
    """Turns that continue each other exactly, and which of their tokens were sampled."""

    ids: tuple[int, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class RowStats:
    """What became of the turns. Nothing is left out without being counted here."""

    turns: int = 0  # completions with ids
    rows: int = 0
    joined: int = 0  # turns that continued an earlier row
    broken: int = 0  # turns after an episode's first that had to begin a new row
    tokens: int = 0
    trained: int = 0  # entries
    without_ids: int = 0  # completions that another engine answered, or that failed
    refused_rows: int = 0  # longer than max_tokens, left out
    refused_entries: int = 0
    cut_rows: int = 0  # longer than max_tokens, their ends cut off
    cut_entries: int = 0
    untrainable: int = 0  # conversations or rows with nothing to train

    def __add__(self, other: "RowStats") -> "RowStats":
        return RowStats(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def rows_of(completions: Iterable[Completion]) -> tuple[list[SampledRow], RowStats]:
    """The rows of one episode's completions, in the order in which they began.

    A turn joins the longest open row whose ids its prompt begins with, so that agents which
    interleave in one episode keep a row each. Raises ValueError where ids and logprobs differ
    in number.
    """
    open_rows: list[tuple[list[int], list[Span]]] = []
    turns = joined = broken = without_ids = 0
    for completion in completions:
        if completion.prompt_ids is None or not completion.output_ids:
            without_ids += 1
            continue
        turns += 1
        prompt, output = completion.prompt_ids, completion.output_ids
        fitting = [row for row in open_rows if _begins_with(prompt, row[0])]
        if fitting:
            ids, spans = max(fitting, key=lambda row: len(row[0]))
            joined += 1
        else:
            broken += bool(open_rows)
            ids, spans = [], []
            open_rows.append((ids, spans))
        ids.extend(prompt[len(ids) :])
        spans.append(_span(completion, len(ids)))
        ids.extend(output)
    rows = [SampledRow(tuple(ids), tuple(spans)) for ids, spans in open_rows]
    stats = RowStats(
        turns=turns,
        rows=len(rows),
        joined=joined,
        broken=broken,
        tokens=sum(len(r.ids) for r in rows),
        without_ids=without_ids,
    )
    return rows, stats


def policy_rows(
    episode: Episode,
    advantage: float,
    *,
    purpose: str = "agent",
    echo: float = 0.0,
    max_tokens: int | None = None,
    too_long: TooLong = "refuse",
    origin: Origin | None = None,
) -> tuple[list[Row], RowStats]:
    """One `rl` entry for each token that the episode's agent sampled, weighted by `advantage`; with
    `echo`, also the entries of `echo_entries`, each of that weight.

    The weight is per token and the trainer divides by the whole batch's count, so an episode
    weighs the same in one row or in ten. For a mean per rollout instead, scale the advantage by
    the batch's mean of sampled tokens over this episode's. Completions of another purpose (the
    simulated user's, a judge's) are not the policy's and are left aside. Raises ValueError where
    a completion has no logprobs, and OriginError where `origin`, the trained model's, is not that
    of the ids.
    """
    mine = episode.made_for(purpose)
    if origin is not None:
        origin.check_completions(mine)
    sampled, stats = rows_of(mine)
    rows = [_policy_row(row, advantage, episode.id, echo) for row in sampled]
    rows, limits = limit_rows(rows, max_tokens, too_long)
    kept = RowStats(trained=sum(len(r.entries) for r in rows), untrainable=int(not rows))
    return rows, replace(stats, rows=0, tokens=0) + limits + kept


def echo_entries(row: SampledRow, weight: float, sample_id: str = "") -> list[Entry]:
    """A `ce` entry for each token that the environment added between two samples of the row: what
    tools and users said, and the chat format around it. ECHO (arXiv 2605.24517): the actor learns
    to foretell its environment in the same forward pass. Neither the first prompt nor a sampled
    token has one."""
    return _heard(row.ids, [(span.start, span.end) for span in row.spans], weight, sample_id)


def _heard(
    ids: Sequence[int], said: Sequence[_Slice], weight: float, sample_id: str
) -> list[Entry]:
    """The entries of what lies between the slices that were `said`."""
    return [
        Entry(t - 1, ids[t], "ce", weight, None, sample_id, heard=True)
        for (_, before), (after, _) in pairwise(said)
        for t in range(before, after)
    ]


def unheard(row: Row) -> Row:
    """The row without the entries of what the environment said."""
    return replace(row, entries=tuple(e for e in row.entries if not e.heard))


def limit_rows(
    rows: Iterable[Row], max_tokens: int | None, too_long: TooLong = "refuse"
) -> tuple[list[Row], RowStats]:
    """Rows of at most `max_tokens` ids. Longer ones are left out (`refuse`) or lose their end
    and the entries whose targets lie in it (`cut`); both are counted."""
    kept: list[Row] = []
    stats = RowStats()
    for row in rows:
        if max_tokens is None or len(row.ids) <= max_tokens:
            kept.append(row)
        elif too_long == "refuse":
            stats += RowStats(refused_rows=1, refused_entries=len(row.entries))
        else:
            entries = tuple(e for e in row.entries if e.position + 1 < max_tokens)
            stats += RowStats(cut_rows=1, cut_entries=len(row.entries) - len(entries))
            if entries:
                kept.append(Row(row.ids[:max_tokens], entries))
            else:
                stats += RowStats(untrainable=1)
    return kept, stats + RowStats(rows=len(kept), tokens=sum(len(r.ids) for r in kept))


def trim(row: Row) -> Row:
    """The row without entries of weight zero and without the tokens that no entry looks at."""
    entries = tuple(e for e in row.entries if e.weight != 0.0)
    end = max((e.position for e in entries), default=-1) + 1
    if end == len(row.ids) and len(entries) == len(row.entries):
        return row
    return Row(row.ids[:end], entries)


def _begins_with(prompt: Sequence[int], ids: list[int]) -> bool:
    return len(ids) <= len(prompt) and list(prompt[: len(ids)]) == ids


def _span(completion: Completion, start: int) -> Span:
    output, logprobs = completion.output_ids or (), completion.logprobs or ()
    if logprobs and len(logprobs) != len(output):
        raise ValueError(
            f"completion {completion.id} has {len(output)} ids and {len(logprobs)} logprobs"
        )
    return Span(start, start + len(output), logprobs, completion.id)


def _policy_row(row: SampledRow, advantage: float, sample_id: str, echo: float) -> Row:
    entries: list[Entry] = []
    for span in row.spans:
        if not span.logprobs:
            raise ValueError(
                f"completion {span.completion_id} has no recorded logprobs; "
                "policy gradients need an engine that records them"
            )
        for t, logprob in zip(range(span.start, span.end), span.logprobs, strict=True):
            entries.append(Entry(t - 1, row.ids[t], "rl", advantage, logprob, sample_id))
    if echo:
        entries += echo_entries(row, echo, sample_id)
    return Row(row.ids, tuple(entries))


def supervised_rows(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    renderer: Renderer,
    *,
    train_roles: Collection[str] = ("assistant",),
    stream: Stream = "ce",
    weight: float = 1.0,
    sample_id: str = "",
    echo: float = 0.0,
    max_tokens: int | None = None,
    too_long: TooLong = "refuse",
) -> tuple[list[Row], RowStats]:
    """The conversation rendered turn by turn as it would be at inference: one row, and where the
    format writes history anew (Qwen3 forgets what it thought) another, counted as broken.

    Trained are the tokens of the messages in `train_roles`, each in one row: of an assistant
    message its text and calls with the stop token, not the generation prompt before them nor the
    glue after, and nothing where its `weight` is 0; of any other message the tokens that it adds
    to the prompt. What follows the last trained token of a row is left off. With `echo`, also the
    entries of `echo_entries`, each of that weight: of what stands between two assistant messages of
    a row. No row, but a count, where nothing is to be trained. Raises FormatError for what the
    format cannot say.
    """
    begun = [_Begun()]
    given: list[Message] = []
    for message in messages:
        given.append(message)
        if message["role"] != "assistant":
            continue
        row = _continued(begun, given[:-1], tools, renderer, train_roles)
        given = []
        output = renderer.assistant_ids(message)
        row.said.append((len(row.ids), len(row.ids) + len(output)))
        if "assistant" in train_roles and message.get("weight") != 0:
            row.trained.append(row.said[-1])
        row.ids.extend(output)
    if any(m["role"] in train_roles for m in given):
        _continued(begun, given, tools, renderer, train_roles)
    made: list[Row] = []
    for row in begun:
        targets = [t for start, end in row.trained for t in range(start, end) if t > 0]
        if targets:
            entries = [Entry(t - 1, row.ids[t], stream, weight, None, sample_id) for t in targets]
            if echo:
                heard = _heard(row.ids, row.said, echo, sample_id)
                entries += [e for e in heard if e.position < targets[-1]]
            made.append(Row(tuple(row.ids[: targets[-1] + 1]), tuple(entries)))
    if not made:
        return [], RowStats(untrainable=1)
    rows, stats = limit_rows(made, max_tokens, too_long)
    trained_tokens = sum(len(r.entries) for r in rows)
    return rows, stats + RowStats(trained=trained_tokens, broken=len(begun) - 1)


@dataclass(slots=True)
class _Begun:
    """A row that is being written, what of it is trained, and what the assistant said in it."""

    ids: list[int] = field(default_factory=list)
    trained: list[_Slice] = field(default_factory=list)
    said: list[_Slice] = field(default_factory=list)


def _continued(
    begun: list[_Begun],
    given: Sequence[Message],
    tools: Sequence[Tool],
    renderer: Renderer,
    train_roles: Collection[str],
) -> _Begun:
    """The row of the next turn, the last of `begun` or a new one at its end: with its ids up to the
    generation prompt, and what of the messages given is trained."""
    before = begun[-1].ids
    follows = bool(before)
    if follows:
        prompt = renderer.next_prompt_ids(before, given, "stop")
    else:
        prompt = renderer.prompt_ids(given, tools)
    if not _begins_with(prompt, before):
        begun.append(_Begun())
    row = begun[-1]
    row.ids.extend(prompt[len(row.ids) :])
    if any(m["role"] in train_roles for m in given):
        row.trained += _given_spans(len(prompt), follows, given, tools, renderer, train_roles)
    return row


def _given_spans(
    length: int,
    follows: bool,
    given: Sequence[Message],
    tools: Sequence[Tool],
    renderer: Renderer,
    train_roles: Collection[str],
) -> list[_Slice]:
    """Spans of the trained messages in a prompt of `length` ids that ends with the `given`."""
    opening = len(renderer.opening_ids)

    def so_far(n: int) -> list[int]:
        if follows:
            return renderer.following_ids(given[:n])
        try:
            return renderer.prompt_ids(given[:n], tools)[:-opening]
        except FormatError:  # the format begins with more than this
            return []

    texts = [so_far(n) for n in range(len(given) + 1)]
    shift = length - opening - len(texts[-1])
    return [
        (shift + _common(a, b), shift + len(b))
        for message, a, b in zip(given, texts, texts[1:], strict=False)
        if message["role"] in train_roles
    ]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the longest common beginning."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
