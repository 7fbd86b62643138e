import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from understudy.core.ids import uuid7, uuid7_time


def test_ids_are_version_7_and_carry_the_time():
    before = time.time()
    made = uuid7()
    parsed = uuid.UUID(made)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert str(parsed) == made
    assert before - 0.01 <= uuid7_time(made) <= time.time() + 1


def test_ids_of_one_process_sort_as_they_were_made():
    made = [uuid7() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_threads_never_share_an_id():
    with ThreadPoolExecutor(8) as pool:
        made = [i for part in pool.map(lambda _: [uuid7() for _ in range(500)], range(8))
                for i in part]  # fmt: skip
    assert len(set(made)) == len(made)


def test_other_versions_are_refused():
    for wrong in (str(uuid.uuid4()), "", "not an id"):
        with pytest.raises(ValueError, match="not a UUIDv7"):
            uuid7_time(wrong)
