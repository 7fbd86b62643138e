"""Searches of records that come and go in the traffic."""

import json
import random
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.data.search import Search
from understudy.world.data.values import parse
from understudy.world.learn import learn
from understudy.world.lists.listings import list_in

WORDS = ["milk", "bread", "train", "rent", "call", "plumber", "garden", "paint", "letter", "tax"]


class Notes:
    """Notes that are written and torn up: an episode finds what those before it left."""

    def __init__(self, seed: int, notes: int = 15) -> None:
        self.rng = random.Random(seed)
        self.notes: dict[str, dict[str, Any]] = {}
        self.number = 100
        for _ in range(notes):
            self.write()

    def write(self) -> dict[str, Any]:
        self.number += 1
        note = {"id": f"N{self.number}", "head": " ".join(self.rng.sample(WORDS, 2)),
                "text": " ".join(self.rng.sample(WORDS, 3))}  # fmt: skip
        self.notes[note["id"]] = note
        return note

    def __call__(self, tool: str, args: dict[str, Any]) -> Any:
        if tool == "write":
            return dict(self.write())
        if tool == "tear":
            self.notes.pop(args["id"], None)
            return {"ok": True}
        found = [n for n in self.notes.values() if args["word"] in f"{n['head']} {n['text']}"]
        return {"count": len(found), "notes": [dict(n) for n in found]}

    def episode(self, n: int) -> Episode:
        calls: list[Call] = [("find", {"word": self.rng.choice(WORDS)})]
        if self.rng.random() < 0.3:
            calls.append(("write", {"x": n}))
        if self.rng.random() < 0.3 and len(self.notes) > 8:
            calls.append(("tear", {"id": self.rng.choice(list(self.notes))}))
        calls.append(("find", {"word": self.rng.choice(WORDS)}))
        return recorded(f"e{n}", calls, self)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_search_is_learned_and_what_is_gone_is_forgotten(seed: int) -> None:
    notes = Notes(seed)
    world = learn([notes.episode(n) for n in range(200)])
    query = world.models["find"].query
    assert query is not None
    assert query.searches == [Search("word", ["head", "text"], "in")]
    kept = {row.key for row in query.rows}
    torn = {f"N{n}" for n in range(101, notes.number)} - notes.notes.keys()
    assert len(torn) > 20
    assert len(kept & torn) <= 3  # none looked since
    assert len(kept & notes.notes.keys()) >= 0.8 * len(notes.notes)
    session = world.session(0)
    for word in WORDS:
        step = session.step("find", json.dumps({"word": word}), greedy=True)
        _, listed = list_in(parse(step.content)) or ("", [])
        assert {n["id"] for n in listed} == {
            r.key for r in query.rows if word in f"{r.fields['head']} {r.fields['text']}"
        }


def test_what_comes_back_is_not_forgotten() -> None:
    """Each episode begins with the same notes, some of which it tears up first."""
    episodes = []
    for n in range(60):
        notes, rng = Notes(7, 60), random.Random(n)
        calls: list[Call] = [
            ("tear", {"id": key}) for key in rng.sample(list(notes.notes), 20 if n == 59 else 4)
        ]
        calls += [("find", {"word": word}) for word in rng.sample(WORDS, 3)]
        episodes.append(recorded(f"e{n}", calls, notes))
    query = learn(episodes).models["find"].query
    assert query is not None
    assert query.searches == [Search("word", ["head", "text"], "in")]
    assert {row.key for row in query.rows} == Notes(7, 60).notes.keys()
