"""Decoding in batches of few shapes: on a GPU as CUDA graphs.

A GPU is done with a small model's step sooner than Python has asked for its products one by one. A
CUDA graph asks for all of them at once, but for one shape, and over the memory that it was captured
with. So a batch is filled up to one of few numbers of rows, its tables of blocks to one of few
widths; a padded row reads and writes the cache's block for padding, which is nobody's. A shape is
captured when it comes up for the first time and replayed from then on; all graphs share one pool of
memory. On a CPU the same batches run without capture.

What a graph rests on:
- Weights. Graphs belong to the object and go with it; weights with another adapter merged in, or
  another version's, are another object.
- The cache, which must be `static`: it never moves, and shares prefixes by blocks alone, for the
  number of prefix entries, a product each, is not fixed.
- Adapters that are not merged. They lie side by side in memory of their own (engine.lora_columns),
  written to in place when others are asked for; when that memory grows its graphs are dropped.
  Batches whose adapters do not fit there run without a graph.

The head and the drawing of tokens come after the graph.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from understudy.engine.adapters import Model
from understudy.engine.cache import BLOCK, Cache, blocks_for
from understudy.engine.decoder import Decoder, Ints, SingleRows, Tokens
from understudy.engine.lora_columns import Columns
from understudy.engine.weights import Weights

LEAST_WIDTH = 4  # blocks
_FIELDS = 7  # of a row beside its table

_CAPTURE = threading.Lock()  # a process captures one graph at a time

log = logging.getLogger(__name__)


def size_for(n: int) -> int:
    """The smallest of 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, ... that is at least n."""
    power = 1 << (n - 1).bit_length()
    less = power * 3 // 4
    return less if power >= 32 and n <= less else power


class Key(NamedTuple):
    """A shape: rows, blocks in a row's table, columns of adapters (0: no low-rank products)."""

    rows: int
    width: int
    columns: int


class Captured(NamedTuple):
    """A graph, and where it leaves the hidden states, (rows, width of the model)."""

    graph: torch.cuda.CUDAGraph
    hidden: Tensor


class StaticBatch(NamedTuple):
    """A `Batch` over tensors that stay where they are."""

    tokens: Tokens
    rows: SingleRows
    last: None = None


class Inputs:
    """What steps of one shape are fed: one piece of memory, copied at once."""

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self._host = np.zeros(rows * (_FIELDS + width), dtype=np.int64)
        self._there = torch.zeros(len(self._host), dtype=torch.int64, device=device)
        fields = self._there[: _FIELDS * rows].view(_FIELDS, rows)
        ids, positions, blocks, at, self.lens_R, self.first_R, self.last_R = fields.unbind()
        self.tokens = Tokens(ids, positions, blocks, at)
        self.tables_RM = self._there[_FIELDS * rows :].view(rows, width)

    def fill(self, cache: Cache, slots: Ints, next_ids: Ints, spans: Ints | None) -> None:
        """The next tokens of running slots, and padding."""
        rows, width = self.tables_RM.shape
        n = len(slots)
        fields = self._host[: _FIELDS * rows].reshape(_FIELDS, rows)
        tables = self._host[_FIELDS * rows :].reshape(rows, width)
        positions = cache.lengths[slots]
        tables[:] = cache.padding
        have = cache.tables[slots, :width]
        tables[:n, : have.shape[1]] = have
        fields[:, n:] = np.array([0, 0, cache.padding, 0, 1, 0, 0])[:, None]
        fields[:5, :n] = (
            next_ids, positions, tables[np.arange(n), positions // BLOCK],
            positions % BLOCK, positions + 1,
        )  # fmt: skip
        fields[5:, :n] = 0 if spans is None else spans.T
        self._there.copy_(torch.from_numpy(self._host))


class Graphs:
    """The static batches of one decoder. All is called on one thread.

    Raises ValueError for a decoder whose cache is not static.
    """

    def __init__(self, decoder: Decoder, base: Weights) -> None:
        if not decoder.cache.static:
            raise ValueError("graphs need a cache that is made with static=True")
        self.decoder, self.device = decoder, decoder.cache.device
        self.capturing = self.device.type == "cuda"
        # None: this shape runs without capture
        self.seen: WeakKeyDictionary[Weights, dict[Key, Captured | None]] = WeakKeyDictionary()
        self.columns = Columns(base)
        self._inputs: dict[tuple[int, int], Inputs] = {}
        self._placed: tuple[Sequence[Model], Ints | None] | None = None
        self._memory: tuple[Any, torch.cuda.Stream] | None = None  # all graphs' pool and stream

    def hidden(
        self, weights: Weights, slots: Ints, next_ids: Ints, models: Sequence[Model]
    ) -> Tensor | None:
        """Hidden states before the final norm of one new token a row, (R, width), good until the
        next call; keys and values go into the cache. `models` are those of the rows where they need
        low-rank products, none where they do not. None where the adapters do not fit."""
        cache = self.decoder.cache
        spans = self._spans(models) if models else None
        if models and spans is None:
            return None
        longest = blocks_for(int(cache.lengths[slots].max()) + 1)
        key = Key(
            size_for(len(slots)),
            max(LEAST_WIDTH, size_for(longest)),
            self.columns.count if models else 0,
        )
        inputs = self._inputs.get(key[:2])
        if inputs is None:
            inputs = self._inputs[key[:2]] = Inputs(key.rows, key.width, self.device)
        inputs.fill(cache, slots, next_ids, spans)
        graphs = self.seen.setdefault(weights, {})
        if key not in graphs:
            graphs[key] = self._captured(weights, inputs, key) if self.capturing else None
        captured = graphs[key]
        if captured is None:
            return self._run(weights, inputs, key)[: len(slots)]
        captured.graph.replay()
        return captured.hidden[: len(slots)]

    def drop(self, model: Model) -> None:
        """Do not keep a model alive that nobody asks for any more."""
        self.columns.drop(model)
        self._placed = None

    def _spans(self, models: Sequence[Model]) -> Ints | None:
        """Where the adapters lie; the last ones' where the list is the same."""
        if self._placed is None or self._placed[0] is not models:
            before = self.columns.count
            self._placed = models, self.columns.place(models)
            if self.columns.count != before:  # the memory has moved
                for graphs in self.seen.values():
                    for key in [k for k in graphs if k.columns]:
                        del graphs[key]
        return self._placed[1]

    def _run(self, weights: Weights, inputs: Inputs, key: Key) -> Tensor:
        rows = SingleRows(self.decoder, inputs.tables_RM, inputs.lens_R, ())
        lora = self.columns.products(inputs.first_R, inputs.last_R) if key.columns else None
        return self.decoder.forward(weights, StaticBatch(inputs.tokens, rows), lora)

    def _captured(self, weights: Weights, inputs: Inputs, key: Key) -> Captured | None:
        """A graph of the step. Where none can be made no further one is tried, and it is told."""
        try:
            graph = torch.cuda.CUDAGraph()
            with _CAPTURE, torch.cuda.device(self.device):
                if self._memory is None:
                    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                    self._memory = torch.cuda.graph_pool_handle(), stream
                pool, stream = self._memory
                here = torch.cuda.current_stream()
                stream.wait_stream(here)
                with torch.cuda.stream(stream):
                    self._run(weights, inputs, key)  # what libraries set up they set up before
                here.wait_stream(stream)
                # other threads may allocate meanwhile
                with torch.cuda.graph(graph, pool, stream, "thread_local"):
                    hidden = self._run(weights, inputs, key)
        except RuntimeError as error:
            self.capturing = False
            log.warning("decoding goes on without CUDA graphs: %s", " ".join(str(error).split()))
            return None
        return Captured(graph, hidden)
