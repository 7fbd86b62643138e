import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabulary_strategies import completions, episodes

from understudy.core.ids import uuid7
from understudy.core.types import (
    Completion,
    Episode,
    Feedback,
    ModelRef,
    Policy,
    Request,
    split_of,
)
from understudy.store import SQLiteStore, StoreError
from understudy.store.schema import MIGRATIONS

ASSISTANT: Any = {"role": "assistant", "content": "yes"}


def call(episode: str | None, text: str = "hi", status: Any = "ok", **fields: Any) -> Completion:
    message: Any = {"role": "user", "content": text}
    about = {k: fields.pop(k) for k in list(fields) if k in Request.__dataclass_fields__}
    request = Request((message,), ModelRef("m"), episode_id=episode, **about)
    reply = None if status == "started" else ASSISTANT
    return Completion(uuid7(), request, status, reply, **fields)


def thumb(episode: str, value: Any = True, **fields: Any) -> Feedback:
    return Feedback(uuid7(), episode, "thumb", value, "user", **fields)


@settings(max_examples=12, deadline=None)
@given(st.lists(episodes(), min_size=1, max_size=3, unique_by=lambda e: e.id))
def test_what_is_written_is_read(written: list[Episode]) -> None:
    ids = [c.id for e in written for c in e.completions] + [
        f.id for e in written for f in e.feedback
    ]
    if len(set(ids)) < len(ids):
        return
    with tempfile.TemporaryDirectory() as folder:
        with SQLiteStore.open(Path(folder) / "s.db") as store:
            store.write(written)
            store.write(written)  # idempotent
            assert list(store.read_episodes()) == written
        with SQLiteStore.open(Path(folder) / "s.db") as store:
            assert [store.read_episode(e.id) for e in written] == written


@settings(max_examples=12, deadline=None)
@given(completions())
def test_a_completion_outside_any_episode(written: Completion) -> None:
    with tempfile.TemporaryDirectory() as folder, SQLiteStore.open(f"{folder}/s.db") as store:
        store.write([written])
        assert store.read_completion(written.id) == written


async def test_the_protocol(store: SQLiteStore) -> None:
    one = call("e")
    await store.append([one], durable=True)
    await store.append([thumb("e")])
    episode = await store.episode("e")
    assert episode is not None
    assert episode.completions == (one,)
    assert [f.value for f in episode.feedback] == [True]
    assert [e async for e in store.episodes(feedback="thumb")] == [episode]
    assert await store.episode("nobody") is None
    frozen = await store.freeze("all")
    assert frozen.episode_ids == ("e",)
    assert await store.deployment("prod") is None
    await store.deploy("prod", [(Policy("p", ModelRef("m")), 1.0)], expected=0)
    deployed = await store.deployment("prod")
    assert deployed is not None
    assert deployed.version == 1
    assert await store.erase("e") == 1


def test_a_completion_is_finalised_once_and_then_never_changes(store: SQLiteStore) -> None:
    started = call("e", status="started")
    store.write([started])
    assert store.read_completion(started.id) == started
    done = replace(started, status="ok", message=ASSISTANT)
    store.write([done])
    for late in (started, replace(done, status="timeout", message=None)):
        store.write([late])
        assert store.read_completion(started.id) == done
    assert store.counts()["completions"] == {"ok": 1}


def test_order_is_that_of_starting(store: SQLiteStore) -> None:
    first, second = call("e", "1", "started"), call("e", "2", "started")
    store.write([first, second])
    store.write([replace(second, status="ok", message=ASSISTANT)])
    store.write([replace(first, status="ok", message=ASSISTANT)])
    episode = store.read_episode("e")
    assert episode is not None
    assert [c.id for c in episode.completions] == [first.id, second.id]


def test_shared_messages_are_stored_once(store: SQLiteStore) -> None:
    history: tuple[Any, ...] = ({"role": "system", "content": "s" * 4000},)
    records = []
    for n in range(50):
        history = (*history, {"role": "user", "content": f"turn {n}"})
        request = Request(history, ModelRef("m"), episode_id="e")
        records.append(Completion(uuid7(), request, "ok", ASSISTANT))
        history = (*history, ASSISTANT)
    store.write(records)
    with sqlite3.connect(store.path) as raw:
        assert raw.execute("SELECT count(*) FROM nodes").fetchone()[0] == 1 + 1 + 2 * 50
        assert raw.execute("SELECT count(*) FROM blobs").fetchone()[0] == 1 + 1 + 1 + 50


def test_metadata_of_captured_completions_merges_and_scenario_may_come_later(
    store: SQLiteStore,
) -> None:
    store.write(
        [call("e", metadata={"a": 1, "b": 1}), call("e", metadata={"b": 2}, scenario_id="s")]
    )
    episode = store.read_episode("e")
    assert episode is not None
    assert episode.metadata == {"a": 1, "b": 2}
    assert episode.scenario_id == "s"


def test_judges_calls_are_kept_but_are_not_what_the_agent_did(store: SQLiteStore) -> None:
    agent, judge = call("e"), call("e", purpose="judge")
    store.write([agent, judge])
    episode = store.read_episode("e")
    assert episode is not None
    assert episode.completions == (agent,)
    (whole,) = store.read_episodes(purposes=("agent", "judge"))
    assert whole.completions == (agent, judge)
    assert [s.id for s in store.find_completions(purpose="judge")] == [judge.id]


def test_feedback_may_come_before_what_it_is_about(store: SQLiteStore) -> None:
    one = call("e")
    store.write([thumb("e", False), thumb("", True, completion_id=one.id)])
    assert store.counts()["feedback_unjoined"] == 2
    store.write([one])
    episode = store.read_episode("e")
    assert episode is not None
    assert [(f.value, f.episode_id) for f in episode.feedback] == [(False, "e"), (True, "e")]
    assert store.counts()["feedback_unjoined"] == 0
    store.write([thumb("", True, completion_id=one.id)])
    assert len(next(store.read_episodes(feedback="thumb")).feedback) == 3


def test_contradictory_thumbs_are_resolved_by_the_latest(store: SQLiteStore) -> None:
    store.write([call("e"), thumb("e", False, created_at=2.0), thumb("e", True, created_at=1.0)])
    assert list(store.read_episodes(feedback="thumb", at_least=1.0)) == []
    assert [s.feedback for s in store.find(feedback="thumb", at_most=0.0)] == [{"thumb": False}]


def test_queries(store: SQLiteStore) -> None:
    for n in range(150):
        workload = "odd" if n % 2 else "even"
        store.write([call(f"e{n}", workload=workload, alias=f"a{n % 3}")], durable=False)
    names = [e.id for e in store.read_episodes()]
    assert names == [f"e{n}" for n in range(150)]
    assert [e.id for e in store.read_episodes(workload="odd", limit=70)] == names[1:140:2]
    assert [e.id for e in store.read_episodes(after="e99", limit=3)] == names[100:103]
    assert [e.id for e in store.read_episodes(alias="a2", limit=2)] == ["e2", "e5"]
    held = [n for n in names if split_of(n) == "heldout"]
    assert held
    assert [e.id for e in store.read_episodes(split="heldout")] == held
    pages, after = [], None
    while page := store.find(after=after, limit=40):
        pages += [s.id for s in page]
        after = page[-1].id
    assert pages == names[::-1]
    first = store.find_completions(limit=100)
    rest = store.find_completions(limit=100, after=first[-1].id)
    assert [s.episode_id for s in first + rest] == names[::-1]


@pytest.mark.parametrize("query", [{"colour": 1}, {"split": "x"}, {"at_least": 1}, {"after": "?"}])
def test_a_wrong_query_is_refused(store: SQLiteStore, query: Any) -> None:
    with pytest.raises(ValueError):
        store.find(**query)


def test_frozen_datasets(store: SQLiteStore) -> None:
    store.write([call("a"), call("b"), thumb("a"), thumb("b", False)])
    good = store.freeze_now("good", feedback="thumb", at_least=1.0)
    assert good.episode_ids == ("a",)
    assert store.freeze_now("good", feedback="thumb", at_least=1.0) == good
    assert [e.id for e in store.read_dataset("good")] == ["a"]
    with pytest.raises(StoreError, match="other content"):
        store.freeze_now("good")
    store.write([call("a", "more")])
    with pytest.raises(StoreError, match="other content"):
        store.freeze_now("good", feedback="thumb", at_least=1.0)
    with pytest.raises(StoreError, match="no dataset"):
        list(store.read_dataset("bad"))


def test_deployments_are_versioned(store: SQLiteStore) -> None:
    a, b = Policy("a", ModelRef("m")), Policy("b", ModelRef("m", "x", 2), prompt="p")
    before = store.control_version()
    assert store.deploy_now("prod", [(a, 1.0)]).version == 1
    assert store.control_version() != before
    second = store.deploy_now("prod", [(a, 0.95), (b, 0.05)], expected=1)
    assert store.deployments() == {"prod": second}
    with pytest.raises(StoreError, match="version 2, not 1"):
        store.deploy_now("prod", [(a, 1.0)], expected=1)
    for shares in ([], [(a, 0.5)], [(a, 1.5), (b, -0.5)], [(a, 0.5), (a, 0.5)]):
        with pytest.raises(ValueError):
            store.deploy_now("prod", shares)


def test_keys_are_kept_as_hashes(store: SQLiteStore) -> None:
    key = store.create_key("browser", ["feedback"])
    assert list(store.keys().values()) == [frozenset({"feedback"})]
    store.flush()
    for file in Path(store.path).parent.iterdir():
        assert key.encode() not in file.read_bytes()
    with pytest.raises(ValueError, match="already"):
        store.create_key("browser")
    with pytest.raises(ValueError, match="scopes are"):
        store.create_key("other", ["root"])
    assert store.revoke_key("browser")
    assert not store.revoke_key("browser")
    assert store.keys() == {}


def test_erasing_a_subject_leaves_no_trace(store: SQLiteStore) -> None:
    secret = "zanzibar-" * 4
    store.write([call("a", secret, metadata={"customer": 7}), call("b", "shared"), thumb("a")])
    store.write([Episode("c", (call("c", secret + "!"),), metadata={"customer": "7"})])
    store.freeze_now("all")
    assert store.erase_now("7") == 2
    assert [e.id for e in store.read_episodes()] == ["b"]
    assert store.dataset("all").episode_ids == ("b",)  # type: ignore[union-attr]
    assert store.counts()["feedback"] == 0
    for file in Path(store.path).parent.iterdir():
        assert b"zanzibar" not in file.read_bytes()
    again = call("d", secret)  # what the writer remembered of erased messages is forgotten
    store.write([again])
    assert store.read_completion(again.id) == again


def test_a_subject_is_found_at_any_depth_of_the_metadata(store: SQLiteStore) -> None:
    nested: list[Any] = [{"ticket": {"customer": "ann"}}, {"tags": [{"who": ["ann"]}]}]
    store.write([call(f"e{n}", metadata=m) for n, m in enumerate(nested)])
    others: list[Any] = [{"ticket": {"ann": "bob"}}, {"ticket": True}, {"ticket": {"x": "annie"}}]
    store.write([call(f"o{n}", metadata=m) for n, m in enumerate(others)])
    assert store.erase_now("ann") == 2
    assert store.erase_now("1") == 0  # true is no name
    assert [e.id for e in store.read_episodes()] == ["o0", "o1", "o2"]


def test_a_newer_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    SQLiteStore.open(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreError, match="newer Understudy") as caught:
        SQLiteStore.open(path)
    assert "\n" not in str(caught.value)


def test_an_older_file_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.db"
    with SQLiteStore.open(path) as store:
        store.write([call("e")])
    later = (*MIGRATIONS, "ALTER TABLE episodes ADD COLUMN note TEXT; CREATE TABLE more (x)")
    monkeypatch.setattr("understudy.store.schema.MIGRATIONS", later)
    with SQLiteStore.open(path) as store:
        assert [e.id for e in store.read_episodes()] == ["e"]
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA user_version").fetchone()[0] == len(later)
        assert raw.execute("SELECT note FROM episodes").fetchall() == [(None,)]


def test_a_failed_migration_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    SQLiteStore.open(path).close()
    with monkeypatch.context() as patch:
        later = (*MIGRATIONS, "CREATE TABLE more (x); CREATE TABLE nodes (x)")
        patch.setattr("understudy.store.schema.MIGRATIONS", later)
        with pytest.raises(sqlite3.OperationalError):
            SQLiteStore.open(path)
    SQLiteStore.open(path).close()


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello " * 500)
    with pytest.raises(StoreError, match="not an Understudy store"):
        SQLiteStore.open(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other.db") as raw:
        raw.execute("CREATE TABLE x (y)")
    with pytest.raises(StoreError, match="another SQLite database"):
        SQLiteStore.open(tmp_path / "other.db")
    with pytest.raises(StoreError, match="no store at"):
        SQLiteStore.open(tmp_path / "missing.db", must_exist=True)


def test_two_processes_worth_of_stores_on_one_file(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path / "s.db") as one, SQLiteStore.open(tmp_path / "s.db") as two:
        for n in range(20):
            one.write([call(f"a{n}", "same text")], durable=False)
            two.write([call(f"b{n}", "same text")], durable=False)
        one.flush()
        two.flush()
        assert len(list(one.read_episodes())) == 40
        assert one.erase_now("a0") == 1
        fresh = call("b0", "same text", metadata={"x": 1})
        two.write([fresh])
        assert two.read_completion(fresh.id) == fresh
