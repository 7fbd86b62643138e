"""Questions to the store: which episodes, in what order, and what lists show of them."""

import json
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, get_args

from understudy.core.types import Episode, Purpose, Split, split_of
from understudy.store.bodies import BodyReader
from understudy.store.rows import (
    completion_from,
    episode_from,
    feedback_from,
    load_bodies,
    value_from,
)

_CHUNK = 64  # episodes read at a time
# an episode is what its agent did; calls made about it (judges) or around it stay outside
AGENT: tuple[Purpose, ...] = ("agent", "evaluation")


@dataclass(frozen=True, slots=True)
class EpisodeQuery:
    """Which episodes, in the order in which they were first seen.

    `feedback` is a name: only episodes that have some under it; with `at_least` / `at_most`
    its latest number must lie in that range (True counts as 1). `after` is an episode id.
    `purposes` are the completions that belong to an episode.
    """

    workload: str | None = None
    split: Split | None = None
    scenario_id: str | None = None
    alias: str | None = None
    feedback: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    purposes: tuple[Purpose, ...] = AGENT
    after: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.split is not None and self.split not in get_args(Split):
            raise ValueError(f"split is train or heldout, not {self.split!r}")
        if self.feedback is None and (self.at_least is not None or self.at_most is not None):
            raise ValueError("at_least and at_most need the feedback's name")
        if any(bound is not None and math.isnan(bound) for bound in (self.at_least, self.at_most)):
            raise ValueError("at_least and at_most are numbers, not NaN")

    def as_json(self) -> dict[str, Any]:
        fields = {k: v for k, v in asdict(self).items() if v is not None}
        return {**fields, "purposes": list(self.purposes)}


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """An episode in a list: no bodies. `feedback` holds the latest value of each name."""

    id: str
    workload: str
    scenario_id: str | None
    split: Split
    started_at: float
    finished_at: float | None
    completions: int
    unfinished: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    models: tuple[str, ...]
    ended: str | None
    feedback: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CompletionSummary:
    """A completion in a list: no bodies."""

    id: str
    episode_id: str | None
    workload: str
    purpose: Purpose
    alias: str | None
    model: str
    status: str
    finish_reason: str | None
    error: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    started_at: float
    finished_at: float | None


def prepare(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    connection.create_function("split_of", 1, split_of, deterministic=True)


def _where(query: EpisodeQuery) -> tuple[str, list[Any]]:
    clauses, values = ["1"], list[Any]()

    def need(clause: str, *args: Any) -> None:
        clauses.append(clause)
        values.extend(args)

    if query.workload is not None:
        need("e.workload = ?", query.workload)
    if query.scenario_id is not None:
        need("e.scenario_id = ?", query.scenario_id)
    if query.split is not None:
        need("split_of(coalesce(e.scenario_id, e.id)) = ?", query.split)
    if query.alias is not None:
        need(
            "EXISTS (SELECT 1 FROM completions c WHERE c.episode_id = e.id AND c.alias = ?)",
            query.alias,
        )
    if query.feedback is not None:
        latest = (  # 9e999 is infinity
            "(SELECT f.number FROM feedback f WHERE f.episode_id = e.id AND f.name = ? "
            "AND abs(f.number) < 9e999 ORDER BY f.created_at DESC, f.id DESC LIMIT 1)"
        )
        if query.at_least is None and query.at_most is None:
            need(
                "EXISTS (SELECT 1 FROM feedback f WHERE f.episode_id = e.id AND f.name = ?)",
                query.feedback,
            )
        if query.at_least is not None:
            need(f"{latest} >= ?", query.feedback, query.at_least)
        if query.at_most is not None:
            need(f"{latest} <= ?", query.feedback, query.at_most)
    return " AND ".join(clauses), values


def _after(connection: sqlite3.Connection, query: EpisodeQuery) -> int | None:
    if query.after is None:
        return None
    row = connection.execute("SELECT seq FROM episodes WHERE id = ?", (query.after,)).fetchone()
    if row is None:
        raise ValueError(f"no episode {query.after!r} in this store to go on after")
    return int(row["seq"])


def episode_rows(
    connection: sqlite3.Connection, query: EpisodeQuery, newest_first: bool = False
) -> Iterator[list[sqlite3.Row]]:
    """Rows of the episodes table in chunks (keyset pagination: no long read transaction)."""
    where, values = _where(query)
    at, left = _after(connection, query), query.limit
    order, sign = ("DESC", "<") if newest_first else ("ASC", ">")
    while left is None or left > 0:
        n = _CHUNK if left is None else min(_CHUNK, left)
        keyset = "" if at is None else f" AND e.seq {sign} {at}"
        rows = connection.execute(
            f"SELECT * FROM episodes e WHERE {where}{keyset} ORDER BY e.seq {order} LIMIT {n}",
            values,
        ).fetchall()
        if rows:
            yield rows
        if len(rows) < n:
            return
        at = rows[-1]["seq"]
        left = None if left is None else left - len(rows)


def assemble(
    connection: sqlite3.Connection, rows: list[sqlite3.Row], purposes: tuple[Purpose, ...] = AGENT
) -> list[Episode]:
    """The whole episodes of these rows."""
    ids = [r["id"] for r in rows]
    marks = ",".join("?" * len(ids))
    completions = connection.execute(
        f"SELECT * FROM completions WHERE episode_id IN ({marks}) "
        f"AND purpose IN ({','.join('?' * len(purposes))}) ORDER BY seq",
        (*ids, *purposes),
    ).fetchall()
    feedback = connection.execute(
        f"SELECT * FROM feedback WHERE episode_id IN ({marks}) ORDER BY seq", ids
    ).fetchall()
    bodies = BodyReader(connection)
    load_bodies(bodies, completions)
    done: dict[str, list[Any]] = {i: [] for i in ids}
    said: dict[str, list[Any]] = {i: [] for i in ids}
    for row in completions:
        done[row["episode_id"]].append(completion_from(row, bodies))
    for row in feedback:
        said[row["episode_id"]].append(feedback_from(row))
    return [episode_from(r, done[r["id"]], said[r["id"]], bodies) for r in rows]


def summaries(
    connection: sqlite3.Connection, query: EpisodeQuery, newest_first: bool
) -> Iterator[EpisodeSummary]:
    for rows in episode_rows(connection, query, newest_first):
        for row in rows:
            marks = ",".join("?" * len(query.purposes))
            c = connection.execute(
                "SELECT count(*) n, min(started_at) first, max(finished_at) last, "
                "total(status = 'started') unfinished, "
                "total(status NOT IN ('started', 'ok')) failed, "
                "total(prompt_tokens) prompt, total(completion_tokens) completion, "
                "json_group_array(DISTINCT model) models FROM completions "
                f"WHERE episode_id = ? AND purpose IN ({marks})",
                (row["id"], *query.purposes),
            ).fetchone()
            said = connection.execute(
                "SELECT name, value FROM feedback WHERE episode_id = ? ORDER BY created_at, id",
                (row["id"],),
            ).fetchall()
            yield EpisodeSummary(
                id=row["id"],
                workload=row["workload"],
                scenario_id=row["scenario_id"],
                split=split_of(row["scenario_id"] or row["id"]),
                started_at=row["created_at"] if c["first"] is None else c["first"],
                finished_at=c["last"],
                completions=c["n"],
                unfinished=int(c["unfinished"]),
                failed=int(c["failed"]),
                prompt_tokens=int(c["prompt"]),
                completion_tokens=int(c["completion"]),
                models=tuple(json.loads(c["models"])),
                ended=row["ended"],
                feedback={f["name"]: value_from(f["value"]) for f in said},
            )


def completion_summaries(
    connection: sqlite3.Connection,
    where: dict[str, Any],
    after: str | None,
    limit: int,
    newest_first: bool,
) -> list[CompletionSummary]:
    """Completions by equality on the named columns, ordered by the time at which they came."""
    clauses, values = ["1"], list[Any]()
    for column, value in where.items():
        clauses.append(f"{column} = ?")
        values.append(value)
    if after is not None:
        sign = "<" if newest_first else ">"
        clauses.append(f"seq {sign} (SELECT seq FROM completions WHERE id = ?)")
        values.append(after)
    names = CompletionSummary.__slots__
    rows = connection.execute(
        f"SELECT {', '.join(names)} FROM completions WHERE {' AND '.join(clauses)} "
        f"ORDER BY seq {'DESC' if newest_first else 'ASC'} LIMIT ?",
        (*values, limit),
    )
    return [CompletionSummary(*row) for row in rows]
