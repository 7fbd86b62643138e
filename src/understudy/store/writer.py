"""The one writer thread: group commit, and what happens when the disk says no.

A record leaves the queue only after its commit. The queue is bounded by bytes; what does not
fit, and what the database refuses for long, goes to a spill file that is replayed later. Only
when that fails too is anything lost, and then it is counted with the reason.
"""

import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from understudy.core.types import Completion, Episode, Feedback
from understudy.store.bodies import BodyWriter
from understudy.store.rows import write_completion, write_episode, write_feedback
from understudy.store.schema import StoreError
from understudy.store.spill import Record, Spill, record_from_line

Job = Callable[[sqlite3.Connection], Any]

GATHER_S = 0.03  # how long a batch that nobody waits for gathers
MAX_ROWS = 500  # records in one transaction
MAX_BYTES = 256 << 20  # estimated bytes in the queue
SPILL_AFTER = 3  # failed attempts before a batch goes to the spill file
RETRY_S = 0.3
# SQLite's errors that are the record's fault; the others are the disk's
_RECORD_FAULT = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError)
# what to do about SQLite's errors that are the disk's, by their primary code
_HELD = "another process holds the file; end it, or try again later"
_CLOSED = "let this process write the file and its folder, then try again"
_DAMAGED = "the file is damaged; restore a copy, or save what `sqlite3 FILE .recover` still reads"
_MEND = {
    sqlite3.SQLITE_FULL: "the disk is full; free some of it and try again",
    sqlite3.SQLITE_IOERR: "the disk fails to read or write; check it, then try again",
    sqlite3.SQLITE_BUSY: _HELD,
    sqlite3.SQLITE_LOCKED: _HELD,
    sqlite3.SQLITE_READONLY: _CLOSED,
    sqlite3.SQLITE_PERM: _CLOSED,
    sqlite3.SQLITE_CANTOPEN: _CLOSED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}
# what a record that cannot be written as a line of JSON raises
_NO_LINE = (OSError, ValueError, TypeError, RecursionError)


@dataclass(slots=True)
class _Item:
    records: Sequence[Record]
    size: int
    durable: bool = False
    future: "Future[Any] | None" = None
    job: Job | None = None
    spilled_first: bool = False  # what waits in spill files must be in the database before


def size_of(record: Record) -> int:
    """About how many bytes a record holds in memory."""
    if isinstance(record, Feedback):
        return 500
    if isinstance(record, Episode):
        return 500 + sum(size_of(c) for c in record.completions)
    ids = len(record.prompt_ids or ()) + 2 * len(record.output_ids or ())
    content = sum(len(str(m.get("content") or "")) + 200 for m in record.request.messages)
    return 1000 + content + 16 * ids


class Writer:
    """Owns the writing connection. `put` never blocks on the database."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        spill: Spill,
        max_bytes: int = MAX_BYTES,
        gather_s: float = GATHER_S,
    ) -> None:
        self._connection, self._spill = connection, spill
        self._bodies = BodyWriter(connection)
        self._max_bytes, self._gather_s = max_bytes, gather_s
        self._queue: deque[_Item] = deque()
        self._bytes = 0
        self._cond = threading.Condition()
        self._stopping = False
        self._waited = 0  # queued items that somebody waits for
        self._epoch = -1
        self._synchronous = ""
        self._unrecorded: Counter[str] = Counter()  # drops not yet in the file
        self.committed = 0
        self.spilled = 0
        self.replayed = 0
        self.fault: str | None = None
        self._mend = ""  # what to do about the fault
        self._leftover = False
        self._replay()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def put(self, records: Sequence[Record]) -> None:
        """Queue records without waiting: in memory, else in the spill file, else counted lost."""
        size = sum(map(size_of, records))
        with self._cond:
            if self._stopping:
                raise StoreError("the store is closed")
            fits = self._bytes + size <= self._max_bytes
            if fits:
                self._push(_Item(records, size))
        if not fits:
            self._overflow(records)

    def submit(self, records: Sequence[Record]) -> "Future[None]":
        """Queue records; the future is done when they are on disk."""
        future: Future[None] = Future()
        with self._cond:
            if self._stopping:
                raise StoreError("the store is closed")
            self._push(_Item(records, sum(map(size_of, records)), True, future))
        return future

    def call(self, job: Job, spilled_first: bool = False) -> "Future[Any]":
        """Run `job(connection)` in a transaction of the writer, after what is queued and, where
        asked, what was spilled; the future raises StoreError where that cannot be brought in."""
        future: Future[Any] = Future()
        with self._cond:
            if self._stopping:
                raise StoreError("the store is closed")
            self._push(_Item((), 0, True, future, job, spilled_first))
        return future

    def flush(self) -> "Future[None]":
        """Done when everything queued before is committed."""
        return self.call(lambda connection: None)

    @property
    def _behind(self) -> bool:
        """Whether spilled records wait to be replayed."""
        return self._spill.pending or self._leftover

    def stats(self) -> dict[str, Any]:
        with self._cond:
            return {
                "queued": sum(max(len(i.records), 1) for i in self._queue),
                "queued_bytes": self._bytes,
                "committed": self.committed,
                "spilled": self.spilled,
                "replayed": self.replayed,
                "fault": self.fault,
            }

    def close(self) -> None:
        """Commit (or spill) what is queued and stop the thread."""
        with self._cond:
            self._stopping = True
            self._cond.notify_all()
        self._thread.join()
        self._spill.release()

    def _push(self, item: _Item) -> None:
        self._queue.append(item)
        self._bytes += item.size
        self._waited += item.future is not None
        if len(self._queue) == 1 or item.future is not None or len(self._queue) == MAX_ROWS:
            self._cond.notify_all()

    def _overflow(self, records: Sequence[Record]) -> None:
        try:
            self._spill.write(records)
            self.spilled += len(records)
        except _NO_LINE as error:
            self._drop(f"queue full and spill file failed: {type(error).__name__}", len(records))

    def _drop(self, reason: str, n: int) -> None:
        with self._cond:
            self._unrecorded[reason] += n

    def _run(self) -> None:
        while True:
            with self._cond:
                while not self._queue and not self._stopping:
                    if not self._cond.wait(RETRY_S if self._behind else None):
                        break
                if not self._queue and self._stopping:
                    return
                until = time.monotonic() + self._gather_s
                while not (self._stopping or self._waited or len(self._queue) >= MAX_ROWS):
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    self._cond.wait(left)
                batch = [self._queue[i] for i in range(min(len(self._queue), MAX_ROWS))]
            if any(item.spilled_first for item in batch):
                self._spill.release()
                self._replay()
            if batch:
                self._write(batch)
            if self._behind and (self.fault is None or not batch):
                self._spill.release()
                self._replay()

    def _write(self, batch: list[_Item]) -> None:
        """Commit a batch, trying again while the disk refuses; then the spill file."""
        for attempt in range(SPILL_AFTER):
            try:
                outcomes = self._transaction(batch)
            except sqlite3.DatabaseError as error:
                self._rollback()
                self._failed(error)
                if attempt + 1 < SPILL_AFTER:
                    with self._cond:
                        self._cond.wait_for(lambda: self._stopping, RETRY_S)
                continue
            self.fault = None
            self._remove(batch)
            for item, outcome in zip(batch, outcomes, strict=True):
                _resolve(item, outcome)
            return
        self._remove(batch)
        for item in batch:
            self._spill_item(item)

    def _spill_item(self, item: _Item) -> None:
        failure = StoreError(f"the store cannot write ({self.fault}): {self._mend}")
        if item.job is not None:
            _resolve(item, failure)
            return
        try:
            self._spill.write(item.records)
            self.spilled += len(item.records)
            _resolve(item, None)
        except _NO_LINE as error:
            if item.future is None:
                self._drop(f"disk fault and spill file failed: {error}", len(item.records))
            _resolve(item, failure)

    def _remove(self, batch: Sequence[_Item]) -> None:
        with self._cond:
            for item in batch:
                self._queue.popleft()
                self._bytes -= item.size
                self._waited -= item.future is not None

    def _transaction(self, batch: Sequence[_Item]) -> list[Any]:
        """One transaction. A record that cannot be stored fails alone."""
        mode = "FULL" if any(i.durable for i in batch) else "NORMAL"
        if mode != self._synchronous:
            self._connection.execute(f"PRAGMA synchronous = {mode}")
            self._synchronous = mode
        self._connection.execute("BEGIN IMMEDIATE")
        self._check_epoch()
        final = {
            r.id for i in batch for r in i.records
            if isinstance(r, Completion) and r.status != "started"
        }  # fmt: skip
        outcomes = [self._item(item, final) for item in batch]
        with self._cond:
            drops, self._unrecorded = self._unrecorded, Counter()
        try:
            self._connection.executemany(
                "INSERT INTO drops VALUES (?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
                drops.items(),
            )
            self._connection.execute("COMMIT")
        except sqlite3.DatabaseError:
            with self._cond:
                self._unrecorded += drops
            raise
        self.committed += sum(len(i.records) for i in batch)
        return outcomes

    def _item(self, item: _Item, final: set[str]) -> Any:
        self._connection.execute("SAVEPOINT item")
        try:
            if item.spilled_first and (waiting := self._spill.waiting()):
                raise StoreError(
                    f"captured records wait in {waiting[0]}, which another process holds or the "
                    "store cannot take yet; end that process, or try again later"
                )
            if item.job is not None:
                outcome = item.job(self._connection)
                self._check_epoch()
            else:
                outcome = None
                for record in item.records:
                    self._record(record, final)
        except Exception as error:
            if isinstance(error, sqlite3.DatabaseError) and not _is_the_records(error):
                raise
            self._connection.execute("ROLLBACK TO item")
            self._bodies.forget()
            outcome = error if item.job or item.future else None
            if item.future is None:
                self._refused(item, error)
        self._connection.execute("RELEASE item")
        return outcome

    def _record(self, record: Record, final: set[str]) -> None:
        if isinstance(record, Feedback):
            write_feedback(self._connection, record)
        elif isinstance(record, Episode):
            write_episode(self._connection, self._bodies, record)
        elif record.status != "started" or record.id not in final:
            write_completion(self._connection, self._bodies, record)

    def _refused(self, item: _Item, error: Exception) -> None:
        """Records in one `put` stand alone: keep those that can be kept, count the others."""
        if len(item.records) == 1:
            kind = type(item.records[0]).__name__.lower()
            self._drop(f"{kind} refused: {type(error).__name__}: {str(error)[:200]}", 1)
            return
        for record in item.records:
            alone = _Item((record,), 0)
            self._connection.execute("SAVEPOINT alone")
            self._item(alone, set())
            self._connection.execute("RELEASE alone")

    def _check_epoch(self) -> None:
        epoch = self._connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[
            0
        ]
        if epoch != self._epoch:
            self._bodies.forget()
            self._epoch = epoch

    def _rollback(self) -> None:
        self._bodies.forget()
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.DatabaseError as error:  # the fault that is already being handled
                self._failed(error)

    def _failed(self, error: sqlite3.DatabaseError) -> None:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        self.fault = f"{type(error).__name__}: {error}"
        self._mend = _MEND.get(code & 0xFF, "try again")

    def _replay(self) -> None:
        """Bring spilled records of this and of dead processes into the database."""
        self._leftover = False
        for path, file in self._spill.orphans():
            with file:
                records: list[Record] = []
                for line in file:
                    try:
                        records.append(record_from_line(line))
                    except (ValueError, KeyError, TypeError) as error:
                        self._drop(f"spilled line unreadable: {type(error).__name__}", 1)
                try:
                    for start in range(0, len(records), MAX_ROWS):
                        part = records[start : start + MAX_ROWS]
                        self._transaction([_Item((r,), 0, durable=True) for r in part])
                except sqlite3.DatabaseError as error:
                    self._rollback()
                    self._failed(error)
                    self._leftover = True  # the file stays and is tried again
                    return
                self.fault = None
                path.unlink()
                self.replayed += len(records)


def _is_the_records(error: sqlite3.DatabaseError) -> bool:
    """Whether this record can never be written, whatever the disk does."""
    return isinstance(error, _RECORD_FAULT) or "malformed JSON" in str(error)


def _resolve(item: _Item, outcome: Any) -> None:
    if item.future is None or not item.future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        item.future.set_exception(outcome)
    else:
        item.future.set_result(outcome)
