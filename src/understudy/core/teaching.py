"""Rows that teach a policy what a teacher says of it: on-policy distillation.

The aim is the reverse KL divergence of policy p from teacher q at the states that the policy came
to, summed over their tokens (arXiv 2306.13649). Its gradient at a state is

    E_{a ~ p} [ (log p(a) - log q(a)) * grad log p(a) ]

Two streams give it for tokens that p itself drew. Where a sampler m drew them, an earlier version
of p, only one stays exact: an `rl` entry of advantage log q - log p with the sampler's logprob as
its anchor is weighted by p/m, which turns the mean over m into one over p, up to the cap on that
ratio. A `kl` entry has no ratio: its mean is over what m drew. Which states are visited is the
sampler's choice in either.
"""

import math
from collections.abc import Iterator, Sequence

from understudy.core.rows import Entry, Row, SampledRow

Top = Sequence[tuple[int, float]]  # a distribution's likeliest ids with their logprobs


def behind(prompt_ids: Sequence[int], row: SampledRow) -> tuple[tuple[int, ...], int]:
    """The row with another prompt before its first sampled token, and how far that moved it: what
    a teacher reads that was told more, or something else. What was sampled stays as it was."""
    start = row.spans[0].start
    return (*prompt_ids, *row.ids[start:]), len(prompt_ids) - start


def sampled_at(row: SampledRow) -> Iterator[int]:
    """The places of the row's sampled tokens."""
    for span in row.spans:
        yield from range(span.start, span.end)


def reverse_row(
    row: SampledRow,
    teacher: Sequence[float],
    now: Sequence[float] | None = None,
    weight: float = 1.0,
    sample_id: str = "",
) -> Row:
    """The sampled tokens with `rl` entries whose gradient is that of `weight` times KL(policy ||
    teacher).

    `teacher` and `now` are natural logprobs of the sampled tokens, in their order: the teacher's,
    and the policy's as it is at this step. None: it is what sampled them. Raises ValueError where
    their numbers differ or the sampler's logprobs were not recorded.
    """
    if any(len(s.logprobs) != s.end - s.start for s in row.spans):
        raise ValueError(f"{sample_id or 'a row'} has no recorded logprobs: sample it here")
    sampler = [value for span in row.spans for value in span.logprobs]
    policy = sampler if now is None else now
    if not len(teacher) == len(policy) == len(sampler):
        raise ValueError(
            f"{len(sampler)} sampled tokens, {len(teacher)} logprobs of the teacher and "
            f"{len(policy)} of the policy"
        )
    entries = tuple(
        Entry(t - 1, row.ids[t], "rl", weight * (q - p), m, sample_id)
        for t, q, p, m in zip(sampled_at(row), teacher, policy, sampler, strict=True)
    )
    return Row(row.ids, entries)


def forward_row(
    row: SampledRow, top: Sequence[Top], weight: float = 1.0, sample_id: str = ""
) -> Row:
    """The sampled tokens with `ce` entries of the teacher's likeliest tokens in each one's place,
    each weighted by its probability: the gradient of `weight` times KL(teacher || policy), of that
    part of the teacher. It is a sum over the vocabulary, so it does not matter who sampled.

    A stream is divided by the number of its entries: a place of k entries weighs as one of one, by
    a factor of k. `top` has as many ids in each place. Raises ValueError where it does not.
    """
    sizes = {len(ids) for ids in top}
    if len(sizes) > 1:
        raise ValueError(f"the teacher's likeliest tokens are {sorted(sizes)} in number")
    entries = tuple(
        Entry(t - 1, target, "ce", weight * len(ids) * math.exp(logprob), None, sample_id)
        for t, ids in zip(sampled_at(row), top, strict=True)
        for target, logprob in ids
    )
    return Row(row.ids, entries)


def anchored_row(
    row: SampledRow, anchors: Sequence[float], weight: float = 1.0, sample_id: str = ""
) -> Row:
    """The sampled tokens with `kl` entries: freshly drawn from the policy, they hold it to whoever
    gave the anchors."""
    entries = tuple(
        Entry(t - 1, row.ids[t], "kl", weight, anchor, sample_id)
        for t, anchor in zip(sampled_at(row), anchors, strict=True)
    )
    return Row(row.ids, entries)


def imitated_row(
    prompt_ids: Sequence[int], output_ids: Sequence[int], weight: float = 1.0, sample_id: str = ""
) -> Row:
    """A reply behind a prompt, `ce` on each of its tokens."""
    ids, start = (*prompt_ids, *output_ids), len(prompt_ids)
    entries = tuple(
        Entry(t - 1, ids[t], "ce", weight, None, sample_id) for t in range(start, len(ids))
    )
    return Row(ids, entries)
