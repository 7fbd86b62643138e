"""Rollouts as training meets them, of random tokens, and the rows that they are for our trainer."""

import random
from collections.abc import Sequence

from bench.trl_peer import Rollout
from understudy.core.rows import Entry, Row

FIRST = 10  # ids below are special tokens


def tokens(rng: random.Random, vocabulary: int, n: int) -> tuple[int, ...]:
    return tuple(rng.randrange(FIRST, vocabulary) for _ in range(n))


def groups(
    vocabulary: int, prompts: int, size: int, prompt: int, rest: int, seed: int = 0
) -> list[Rollout]:
    """Single turns: `prompts` prompts of `prompt` tokens, `size` completions of `rest` each. A
    group's advantages add up to zero."""
    rng = random.Random(seed)
    made = []
    for _ in range(prompts):
        shared = tokens(rng, vocabulary, prompt)
        for i in range(size):
            own = tokens(rng, vocabulary, rest)
            made.append(Rollout(shared, own, (True,) * rest, 1.0 if i % 2 else -1.0))
    return made


def unshared(vocabulary: int, n: int, prompt: int, rest: int, seed: int = 0) -> list[Rollout]:
    """`n` rollouts that share nothing."""
    return [
        Rollout(r.prompt, r.rest, r.sampled, 1.0 if i % 2 else -1.0)
        for i, r in enumerate(groups(vocabulary, n, 1, prompt, rest, seed))
    ]


def parting(
    vocabulary: int,
    episodes: int = 16,
    turns: int = 6,
    prompt: int = 512,
    sampled: int = 32,
    told: int = 48,
    seed: int = 0,
) -> list[Rollout]:
    """Episodes of `turns` turns (`sampled` tokens, then `told` from a tool) that share a prompt and
    part ways turn by turn: at each turn, those that were together until then halve."""
    rng = random.Random(seed)
    shared = tokens(rng, vocabulary, prompt)
    said: dict[tuple[int, int], tuple[int, ...]] = {}
    made = []
    for i in range(episodes):
        rest: tuple[int, ...] = ()
        for turn in range(turns):
            together = max(1, episodes >> (turn + 1))
            rest += said.setdefault((turn, i // together), tokens(rng, vocabulary, sampled + told))
        flags = ((True,) * sampled + (False,) * told) * turns
        made.append(Rollout(shared, rest, flags, 1.0 if i % 2 else -1.0))
    return made


def rows_of(rollouts: Sequence[Rollout], logprob: float = -6.0) -> list[Row]:
    """A row each; every sampled token is an `rl` entry whose recorded logprob is `logprob`."""
    rows = []
    for number, rollout in enumerate(rollouts):
        ids, begin = rollout.prompt + rollout.rest, len(rollout.prompt)
        at = [begin + t for t, own in enumerate(rollout.sampled) if own]
        entries = tuple(
            Entry(t - 1, ids[t], "rl", rollout.advantage, logprob, str(number)) for t in at
        )
        rows.append(Row(ids, entries))
    return rows
