"""What a world remembers of things that the traffic shows often, in listings more than singly."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Call, recorded

from understudy.core.types import Episode
from understudy.world.known.memory import Memory
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.serving.export import export

VATS = {
    n: {"vat_id": n, "brewer": f"brewer {n % 17}", "litres": 2 + n % 7, "haze": n % 5}
    for n in range(1, 121)
}


def brewery(seed: int, read: int = 120) -> Episode:
    """A listing that shows no more than two fields, and one of `read` vats in full."""
    rng = random.Random(seed)
    room, vat = rng.randrange(4), 1 + seed % read

    def answer(name: str, args: Any) -> Any:
        if name == "show":
            return VATS[args["vat_id"]]
        listed = [v for n, v in VATS.items() if n % 4 == args["room"]]
        return {"vats": [{"vat_id": v["vat_id"], "litres": v["litres"]} for v in listed]}

    calls: list[Call] = [("rooms", {"room": room}), ("show", {"vat_id": vat})]
    return recorded(f"e{seed}", calls, answer)


@pytest.fixture(scope="module")
def learned() -> World:
    return learn([brewery(seed) for seed in range(180)])


def test_a_listing_in_every_episode_does_not_push_out_what_a_detail_read_showed(
    learned: World, tmp_path: Path
) -> None:
    for n, vat in VATS.items():
        told = learned.session(n).step("show", json.dumps({"vat_id": n}), greedy=True)
        assert json.loads(told.content) == vat
        (source,) = [p.source for p in told.provenance if p.path == "/haze"]
        assert 1 + int(source.removeprefix("episode e")) % 120 == n  # one that showed it
    manifest = export(learned, tmp_path / "out", ["jsonl"])
    written = [json.loads(line) for line in (tmp_path / "out" / "vat.jsonl").open()]
    assert sorted(written, key=lambda v: v["vat_id"]) == list(VATS.values())
    left = {o["what"]: o["count"] for o in manifest["left_out"]}
    shown = sum(len(VATS) // 4 for _ in range(180))  # each listing shows a room of four
    assert 0 < left["older values of vat"] < 2 * shown


def test_what_memory_dropped_is_counted_after_a_load_too(learned: World, tmp_path: Path) -> None:
    learned.save(tmp_path)
    again = World.load(tmp_path).memory
    assert (again.limit, again.dropped) == (learned.memory.limit, learned.memory.dropped)


def test_a_read_is_not_blamed_for_what_a_call_before_it_changed() -> None:
    def tapped(seed: int) -> Episode:
        vat = dict(VATS[1 + seed % 40])

        def answer(name: str, args: Any) -> Any:
            vat["litres"] -= name == "tap"
            return {"tapped": True} if name == "tap" else dict(vat)

        show, tap = ("show", {"vat_id": vat["vat_id"]}), ("tap", {"vat_id": vat["vat_id"]})
        return recorded(f"e{seed}", [show, tap, show], answer)

    world = learn([tapped(seed) for seed in range(80)])
    for n in range(1, 41):
        told = world.session(n).step("show", json.dumps({"vat_id": n}), greedy=True)
        assert json.loads(told.content) == VATS[n]


def test_what_equals_a_listed_field_at_times_is_not_taken_for_it_without_doubt() -> None:
    world = learn([brewery(seed, read=90) for seed in range(110)])
    wrong = []
    for n in range(91, 121):  # nothing showed their haze
        told = world.session(n).step("show", json.dumps({"vat_id": n}), greedy=True)
        if json.loads(told.content)["haze"] != VATS[n]["haze"]:
            wrong.append((told.doubt, [p.kind for p in told.provenance if p.path == "/haze"]))
    assert wrong
    assert all(doubt > 0.2 and kind == ["invented"] for doubt, kind in wrong)


@given(
    st.lists(st.sets(st.sampled_from("abcd"), min_size=1), min_size=1, max_size=40),
    st.integers(1, 5),
)
def test_of_each_field_the_last_versions_are_kept_and_the_others_counted(
    shown: list[set[str]], limit: int
) -> None:
    memory = Memory(limit=limit)
    for episode, names in enumerate(shown):
        memory.add(("d", "x"), episode, dict.fromkeys(names, episode))
    held = memory.versions["d"]["x"]
    for name in "abcd":
        told = [n for n, names in enumerate(shown) if name in names]
        assert [fields[name] for _, fields in held if name in fields] == told[-limit:]
    assert all(fields for _, fields in held)
    assert memory.dropped.get("d", 0) == sum(map(len, shown)) - sum(len(f) for _, f in held)
