"""Adapter directories in the engine's form, quickly where many are alike.

Adapters of one rank on the same layers of one base differ in their numbers alone: the engine's form
of each is the same permutation of the numbers in its file, times the same scales. The first is read
and checked by name; of the next ones with the same header and configuration the numbers alone are
read, in a few operations. That counts where adapters come from the disk while others decode: each
of the hundreds of small operations of the long way takes the interpreter's lock from those
(`cliff_ratio` of `python -m bench engine`). Large adapters take the long way: of those the bytes
count, not the operations.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.core.origin import Origin
from understudy.core.types import ModelRef
from understudy.engine.adapters import (
    Lora,
    Model,
    Narrow,
    Part,
    SiteLora,
    lora_sites,
    matrices,
)
from understudy.engine.weights import Shape
from understudy.models.adapters import (
    CONFIG,
    WEIGHTS,
    AdapterFile,
    adapter_metadata,
    check_origin,
    load_adapter,
)
from understudy.models.lora import LoraConfig

Kind = tuple[bytes, bytes]
MOST = 1 << 22  # numbers of an adapter that is worth a permutation
LAYOUTS = 8  # of so many kinds of adapters


@dataclass(frozen=True, slots=True)
class Layout:
    """What adapters that are alike have in common: what their files say beside the numbers, and
    where each number goes."""

    header: bytes
    like: AdapterFile  # without tensors
    order: npt.NDArray[np.int32]  # of the file's numbers
    scales: npt.NDArray[np.float32]
    lora: Lora  # shapes alone, on torch's meta device

    def filled(self, numbers: npt.NDArray[np.float32], dtype: torch.dtype) -> Lora:
        """The adapter with these numbers, in one piece of memory."""
        whole = numbers[self.order]
        whole *= self.scales
        held = torch.from_numpy(whole).to(dtype)
        if dtype != torch.float32:  # numpy has no bfloat16; views of numpy's take no lock
            whole = held.view(torch.int16).numpy()
        at = 0

        def next_as(shaped: Tensor) -> Tensor:
            nonlocal at
            own = whole[at : at + shaped.numel()].reshape(shaped.shape)
            at += shaped.numel()
            tensor = torch.from_numpy(own)
            return tensor if dtype == torch.float32 else tensor.view(dtype)

        def site(own: SiteLora) -> SiteLora:
            a = next_as(own.a)
            parts = tuple(Part(p.first, p.column, next_as(p.b)) for p in own.parts)
            return SiteLora(a, parts, own.width)

        return tuple({name: site(own) for name, own in sites.items()} for sites in self.lora)


class AdapterReader:
    """Reads adapter directories for one base. Used by one thread at a time, or by several: what it
    keeps is only ever added to."""

    def __init__(self, shape: Shape, like: Tensor, narrow: Narrow, origin: Origin | None) -> None:
        self.shape, self.like, self.narrow, self.origin = shape, like, narrow, origin
        self.quick = like.dtype == torch.float32 and like.device.type == "cpu"
        self.layouts: dict[Kind, Layout] = {}

    def read(self, ref: ModelRef, path: str) -> Model:
        """The model of an adapter directory. Raises FileNotFoundError or ValueError."""
        kind = _kind(path) if self.quick else None
        if kind in self.layouts:
            model = self._quickly(ref, path, self.layouts[kind])
            if model is not None:
                return model
        file = load_adapter(path)
        self._check(file, path)
        if kind is not None and kind not in self.layouts and len(self.layouts) < LAYOUTS:
            layout = self._layout(kind, file)
            if layout is not None and _kind(path) == kind:  # what was read is of this kind
                self.layouts[kind] = layout
        lora = lora_sites(file.tensors, file.config, self.shape, self.like, self.narrow)
        return Model(ref, lora=lora, path=path, metadata=file.metadata)

    def _check(self, file: AdapterFile, path: str) -> None:
        if self.origin is not None:
            check_origin(file, self.origin, path)

    def _quickly(self, ref: ModelRef, path: str, layout: Layout) -> Model | None:
        """None where something is amiss: the long way says what."""
        try:
            with (Path(path) / WEIGHTS).open("rb") as weights:
                if _header(weights) != layout.header:
                    return None
                numbers = np.fromfile(weights, np.float32)
            metadata = adapter_metadata(path)
        except (OSError, ValueError):
            return None
        if len(numbers) != len(layout.order) or not np.isfinite(numbers).all():
            return None
        self._check(AdapterFile({}, layout.like.config, layout.like.base, metadata), path)
        dtype = torch.bfloat16 if self.narrow == "always" else torch.float32
        return Model(ref, lora=layout.filled(numbers, dtype), path=path, metadata=metadata)

    def _layout(self, kind: Kind, file: AdapterFile) -> Layout | None:
        """The layout of one that was read and checked; None where it is not worth it."""
        tensors = file.tensors
        if sum(t.numel() for t in tensors.values()) > MOST:
            return None
        try:
            places = _places(kind[1], tensors)
        except (ValueError, KeyError, TypeError):
            return None
        plain = LoraConfig(rank=file.config.rank, alpha=float(file.config.rank))  # scale 1
        wide = self.like.new_empty(0, dtype=torch.float64)  # holds each place exactly
        where = lora_sites(places, plain, self.shape, wide)
        ones = {name: torch.ones_like(t) for name, t in tensors.items()}
        scales = lora_sites(ones, file.config, self.shape, self.like)
        return Layout(
            kind[1],
            AdapterFile({}, file.config, file.base, {}),
            _in_one(where).astype(np.int32),
            _in_one(scales),
            _shapes(scales),
        )


def _kind(path: str) -> Kind | None:
    """What adapters that are alike have in common: the bytes of the configuration and of the
    header. None where they cannot be read."""
    try:
        with (Path(path) / WEIGHTS).open("rb") as weights:
            return (Path(path) / CONFIG).read_bytes(), _header(weights)
    except (OSError, ValueError):
        return None


def _header(weights: Any) -> bytes:
    """A safetensors file's header; the file is then where its numbers begin. Raises ValueError."""
    size = int.from_bytes(weights.read(8), "little")
    if size > 1 << 24:
        raise ValueError("the header is too long")
    header: bytes = weights.read(size)
    return header


def _places(header: bytes, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where in the file each number of each tensor stands, counted in numbers. Raises KeyError,
    TypeError or ValueError where the header is not that of these tensors."""
    described = json.loads(header)
    places = {}
    for name, tensor in tensors.items():
        start, end = described[name]["data_offsets"]
        if described[name]["dtype"] != "F32" or end - start != tensor.nbytes:
            raise ValueError(f"{name} is another")
        first = torch.arange(start // 4, end // 4, dtype=torch.float64)
        places[name] = first.view(tensor.shape)
    return places


def _shapes(lora: Lora) -> Lora:
    def site(own: SiteLora) -> SiteLora:
        parts = tuple(p._replace(b=p.b.to("meta")) for p in own.parts)
        return own._replace(a=own.a.to("meta"), parts=parts)

    return tuple({name: site(own) for name, own in sites.items()} for sites in lora)


def _in_one(lora: Lora) -> npt.NDArray[Any]:
    whole: npt.NDArray[Any] = torch.cat([t.reshape(-1) for t in matrices(lora)]).numpy()
    return whole
