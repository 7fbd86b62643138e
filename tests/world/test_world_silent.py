"""Failures that no error flag marks."""

import json
from dataclasses import replace
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Episode, Transition
from understudy.world.learn import learn
from understudy.world.traffic.failing import TRANSIENT, looks_failed
from understudy.world.traffic.transitions import Failures

UNMARKED: bool | None = None


def told(tool: str, args: Any, value: Any) -> Transition:
    text = value if isinstance(value, str) else json.dumps(value)
    return Transition("e", 0, (), tool, json.dumps(args), text, UNMARKED)


def failing(seen: list[Transition]) -> list[str]:
    failures = Failures.learn(seen)
    return [t.content for t in seen if failures.failed(t, parsed(t.content))]


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


GOOD = [told("read", {"n": n}, {"n": n, "size": n % 7}) for n in range(20)]
GOOD += [told("add", {"n": n, "k": 2}, {"ticket": f"T{n}", "sum": 3 * n}) for n in range(20)]
LOST = "503 Service Unavailable, retry later"


def test_a_form_of_refusal_in_two_tools_is_failure_where_other_calls_look_failed() -> None:
    refused = [told("read", {"n": 90}, {"kod": "X1", "vink": "geen bak 90"})]
    refused += [told("add", {"n": n, "k": 9}, {"kod": "X2", "vink": "bak is vol"}) for n in (1, 2)]
    invented = [told("nosuch", {"a": 1}, {"kod": "X1", "vink": "geen bak 0"})]
    lost = [told("read", {"n": 3}, LOST)]
    found = failing(GOOD + refused + invented + lost)
    assert found == [t.content for t in refused + invented + lost]


def test_a_sentence_in_an_objects_place_is_failure_where_two_tools_say_it() -> None:
    refused = [told("read", {"n": 77}, "Bak 77 bestaat niet")]
    refused += [told("add", {"n": 78, "k": 1}, "Bak 78 bestaat niet")]
    assert failing(GOOD + refused) == [t.content for t in refused]
    alone = [told("read", {"n": 77}, "Bak 77 is heel erg groot")]
    assert failing(GOOD + alone) == []


@pytest.mark.parametrize(
    "second",
    [
        lambda n: {"job": f"J{n}", "vink": "het komt er aan"},  # data beside the sentence
        lambda n: {"leeg": True},  # no sentence
        lambda n: {"rest": [n], "vink": "dat is alles"},  # records
        lambda n: {"n": n, "size": 0},  # what one of them usually gives
    ],
)
def test_a_second_form_of_success_in_two_tools_is_none(second: Any) -> None:
    more = [told(tool, {"n": n, "k": 1}, second(n)) for tool in ("read", "add") for n in range(4)]
    assert failing(GOOD + [t for t in more if t.name == "add" or "k" in t.arguments]) == []


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        (LOST, True),
        ("HTTP/1.1 429 Too Many Requests", True),
        ("Connection refused by 10.0.0.1", True),
        ("500 grams of flour", False),
        ("The bus is busy in the morning", False),
        ("A connection runs every hour", False),
    ],
)
def test_what_passes_is_a_failure_in_the_words_that_say_it_passes(text: str, fails: bool) -> None:
    assert looks_failed(text) == fails
    assert TRANSIENT.search(text) or not fails


def test_a_tool_that_only_fails_is_not_offered() -> None:
    def answer(tool: str, args: Any) -> Any:
        if tool == "nosuch" or args["n"] > 50:
            return {"kod": "X1", "vink": f"geen bak {args['n']}"}
        return {"n": args["n"], "size": args["n"] % 7} if tool == "read" else {"sum": args["n"]}

    calls: list[Call] = [(tool, {"n": n}) for n in range(20) for tool in ("read", "add")]
    calls += [("read", {"n": 77}), ("add", {"n": 78}), ("nosuch", {"n": 1})]
    world = learn([unmarked(recorded(f"e{k}", calls, answer)) for k in range(3)])
    assert [t["function"]["name"] for t in world.tools()] == ["add", "read"]
    said = world.session(1).step("read", '{"n": 99}', greedy=True)
    assert json.loads(said.content)["vink"] == "geen bak 99"


def unmarked(e: Episode) -> Episode:
    """The episode as its messages alone tell it."""
    return replace(e, results={})
