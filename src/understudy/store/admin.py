"""Datasets, deployments, keys, erasure: rare writes, run inside the writer's transaction, and
their reads."""

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

from understudy.core.keys import key_hash, key_id
from understudy.core.serial import deployment_from_json, deployment_to_json
from understudy.core.trained import Trained
from understudy.core.types import Dataset, Deployment, Policy
from understudy.store.schema import StoreError

SCOPES = ("infer", "feedback", "read", "admin")

_UNREACHABLE = """
WITH RECURSIVE kept (id) AS (
    SELECT node FROM completions UNION SELECT reply FROM completions WHERE reply IS NOT NULL
    UNION SELECT n.parent FROM nodes n JOIN kept ON n.id = kept.id WHERE n.parent IS NOT NULL
)
DELETE FROM nodes WHERE id NOT IN (SELECT id FROM kept)
"""


def dataset(connection: sqlite3.Connection, name: str) -> Dataset | None:
    row = connection.execute(
        "SELECT name, query, episode_ids, content_hash, created_at FROM datasets WHERE name = ?",
        (name,),
    ).fetchone()
    if row is None:
        return None
    return Dataset(row[0], json.loads(row[1]), tuple(json.loads(row[2])), row[3], row[4])


def add_dataset(connection: sqlite3.Connection, new: Dataset) -> Dataset:
    """The dataset as it is kept. Raises StoreError when the name holds other content."""
    old = dataset(connection, new.name)
    if old is not None:
        if old.content_hash != new.content_hash:
            raise StoreError(f"dataset {new.name!r} exists with other content: take another name")
        return old
    query, ids = json.dumps(dict(new.query)), json.dumps(new.episode_ids)
    connection.execute(
        "INSERT INTO datasets VALUES (?, ?, ?, ?, ?)",
        (new.name, query, ids, new.content_hash, new.created_at),
    )
    return new


def check_shares(shares: Sequence[tuple[Policy, float]], trained: Iterable[str] = ()) -> None:
    """Raises ValueError for shares that no deployment can have, and where a model that something
    is told of is none of theirs."""
    if not shares or abs(sum(s for _, s in shares) - 1) > 1e-6 or any(s < 0 for _, s in shares):
        raise ValueError("the shares of a deployment must not be negative and must sum to 1")
    if len({p.name for p, _ in shares}) < len(shares):
        raise ValueError("the policies of a deployment need names of their own")
    if strange := sorted(set(trained) - {str(p.model) for p, _ in shares}):
        raise ValueError(f"no policy of the deployment is of the model {strange[0]!r}")


def deploy(
    connection: sqlite3.Connection,
    alias: str,
    shares: Sequence[tuple[Policy, float]],
    expected: int | None,
    trained: Mapping[str, Sequence[Trained]] | None = None,
) -> Deployment:
    """The next version of an alias. `trained` is what its models were trained on, by their names;
    of a model and a run the most tokens that were ever told are kept. Raises StoreError when
    another version than `expected` is there."""
    row = connection.execute(
        "SELECT coalesce(max(version), 0) FROM deployments WHERE alias = ?", (alias,)
    ).fetchone()
    version = int(row[0])
    if expected is not None and expected != version:
        raise StoreError(f"alias {alias!r} is at version {version}, not {expected}: look again")
    new = Deployment(alias, tuple((p, float(s)) for p, s in shares), version + 1)
    connection.execute(
        "INSERT INTO deployments (alias, version, deployment, created_at) VALUES (?, ?, ?, ?)",
        (alias, new.version, json.dumps(deployment_to_json(new)), time.time()),
    )
    for model, runs in (trained or {}).items():
        connection.executemany(
            "INSERT INTO trained (model, run, recipe, tokens, parameters, at) "
            "VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (model, run) DO UPDATE SET tokens = max(tokens, excluded.tokens), "
            "parameters = coalesce(parameters, excluded.parameters)",
            [(model, *astuple(run), time.time()) for run in runs],
        )
    return new


def rollback(connection: sqlite3.Connection, alias: str) -> Deployment:
    """A new version with the shares of the version before the current one."""
    rows = connection.execute(
        "SELECT deployment FROM deployments WHERE alias = ? ORDER BY version DESC LIMIT 2", (alias,)
    ).fetchall()
    if len(rows) < 2:
        raise StoreError(f"alias {alias!r} has no version before this one: nothing to roll back")
    return deploy(connection, alias, deployment_from_json(json.loads(rows[1][0])).shares, None)


def deployments(connection: sqlite3.Connection) -> dict[str, Deployment]:
    rows = connection.execute("SELECT deployment, max(version) FROM deployments GROUP BY alias")
    found = (deployment_from_json(json.loads(row[0])) for row in rows)
    return {d.alias: d for d in found}


def trained(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT DISTINCT model FROM trained")}


def add_key(connection: sqlite3.Connection, name: str, key: str, scopes: Iterable[str]) -> None:
    """Raises ValueError for a scope that does not exist or a name that does."""
    wanted = sorted(set(scopes))
    unknown = [s for s in wanted if s not in SCOPES]
    if unknown or not wanted:
        raise ValueError(f"scopes are {', '.join(SCOPES)}, not {', '.join(unknown) or 'none'}")
    if connection.execute("SELECT 1 FROM keys WHERE name = ?", (name,)).fetchone():
        raise ValueError(f"there is a key {name!r} already: take another name")
    connection.execute(
        "INSERT INTO keys VALUES (?, ?, ?, ?, NULL)",
        (key_hash(key), name, json.dumps(wanted), time.time()),
    )


def revoke_key(connection: sqlite3.Connection, name: str) -> int:
    return connection.execute(
        "UPDATE keys SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL",
        (time.time(), name),
    ).rowcount


def keys(connection: sqlite3.Connection) -> dict[bytes, frozenset[str]]:
    rows = connection.execute("SELECT hash, scopes FROM keys WHERE revoked_at IS NULL")
    return {row[0]: frozenset(json.loads(row[1])) for row in rows}


def key_names(connection: sqlite3.Connection) -> dict[str, str]:
    """The names of all keys, revoked ones too, by what stands for them in `metered`."""
    return {key_id(row[0]): row[1] for row in connection.execute("SELECT hash, name FROM keys")}


@dataclass(frozen=True, slots=True)
class Due:
    """A workload that wants training again: since then its requests have another prompt, or other
    tools (`differs`), than `model` was trained with."""

    workload: str
    alias: str
    model: str
    differs: str
    since: float


def mark_due(connection: sqlite3.Connection, due: Due) -> None:
    """Once for each workload, alias, model and difference: the first time holds."""
    connection.execute(
        "INSERT INTO retraining VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", astuple(due)
    )


def due(connection: sqlite3.Connection) -> list[Due]:
    rows = connection.execute(
        "SELECT workload, alias, model, differs, since FROM retraining ORDER BY since, workload"
    )
    return [Due(*row) for row in rows]


def not_due(connection: sqlite3.Connection, workload: str) -> int:
    return connection.execute("DELETE FROM retraining WHERE workload = ?", (workload,)).rowcount


def erase(connection: sqlite3.Connection, subject: str) -> int:
    """Delete the subject's episodes and every body that nobody else shares. The subject is an
    episode's id, or a text or a number at any depth of its metadata."""
    named = (
        "EXISTS (SELECT 1 FROM json_tree({0}.metadata) j "
        "WHERE j.type IN ('text', 'integer', 'real') AND CAST(j.atom AS TEXT) = :subject)"
    )
    whose = {"subject": subject}
    found = connection.execute(
        f"SELECT id FROM episodes WHERE id = :subject OR {named.format('episodes')} "
        "UNION SELECT episode_id FROM completions "
        f"WHERE episode_id IS NOT NULL AND {named.format('completions')}",
        whose,
    ).fetchall()
    ids = {row[0] for row in found}
    connection.execute(
        f"DELETE FROM completions WHERE episode_id IS NULL AND {named.format('completions')}", whose
    )
    for episode_id in ids:
        connection.execute(
            "DELETE FROM feedback WHERE episode_id = '' AND completion_id IN "
            "(SELECT id FROM completions WHERE episode_id = ?)",
            (episode_id,),
        )
        connection.execute("DELETE FROM completions WHERE episode_id = ?", (episode_id,))
        connection.execute("DELETE FROM feedback WHERE episode_id = ?", (episode_id,))
        connection.execute("DELETE FROM episodes WHERE id = ?", (episode_id,))
    for name, text in connection.execute("SELECT name, episode_ids FROM datasets").fetchall():
        members = json.loads(text)
        kept = [m for m in members if m not in ids]
        if len(kept) < len(members):
            connection.execute(
                "UPDATE datasets SET episode_ids = ? WHERE name = ?", (json.dumps(kept), name)
            )
    connection.execute(_UNREACHABLE)
    connection.execute("DELETE FROM blobs WHERE id NOT IN (SELECT blob FROM nodes)")
    connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
    return len(ids)
