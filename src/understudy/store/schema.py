"""The file's tables and how an older file becomes a current one.

nodes        the message forest: each message once, under the message before it; roots hold
             the tools. key = hash(parent key, canonical message), root = hash(tools)
blobs        bodies by the hash of their content, compressed
completions  one row per model call: inserted as started, finalised once, then never changed;
             `metered` is what of its `extra` is counted by (store.usage)
feedback     append-only; may come before what it is about
episodes     one row per episode id; what its completions do not say is in the row
datasets, deployments (append-only, one row per version), keys (hashes), drops (lost, and why)
retraining   workloads that an adapter no longer fits, until they are trained again
trained      what deployed models were trained on, a row for each run; `at` is when it became known
"""

import sqlite3

APPLICATION_ID = 0x554E4453  # "UNDS"

_V1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('epoch', 0);

CREATE TABLE blobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hash BLOB NOT NULL UNIQUE, data BLOB NOT NULL
);
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE,
    parent INTEGER, blob INTEGER NOT NULL
);

CREATE TABLE completions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    episode_id TEXT,
    workload TEXT NOT NULL,
    scenario_id TEXT,
    purpose TEXT NOT NULL,
    caused_by TEXT,
    alias TEXT,
    model TEXT NOT NULL,
    served TEXT,
    status TEXT NOT NULL,
    finish_reason TEXT,
    error TEXT,
    prompt_tokens INTEGER,
    cached_tokens INTEGER,
    completion_tokens INTEGER,
    estimated INTEGER NOT NULL,
    started_at REAL NOT NULL,
    first_token_at REAL,
    finished_at REAL,
    node INTEGER NOT NULL,
    reply INTEGER,
    request TEXT NOT NULL,
    tokens BLOB,
    metadata TEXT,
    extra TEXT,
    thread TEXT GENERATED ALWAYS AS (json_extract(extra, '$.thread')) VIRTUAL
);
CREATE INDEX completions_episode ON completions (episode_id, seq) WHERE episode_id IS NOT NULL;
CREATE INDEX completions_thread ON completions (thread) WHERE thread IS NOT NULL;
CREATE INDEX completions_unfinished ON completions (seq) WHERE status = 'started';

CREATE TABLE feedback (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    episode_id TEXT NOT NULL,
    completion_id TEXT,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    number REAL,
    source TEXT NOT NULL,
    source_version TEXT NOT NULL,
    comment TEXT,
    created_at REAL NOT NULL
);
CREATE INDEX feedback_episode ON feedback (episode_id, name, created_at);
CREATE INDEX feedback_unjoined ON feedback (completion_id) WHERE episode_id = '';

CREATE TABLE episodes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    workload TEXT NOT NULL,
    scenario_id TEXT,
    created_at REAL NOT NULL,
    recorded INTEGER NOT NULL,
    metadata TEXT,
    ended TEXT,
    body BLOB
);
CREATE INDEX episodes_workload ON episodes (workload, seq);
CREATE INDEX episodes_scenario ON episodes (scenario_id, seq) WHERE scenario_id IS NOT NULL;

CREATE TABLE datasets (
    name TEXT PRIMARY KEY, query TEXT NOT NULL, episode_ids TEXT NOT NULL,
    content_hash TEXT NOT NULL, created_at REAL NOT NULL
);
CREATE TABLE deployments (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, alias TEXT NOT NULL, version INTEGER NOT NULL,
    deployment TEXT NOT NULL, created_at REAL NOT NULL, UNIQUE (alias, version)
);
CREATE TABLE keys (
    hash BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE, scopes TEXT NOT NULL,
    created_at REAL NOT NULL, revoked_at REAL
);
CREATE TABLE drops (reason TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
"""

_V2 = """
ALTER TABLE completions ADD COLUMN metered TEXT;
CREATE INDEX completions_used ON completions (
    alias, model, served, purpose, metered, started_at, status, prompt_tokens, cached_tokens,
    completion_tokens, estimated
) WHERE status <> 'started';
CREATE TABLE retraining (
    workload TEXT NOT NULL, alias TEXT NOT NULL, model TEXT NOT NULL, differs TEXT NOT NULL,
    since REAL NOT NULL, PRIMARY KEY (workload, alias, model, differs)
) WITHOUT ROWID;
"""

_V3 = """
CREATE TABLE trained (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, run TEXT NOT NULL,
    recipe TEXT NOT NULL, tokens INTEGER NOT NULL, parameters INTEGER, at REAL NOT NULL,
    UNIQUE (model, run)
);
"""

# the i-th script makes a file of version i one of i + 1
MIGRATIONS: tuple[str, ...] = (_V1, _V2, _V3)


class StoreError(RuntimeError):
    """The store cannot do what was asked. The message is one line and says what to do."""


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the file to the current version, all or nothing.

    Raises StoreError for a file of a newer version, of another application, or that the system
    does not open.
    """
    try:
        version, application = (
            _pragma(connection, "user_version"),
            _pragma(connection, "application_id"),
        )
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.OperationalError as error:
        why = f"{path} cannot be opened: {error}"
        raise StoreError(f"{why}; see that the disk has room and nothing locks the file") from error
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path} is not an Understudy store: {error}") from error
    if application not in (0, APPLICATION_ID) or (application == 0 and tables):
        raise StoreError(f"{path} is not an Understudy store but another SQLite database")
    newest = len(MIGRATIONS)
    if version > newest:
        raise StoreError(
            f"{path} was written by a newer Understudy (store version {version}, this one reads "
            f"up to {newest}): upgrade with `pip install -U understudy`"
        )
    if version == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # another process may have migrated while this one waited for the lock
        for script in MIGRATIONS[_pragma(connection, "user_version") :]:
            for statement in script.split(";"):
                if statement.strip():
                    connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {newest}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
