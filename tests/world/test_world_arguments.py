"""Calls that lack an argument, have one too many, or one of a form that no call had."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import Call, recorded

from understudy.core.types import Episode, Tool, ToolResult
from understudy.world.data.formats import accepted, distance, formats, has_format
from understudy.world.learn import learn
from understudy.world.model import World

TAKES = {"plant": ["bed", "seed"], "water": ["bed", "litres"], "label": ["bed", "mail"]}


def too_few(name: str, p: str) -> str:
    return json.dumps({"code": 400, "why": f"{p} is wanted"})


def too_many(name: str, p: str) -> str:
    return json.dumps({"code": 400, "why": f"no use for {p}"})


def garden(first: str) -> Callable[[str, Any], Any]:
    """A service that looks first for arguments that are `missing`, or for `extra` ones."""

    def answer(name: str, args: dict[str, Any]) -> Any:
        missing = [too_few(name, p) for p in TAKES[name] if p not in args]
        extra = [too_many(name, p) for p in args if p not in TAKES[name]]
        wrong = missing + extra if first == "missing" else extra + missing
        if wrong:
            return wrong[0]
        if name == "label" and "@" not in args["mail"]:
            return json.dumps({"code": 422, "why": "that is no address"})
        return {"done": name, "bed": args["bed"]}

    return answer


def played(n: int, first: str, slips: Sequence[Call] = ()) -> Episode:
    mail = f"rose{n}@post.test" if n % 5 else f"rose{n} at post.test"
    calls: list[Call] = [
        ("plant", {"bed": f"B{n % 9}", "seed": "kale"}),
        ("water", {"bed": f"B{n % 9}", "litres": 1 + n % 4}),
        ("label", {"bed": f"B{n % 9}", "mail": mail}),
    ]
    return recorded(f"e{n}", [*calls, *slips], garden(first))


def world_of(first: str, slips: Sequence[Call] = ()) -> World:
    return learn([played(n, first, slips if n % 3 == 0 else ()) for n in range(60)])


def said(world: World, name: str, **args: Any) -> ToolResult:
    return world.session(0).step(name, json.dumps(args), greedy=True)


MISSPELT: list[Call] = [("water", {"bet": "B1", "litres": 2})]


@pytest.fixture(scope="module")
def unslipped() -> World:
    return world_of("missing")


@pytest.mark.parametrize(("name", "lacks"), [(t, p) for t, own in TAKES.items() for p in own])
def test_what_one_tool_says_of_a_missing_argument_others_say_of_theirs(
    name: str, lacks: str
) -> None:
    world = world_of("missing", MISSPELT)
    full = {"bed": "B2", "seed": "kale", "litres": 2, "mail": "rose7@post.test"}
    result = said(world, name, **{p: full[p] for p in TAKES[name] if p != lacks})
    assert (result.content, result.is_error) == (too_few(name, lacks), True)


def test_a_failure_that_names_what_is_missing_says_nothing_of_what_is_too_many() -> None:
    result = said(world_of("missing", MISSPELT), "plant", bed="B2", seed="kale", deep=1)
    assert "is wanted" not in result.content
    assert result.doubt >= 0.5


def test_a_failure_that_names_what_is_too_many_says_nothing_of_what_is_missing() -> None:
    world = world_of("extra", MISSPELT)
    result = said(world, "plant", bed="B2", seed="kale", deep=1)
    assert (result.content, result.is_error) == (too_many("plant", "deep"), True)
    result = said(world, "plant", bed="B2")
    assert (result.content[:9], result.is_error) == ("unknown: ", True)


def test_what_no_call_ever_lacked_is_answered_with_the_explicit_unknown(
    unslipped: World, tmp_path: Path
) -> None:
    unslipped.save(tmp_path)
    for world in (unslipped, World.load(tmp_path)):
        for args in ({}, {"bed": "B2"}, {"seed": "kale"}):
            result = said(world, "plant", **args)
            assert (result.content[:9], result.is_error) == ("unknown: ", True)
            assert result.doubt == 1.0
            assert {p.kind for p in result.provenance} == {"invented"}
        assert not said(world, "plant", bed="B2", seed="kale").is_error


def test_an_argument_that_good_calls_left_out_is_not_asked_for() -> None:
    slips = [("plant", {"bed": "B3"})]

    def answer(name: str, args: Any) -> Any:
        return {"done": name} if name == "plant" else garden("missing")(name, args)

    def episode(n: int) -> Episode:
        calls: list[Call] = [("plant", {"bed": "B1", "seed": "kale"}), ("water", {"bed": "B1"})]
        return recorded(f"e{n}", [*calls, *(slips if n % 2 else [])], answer)

    result = said(learn([episode(n) for n in range(40)]), "plant", bed="B3")
    assert json.loads(result.content) == {"done": "plant"}
    assert not result.is_error
    assert result.doubt < 0.5


@pytest.mark.parametrize("required", [["seed"], []])
def test_a_declared_schema_says_what_is_required(required: list[str]) -> None:
    properties = {"bed": {"type": "string"}, "seed": {"type": "string"}}
    parameters = {"type": "object", "properties": properties, "required": required}
    tool: Tool = {"type": "function", "function": {"name": "plant", "parameters": parameters}}

    def declaring(episode: Episode) -> Episode:
        (completion,) = episode.completions
        request = replace(completion.request, tools=(tool,))
        return replace(episode, completions=(replace(completion, request=request),))

    world = learn([declaring(played(n, "missing")) for n in range(40)])
    assert said(world, "plant", bed="B2").is_error is bool(required)


def test_only_a_form_that_is_nearer_to_refused_ones_is_refused(unslipped: World) -> None:
    for mail, fine in (
        ("rose8@post.test", True),
        ("rose@post.test", True),  # no call had one without digits
        ("rose8 at post.test", False),
        ("rose at post.test", False),
    ):
        assert said(unslipped, "label", bed="B2", mail=mail).is_error is not fine, mail
    known, new = (
        said(unslipped, "label", bed="B2", mail=m).doubt
        for m in ("rose8@post.test", "rose@post.test")
    )
    assert known < new


texts = st.text("ab0@ .é", min_size=1, max_size=12)


@given(st.lists(texts, min_size=1, max_size=5), st.lists(texts, max_size=5), texts)
def test_forms_that_were_seen_are_judged_as_seen(
    good: list[str], bad: list[str], text: str
) -> None:
    known = formats([(t, n) for t in good for n in (0, 1, 2)])
    refused = formats([(t, n) for t in bad for n in (0, 1, 2)])
    assert all(accepted(t, known, refused) for t in good)
    assert all(accepted(t, known, refused) is has_format(t, known) for t in bad)
    assert (distance(text, known) == 0) is has_format(text, known)
