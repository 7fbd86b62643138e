"""What models were used for, by one query; and which workloads want training again."""

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from understudy.core.ids import uuid7
from understudy.core.keys import key_hash, key_id
from understudy.core.meter import METERED, NOBODY, TRAIN, Tokens, Use
from understudy.core.prices import SIZE_PRICES, Price
from understudy.core.trained import Trained
from understudy.core.types import Completion, ModelRef, Policy, Request, Usage
from understudy.store import Due, SQLiteStore
from understudy.store.schema import APPLICATION_ID, MIGRATIONS
from understudy.store.usage import _BY, _QUERY

SIZES = SIZE_PRICES["hosted-2026"]


def call(
    alias: str | None, usage: Usage, status: Any = "ok", at: float = 0.0, **fields: Any
) -> Any:
    """A completion; `metered`, `served` and `purpose` are what is counted by."""
    metered = fields.pop("metered", None)
    request = Request(({"role": "user", "content": "hi"},), ModelRef(alias or "m"),
                      purpose=fields.pop("purpose", "agent"))  # fmt: skip
    extra = {METERED: metered} if metered else {}
    return Completion(uuid7(), request, status, alias=alias, usage=usage, started_at=at,
                      extra=extra, **fields)  # fmt: skip


def test_uses_are_sums_by_model_key_and_purpose(store: SQLiteStore) -> None:
    ours = {"model": "a@2", "parameters": 10**9}
    store.write([
        call("prod", Usage(100, 60, 10), served=ModelRef("a"), metered=ours),
        call("prod", Usage(50, 0, 5), served=ModelRef("a"), metered=ours),
        call("prod", Usage(50, 0, 5), served=ModelRef("a"), metered=ours | {"prompt": "system"}),
        call("prod", Usage(7, None, 1), served=ModelRef("a"), metered=ours | {"model": "a@3"}),
        call("prod", Usage(7, None, 1), served=ModelRef("a"), metered=ours | {"key": "k"}),
        call("prod", Usage(9, None, 9), served=ModelRef("gpt-4o"), purpose="judge"),
        call("prod", Usage(), "upstream_error", served=ModelRef("gpt-4o")),
        call("prod", Usage(3, None, 2, estimated=True), "client_disconnected"),
        call("prod", Usage(), "started"),
        call(None, Usage(1, 0, 1)),
    ])  # fmt: skip
    found = {(u.model, u.key, u.purpose): u for u in store.uses("prod")}
    assert len(found) == 6
    first = found["a@2", NOBODY, "agent"]
    assert first == Use("a@2", alias="prod", requests=3, differs=1, parameters=10**9,
                        tokens=Tokens(200, 60, 20))  # fmt: skip
    assert found["a@3", NOBODY, "agent"].tokens == Tokens(7, 0, 1)
    assert found["a@2", "k", "agent"].requests == 1
    assert found["gpt-4o", NOBODY, "judge"].tokens == Tokens(9, 0, 9)
    failed = found["gpt-4o", NOBODY, "agent"]
    assert (failed.requests, failed.unfinished, failed.unreported) == (1, 1, 1)
    cut = found["prod", NOBODY, "agent"]  # one that was cut off and one that never ended
    assert (cut.requests, cut.unfinished, cut.unreported, cut.estimated) == (2, 2, 1, 1)
    assert cut.tokens == Tokens(3, 0, 2)
    assert [u.alias for u in store.uses() if u.alias is None] == [None]
    assert len(store.uses()) == 7


def test_only_what_came_since(store: SQLiteStore) -> None:
    store.write([call("prod", Usage(n, 0, 0), at=float(n)) for n in (1, 2, 4)])
    assert [u.tokens.prompt for u in store.uses("prod", since=2.0)] == [6]


def test_a_base_costs_what_its_size_does_and_a_remote_model_what_its_name_does() -> None:
    tokens = Tokens(prompt=3_000_000, cached=1_000_000, sampled=2_000_000)
    sizes = SIZE_PRICES["hosted-2026"]
    first = sizes[0]
    use = Use("a@1", tokens=tokens, parameters=10**9)
    assert use.dollars(sizes) == pytest.approx(3 * first.prompt + 2 * first.sampled)
    large = Use("a@1", tokens=tokens, parameters=10**12)
    assert large.dollars(sizes) is None
    named = Use("m-2024-08-06", tokens=tokens)
    prices = {"m": Price(2.0, 5.0, 1.0)}
    assert named.dollars(sizes, prices) == pytest.approx(2 * 2.0 + 1 * 1.0 + 2 * 5.0)
    assert Use("nobody", tokens=tokens).dollars(sizes, prices) is None


@pytest.mark.parametrize("where", ["1", "alias = 'prod'", "alias = 'prod' AND started_at >= 5"])
def test_the_query_reads_an_index_and_no_completion(store: SQLiteStore, where: str) -> None:
    store.flush()
    with closing(sqlite3.connect(store.path)) as raw:
        plan = raw.execute("EXPLAIN QUERY PLAN " + _QUERY.format(by=_BY, where=where)).fetchall()
    said = [row[3] for row in plan if "completions" in row[3]]
    assert any("COVERING INDEX completions_used" in line for line in said), said
    assert any("completions_unfinished" in line for line in said), said
    assert not any(line.startswith("SCAN completions ") and "USING" not in line for line in said)


def test_a_store_of_the_version_before_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        for statement in MIGRATIONS[0].split(";"):
            raw.execute(statement)
        raw.execute("INSERT INTO blobs VALUES (1, x'00', x'005b5d')")
        raw.execute("INSERT INTO nodes VALUES (1, x'00', NULL, 1)")
        request = json.dumps({"model": {"base": "m"}, "sampling": {}})
        raw.execute(
            "INSERT INTO completions (id, workload, purpose, alias, model, status, prompt_tokens, "
            "completion_tokens, estimated, started_at, node, request) "
            "VALUES ('c', 'w', 'agent', 'prod', 'prod', 'ok', 5, 2, 0, 1.0, 1, ?)",
            (request,),
        )
        raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        raw.execute("PRAGMA user_version = 1")
    with SQLiteStore.open(path) as store:
        assert [u.tokens for u in store.uses("prod")] == [Tokens(5, 0, 2)]
        store.write([call("prod", Usage(1, 0, 1), metered={"model": "a@1"})])
        assert [u.model for u in store.uses("prod")] == ["a@1", "prod"]
        assert store.due() == []


def test_a_store_from_before_trained_tokens_were_kept_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        for statement in ";".join(MIGRATIONS[:2]).split(";"):
            raw.execute(statement)
        shares = [[{"name": "a", "model": {"base": "a"}}, 1.0]]
        raw.execute("INSERT INTO deployments VALUES (1, 'prod', 1, ?, 1.0)",
                    (json.dumps({"alias": "prod", "shares": shares}),))  # fmt: skip
        raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        raw.execute("PRAGMA user_version = 2")
    with SQLiteStore.open(path) as store:
        assert store.uses("prod") == []
        store.deploy_now("prod", shares_of("a"), expected=1, trained={"a": [SFT]})
        assert trained_by(store, "prod") == {"a": 100}


SFT = Trained("run-1", "sft", 100, 10**9)
GRPO = Trained("run-2", "grpo", 30, 10**9)


def shares_of(*models: str) -> list[tuple[Policy, float]]:
    return [(Policy(m, ModelRef(m)), 1 / len(models)) for m in models]


def trained_by(store: SQLiteStore, alias: str | None = None, since: float | None = None) -> Any:
    return {u.model: u.tokens.trained for u in store.uses(alias, since) if u.purpose == TRAIN}


def test_trained_tokens_are_counted_once_however_often_they_are_deployed(
    store: SQLiteStore,
) -> None:
    for _ in range(2):
        store.deploy_now("prod", shares_of("a"), trained={"a": [SFT, GRPO]})
    store.deploy_now("prod", shares_of("x"))
    store.rollback_now("prod")
    expected = Use("a", NOBODY, TRAIN, "prod", tokens=Tokens(trained=130), parameters=10**9)
    assert store.uses("prod") == [expected]
    assert expected.dollars(SIZES) == pytest.approx(130 * SIZES[0].trained / 1e6)

    # the same under another alias; and a model that went on from what is deployed already
    more = Trained("run-3", "kto", 7, 10**9)
    store.deploy_now("test", shares_of("a", "b"), trained={"b": [SFT, more]})
    assert trained_by(store, "test") == {"a": 130, "b": 7}
    assert trained_by(store, "prod") == {"a": 130}
    assert trained_by(store) == {"a": 130, "b": 7}
    store.deploy_now("alone", shares_of("b"))
    assert trained_by(store, "alone") == {"b": 107}
    assert store.trained() == {"a", "b"}

    # a run that had gone on by the time it was deployed again
    store.deploy_now("prod", shares_of("a"), trained={"a": [SFT, replace(GRPO, tokens=50)]})
    store.deploy_now("prod", shares_of("a"), trained={"a": [GRPO]})
    assert trained_by(store, "prod") == {"a": 150}


def test_trained_tokens_are_of_the_time_when_they_became_known(store: SQLiteStore) -> None:
    store.deploy_now("prod", shares_of("a"), trained={"a": [SFT]})
    between = time.time()
    store.deploy_now("prod", shares_of("b"), trained={"b": [SFT, GRPO]})
    assert trained_by(store, "prod", since=between) == {"b": 30}
    assert trained_by(store, "prod", since=time.time() + 1) == {}


def test_a_models_name_is_the_one_that_is_asked_for(store: SQLiteStore) -> None:
    model = ModelRef("base", "a", 2)
    store.deploy_now("prod", [(Policy("p", model), 1.0)], trained={"a@2": [SFT]})
    assert trained_by(store, "prod") == {"a@2": 100}
    with pytest.raises(ValueError, match="no policy of the deployment is of the model 'p'"):
        store.deploy_now("prod", [(Policy("p", model), 1.0)], trained={"p": [SFT]})
    assert store.deployments()["prod"].version == 1


def test_training_has_no_price_by_name() -> None:
    prices = {"m": Price(2.0, 5.0, 1.0)}
    assert Use("m", purpose=TRAIN, tokens=Tokens(trained=5)).dollars(SIZES, prices) is None


def test_a_workload_is_due_once_until_it_was_trained(store: SQLiteStore) -> None:
    due = Due("support", "prod", "a@1", "system", 5.0)
    for again in (
        due,
        Due("support", "prod", "a@1", "system", 9.0),
        Due("support", "prod", "a@1", "tools", 6.0),
        Due("sales", "b", "c", "tools", 7.0),
    ):
        store.mark_due(again).result()  # fmt: skip
    assert [(d.workload, d.differs, d.since) for d in store.due()] == [
        ("support", "system", 5.0), ("support", "tools", 6.0), ("sales", "tools", 7.0),
    ]  # fmt: skip
    assert (store.not_due("support"), store.not_due("support")) == (2, 0)
    assert [d.workload for d in store.due()] == ["sales"]


def test_a_keys_name_is_known_by_the_beginning_of_its_hash(store: SQLiteStore) -> None:
    key = store.create_key("ann")
    assert store.key_names() == {key_id(key_hash(key)): "ann"}
    store.revoke_key("ann")
    assert list(store.key_names().values()) == ["ann"]  # what it was used for stays its own
