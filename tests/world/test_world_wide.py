"""Records of very many keys: counted as ever, only sooner."""

import json
import random
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from recorded import recorded

from understudy.core.types import Episode
from understudy.world.known.context import Source
from understudy.world.learn import learn
from understudy.world.results.explain import Holders, Seen

BLANK = Seen({}, {}, {}, set(), {}, {}, None)
sources = st.sets(st.tuples(st.just("arg"), st.sampled_from("abcd")), max_size=4)


@given(st.lists(st.tuples(sources, st.integers(0, 1)), min_size=1, max_size=40), st.data())
def test_holders_are_counted_as_one_by_one(
    rows: list[tuple[set[Source], int]], data: st.DataObject
) -> None:
    seen = [replace(BLANK, had=had, fold=fold) for had, fold in rows]
    holders = Holders(seen)
    some = [s for s in seen if data.draw(st.booleans())]
    among = holders.among(some)
    for source in [("arg", name) for name in "abcde"]:
        had = tuple(sum(source in s.had for s in some if s.fold == fold) for fold in (0, 1))
        assert holders.count(source, among) == had


def wide(n: int) -> dict[str, Any]:
    rng = random.Random(n)
    texts = {f"t{k}": rng.choice(["red", "green", "blue"]) for k in range(150)}
    return {"item": f"I{n}", **texts, **{f"n{k}": rng.randrange(900) for k in range(150)}}


def read(seed: int) -> Episode:
    items = [f"I{random.Random(seed + k).randrange(100, 115)}" for k in (0, 1000, 0)]
    calls = [("show", {"item": item}) for item in items]
    return recorded(f"e{seed}", calls, lambda _, args: wide(int(args["item"][1:])))


def test_a_record_of_hundreds_of_keys_is_remembered_whole() -> None:
    world = learn([read(seed) for seed in range(20)])
    known = next(iter(world.memory.versions.values()))
    for item in sorted(known)[:4]:
        told = world.session(0).step("show", json.dumps({"item": item}), greedy=True)
        assert json.loads(told.content) == wide(int(item[1:]))
