"""Keys that hold the signs of JSON pointers (RFC 6901) are keys as any others."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import recorded

from understudy.core.types import Episode
from understudy.world.data.values import at, leaves
from understudy.world.describing.describe import describe
from understudy.world.known.context import Context, ToolFacts, branches, resolve, sources
from understudy.world.known.memory import Memory
from understudy.world.known.state import Mark, State
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.traffic.ids import Ids

KEYS = st.text("/~01a#+\u0661", max_size=4) | st.text(max_size=3)
VALUES = st.recursive(
    st.integers() | st.text(max_size=3) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)


@given(OBJECTS)
def test_every_path_leads_to_its_value(value: dict[str, Any]) -> None:
    for path, leaf in [*leaves(value), *branches(value)]:
        assert at(value, path) == leaf


@given(OBJECTS, OBJECTS, OBJECTS)
def test_every_source_of_a_context_gives_the_value_that_it_was_found_with(
    args: dict[str, Any], told: dict[str, Any], thing: dict[str, Any]
) -> None:
    state = State(Ids(args={"f": dict.fromkeys(args, "d")}), Memory())
    state.observe("g", {}, "ok", told)
    state.observe("f", args, "ok", told)
    for item in args.values():
        if isinstance(item, (str, int)):
            state.memory.add(("d", item), -1, thing)
    c = Context(state, ToolFacts("f"), args, recall=told)
    for source, value in sources(c):
        found = resolve(source, c)
        assert found is not None, source
        assert found[0] == value, source


@given(KEYS)
def test_a_field_has_the_mark_of_its_own_path(name: str) -> None:
    record = {name: {"in": 1}, "id": "X1"}
    paths = dict(leaves(record))
    marks = {path: Mark("invented", "") for path in paths if path != "/id"}
    state = State(Ids(args={"f": {"id": "d"}}, keys={"f": {"": {"id": "d"}}}), Memory())
    state.observe("f", {"id": "X1"}, "ok", record, marks)
    assert state.things["d", "X1"].fields[name][1] == "invented"


def keyed(value: Any, prefix: str) -> Any:
    """The value with a prefix before each key, and before the texts that name keys."""
    if isinstance(value, dict):
        return {prefix + k: keyed(v, prefix) for k, v in value.items()}
    if isinstance(value, list):
        return [keyed(v, prefix) for v in value]
    return prefix + value if value in ("pit", "gallery") else value


def script(seed: int) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """A listing, and an order of one of its things: a sum, echoes, a draw from what is listed."""
    rng = random.Random(seed)
    left = {n: {"pit": 40 + n, "gallery": 90 - n} for n in range(9)}
    kind, zone, n = rng.randrange(3), rng.choice(["pit", "gallery"]), rng.randrange(1, 9)
    number = kind + 3 * rng.randrange(3)
    price, order = number % 7 + 2, f"R{rng.randrange(10_000, 99_999)}"

    def listed() -> dict[str, Any]:
        rows = [{"show": f"W{310 + m}", "price": m % 7 + 2, "free": dict(left[m])}
                for m in range(kind, 9, 3)]  # fmt: skip
        return {"rows": rows, "total": len(rows)}

    show = f"W{310 + number}"
    made = {"order": order, "show": show, "cost": {"sum": n * price, "each": price}, "zone": zone}
    before = listed()
    left[number][zone] -= n
    return [
        ("list", {"kind": kind}, before),
        ("take", {"show": show, "zone": zone, "n": n}, made),
        ("list", {"kind": kind}, listed()),
        ("see", {"order": order}, made),
    ]


def world_of(prefix: str) -> World:
    def episode(seed: int) -> Episode:
        steps = [[keyed(part, prefix) for part in step] for step in script(seed)]
        results = iter([result for _, _, result in steps])
        return recorded(f"e{seed}", [(t, a) for t, a, _ in steps], lambda _, __: next(results))

    return learn([episode(seed) for seed in range(60)])


@pytest.fixture(scope="module")
def plain() -> World:
    return world_of("p-")


@pytest.mark.parametrize("sign", ["/", "~", "~1", "a/b~0"])
def test_a_service_with_such_keys_is_learned_as_any_other(plain: World, sign: str) -> None:
    world = world_of(sign)
    for seed in range(100, 110):
        one, other = plain.session(seed), world.session(seed)
        order = ""
        for tool, args, _ in script(seed):
            args = args | ({"order": order} if tool == "see" else {})
            a = one.step(tool, json.dumps(keyed(args, "p-")))
            b = other.step(tool, json.dumps(keyed(args, sign)))
            assert json.loads(b.content) == renamed(json.loads(a.content), sign)
            assert (a.doubt, a.is_error) == (b.doubt, b.is_error)
            assert [p.kind for p in a.provenance] == [p.kind for p in b.provenance]
            order = json.loads(a.content).get("p-order", "")
    assert said(world) == {
        t: [f.replace("p-", sign) for f in own] for t, own in said(plain).items()
    }


def renamed(value: Any, sign: str) -> Any:
    return json.loads(json.dumps(value).replace('"p-', '"' + sign))


def said(world: World) -> dict[str, list[str]]:
    return {tool: [f.text for f in own] for tool, own in describe(world).items()}
