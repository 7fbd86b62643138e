"""The token tree: rows that share beginnings, each shared token once.

A trie of token ids that may branch anywhere, inside a turn too, in depth-first order: a node's
descendants follow it without a gap, so that `i` is an ancestor of `j` (or `j` itself) exactly if
`i <= j < end[i]`. A node's depth is its token's position in every row through it. Entries are
not merged where positions are: siblings differ in advantage.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from understudy.core.rows import Row

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
STREAMS = ("rl", "ce", "kl", "value")


@dataclass(frozen=True, slots=True)
class TokenTree:
    """A forest over one axis of N nodes; E entries of R rows point at nodes.

    `chains` (C, 2): the maximal runs of nodes in which each is the parent of the next and that
    no earlier row holds; run c is nodes start..stop, attached below `parent[start]`.
    """

    tokens_N: Ints
    parent_N: Ints  # -1 at a root
    depth_N: Ints
    end_N: Ints  # one past the last descendant
    chains_C2: Ints
    leaf_R: Ints  # the node of each row's last token, in the order in which the rows were given
    node_E: Ints  # whose hidden state predicts
    target_E: Ints
    stream_E: Ints  # index into STREAMS
    weight_E: Floats
    anchor_E: Floats  # NaN where the entry has none
    before_E: Floats  # likewise
    row_E: Ints  # entries are ordered by row, then as in the row
    sequence_E: Ints  # numbers the sample ids: an episode's entries, in one row or in several
    row_tokens: int  # ids in the rows, shared ones counted once per row

    def __len__(self) -> int:
        return len(self.tokens_N)

    def path(self, node: int) -> Ints:
        """The nodes from the root to `node`."""
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = int(self.parent_N[node])
        return np.array(nodes[::-1], dtype=np.int64)

    def ancestor_mask(self) -> npt.NDArray[np.bool_]:
        """(N, N): [j, i] is true if node j may look at node i: i is j or above it."""
        n = np.arange(len(self))
        return (n[None, :] <= n[:, None]) & (n[:, None] < self.end_N[None, :])


def sorted_rows(rows: Sequence[Row]) -> tuple[list[int], Ints]:
    """Indices of the rows in lexicographic order of ids, and for each the length of the beginning
    that it shares with the one before it (the first: 0). In this order, rows are a trie."""
    order = sorted(range(len(rows)), key=lambda r: rows[r].ids)
    return order, shared_lengths(rows, order)


def shared_lengths(rows: Sequence[Row], order: Sequence[int]) -> Ints:
    """Of the rows in this order, the length of the beginning that each shares with the one before
    it (the first: 0)."""
    shared = np.zeros(len(order), dtype=np.int64)
    arrays = [np.asarray(rows[r].ids, dtype=np.int64) for r in order]
    for k in range(1, len(order)):
        shared[k] = common_length(arrays[k - 1], arrays[k])
    return shared


def common_length(a: Ints, b: Ints) -> int:
    """The length of the longest common beginning."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    return int(differ.argmax()) if differ.any() else n


def build(rows: Sequence[Row]) -> TokenTree:
    """The tree of these rows. Raises ValueError for a row without tokens."""
    if any(not row.ids for row in rows):
        raise ValueError("a row without tokens cannot be in a tree")
    order, shared = sorted_rows(rows)
    return _assemble(rows, order, shared)


def build_apart(rows: Sequence[Row]) -> TokenTree:
    """The rows side by side with nothing shared: plain packing in the tree's own form."""
    if any(not row.ids for row in rows):
        raise ValueError("a row without tokens cannot be in a tree")
    return _assemble(rows, list(range(len(rows))), np.zeros(len(rows), dtype=np.int64))


def _assemble(rows: Sequence[Row], order: list[int], shared: Ints) -> TokenTree:
    total = sum(len(rows[r].ids) for r in order) - int(shared.sum())
    tokens, parent, depth = (np.empty(total, dtype=np.int64) for _ in range(3))
    end = np.full(total, total, dtype=np.int64)
    leaf = np.empty(len(rows), dtype=np.int64)
    node_of: list[Ints] = [np.empty(0, dtype=np.int64)] * len(rows)
    chains: list[tuple[int, int]] = []
    path = np.empty(0, dtype=np.int64)
    n = 0
    for r, keep in zip(order, shared.tolist(), strict=True):
        ids = np.asarray(rows[r].ids, dtype=np.int64)
        new = np.arange(n, n + len(ids) - keep)
        end[path[keep:]] = n  # the part of the last path that this row leaves is finished
        path = np.concatenate([path[:keep], new])
        if len(new):
            tokens[new] = ids[keep:]
            depth[new] = np.arange(keep, len(ids))
            parent[new] = np.concatenate([path[keep - 1 : keep] if keep else [-1], new[:-1]])
            chains.append((n, n + len(new)))
            n += len(new)
        leaf[r] = path[len(ids) - 1]
        node_of[r] = path[np.array([e.position for e in rows[r].entries], dtype=np.int64)]
    entries = [e for row in rows for e in row.entries]
    code = {name: i for i, name in enumerate(STREAMS)}
    numbers: dict[str | int, int] = {}  # an entry without a sample id is of its row
    for r, row in enumerate(rows):
        for e in row.entries:
            numbers.setdefault(e.sample_id or r, len(numbers))
    return TokenTree(
        tokens_N=tokens,
        parent_N=parent,
        depth_N=depth,
        end_N=end,
        chains_C2=np.array(chains, dtype=np.int64).reshape(-1, 2),
        leaf_R=leaf,
        node_E=np.concatenate([np.empty(0, dtype=np.int64), *node_of]),
        target_E=np.array([e.target for e in entries], dtype=np.int64),
        stream_E=np.array([code[e.stream] for e in entries], dtype=np.int64),
        weight_E=np.array([e.weight for e in entries], dtype=np.float64),
        anchor_E=np.array([np.nan if e.anchor is None else e.anchor for e in entries]),
        before_E=np.array([np.nan if e.before is None else e.before for e in entries]),
        row_E=np.repeat(np.arange(len(rows)), [len(row.entries) for row in rows]),
        sequence_E=np.array(
            [numbers[e.sample_id or r] for r, row in enumerate(rows) for e in row.entries],
            dtype=np.int64,
        ),
        row_tokens=sum(len(row.ids) for row in rows),
    )
