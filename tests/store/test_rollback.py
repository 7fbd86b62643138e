from pathlib import Path

import pytest

from understudy.core.types import ModelRef, Policy
from understudy.store import SQLiteStore, StoreError


def test_a_rollback_restores_the_version_before_as_a_new_version(tmp_path: Path) -> None:
    old, new = Policy("old", ModelRef("a")), Policy("new", ModelRef("b", "x", 2))
    with SQLiteStore.open(tmp_path / "s.db") as store:
        store.deploy_now("prod", [(old, 1.0)])
        store.deploy_now("prod", [(new, 0.25), (old, 0.75)])
        restored = store.rollback_now("prod")
        assert restored.shares == ((old, 1.0),)
        assert restored.version == 3
        assert store.deployments()["prod"] == restored


def test_a_first_version_cannot_be_rolled_back(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path / "s.db") as store:
        store.deploy_now("prod", [(Policy("p", ModelRef("a")), 1.0)])
        with pytest.raises(StoreError, match="nothing to roll back"):
            store.rollback_now("prod")
