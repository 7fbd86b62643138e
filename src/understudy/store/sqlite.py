"""The embedded store: one SQLite file in WAL mode, one writer thread, readers beside it."""

import asyncio
import hashlib
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from understudy.core.keys import new_key
from understudy.core.meter import Use
from understudy.core.serial import episode_to_json
from understudy.core.trained import Trained
from understudy.core.types import Completion, Dataset, Deployment, Episode, Policy, canonical_json
from understudy.store import admin
from understudy.store.bodies import BodyReader
from understudy.store.query import (
    AGENT,
    CompletionSummary,
    EpisodeQuery,
    EpisodeSummary,
    assemble,
    completion_summaries,
    episode_rows,
    prepare,
    summaries,
)
from understudy.store.rows import completion_from, load_bodies
from understudy.store.schema import StoreError, migrate
from understudy.store.spill import Record, Spill
from understudy.store.usage import uses
from understudy.store.writer import MAX_BYTES, Writer

_FLUSH_S = 300.0  # how long a read waits for this process's own writes


class SQLiteStore:
    """Everything that was seen, in one file. Implements `core.protocols.Store`.

    Every method has a synchronous form (`write`, `read_episode`, `read_episodes`, ...); the
    protocol's asynchronous ones run them beside the event loop. Thread-safe; several processes
    may open one file. Reads see what this object was given before.
    """

    def __init__(
        self, path: str, *, max_bytes: int = MAX_BYTES, spill_folder: str | None = None
    ) -> None:
        self.path = path
        writing = _connect(path)
        try:
            migrate(writing, path)
            writing.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            writing.close()
            raise
        self._reading = _connect(path)
        self._reading.execute("PRAGMA query_only = ON")
        prepare(self._reading)
        self._lock = threading.RLock()
        self._control = _connect(path)  # for deployments and keys: never behind a long read
        self._control.execute("PRAGMA query_only = ON")
        self._control_lock = threading.Lock()
        self._writing = writing
        self._writer = Writer(writing, Spill(path, spill_folder), max_bytes)
        self._closed = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        must_exist: bool = False,
        max_bytes: int = MAX_BYTES,
        spill_folder: str | None = None,
    ) -> Self:
        """Open the file, making or migrating it where needed.

        `max_bytes` bounds what waits in memory for the disk. Raises StoreError for a file that
        is missing (with `must_exist`), foreign, or written by a newer version.
        """
        path = Path(path)
        if must_exist and not path.exists():
            raise StoreError(f"no store at {path}: capture or import something into it first")
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(str(path), max_bytes=max_bytes, spill_folder=spill_folder)

    def close(self) -> None:
        """Commit what is queued and close the file. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        with self._lock:
            self._reading.close()
        with self._control_lock:
            self._control.close()
        self._writing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- writing

    async def append(self, records: Sequence[Record], durable: bool = False) -> None:
        """Keep records. With `durable` they are on disk when this returns.

        Idempotent by id. Raises StoreError or ValueError (durable only) for what was not kept.
        """
        if durable:
            await asyncio.wrap_future(self._writer.submit(records))
        else:
            self._writer.put(records)

    def write(self, records: Sequence[Record], durable: bool = True) -> None:
        """`append` for code without an event loop; durable unless said otherwise."""
        if durable:
            self._writer.submit(records).result()
        else:
            self._writer.put(records)

    def put(self, records: Sequence[Record]) -> None:
        """Queue records and return at once; what cannot be kept is counted."""
        self._writer.put(records)

    def submit(self, records: Sequence[Record]) -> "Future[None]":
        """Queue records; the future is done when they are on disk."""
        return self._writer.submit(records)

    def flush(self) -> None:
        """Wait until everything that was appended is committed."""
        self._writer.flush().result(_FLUSH_S)

    # -- reading

    @contextmanager
    def _read(self, own_writes: bool = True) -> Iterator[sqlite3.Connection]:
        if own_writes and self._writer.stats()["queued"] and self._writer.fault is None:
            self.flush()
        with self._lock:
            yield self._reading

    def read_episode(self, episode_id: str, purposes: Sequence[Any] = AGENT) -> Episode | None:
        with self._read() as connection:
            rows = connection.execute("SELECT * FROM episodes WHERE id = ?", (episode_id,))
            found = assemble(connection, rows.fetchall(), tuple(purposes))
        return found[0] if found else None

    async def episode(self, episode_id: str) -> Episode | None:
        return await asyncio.to_thread(self.read_episode, episode_id)

    def read_episodes(self, **query: Any) -> Iterator[Episode]:
        """Episodes of an `EpisodeQuery` given by its fields, in chunks, oldest first."""
        asked = episode_query(query)
        with self._read() as connection:
            chunks = episode_rows(connection, asked)
        while True:
            with self._lock:
                rows = next(chunks, None)
                if rows is None:
                    return
                episodes = assemble(self._reading, rows, asked.purposes)
            yield from episodes

    async def episodes(self, **query: Any) -> AsyncIterator[Episode]:
        """`read_episodes` beside the event loop."""
        found = self.read_episodes(**query)
        while (episode := await asyncio.to_thread(next, found, None)) is not None:
            yield episode

    def find(self, *, newest_first: bool = True, **query: Any) -> list[EpisodeSummary]:
        """A page of episodes without bodies (50 unless `limit` says otherwise). The next page:
        `after` = the last id of this one."""
        asked = episode_query({"limit": 50, **query})
        with self._read() as connection:
            return list(summaries(connection, asked, newest_first))

    def find_completions(
        self,
        *,
        after: str | None = None,
        limit: int = 50,
        newest_first: bool = True,
        **where: Any,
    ) -> list[CompletionSummary]:
        """A page of completions without bodies, by equality on summary fields."""
        unknown = sorted(set(where) - set(CompletionSummary.__dataclass_fields__))
        if unknown:
            raise ValueError(f"completions cannot be found by {', '.join(unknown)}")
        with self._read() as connection:
            return completion_summaries(connection, where, after, limit, newest_first)

    def read_completion(self, completion_id: str) -> Completion | None:
        with self._read() as connection:
            rows = connection.execute(
                "SELECT * FROM completions WHERE id = ?", (completion_id,)
            ).fetchall()
            bodies = BodyReader(connection)
            load_bodies(bodies, rows)
            return completion_from(rows[0], bodies) if rows else None

    def episode_of(self, completion_id: str) -> str | None:
        """The episode of a completion, where both are known."""
        with self._read() as connection:
            row = connection.execute(
                "SELECT episode_id FROM completions WHERE id = ?", (completion_id,)
            ).fetchone()
        return row["episode_id"] if row else None

    def episode_of_thread(self, thread: str) -> str | None:
        """The latest episode with a committed completion whose `extra` names this thread."""
        with self._read(own_writes=False) as connection:
            row = connection.execute(
                "SELECT episode_id FROM completions WHERE thread = ? ORDER BY seq DESC LIMIT 1",
                (thread,),
            ).fetchone()
        return row["episode_id"] if row else None

    def counts(self) -> dict[str, Any]:
        """What is in the file, and what did not get there: completions by status, episodes,
        feedback (and how much of it waits for its completion), what was lost and why."""
        with self._read() as c:
            status = c.execute("SELECT status, count(*) FROM completions GROUP BY status")
            return {
                "completions": dict(status.fetchall()),
                "episodes": c.execute("SELECT count(*) FROM episodes").fetchone()[0],
                "feedback": c.execute("SELECT count(*) FROM feedback").fetchone()[0],
                "feedback_unjoined": c.execute(
                    "SELECT count(*) FROM feedback f WHERE NOT EXISTS "
                    "(SELECT 1 FROM episodes e WHERE e.id = f.episode_id)"
                ).fetchone()[0],
                "dropped": dict(c.execute("SELECT reason, n FROM drops").fetchall()),
                "writer": self._writer.stats(),
            }

    def uses(self, alias: str | None = None, since: float | None = None) -> list[Use]:
        """What models were used for, by alias, model, key and purpose: of one alias, or of all and
        of what named none; since a Unix time. What deployed models were trained on has the purpose
        `train` and no key: each run once, at the model that was first deployed with it."""
        with self._read() as connection:
            return uses(connection, alias, since)

    def trained(self) -> set[str]:
        """The models of which it was said what they were trained on, by name."""
        with self._read() as connection:
            return admin.trained(connection)

    def stats(self) -> dict[str, Any]:
        """The writer's queue now; touches no disk."""
        return self._writer.stats()

    # -- datasets, deployments, keys, erasure

    def freeze_now(self, name: str, **query: Any) -> Dataset:
        """Name the episodes that a query finds now. The same name with the same content gives
        the same dataset; raises StoreError when the content is another."""
        asked = episode_query(query)
        digest = hashlib.sha256()
        ids: list[str] = []
        for episode in self.read_episodes(**query):
            ids.append(episode.id)
            text = canonical_json(episode_to_json(episode))
            digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
        new = Dataset(name, asked.as_json(), tuple(ids), digest.hexdigest(), time.time())

        frozen: Dataset = self._writer.call(lambda c: admin.add_dataset(c, new)).result()
        return frozen

    async def freeze(self, name: str, **query: Any) -> Dataset:
        return await asyncio.to_thread(lambda: self.freeze_now(name, **query))

    def dataset(self, name: str) -> Dataset | None:
        with self._read() as connection:
            return admin.dataset(connection, name)

    def read_dataset(self, name: str) -> Iterator[Episode]:
        """The episodes of a frozen dataset. Raises StoreError when there is none by this name."""
        frozen = self.dataset(name)
        if frozen is None:
            raise StoreError(f"no dataset {name!r} in {self.path}: freeze one first")
        for episode_id in frozen.episode_ids:
            episode = self.read_episode(episode_id, frozen.query["purposes"])
            if episode is not None:
                yield episode

    def deploy_now(
        self,
        alias: str,
        shares: Sequence[tuple[Policy, float]],
        expected: int | None = None,
        trained: Mapping[str, Sequence[Trained]] | None = None,
    ) -> Deployment:
        """Put policies behind an alias. `expected` is the version that this replaces (0: none),
        `trained` what their models were trained on, by name. Raises StoreError when another version
        is there, ValueError for shares that are none and a model that is none of theirs."""
        admin.check_shares(shares, trained or ())
        job = self._writer.call(lambda c: admin.deploy(c, alias, shares, expected, trained))
        deployed: Deployment = job.result()
        return deployed

    async def deploy(
        self, alias: str, shares: Sequence[tuple[Policy, float]], expected: int | None = None
    ) -> Deployment:
        return await asyncio.to_thread(self.deploy_now, alias, shares, expected)

    def rollback_now(self, alias: str) -> Deployment:
        """Set an alias back to what it stood for before, as a new version. Raises StoreError
        where there was nothing before."""
        job = self._writer.call(lambda c: admin.rollback(c, alias))
        restored: Deployment = job.result()
        return restored

    def deployments(self) -> dict[str, Deployment]:
        """The current deployment of every alias."""
        with self._control_lock:
            return admin.deployments(self._control)

    async def deployment(self, alias: str) -> Deployment | None:
        return self.deployments().get(alias)

    def control_version(self) -> tuple[int, int, int]:
        """Changes whenever a deployment or a key does; cheap enough to ask ten times a second."""
        with self._control_lock:
            row = self._control.execute(
                "SELECT (SELECT coalesce(max(seq), 0) FROM deployments), "
                "(SELECT count(*) FROM keys), (SELECT count(revoked_at) FROM keys)"
            ).fetchone()
        return row[0], row[1], row[2]

    def create_key(self, name: str, scopes: Iterable[str] = ("infer", "feedback")) -> str:
        """A new key, shown this once; the store keeps its hash. Raises ValueError for a scope
        that does not exist or a name that does."""
        key = new_key()
        self._writer.call(lambda c: admin.add_key(c, name, key, scopes)).result()
        return key

    def revoke_key(self, name: str) -> bool:
        """Whether a key by this name was in use."""
        return bool(self._writer.call(lambda c: admin.revoke_key(c, name)).result())

    def keys(self) -> dict[bytes, frozenset[str]]:
        """Hash to scopes, of the keys in use."""
        with self._control_lock:
            return admin.keys(self._control)

    def key_names(self) -> dict[str, str]:
        """What stands for a key where something is counted, to the key's name."""
        with self._control_lock:
            return admin.key_names(self._control)

    def mark_due(self, due: admin.Due) -> "Future[None]":
        """Keep that a workload wants training again; the future is done when it is on disk. The
        same again changes nothing."""
        return self._writer.call(lambda c: admin.mark_due(c, due))

    def due(self) -> list[admin.Due]:
        """The workloads that want training again, the longest waiting first."""
        with self._read() as connection:
            return admin.due(connection)

    def not_due(self, workload: str) -> int:
        """A workload was trained again; how many marks of it there were."""
        removed: int = self._writer.call(lambda c: admin.not_due(c, workload)).result()
        return removed

    async def erase(self, subject: str) -> int:
        return await asyncio.to_thread(self.erase_now, subject)

    def erase_now(self, subject: str) -> int:
        """Erase every episode whose id, or a value at any depth of whose metadata, is `subject`,
        with its completions, feedback and bodies that nothing else shares; datasets lose it too.
        Returns the number of episodes erased. Raises StoreError while records wait in spill
        files that cannot be brought in first."""
        job = self._writer.call(lambda c: admin.erase(c, subject), spilled_first=True)
        erased: int = job.result()
        with self._lock:  # the text is gone from the file and from its log
            self._reading.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return erased


def episode_query(fields: dict[str, Any]) -> EpisodeQuery:
    """Raises ValueError for a field that episodes cannot be asked by."""
    unknown = sorted(set(fields) - set(EpisodeQuery.__dataclass_fields__))
    if unknown:
        raise ValueError(f"episodes cannot be asked by {', '.join(unknown)}")
    return EpisodeQuery(**fields)


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=5.0, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.execute("PRAGMA secure_delete = ON")
    return connection
