"""Scenarios from conversations that nobody here made; skipped where the file is not there."""

import os
from pathlib import Path

import pytest

from understudy.core.chat_files import import_file
from understudy.core.types import Episode, text_of
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.users.wording import flat, slots

NEAR = Path(__file__).parents[3] / "shared" / "data" / "airline"
FILE = Path(os.environ.get("UNDERSTUDY_AIRLINE", NEAR)) / "conversations.jsonl.gz"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"{FILE} is not there")


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return list(import_file(FILE))


@pytest.fixture(scope="module")
def world(episodes: list[Episode]) -> World:
    return learn(episodes)


def test_values_are_mined_beside_metadata_that_nobody_says(world: World) -> None:
    """The rows carry the number of a trial, which no customer says."""
    book = world.book
    assert sum(bool(o.hidden) for o in book.openings) >= 150
    assert not any("/trial" in o.free for o in book.openings)
    with_slots = [s for s in book.situations if any(r.parts and slots(r.parts) for r in s.replies)]
    assert len(with_slots) >= 100


def test_scenarios_are_recombined(episodes: list[Episode], world: World) -> None:
    """Wording and what the user knows: at least half are no customer's, 15 have new wording."""
    first = {text_of(next(m for m in e.messages if m["role"] == "user")["content"])
             for e in episodes}  # fmt: skip
    captured = {(o.origin, repr(sorted(o.hidden.items()))) for o in world.book.openings}
    drawn = world.scenarios(300, seed=1)
    known = [{p: v for p, v in flat(s.goal).items() if p != "/trial"} for s in drawn]
    new = [
        s for s, k in zip(drawn, known, strict=True)
        if (s.origin, repr(sorted(k.items()))) not in captured
    ]  # fmt: skip
    assert len(drawn) == 300
    assert len(new) >= 150
    assert sum(text_of(s.messages[-1]["content"]) not in first for s in drawn) >= 15
    assert all(set(s.metadata) == {"trial"} for s in drawn)


async def test_the_user_names_its_own_id(world: World) -> None:
    """Asked for an id, a user says the one of its scenario, never another customer's."""
    own = other = 0
    ids = {str(o.hidden["/user_id"]) for o in world.book.openings if "/user_id" in o.hidden}
    for s in world.scenarios(200, seed=2):
        if "user_id" not in s.goal:
            continue
        asked = {"role": "assistant", "content": "Could you please provide your user ID?"}
        reply = await world.user(s, seed=1).reply((*s.messages, asked))  # type: ignore[arg-type]
        said = text_of(reply["content"]) if reply else ""
        own += s.goal["user_id"] in said
        other += any(i in said for i in ids - {s.goal["user_id"]})
    assert own >= 30
    assert own >= 10 * other
