"""What a call's result says of the call is no field of the thing that it names."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.testing.session import RecordedSession
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.serving.export import export


def locker(seed: int) -> Episode:
    """A locker is looked at, filled, and looked at; some are sealed, or moved: a move answers with
    the record as it is then."""
    rng = random.Random(seed)
    number = rng.randrange(100, 130)
    state: dict[str, Any] = {
        "locker": f"L{number}", "coins": number % 23, "owner": f"owner {number % 7}",
        "row": number % 5, "sealed": False,
    }  # fmt: skip

    def answer(name: str, args: Any) -> Any:
        if name == "fill":
            state["coins"] += args["coins"]
            return {"ok": True, "fee": 1.5 * args["coins"], "coins": state["coins"]}
        if name == "seal":
            state["sealed"] = True
            return {"locker": state["locker"], "ok": True, "slip": rng.randrange(10**6)}
        if name == "move":
            state["row"] = args["row"]
        return dict(state)

    own = {"locker": state["locker"]}
    look: Call = ("look", own)
    kind = ("fill", "seal", "move")[seed % 3]
    more = {"fill": {"coins": rng.randint(1, 5)}, "move": {"row": rng.randint(5, 9)}}.get(kind, {})
    return recorded(f"e{seed}", [look, look, (kind, own | more), look], answer)


@pytest.fixture(scope="module")
def world() -> World:
    return learn([locker(seed) for seed in range(180)])


def test_results_that_are_no_records_are_told_from_records(world: World) -> None:
    assert {t: set(kept) for t, kept in world.memory.receipts.items()} == {
        "fill": {"coins"},
        "seal": {"locker"},
    }


def test_an_export_has_the_things_fields_alone(world: World, tmp_path: Path) -> None:
    export(world, tmp_path / "out", ["jsonl"])
    rows = [json.loads(line) for line in (tmp_path / "out" / "locker.jsonl").open()]
    assert len(rows) > 20
    for row in rows:
        assert row.keys() <= {"locker", "coins", "owner", "row", "sealed"}
        number = int(row["locker"][1:])
        assert row["coins"] == number % 23


@pytest.mark.parametrize("again", [False, True])
def test_what_changed_are_the_things_fields_alone(
    world: World, tmp_path: Path, again: bool
) -> None:
    world.save(tmp_path)
    session = RecordedSession(World.load(tmp_path) if again else world, 3, {})
    session.step("look", '{"locker": "L111"}')
    for coins in (3, 1):
        session.step("fill", json.dumps({"locker": "L111", "coins": coins}))
    session.step("seal", '{"locker": "L111"}')
    session.step("move", '{"locker": "L111", "row": 7}')
    changed = [{c.field for c in call.changes} for call in session.calls]
    assert changed[3] <= {"sealed"}
    assert changed[:3] + changed[4:] == [set(), {"coins"}, {"coins"}, {"row"}]
    after = json.loads(session.step("look", '{"locker": "L111"}').content)
    expected = {"locker": "L111", "coins": 111 % 23 + 4, "owner": "owner 6", "row": 7}
    assert {n: v for n, v in after.items() if n != "sealed"} == expected
