"""Adapters side by side in memory that stays where it is, for products of one shape.

A row is multiplied with the A of all adapters at once; what comes of other adapters than its own is
set to 0 before the product with B. That is more arithmetic than need be, but no row is sorted and
no adapter's matrices are read twice, and which row uses which adapter is a tensor's content, not a
shape: a CUDA graph may hold it (engine.graphs). An adapter takes as many columns as its largest
rank. Adapters come and go in place; memory grows, in doublings, and then moves.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.engine.adapters import SITES, Model, Site, matrices, part_widths, site_inputs
from understudy.engine.weights import Weights

MOST = 1024  # columns; a batch whose adapters take more is not for this
LEAST = 16

Ints = npt.NDArray[Any]


class Columns:
    """The adapters of one base. `count` columns have memory."""

    def __init__(self, base: Weights) -> None:
        self.shape, self.like = base.shape, base.embed
        self.count = 0
        self._used = 0
        self._held: dict[int, tuple[Model, int, int]] = {}  # with first and last column
        self._a: list[dict[Site, Tensor]] = []  # of each layer, (in, parts, count)
        self._b: list[dict[Site, list[Tensor]]] = []  # of each part, (count, width)

    def place(self, models: Sequence[Model]) -> Ints | None:
        """The first column of each model's adapter and the one after its last, (R, 2); both 0 for
        the base. None where the adapters take more than MOST columns, or one is not finite (it
        would spoil the rows of others)."""
        wanted = {id(m): m for m in models if m.lora}
        new = {k: m for k, m in wanted.items() if k not in self._held}
        if not all(finite(m) for m in new.values()):
            return None
        if self._used + sum(rank_of(m) for m in new.values()) > self.count:
            total = sum(rank_of(m) for m in wanted.values())
            if total > MOST:
                return None
            self._start(total)
            new = wanted
        for model in new.values():
            self._write(model)
        spans = [self._held[id(m)][1:] if m.lora else (0, 0) for m in models]
        return np.array(spans, dtype=np.int64)

    def drop(self, model: Model) -> None:
        """Do not keep the model alive; its columns are free when all are placed anew."""
        self._held.pop(id(model), None)

    def products(self, first_R: Tensor, last_R: Tensor) -> "ColumnProducts":
        """Of a batch whose rows use the columns from `first_R` to before `last_R`."""
        return ColumnProducts(self, first_R, last_R)

    def site(self, layer: int, site: Site) -> tuple[Tensor, list[Tensor]]:
        """A (in, parts * count), and each part's B (count, width)."""
        return self._a[layer][site].flatten(1), self._b[layer][site]

    def _start(self, columns: int) -> None:
        """All columns are free, and there are at least so many."""
        self._held, self._used = {}, 0
        if columns <= self.count:
            return
        self.count = max(LEAST, 1 << (columns - 1).bit_length())
        new, widths, inputs = self.like.new_zeros, part_widths(self.shape), site_inputs(self.shape)
        self._a, self._b = [], []  # given back before the new ones are taken
        for _ in range(self.shape.layers):
            self._a.append({n: new(inputs[n], len(widths[n]), self.count) for n in SITES})
            self._b.append({n: [new(self.count, w) for w in widths[n]] for n in SITES})

    def _write(self, model: Model) -> None:
        first, last = self._used, self._used + rank_of(model)
        begins = {n: np.cumsum([0, *w]).tolist() for n, w in part_widths(self.shape).items()}
        for layer, sites in enumerate(model.lora):
            for a in self._a[layer].values():
                a[:, :, first:last] = 0  # for parts that it lacks, or has of a lower rank
            for name, own in sites.items():
                for begin, column, b in own.parts:
                    part, end = begins[name].index(column), first + len(b)
                    self._a[layer][name][:, part, first:end] = own.a[:, begin : begin + len(b)]
                    self._b[layer][name][part][first:end] = b
        self._held[id(model)] = model, first, last
        self._used = last


class ColumnProducts:
    """The low-rank products of one batch."""

    def __init__(self, columns: Columns, first_R: Tensor, last_R: Tensor) -> None:
        self.columns = columns
        column = torch.arange(columns.count, device=first_R.device)
        others = (column < first_R[:, None]) | (column >= last_R[:, None])
        self.others_R1C = others[:, None]

    def add(self, layer: int, site: Site, x: Tensor, y: Tensor) -> None:
        """y += each row's adapter's product of x, in place. x (R, in), y (R, out)."""
        a, each_b = self.columns.site(layer, site)
        down = (x @ a).view(len(x), len(each_b), -1).masked_fill(self.others_R1C, 0)
        column = 0
        for part, b in enumerate(each_b):
            y[:, column : column + b.shape[1]].addmm_(down[:, part], b)
            column += b.shape[1]


def rank_of(model: Model) -> int:
    """The largest rank in an adapter."""
    return max(len(p.b) for sites in model.lora for s in sites.values() for p in s.parts)


def finite(model: Model) -> bool:
    """Whether an adapter holds numbers alone."""
    return bool(torch.stack([t.isfinite().all() for t in matrices(model.lora)]).all())
