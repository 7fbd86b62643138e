"""Whatever a language model answers, results stay valid; where it was worse, drafts stay."""

import asyncio
import functools
import json
import math
import random
import re
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import recorded

from understudy.core.lark import json_rule
from understudy.core.types import Completion, Episode, ModelRef, Request, Scenario
from understudy.engine.grammar import Grammars
from understudy.models.loading import load_base
from understudy.world.data.values import kind_of, leaves
from understudy.world.fidelity.forms import Forms
from understudy.world.language.bounds import Bound, Bounds
from understudy.world.language.filler import LanguageWorld
from understudy.world.language.trial import MANY, Case, Trial, closeness
from understudy.world.learn import learn
from understudy.world.model import World

STATES = ("open", "held", "closed")


def answer(rng: random.Random, args: dict[str, Any]) -> dict[str, Any]:
    """A form whose every value but the first is chance."""
    return {
        "box": args["box"],
        "state": rng.choice(STATES),
        "due": f"2031-0{rng.randint(1, 9)}-{rng.randint(10, 28)}",
        "code": f"{rng.choice('ABCDEF')}{rng.choice('ABCDEF')}-{rng.randint(100, 999)}",
        "count": rng.randint(2, 900),
        "weight": rng.randint(100, 99999) / 100,
        "success": True,
        "parts": [{"size": rng.randint(1, 400)} for _ in range(2)],
        "note": " ".join(rng.choices(("dry", "glass", "heavy", "left", "tall", "wet"), k=6)),
    }


def played(seed: int) -> Episode:
    rng = random.Random(seed)
    box = f"B{rng.randrange(10**5, 10**6)}"
    return recorded(f"e{seed}", [("open", {"box": box})], lambda _, args: answer(rng, args))


@functools.cache
def learned() -> World:
    return learn([played(seed) for seed in range(90)])


@pytest.fixture
def world() -> World:
    return learned()


class Says:
    """A chat that always says the same."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def complete(self, request: Request) -> Completion:
        message: Any = {"role": "assistant", "content": self.text}
        return Completion("c", request, "ok", message, finish_reason="stop")


def asked(world: World, text: str, trial: Trial | None = None) -> tuple[LanguageWorld, Any]:
    """A call of a box that nobody named, answered with a model that says this."""
    owner = LanguageWorld(world, Says(text), ModelRef("stand-in"), trial=trial)

    async def play() -> Any:
        session = await owner.start(Scenario("s", ()), 5)
        function = {"name": "open", "arguments": '{"box": "B123457"}'}
        return await session.call("agent", {"id": "c", "type": "function", "function": function})  # type: ignore[typeddict-item]

    return owner, asyncio.run(play())


def refuse(text: str) -> Any:
    raise AssertionError(f"{text} is no JSON")


def valid(content: str) -> None:
    """What the service's own schema says."""
    got = json.loads(content, parse_constant=refuse)
    assert set(got) == set(answer(random.Random(0), {"box": ""}))
    assert got["box"] == "B123457"
    assert got["state"] in STATES
    assert date.fromisoformat(got["due"])
    assert re.fullmatch(r"[A-Z]{2}-[0-9]{3}", got["code"])
    assert type(got["count"]) is int
    assert 0 <= got["count"] < 2000
    assert type(got["weight"]) in (int, float)
    assert round(got["weight"], 2) == got["weight"]
    assert got["success"] is True
    assert [type(p["size"]) for p in got["parts"]] == [int, int]
    assert isinstance(got["note"], str)
    assert 0 < len(got["note"]) < 100


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from(["open", "OPEN", "2031-02-30", "2031-02-28", "٢٠٣١-٠٢-٢٨", "ZZ-000", "ÄÖ-٣٣٣",
                       "error", "failed", "\ud800", "x" * 5000, "wet wet wet"])
)  # fmt: skip
values = st.recursive(
    scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3)
)
numbered = st.dictionaries(st.integers(0, 12).map(str), values, max_size=12)
same_for_all = values.map(lambda value: {str(n): value for n in range(1, 13)})


@settings(max_examples=300, deadline=None)
@given((numbered | same_for_all).map(json.dumps) | st.text())
def test_whatever_a_model_answers_the_result_is_valid(text: str) -> None:
    world = learned()
    _, result = asked(world, text)
    valid(result.content)
    assert not result.is_error
    session = world.session(5)
    c = world.models["open"].context(session.state, {"box": "B123457"})
    assert Forms(world).valid(c, result.content, False)


def test_what_is_valid_is_taken(world: World) -> None:
    note = "wet glass left dry glass tall"
    made = [*STATES[2:], "2033-12-24", "QX-123", 77, 12.25, 3, 4, note]
    plain = json.loads(world.session(5).step("open", '{"box": "B123457"}').content)
    opened = {str(n): v for n, v in enumerate(made, 1)}
    owner, result = asked(world, json.dumps(opened))
    got = json.loads(result.content)
    assert (
        owner.counted["asked"] == owner.counted["taken"] + owner.counted["missing or does not fit"]
    )
    assert owner.counted["taken"] >= 6
    assert got != plain
    assert [got["count"], got["weight"], got["note"]] == [77, 12.25, note]


def test_a_bound_is_what_the_traffic_shows(world: World) -> None:
    bounds = Bounds(world)
    fits = {
        "/state": (["open"], ["ajar", "", None, 1]),
        "/due": (["2032-02-29"], ["2031-02-29", "soon", "2031-2-3"]),
        "/code": (["ZQ-017"], ["zq-017", "ZQ-0170", "Z-017"]),
        "/count": ([1, 1200], [1.5, -1, 10**9, math.inf, True]),
        "/weight": ([0.01, 3.5], [1.001, math.nan, -0.01]),
        "/parts/1/size": ([5], ["5"]),
        "/nowhere": ([], ["open", 1]),
    }
    for path, (good, bad) in fits.items():
        assert all(bounds.fits("open", path, value) for value in good), path
        assert not any(bounds.fits("open", path, value) for value in bad), path
    shown = bounds.at("open", "/state")
    assert shown is not None
    assert shown.schema("string") == {"type": "string", "enum": sorted(STATES)}


def cases(path: str, model: list[Any], draft: list[Any], real: list[Any]) -> list[Case]:
    made = zip(model, draft, real, strict=True)
    return [Case("open", {path: m}, {path: d}, {path: r}) for m, d, r in made]


@pytest.mark.parametrize(
    ("model", "draft", "taken"),
    [
        (["r"] * 5, ["d"] * 5, True),
        (["r"] * 4, ["d"] * 4, False),  # chance does that too
        (["m"] * MANY, ["d"] * MANY, True),  # as wrong as the draft
        (["m"] * (MANY - 1), ["d"] * (MANY - 1), False),
        (["m"] * MANY, ["d"] * (MANY - 1) + ["r"], False),
        (["r"] * 11 + ["m"] * 9, ["m"] * 11 + ["r"] * 9, False),
        (["r"] * 17 + ["m"] * 3, ["m"] * 17 + ["r"] * 3, True),
    ],
)  # fmt: skip
def test_a_place_is_the_models_only_where_it_was_no_worse(
    model: list[str], draft: list[str], taken: bool
) -> None:
    trial = Trial.of(cases("/a/3", model, draft, ["r"] * len(model)))
    assert trial.takes("open", "/a/0") is taken
    assert not trial.takes("open", "/b")
    assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial


def test_the_values_of_a_call_are_one_case() -> None:
    paths = [f"/a/{n}" for n in range(20)]
    case = Case("open", *(dict.fromkeys(paths, v) for v in ("r", "d", "r")))
    assert not Trial.of([case] * 4).takes("open", "/a/0")
    assert Trial.of([case] * 5).takes("open", "/a/0")


def test_prose_is_compared_by_its_words() -> None:
    real = "the cat sat on a mat"
    assert closeness("a mat the cat ate", real) == pytest.approx(8 / 11)
    assert closeness("mat", "cat") == 0.0
    near, far = ["the cat sat on mats"] * MANY, ["no dog"] * MANY
    assert Trial.of(cases("", near, far, [real] * MANY)).takes("open", "")
    assert not Trial.of(cases("", far, near, [real] * MANY)).takes("open", "")


def test_a_tool_whose_results_get_worse_as_a_whole_keeps_its_drafts() -> None:
    """Each place gains, but never where the other place is right."""
    found = []
    for n in range(60):
        draft = {"/a": 1, "/b": 1} if n < 20 else {"/a": 0, "/b": 0}
        model = {"/a": int(n % 2 or n >= 20), "/b": int(n % 2 == 0)}
        if n >= 20:
            model = {"/a": n % 2, "/b": 1 - n % 2}
        found.append(Case("open", model, draft, {"/a": 1, "/b": 1}))
    trial = Trial.of(found)
    assert trial.places["open", "/a"].wins > trial.places["open", "/a"].losses
    assert trial.kept == ["open"]
    assert not trial.takes("open", "/a")


def test_a_model_that_failed_its_trial_is_not_even_asked(world: World) -> None:
    owner, result = asked(world, '{"1": 1}', Trial())
    plain = world.session(5).step("open", '{"box": "B123457"}')
    assert result.content == plain.content
    assert "answers" not in owner.counted
    assert owner.counted["no better than the draft"] == owner.counted["asked"] > 0


def test_only_the_places_that_were_passed_are_taken(world: World) -> None:
    path = "/count"
    trial = Trial.of(cases(path, [1] * MANY, [2] * MANY, [1] * MANY))
    everything = json.dumps({str(n): 55 for n in range(1, 13)})
    _, result = asked(world, everything, trial)
    plain = dict(leaves(json.loads(world.session(5).step("open", '{"box": "B123457"}').content)))
    got = dict(leaves(json.loads(result.content)))
    assert {p for p in got if got[p] != plain[p]} == {path}
    assert got[path] == 55


@functools.cache
def grammars() -> tuple[Grammars, Any]:
    base = load_base()
    renderer = base.renderer
    return Grammars(base.tokenizer, base.model.config.vocab_size, renderer.stop_ids), renderer


PLACES = ("state", "due", "code", "count", "weight", "success", "parts/0/size", "note", "ways",
          "drop")  # fmt: skip


@functools.cache
def bounds_of_signs() -> Bounds:
    """As `learned`, with formats full of what regular expressions have other uses for, and numbers
    below zero."""

    def told(rng: random.Random, args: dict[str, Any]) -> dict[str, Any]:
        ways = f"({rng.choice('abc')}.{rng.randint(0, 9)}|[{rng.choice('XYZ')}]$^*?{{}}\\\\/)"
        return answer(rng, args) | {"ways": ways, "drop": rng.randint(-4000, 300) / 8}

    def one(seed: int) -> Episode:
        rng = random.Random(seed)
        box = f"B{rng.randrange(10**5, 10**6)}"
        return recorded(f"e{seed}", [("open", {"box": box})], lambda _, args: told(rng, args))

    return Bounds(learn([one(seed) for seed in range(90)]))


@pytest.mark.parametrize(
    "values",
    [[9e18, 1.5], [10**22, -5], [2**63, 5], [10**400, 3], [math.nan, 1.5], [math.nan],
     ["a\ud800", "b"] * 4, ["\ud800"] * 4, [" ", "abcd1234"] * 4, ["", "abcd"], [-5, -2.25, 1e-5],
     [True, False], [None]],
)  # fmt: skip
def test_strange_values_have_a_schema_that_can_be_followed(values: list[Any]) -> None:
    """And what may stand there is of the kinds that the schema allows."""
    bound = Bound()
    for n, value in enumerate(values):
        bound.see(value, n)
    for kind in bound.kinds:
        schema = bound.schema(kind)
        matcher = grammars()[0].matcher(f"start: {json_rule(schema, True)}\n")
        assert not matcher.is_error()
        allowed = schema.get("enum", [])
        assert all(kind_of(text) == kind for text in allowed)
    assert not bound.fits(10**400)
    assert not bound.fits(math.nan)


@pytest.mark.parametrize("place", PLACES)
def test_what_a_schema_allows_fits_and_what_was_seen_is_allowed(place: str) -> None:
    """The one by drawing any token that the schema's grammar allows, the other by its grammar."""
    (grammars_, renderer), bounds = grammars(), bounds_of_signs()
    bound = bounds.at("open", f"/{place}")
    assert bound is not None
    (kind,) = bound.kinds
    grammar = f"start: {json_rule(bound.schema(kind), True)}\n"
    for seed in range(12):
        rng, matcher, ids = random.Random(seed), grammars_.matcher(grammar), list[int]()
        while not matcher.is_stopped():
            mask = np.unpackbits(
                np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little"
            )
            drawn = int(rng.choice(np.flatnonzero(mask)))
            if drawn in renderer.stop_ids:
                break
            assert matcher.consume_token(drawn)
            ids.append(drawn)
        value = json.loads(renderer.decode(ids))
        assert bound.fits(value), value
    seen = [*bound.texts, *bound.numbers][:40]
    for value in seen:
        ids = renderer.encode(json.dumps(value))
        matcher = grammars_.matcher(grammar)
        assert matcher.consume_tokens(ids), value
        assert matcher.is_accepting(), value
