"""The low-rank products of a batch that mixes adapters.

Adapters with many rows have products of their own. The rest, mostly a row or two each, are bound by
reading the adapters once a step, whatever the arithmetic: on a CPU in float32 a kernel streams
through each adapter's matrices as they lie (`adapters_64_over_base` of `python -m bench engine`);
elsewhere they are padded into one batched product (Punica's SGMV, arXiv 2310.18547; S-LoRA, arXiv
2311.03285).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.engine.adapters import SITES, Lora, Model, Site
from understudy.engine.kernel import LORA_PARTS, Kernel, Products

Ints = npt.NDArray[np.int64]

_LOOPED_ROWS = 8  # an adapter with this many rows is worth products of its own
_ENTRY = 4 + 5 * LORA_PARTS  # of a site in a table, see kernel.c


class LowRank(Protocol):
    """The low-rank products of a batch."""

    def add(self, layer: int, site: Site, x: Tensor, y: Tensor) -> Products | None:
        """y += the adapters' products of x, in place. x (N, in), y (N, out). What is returned is
        left to do: by the kernel's next call, before x or y go."""
        ...


class LoraBatch:
    """Which rows of one batch use which adapter: runs of `sizes` rows, a run a model; by default a
    row each. `add` is called for each site of each layer."""

    def __init__(
        self,
        models: Sequence[Model],
        stacks: "Stacks",
        device: torch.device,
        kernel: Kernel | None = None,
        sizes: Sequence[int] | None = None,
    ) -> None:
        runs: dict[int, list[Ints]] = {}
        by_id: dict[int, Model] = {}
        ends = np.cumsum(np.ones(len(models), np.int64) if sizes is None else sizes)
        whole = np.arange(ends[-1] if len(ends) else 0)
        for model, run in zip(models, np.split(whole, ends[:-1]), strict=True):
            if model.lora:
                runs.setdefault(id(model), []).append(run)
                by_id[id(model)] = model
        rows = {k: np.concatenate(each) for k, each in runs.items()}
        few = {k: r for k, r in rows.items() if len(r) < _LOOPED_ROWS}
        if len(few) <= 1 and kernel is None:
            few = {}
        self.looped = [
            (torch.from_numpy(r).to(device), by_id[k].lora) for k, r in rows.items() if k not in few
        ]
        self.single: SingleRows | PaddedRows | None = None
        if few and kernel is not None:
            self.single = SingleRows([by_id[k] for k in few], list(few.values()))
        elif few:
            self.single = PaddedRows(stacks, {id(by_id[k]): r for k, r in few.items()}, by_id)

    def add(self, layer: int, site: Site, x: Tensor, y: Tensor) -> Products | None:
        for rows, lora in self.looped:
            own = lora[layer].get(site)
            if own is not None:
                down = x[rows] @ own.a.to(x.dtype)
                for first, column, b in own.parts:
                    to = y[:, column : column + b.shape[1]]
                    to.index_add_(0, rows, down[:, first : first + len(b)] @ b.to(x.dtype))
        return None if self.single is None else self.single.add(layer, site, x, y)


class SingleRows:
    """Rows of adapters that have few, by the kernel."""

    def __init__(self, models: Sequence[Model], rows: Sequence[Ints]) -> None:
        tables = [_table(m) for m in models]
        counts = [len(r) for r in rows]
        at = np.repeat([t.ctypes.data for t in tables], counts)
        self.rows = torch.from_numpy(np.concatenate(rows))
        self.tables = torch.from_numpy(at.astype(np.int64))
        most = max(s.a.shape[1] for m in models for layer in m.lora for s in layer.values())
        self.scratch = torch.empty(most)
        self.keeps = models, tables, self.rows, self.tables, self.scratch
        self.products: dict[tuple[int, Site], Products] = {}  # of each site, once it was met

    def add(self, layer: int, site: Site, x: Tensor, y: Tensor) -> Products:
        left = self.products.get((layer, site))
        if left is None:
            left = self.products[layer, site] = self._products(layer, site, x, y)
        left.x, left.y = x.data_ptr(), y.data_ptr()
        return left

    def _products(self, layer: int, site: Site, x: Tensor, y: Tensor) -> Products:
        left = Products(
            rows=self.rows.data_ptr(), tables=self.tables.data_ptr(), n=len(self.rows),
            offset=(layer * len(SITES) + SITES.index(site)) * _ENTRY,
            width_in=x.shape[1], width_out=y.shape[1], scratch=self.scratch.data_ptr(),
        )  # fmt: skip
        left.keeps = self.keeps
        return left


class PaddedRows:
    """Rows of adapters that have few, padded into one batched product."""

    def __init__(
        self, stacks: "Stacks", rows: Mapping[int, Ints], by_id: Mapping[int, Model]
    ) -> None:
        self.stack = stacks.get([by_id[k] for k in rows])
        place = {id(m): i for i, m in enumerate(self.stack.models)}
        self.most = max(len(r) for r in rows.values())
        padded = np.full((len(self.stack.models), self.most), -1, dtype=np.int64)
        for k, r in rows.items():
            padded[place[k], : len(r)] = r
        flat = padded.reshape(-1)
        valid = np.flatnonzero(flat >= 0)
        device = self.stack.device
        self.padded = torch.from_numpy(np.where(flat < 0, 0, flat)).to(device)
        self.valid = torch.from_numpy(valid).to(device)
        self.rows = torch.from_numpy(flat[valid]).to(device)

    def add(self, layer: int, site: Site, x: Tensor, y: Tensor) -> None:
        pair = self.stack.sites[layer].get(site)
        if pair is not None:
            padded = x[self.padded].view(len(self.stack.models), self.most, -1)
            product = torch.bmm(torch.bmm(padded, pair[0]), pair[1])
            y.index_add_(0, self.rows, product.view(-1, y.shape[1])[self.valid])


@dataclass(eq=False, slots=True)
class Stack:
    """Adapters stacked for batched products, ranks padded with zeros to the largest."""

    models: list[Model]
    sites: list[dict[Site, tuple[Tensor, Tensor]]]
    device: torch.device


class Stacks:
    """The stack of the current working set; rebuilt when an adapter joins or most have left."""

    def __init__(self) -> None:
        self.current: Stack | None = None

    def get(self, models: list[Model]) -> Stack:
        have = {id(m) for m in self.current.models} if self.current else set()
        if self.current and len(have) <= 2 * len(models) and all(id(m) in have for m in models):
            return self.current
        self.current = _stack(models)
        return self.current


def _stack(models: list[Model]) -> Stack:
    sites: list[dict[Site, tuple[Tensor, Tensor]]] = []
    for layer in range(len(models[0].lora)):
        row: dict[Site, tuple[Tensor, Tensor]] = {}
        for site in SITES:
            each = [m.lora[layer].get(site) for m in models]
            known = [s for s in each if s is not None]
            if not known:
                continue
            one = known[0]
            rank = max(s.a.shape[1] for s in known)
            a_all = one.a.new_zeros(len(models), one.a.shape[0], rank)
            b_all = one.a.new_zeros(len(models), rank, one.width)
            for i, own in enumerate(each):
                if own is not None:
                    a_all[i, :, : own.a.shape[1]] = own.a
                    b_all[i, : own.a.shape[1]] = own.b()
            row[site] = (a_all, b_all)
        sites.append(row)
    device = next(a.device for row in sites for a, _ in row.values())
    return Stack(list(models), sites, device)


def _table(model: Model) -> np.ndarray:
    """Where the kernel finds an adapter's matrices: (layers * sites * _ENTRY,) int64, kept with
    the model."""
    table: np.ndarray | None = model.table
    if table is None:
        table = model.table = _described(model.lora)
    return table


def _described(lora: Lora) -> np.ndarray:
    table = np.zeros((len(lora), len(SITES), _ENTRY), dtype=np.int64)
    for layer, sites in enumerate(lora):
        for site, own in sites.items():
            half = own.a.dtype == torch.bfloat16
            entry = [own.a.data_ptr(), own.a.shape[1], int(half), len(own.parts)]
            for first, column, b in own.parts:
                entry += [first, len(b), column, b.shape[1], b.data_ptr()]
            table[layer, SITES.index(site), : len(entry)] = entry
    return table.reshape(-1)
