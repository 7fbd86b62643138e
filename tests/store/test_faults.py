"""Crashes, full disks and poisoned records: nothing acknowledged is lost, the rest is counted."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from understudy.core.ids import uuid7
from understudy.core.types import Completion, ModelRef, Policy, Request
from understudy.store import SQLiteStore, StoreError
from understudy.store.spill import Spill

_WRITER = """
import sys
from understudy.core.ids import uuid7
from understudy.core.types import Completion, ModelRef, Request
from understudy.store import SQLiteStore

store = SQLiteStore.open(sys.argv[1])
while True:
    request = Request(({"role": "user", "content": "x" * 500},), ModelRef("m"), episode_id=uuid7())
    completion = Completion(uuid7(), request, "ok", {"role": "assistant", "content": "y"})
    store.write([completion])
    print(completion.id, flush=True)
"""


def call(text: str, **fields: Any) -> Completion:
    request = Request(({"role": "user", "content": text},), ModelRef("m"), episode_id=uuid7())
    return Completion(uuid7(), request, "ok", {"role": "assistant", "content": "y"}, **fields)


def test_acknowledged_rows_survive_kill_9(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(100)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    with SQLiteStore.open(path) as store:
        missing = [i for i in acknowledged if store.read_completion(i) is None]
        assert missing == []
        assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def lock(path: str) -> sqlite3.Connection:
    """Another process that holds the database, as a stand-in for a disk that refuses."""
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    return holder


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that gives a refusing disk milliseconds instead of seconds."""
    connect = sqlite3.connect

    def quick(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        return connect(*args, **{**kwargs, "timeout": 0.01})

    monkeypatch.setattr("understudy.store.sqlite.sqlite3.connect", quick)
    monkeypatch.setattr("understudy.store.writer.RETRY_S", 0.01)


@pytest.mark.usefixtures("impatient")
def test_a_refusing_disk_spills_and_what_was_spilled_comes_back(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    records = [call(f"text {n}") for n in range(5)]
    with SQLiteStore.open(path) as store:
        holder = lock(path)
        store.write(records, durable=True)  # on disk, if not in the database
        spilled = list(tmp_path.glob("*.spill-*"))
        assert len(spilled) == 1
        assert "OperationalError" in store.stats()["fault"]
        holder.execute("ROLLBACK")
        holder.close()
    with SQLiteStore.open(path) as store:
        assert [store.read_completion(r.id) for r in records] == records
        assert store.counts()["dropped"] == {}
    assert not list(tmp_path.glob("*.spill-*"))


def test_what_was_spilled_is_erased_too(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    request = Request(({"role": "user", "content": "zanzibar"},), ModelRef("m"), episode_id="e")
    with SQLiteStore.open(path) as store:
        spill = Spill(path)  # as another process has one
        spill.write([Completion(uuid7(), request, "ok", {"role": "assistant", "content": "y"})])
        with pytest.raises(StoreError, match="captured records wait in"):
            store.erase_now("e")
        spill.release()  # it ends
        assert store.erase_now("e") == 1
    assert not list(tmp_path.glob("*.spill-*"))
    for file in tmp_path.iterdir():
        assert b"zanzibar" not in file.read_bytes()


@pytest.mark.usefixtures("impatient")
def test_where_nothing_can_be_written_a_durable_append_says_so(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    with SQLiteStore.open(path, spill_folder=str(tmp_path / "nowhere")) as store:
        holder = lock(path)
        with pytest.raises(StoreError, match="cannot write"):
            store.write([call("x")], durable=True)
        store.write([call("y")], durable=False)
        while store.stats()["queued"]:
            pass
        holder.execute("ROLLBACK")
        holder.close()
        store.write([call("z")])
        dropped = store.counts()["dropped"]
        assert list(dropped.values()) == [1]
        assert "disk fault" in next(iter(dropped))


def without_page(path: str, table: str) -> None:
    """Overwrite the page that a table begins with."""
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        sql = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        page = raw.execute(sql, (table,)).fetchone()[0]
        size = raw.execute("PRAGMA page_size").fetchone()[0]
    with open(path, "r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(size))


@pytest.mark.usefixtures("impatient")
def test_a_fault_says_what_it_is_and_what_to_do(tmp_path: Path) -> None:
    damaged, held = str(tmp_path / "damaged.db"), str(tmp_path / "held.db")
    policy = [(Policy("p", ModelRef("m")), 1.0)]
    SQLiteStore.open(damaged).close()
    without_page(damaged, "deployments")
    with (
        SQLiteStore.open(damaged) as store,
        pytest.raises(StoreError, match=r"malformed\): the file is damaged; restore a copy, or"),
    ):
        store.deploy_now("prod", policy)
    with SQLiteStore.open(held) as store:
        holder = lock(held)
        with pytest.raises(StoreError, match=r"locked\): another process holds the file; end it"):
            store.deploy_now("prod", policy)
        holder.close()
    large = [(Policy("p", ModelRef("m"), "x" * 1_000_000), 1.0)]
    with SQLiteStore.open(tmp_path / "full.db") as store:
        store._writer.call(lambda c: c.execute("PRAGMA max_page_count = 1").fetchall()).result()
        with pytest.raises(StoreError, match=r"full\): the disk is full; free some of it"):
            store.deploy_now("prod", large)


@pytest.mark.usefixtures("impatient")
def test_the_queue_is_bounded_and_overflow_goes_to_disk(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    records = [call("x" * 1000) for _ in range(200)]
    with SQLiteStore.open(path, max_bytes=20_000) as store:
        for record in records:
            store.write([record], durable=False)
        assert store.stats()["queued_bytes"] <= 20_000
    with SQLiteStore.open(path) as store:
        assert all(store.read_completion(r.id) == r for r in records)
        assert store.counts()["dropped"] == {}


def test_a_cut_spill_file_is_replayed_as_far_as_it_goes(tmp_path: Path) -> None:
    from understudy.store.spill import record_to_line

    whole = call("whole")
    text = record_to_line(whole) + "\n" + record_to_line(call("cut"))[:50]
    (tmp_path / "s.db.spill-1.jsonl").write_text(text)
    with SQLiteStore.open(tmp_path / "s.db") as store:
        assert store.read_completion(whole.id) == whole
        store.write([call("next")])
        assert list(store.counts()["dropped"].values()) == [1]


def test_a_poisoned_record_fails_alone(tmp_path: Path) -> None:
    good, poisoned = call("good"), call("bad", error="\ud800")
    with SQLiteStore.open(tmp_path / "s.db") as store:
        store.write([poisoned, good], durable=False)
        assert store.read_completion(good.id) == good
        store.write([call("next")])
        (reason,) = store.counts()["dropped"]
        assert reason.startswith("completion refused: UnicodeEncodeError")
        with pytest.raises(UnicodeEncodeError):
            store.write([poisoned])


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_record_that_sqlite_takes_for_no_json_fails_alone(tmp_path: Path, odd: float) -> None:
    good, poisoned = call("good"), call("bad", extra={"request": {"future": odd}})
    with SQLiteStore.open(tmp_path / "s.db") as store:
        store.write([poisoned], durable=False)
        store.write([good], durable=False)
        assert store.read_completion(good.id) == good
        assert store.stats()["fault"] is None
        store.write([call("next")])
        (reason,) = store.counts()["dropped"]
        assert reason.startswith("completion refused: OperationalError: malformed JSON")
    assert not list(tmp_path.glob("*.spill-*"))


@pytest.mark.usefixtures("impatient")
def test_a_record_that_cannot_be_spilled_is_counted_and_the_writer_lives_on(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "s.db")
    deep: Any = []
    for _ in range(sys.getrecursionlimit()):
        deep = [deep]
    with SQLiteStore.open(path) as store:
        holder = lock(path)
        store.write([call("deep", extra={"request": deep})], durable=False)
        with pytest.raises(StoreError, match="cannot write"):
            store.write([call("deep too", extra={"request": deep})], durable=True)
        holder.execute("ROLLBACK")
        holder.close()
        last = call("last")
        store.write([last])
        assert store.read_completion(last.id) == last
        assert list(store.counts()["dropped"].values()) == [1]


def test_nothing_is_taken_after_closing(tmp_path: Path) -> None:
    store = SQLiteStore.open(tmp_path / "s.db")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.write([call("late")])


def test_closing_commits_what_is_queued(tmp_path: Path) -> None:
    records = [call(f"{n}") for n in range(50)]
    with SQLiteStore.open(tmp_path / "s.db") as store:
        for record in records:
            store.write([record], durable=False)
    with SQLiteStore.open(tmp_path / "s.db") as store:
        assert store.counts()["completions"] == {"ok": 50}
        assert json.dumps(store.counts())
