import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy.store import SQLiteStore

sys.path.insert(0, str(Path(__file__).parent.parent / "core"))  # vocabulary_strategies


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    with SQLiteStore.open(tmp_path / "s.db") as opened:
        yield opened
