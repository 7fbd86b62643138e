"""The models that an engine can serve: the base, versions in memory, and adapters on disk.

Of adapters that were loaded from a directory at most `slots` are in memory; a request for another
brings it in and sends out the one that was asked for longest ago, unless it is pinned or answering.
Where all are answering, the one that was asked for longest ago takes no further requests until it
has been sent out, so that nobody waits for ever. What was cached for an adapter outlives its
weights: when it comes back, and its file is the same, its prefixes are still there.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.core.types import ModelRef
from understudy.engine.adapters import Model
from understudy.engine.errors import EngineError, UnknownModelError
from understudy.models.adapters import CONFIG, WEIGHTS, adapter_metadata

WINDOW = 256  # requests over which the working set is counted

log = logging.getLogger(__name__)
Stamp = tuple[tuple[int, int, int], ...]


@dataclass(eq=False, slots=True)
class Listed:
    """One servable version. `model` is None while it is on disk alone."""

    ref: ModelRef
    model: Model | None
    path: str | None = None  # None: in memory alone, never sent out
    pinned: bool = False
    stamp: Stamp | None = None  # of the file that was loaded last
    kv: object = None  # Model.kv, kept for when it comes back
    metadata: Mapping[str, Any] = field(default_factory=dict)
    users: int = 0  # requests that it is answering
    wanted: int = 0  # requests that wait for it to be read
    used: int = 0
    leaving: asyncio.Event | None = None  # takes no requests until it was sent out
    loading: "asyncio.Task[None] | None" = None
    ready: "tuple[Stamp | None, Model] | None" = None  # read already, for its first request


class Registry:
    """All of an engine's versions. `read` makes the model of a directory, on another thread, and
    raises ValueError or OSError; `gone` hears of models that nobody can name any more, `evicted` of
    those that only leave the memory. Used on one event loop."""

    def __init__(
        self,
        base: Model,
        *,
        slots: int | None,
        keep_versions: int,
        read: Callable[[ModelRef, str], Model],
        gone: Callable[[Model], None],
        evicted: Callable[[Model], None],
    ) -> None:
        if slots is not None and slots < 1:
            raise ValueError("there must be at least one slot for adapters")
        self.base, self.slots, self.keep_versions = base.ref.base, slots, keep_versions
        self._read, self._gone, self._evicted = read, gone, evicted
        self._all: dict[tuple[str | None, int | None], Listed] = {
            (None, None): Listed(base.ref, base)
        }
        self._latest: dict[str, int] = {}
        self._given: dict[str, int] = {}  # also of what is gone
        self._clock = 0
        self._recent: deque[tuple[str | None, int | None]] = deque()
        self._often: Counter[tuple[str | None, int | None]] = Counter()
        self._inside: dict[int, Listed] = {}  # those with a slot, by id
        self._bringing = 0  # being read, with a slot of theirs already
        self._asking = 0  # that have to have a slot first, one after the other
        self._line, self._freed = asyncio.Lock(), asyncio.Event()
        self.loads, self.evictions, self.alarmed = 0, 0, False
        self._warned = False

    # -- finding ---------------------------------------------------------------------------

    def find(self, ref: ModelRef) -> Listed:
        """The version that a reference names; without a version, the newest. Raises
        UnknownModelError."""
        version = ref.version
        if ref.adapter is not None and version is None:
            version = self._latest.get(ref.adapter)
        found = self._all.get((ref.adapter, version))
        if found is None or ref.base != self.base:
            some = sorted(str(e.ref) for e in self._all.values())
            known = ", ".join(some[:20]) + (f" and {len(some) - 20} more" if some[20:] else "")
            raise UnknownModelError(f"no model {str(ref)!r} here; there are: {known}")
        return found

    def all(self) -> list[Listed]:
        """The base first."""
        return list(self._all.values())

    @property
    def in_memory(self) -> int:
        """Adapters that have a slot."""
        return len(self._inside)

    @property
    def pinned(self) -> int:
        """Slots that are taken for good."""
        return sum(e.pinned for e in self._inside.values())

    @property
    def working_set(self) -> int:
        """Different adapters from disk among the last WINDOW requests."""
        return len(self._often)

    # -- using -----------------------------------------------------------------------------

    async def acquire(self, ref: ModelRef) -> Listed:
        """The version with its model in memory until `release`, for a request. Raises
        UnknownModelError, EngineError where there is no slot, and ValueError or OSError where its
        file cannot be read."""
        entry = self.find(ref)
        if entry.path is not None:
            self._note(entry)
        return await self.hold(entry)

    async def hold(self, entry: Listed) -> Listed:
        """`acquire` without counting it as a request."""
        while entry.model is None or entry.leaving is not None:
            if entry.leaving is not None:
                await entry.leaving.wait()
                continue
            if entry.loading is None:
                entry.loading = asyncio.create_task(self._bring(entry))
            entry.wanted += 1
            try:
                await asyncio.shield(entry.loading)
            finally:
                entry.wanted -= 1
        entry.users += 1
        self._clock += 1
        entry.used = self._clock
        return entry

    def release(self, entry: Listed) -> None:
        entry.users -= 1
        if not entry.users:
            if entry.leaving is not None:
                self._send_out(entry)
            self._freed.set()

    async def _bring(self, entry: Listed) -> None:
        assert entry.path is not None
        try:
            await self._take_slot()
            try:
                stamp, model = entry.ready or await self.read(entry.ref, entry.path)
                entry.ready = None
            finally:
                self._bringing -= 1
            if entry.kv is not None and stamp is not None and stamp == entry.stamp:
                model.kv = entry.kv
            entry.model, entry.stamp, entry.kv = model, stamp, model.kv
            entry.metadata = model.metadata
            if self._all.get((entry.ref.adapter, entry.ref.version)) is entry:
                self._inside[id(entry)] = entry
            self.loads += 1
        finally:
            entry.loading = None
            self._freed.set()

    async def _take_slot(self) -> None:
        """Waits for a slot, in the order of asking. As many as are asked for are emptied: first
        those that answer nothing, then those that have to finish before."""
        self._asking += 1
        self._freed.set()  # who waits has one more emptied
        try:
            async with self._line:
                while not self._has_slot():
                    self._freed.clear()
                    await self._freed.wait()
                self._bringing += 1
        finally:
            self._asking -= 1

    def _has_slot(self) -> bool:
        """Raises EngineError where there will be none."""
        if self.slots is None or len(self._inside) + self._bringing < self.slots:
            return True
        self.check_slots()
        evictable = sorted(
            (e for e in self._inside.values() if not e.pinned and not e.wanted),
            key=lambda e: e.used,
        )
        idle = next((e for e in evictable if not e.users), None)
        if idle is not None:
            self._send_out(idle)
            return True
        leaving = sum(e.leaving is not None for e in evictable)
        for entry in [e for e in evictable if e.leaving is None][: max(0, self._asking - leaving)]:
            entry.leaving = asyncio.Event()
        return False

    def check_slots(self) -> None:
        """Raises EngineError where pinned adapters hold all slots."""
        if self.slots is not None and self.pinned >= self.slots:
            raise EngineError(f"all {self.slots} slots hold pinned adapters: unload one")

    def _send_out(self, entry: Listed) -> None:
        assert entry.model is not None
        self._evicted(entry.model)
        self._inside.pop(id(entry), None)
        if entry.leaving is not None:
            entry.leaving.set()
        entry.model, entry.leaving = None, None
        self.evictions += 1

    def _note(self, entry: Listed) -> None:
        key = (entry.ref.adapter, entry.ref.version)
        self._recent.append(key)
        self._often[key] += 1
        if len(self._recent) > WINDOW:
            old = self._recent.popleft()
            self._often[old] -= 1
            if not self._often[old]:
                del self._often[old]
        over = self.slots is not None and self.working_set > self.slots
        if over and not self._warned:
            self._warned = True
            log.warning(
                "%d adapters were asked for in the last %d requests and there are %d slots: "
                "some are read from disk again and again; give more slots",
                self.working_set, len(self._recent), self.slots,
            )  # fmt: skip
        self.alarmed = over
        if self.slots is not None and self.working_set <= 0.9 * self.slots:
            self._warned = False  # of a next time; about the number of slots it comes and goes

    # -- coming and going ------------------------------------------------------------------

    def next_version(self, adapter: str) -> int:
        """One that no adapter of this name has had yet."""
        return self._given.get(adapter, 0) + 1

    def install(self, model: Model) -> None:
        """A version that is in memory alone. Raises ValueError."""
        self._check_age(model.ref)
        self._list(Listed(model.ref, model, kv=model.kv, metadata=model.metadata))

    async def read(self, ref: ModelRef, path: str) -> tuple[Stamp | None, Model]:
        """The model of a directory, with the stamp of its files; None where they were written anew
        while they were read. Raises ValueError or OSError."""
        before = stamp_of(path)
        model = await asyncio.to_thread(self._read, ref, path)
        return before if stamp_of(path) == before else None, model

    def register(
        self,
        ref: ModelRef,
        path: str,
        pinned: bool = False,
        ready: tuple[Stamp | None, Model] | None = None,
    ) -> Listed:
        """A version that is on disk; its weights are read when it is first asked for, unless they
        are `ready`. `ref` has a version. Raises FileNotFoundError or ValueError."""
        metadata = adapter_metadata(path)
        self._check_age(ref)
        entry = Listed(ref, None, str(Path(path)), pinned, metadata=metadata, ready=ready)
        self._list(entry)
        return entry

    def _check_age(self, ref: ModelRef) -> None:
        versions = [v for a, v in self._all if a == ref.adapter and v is not None]
        if sum(v > (ref.version or 0) for v in versions) >= self.keep_versions:
            raise ValueError(
                f"{ref} is older than the {self.keep_versions} versions that are kept of it"
            )

    def _list(self, entry: Listed) -> None:
        adapter, version = entry.ref.adapter, entry.ref.version
        assert adapter is not None and version is not None  # noqa: PT018
        old = self._all.get((adapter, version))
        if old is not None:
            self._forget(old)
        self._all[adapter, version] = entry
        self._latest[adapter] = max(version, self._latest.get(adapter, 0))
        self._given[adapter] = max(version, self._given.get(adapter, 0))
        versions = sorted(v for a, v in self._all if a == adapter and v is not None)
        for v in versions[: -self.keep_versions]:
            self._forget(self._all.pop((adapter, v)))

    def remove(self, ref: ModelRef) -> None:
        """Forget a version, or all versions of an adapter. Raises UnknownModelError."""
        self.find(ref)
        if ref.adapter is None:
            raise ValueError("the base cannot be unloaded")
        for key in [k for k in self._all if k[0] == ref.adapter and ref.version in (None, k[1])]:
            self._forget(self._all.pop(key))
        left = [v for a, v in self._all if a == ref.adapter and v is not None]
        if left:
            self._latest[ref.adapter] = max(left)
        else:
            self._latest.pop(ref.adapter, None)

    def _forget(self, entry: Listed) -> None:
        if self._inside.pop(id(entry), None) is not None:
            self._freed.set()
        if entry.model is not None:
            self._gone(entry.model)
        elif entry.kv is not None:
            ghost = Model(entry.ref)
            ghost.kv = entry.kv
            self._gone(ghost)


def stamp_of(path: str) -> Stamp:
    """What tells whether an adapter's files were written anew. Raises OSError."""
    stats = [(Path(path) / name).stat() for name in (WEIGHTS, CONFIG)]
    return tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in stats)
