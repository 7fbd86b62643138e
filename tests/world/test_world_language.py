"""A language model in the gaps of a world, played by scripted stand-ins."""

import json
import random
import re
from dataclasses import replace
from typing import Any

import pytest
from recorded import Call, recorded

from understudy.core.types import Completion, Episode, ModelRef, Request, Scenario, ToolResult
from understudy.world.data.values import leaves
from understudy.world.language.filler import SCHEMA, LanguageWorld, gaps, told
from understudy.world.language.lessons import lessons
from understudy.world.learn import learn
from understudy.world.model import World

NOWHERE = Scenario("s", ())


class Kennel:
    """Dogs with names of their own; a walk ends in a report of prose."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def call(self, name: str, args: dict[str, Any]) -> Any:
        if name == "dog":
            return {
                "dog": args["dog"],
                "call_name": "".join(self.rng.choice("abdefgiklmnoprstu") for _ in range(7)),
                "weight": self.rng.randint(4, 60) + self.rng.random(),
                "kind": "dog",
            }
        words = ("ran", "slept", "barked", "dug", "ate", "swam", "hid", "rolled", "jumped")
        return {"dog": args["dog"], "report": " ".join(self.rng.choices(words, k=9))}


def played(seed: int) -> Episode:
    kennel = Kennel(seed)
    dog = f"D{kennel.rng.randrange(1000, 9999)}"
    calls: list[Call] = [("dog", {"dog": dog}), ("walk", {"dog": dog, "minutes": 20})]
    return recorded(f"e{seed}", calls, kennel.call)


@pytest.fixture(scope="module")
def world() -> World:
    return learn([played(seed) for seed in range(80)])


def opened(draft: Any) -> dict[str, str]:
    """The paths that a draft leaves open, by their numbers."""
    return {
        str(value)[1:-1]: path
        for path, value in leaves(draft)
        if re.fullmatch(r"<\d+>", str(value))
    }


class Scripted:
    """Answers with what a function makes of the question, in which `fill` are the places that the
    draft leaves open, by number."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, list[dict[str, Any]]()

    async def complete(self, request: Request) -> Completion:
        asked = json.loads(str(request.messages[-1]["content"]))
        asked["fill"] = opened(asked["draft"])
        assert sorted(request.metadata[SCHEMA]["properties"]) == sorted(asked["fill"])
        self.asked.append(asked)
        message: Any = {"role": "assistant", "content": self.answer(self.asked[-1])}
        return Completion("c", request, "ok", message, finish_reason="stop")


async def called(world: World, answer: Any, *calls: tuple[str, dict[str, Any]]) -> tuple[Any, ...]:
    chat = Scripted(answer)
    owner = LanguageWorld(world, chat, ModelRef("stand-in"))
    session = await owner.start(NOWHERE, 3)
    told = []
    for n, (name, args) in enumerate(calls):
        function = {"name": name, "arguments": json.dumps(args)}
        made: Any = {"id": f"c{n}", "type": "function", "function": function}
        told.append(await session.call("agent", made))
    return owner, chat, told


async def test_what_nothing_determines_is_the_models_and_nothing_else(world: World) -> None:
    def answer(asked: dict[str, Any]) -> str:
        fill = asked["fill"].items()
        made = {n: "rexular" if "name" in path else 12.5 for n, path in fill}
        return "Sure: " + json.dumps(made | {"9": "D0", "/kind": "cat"})

    owner, chat, (result, again) = await called(
        world, answer, ("dog", {"dog": "D1111"}), ("dog", {"dog": "D1111"})
    )
    got = json.loads(result.content)
    assert got["dog"] == "D1111"
    assert got["kind"] == "dog"
    assert got["call_name"] == "rexular"
    assert again.content == result.content  # what was made up stays
    assert {p.kind for p in result.provenance if p.path == "/call_name"} == {"invented"}
    first = chat.asked[0]
    assert first["arguments"] == {"dog": "D1111"}
    assert set(first["fill"].values()) == {"/call_name", "/weight"}
    assert {e["result"]["kind"] for e in first["earlier"]} == {"dog"}
    assert owner.counted["taken"] <= owner.counted["asked"]


@pytest.mark.parametrize(
    "written", ["", "no JSON", "[1, 2]", '{"1": 7, "2": "heavy"}', '{"/call_name": "rexular"}',
                '{"1": {"deep": []}}', '{"1": null}', '{"1": "Rex", "2": -3.5, "0": "rexular"}',
                '{"2": NaN}', '{"2": 1e400}', '{"1": "\\u0000abcdef"}']
)  # fmt: skip
async def test_an_answer_that_does_not_fit_leaves_the_worlds_own(
    world: World, written: str
) -> None:
    call = ("dog", {"dog": "D2222"})
    owner, _, (result,) = await called(world, lambda asked: written, call)
    plain = world.session(3).step(call[0], json.dumps(call[1]))
    assert json.loads(result.content) == json.loads(plain.content)
    assert owner.counted["taken"] == 0
    assert owner.counted["calls"] == 1


async def test_what_the_world_knows_is_never_asked(world: World) -> None:
    session = world.session(3)
    session.observe(
        "dog", {"dog": "D3333"}, json.dumps(Kennel(5).call("dog", {"dog": "D3333"})), None
    )
    model = world.models["dog"]
    p, c = world.predict(session.state, "dog", {"dog": "D3333"}, random.Random(0), greedy=True)
    assert c is not None
    assert model.calls == 80
    assert gaps(p, c) == []


def test_lessons_teach_the_truth_of_gaps_and_do_not_tell_it(world: World) -> None:
    unseen = [played(seed) for seed in range(500, 512)]
    taught = list(lessons(world, unseen))
    assert taught
    truths = {text for e in unseen for m in e.messages for text in _texts(m.get("content"))}
    for lesson in taught:
        (done, *_) = (c for e in lesson.conversations() for c in e.completions)
        question = json.loads(str(done.request.messages[-1]["content"]))
        answer = json.loads(str(done.message["content"]))  # type: ignore[index]
        assert {n: lesson.real[path] for n, path in opened(question["draft"]).items()} == answer
        for value in answer.values():
            assert str(value) in truths
            assert str(value) not in json.dumps(question)


def _texts(content: Any) -> list[str]:
    try:
        return [str(v) for _, v in leaves(json.loads(content))]
    except (TypeError, ValueError):
        return []


def test_an_answer_is_read_by_its_numbers() -> None:
    assert told('so {"1": 2, "2": [3]} it is', ["/a", "/b", "/c"]) == {"/a": 2, "/b": [3]}
    assert told("{broken", ["/a"]) == {}
    assert told('\n{"1": "x", "2": 12, "3": {"a', ["/a", "/b", "/c"]) == {"/a": "x", "/b": 12}
    assert told('{"1": "x", "2": 12', ["/a", "/b"], cut=True) == {"/a": "x"}
    assert told("[1]", ["/a"]) is None


def telling(seed: int) -> Episode:
    """A tool that answers in prose, never twice alike."""
    rng = random.Random(seed)
    words = ("ran", "slept", "barked", "dug", "ate", "swam", "hid", "rolled", "jumped")
    text = " ".join(rng.choices(words, k=9))
    episode = recorded(
        f"e{seed}", [("tell", {"dog": f"D{rng.randrange(1000, 9999)}"})], lambda *_: {}
    )
    (done,) = episode.completions
    *before, last = done.request.messages
    request = replace(done.request, messages=(*before, {**last, "content": text}))
    results = {"c0": ToolResult(text, False)}
    return replace(episode, completions=(replace(done, request=request),), results=results)


async def test_prose_is_written_as_it_is_and_is_the_models_to_fill() -> None:
    world = learn([telling(seed) for seed in range(80)])
    calls = [("tell", {"dog": f"D{1234 + n}"}) for n in range(12)]
    session = world.session(3)
    for name, args in calls:
        plain = session.step(name, json.dumps(args)).content
        assert not plain.startswith('"')
        assert len(plain.split()) == 9
    said = "It ran home and slept."
    _, chat, results = await called(world, lambda asked: json.dumps({"1": said}), *calls)
    assert chat.asked
    assert all(asked["fill"] == {"1": ""} for asked in chat.asked)
    assert sum(r.content == said for r in results) == len(chat.asked)  # the rest was said before
