"""Aggregation as re-weighting: how the terms of a batch become one loss.

The trainer divides a stream's sum by its entries of non-zero weight, N. Weights are multiplied
here so that what comes out is another mean. Only entries of non-zero weight are looked at: those of
weight zero change nothing, whatever the aggregation; those of what the environment said (`heard`)
have a mean of their own, whatever that of the others. All rows of a step go in together. There is
no mean over rows: how many an episode has is the chat template's doing, and says nothing of it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from understudy.core.rows import Entry, Row, Stream

Aggregation = Literal["token", "rollout", "constant"]


def aggregate(
    rows: Sequence[Row], how: Aggregation, *, stream: Stream = "rl", tokens: int | None = None
) -> list[Row]:
    """The rows, weighted so that the trainer's mean over tokens is the aggregation's.

    `token`     the mean over all tokens (DAPO, arXiv 2503.14476): as they are
    `rollout`   the mean over episodes, by the entries' sample id, of the mean over each one's
                tokens (GRPO, arXiv 2402.03300; GSPO), be they in one row or in ten
    `constant`  the sum over `tokens`, a number that does not depend on what was sampled: batch
                size times the longest answer, say (Dr. GRPO, arXiv 2503.20783)

    Raises ValueError for `constant` without `tokens`, and for `rollout` on entries without an id.
    """
    if how == "token":
        return list(rows)
    if how == "constant":
        if tokens is None or tokens < 1:
            raise ValueError("aggregation `constant` needs the number of tokens to divide by")
        return _scaled(rows, stream, _count(rows, stream) / tokens)
    lengths = Counter(_sample(r, e) for r, e in _trained(rows, stream))
    total = lengths.total()

    def entry_of(r: int, entry: Entry) -> Entry:
        factor = total / (len(lengths) * lengths[_sample(r, entry)])
        return entry._replace(weight=entry.weight * factor)

    return _changed(rows, stream, entry_of)


def undivided(rows: Sequence[Row], stream: Stream = "ce") -> list[Row]:
    """The rows, weighted so that the trainer's loss is the plain sum of their terms: its division
    by the count, multiplied back. What the environment said stays as it is."""
    return _scaled(rows, stream, _count(rows, stream))


def heard_apart(rows: Sequence[Row]) -> list[Row]:
    """The rows, weighted so that the `ce` entries of what the environment said and the others each
    have a mean of their own: the trainer's one mean over both becomes the sum of the two. As they
    are where there is but one kind."""
    said, heard = _count(rows, "ce"), _count(rows, "ce", heard=True)
    if not said or not heard:
        return list(rows)
    whole = said + heard
    return _scaled(_scaled(rows, "ce", whole / said), "ce", whole / heard, heard=True)


def _scaled(
    rows: Sequence[Row], stream: Stream, factor: float, *, heard: bool = False
) -> list[Row]:
    return _changed(rows, stream, lambda _, e: e._replace(weight=e.weight * factor), heard=heard)


def _changed(
    rows: Sequence[Row],
    stream: Stream,
    entry_of: Callable[[int, Entry], Entry],
    *,
    heard: bool = False,
) -> list[Row]:
    return [
        Row(row.ids, tuple(entry_of(r, e) if _counts(e, stream, heard) else e for e in row.entries))
        for r, row in enumerate(rows)
    ]


def _count(rows: Sequence[Row], stream: Stream, *, heard: bool = False) -> int:
    return sum(_counts(e, stream, heard) for row in rows for e in row.entries)


def _trained(rows: Sequence[Row], stream: Stream) -> list[tuple[int, Entry]]:
    """The stream's entries that the trainer counts, each with its row's number."""
    return [(r, e) for r, row in enumerate(rows) for e in row.entries if _counts(e, stream, False)]


def _counts(entry: Entry, stream: Stream, heard: bool) -> bool:
    return entry.stream == stream and entry.heard is heard and entry.weight != 0.0


def _sample(r: int, entry: Entry) -> str:
    if not entry.sample_id:
        raise ValueError(f"row {r} has entries without a sample id, so whose they are is unknown")
    return entry.sample_id
