"""Answers of an engine of ours follow their schema, whatever the model would rather say."""

import json
import random
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch

from families import tokenizer_of
from understudy.core.answer_form import AnswerForm
from understudy.core.llama import Llama3Renderer
from understudy.core.qwen import (
    Qwen3InstructRenderer,
    Qwen3NoThinkRenderer,
    Qwen3Renderer,
    Qwen25Renderer,
)
from understudy.core.turns import TurnRenderer
from understudy.core.types import Completion, Episode, ModelRef, Request, Sampling
from understudy.engine.chat import ChatError, LocalChat
from understudy.engine.grammar import Grammars
from understudy.models.loading import LoadedBase, load_base
from understudy.models.rendering import over
from understudy.recipes.learner import make_engine
from understudy.recipes.structured import Constrained, Structured, response_format
from understudy.world.language.filler import LEAD, SCHEMA, LanguageWorld, written_as
from understudy.world.language.lessons import left_open, lessons
from understudy.world.learn import learn
from world.recorded import recorded

STATES = ["closed", "held", "open"]
BASE = ModelRef("tiny")


@pytest.fixture(scope="module")
def base() -> LoadedBase:
    torch.set_num_threads(1)
    return load_base()


@pytest.fixture
async def chat(base: LoadedBase) -> AsyncIterator[LocalChat]:
    engine, made = make_engine(base, 1)
    yield made
    await engine.aclose()


def asked(temperature: float = 0.0, seed: int = 0, **places: Any) -> Request:
    schema = {
        "type": "object",
        "properties": places,
        "required": list(places),
        "additionalProperties": False,
    }
    return Request(
        ({"role": "user", "content": "Is the box open?"},), BASE,
        sampling=Sampling(temperature, seed=seed, max_tokens=120), metadata={SCHEMA: schema},
    )  # fmt: skip


async def test_a_base_that_was_taught_nothing_answers_by_the_schema(chat: LocalChat) -> None:
    places: dict[str, Any] = {
        "1": {"type": "integer", "minimum": 3, "maximum": 40},
        "2": {"type": "string", "enum": STATES},
        "3": {"type": "boolean"},
        "4": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        "5": {"type": "number", "minimum": 0, "maximum": 9, "multipleOf": 0.01},
        "6": {"type": "null"},
    }
    seen = set()
    for seed in range(6):
        done = await Constrained(chat).complete(asked(float(seed > 0), seed, **places))
        assert done.output_ids is not None  # all of it was sampled
        assert done.logprobs is not None
        assert len(done.logprobs) == len(done.output_ids)
        content = str(done.message["content"])  # type: ignore[index]
        got = json.loads(content)
        assert content.removeprefix("\n") == json.dumps(got, ensure_ascii=False)
        assert list(got) == list(places)
        assert type(got["1"]) is int
        assert 3 <= got["1"] <= 40
        assert got["2"] in STATES
        assert type(got["3"]) is bool
        assert got["6"] is None
        assert re.fullmatch("[A-Z]{2}-[0-9]{3}", got["4"])
        assert 0 <= got["5"] <= 9
        assert round(got["5"], 2) == got["5"]
        seen.add(content)
    assert len(seen) > 1


async def test_without_a_schema_the_chat_answers_as_it_would(chat: LocalChat) -> None:
    request = Request(asked().messages, BASE, sampling=Sampling(0.0, max_tokens=24))
    plain, held = await chat.complete(request), await Constrained(chat).complete(request)
    assert plain.output_ids == held.output_ids


async def test_a_schema_that_the_engine_refuses_is_asked_for_in_part(chat: LocalChat) -> None:
    endless = {"type": "integer", "minimum": -(10**22), "maximum": 10**22}
    state = {"type": "string", "enum": STATES}
    done = await Constrained(chat).complete(asked(**{"1": state, "2": endless}))
    written = str(done.message["content"]).removeprefix("\n")  # type: ignore[index]
    assert any(re.match(f'{{"1": "{s}", "2": -?[0-9]', written) for s in STATES)


@pytest.mark.parametrize(
    ("model", "kind"),
    [("qwen2_5", Qwen25Renderer), ("qwen3", Qwen3InstructRenderer), ("qwen3", Qwen3Renderer),
     ("qwen3", Qwen3NoThinkRenderer), ("llama3_1", Llama3Renderer)],
)  # fmt: skip
def test_what_is_taught_may_be_sampled(model: str, kind: type[TurnRenderer]) -> None:
    """The answer of a lesson follows the grammar of its schema, in each chat format."""
    tokenizer = tokenizer_of(model)
    renderer = over(tokenizer, kind)
    content = written_as({"1": "tall"})
    ids = renderer.encode(renderer.assistant_text({"role": "assistant", "content": content}))
    tall = {"type": "object", "properties": {"1": {"type": "string"}}, "required": ["1"]}
    grammar = renderer.grammar(AnswerForm(schema=tall, strict=True, lead=LEAD))
    matcher = Grammars(tokenizer, len(tokenizer), renderer.stop_ids).matcher(grammar)
    assert matcher.consume_tokens(ids), renderer.decode(ids)
    assert matcher.is_accepting()


def refusing(*words: str) -> Any:
    """An endpoint that refuses schemas with one of these words; what it was sent."""
    came: list[Any] = []

    class Remote:
        async def complete(self, request: Request) -> Completion:
            came.append(request.metadata.get(SCHEMA))
            if any(word in json.dumps(came[-1] or {}) for word in words):
                failed = Completion("c", request, "provider_error", error="no")
                raise ChatError(failed, http_status=400)
            return Completion("c", request, "ok")

    return Remote(), came


async def test_a_remote_endpoint_is_asked_for_as_much_as_it_takes() -> None:
    text = {"type": "string", "minLength": 1, "maxLength": 9, "pattern": "^a+$"}
    request = asked(**{"1": text, "2": {"type": "string", "enum": ["maxLength"]}})
    wants = [{"type": "string", "pattern": "^a+$"}, {"type": "string"}]
    for words, seen in (((), 1), (("pattern",), 2), (("properties",), 3)):
        remote, came = refusing(*words)
        chat = Structured(remote)
        await chat.complete(request)
        asked_for = [c and c["properties"]["1"] for c in came]
        assert asked_for == [*wants, None][:seen]
        assert all(c is None or c["properties"]["2"]["enum"] == ["maxLength"] for c in came)
        await chat.complete(request)
        assert came[seen:] == came[seen - 1 : seen]  # what was refused is not asked for again
    remote, came = refusing("")
    with pytest.raises(ChatError, match="no"):
        await Structured(remote).complete(request)
    assert len(came) == 3
    assert response_format(Request((), BASE)) == {}


def answer(rng: random.Random, args: dict[str, Any]) -> dict[str, Any]:
    count = rng.randint(2, 900)
    return {"box": args["box"], "state": rng.choice(STATES), "count": count}


def played(seed: int) -> Episode:
    rng = random.Random(seed)
    box = f"B{rng.randrange(10**5, 10**6)}"
    return recorded(f"e{seed}", [("open", {"box": box})], lambda _, args: answer(rng, args))


async def test_every_value_of_such_an_answer_may_stand_in_the_result(chat: LocalChat) -> None:
    world = learn([played(seed) for seed in range(90)])
    plain, held = (LanguageWorld(world, c, BASE) for c in (chat, Constrained(chat)))
    for owner in (plain, held):
        session = owner.session(5)
        for n in range(4):
            function = {"name": "open", "arguments": json.dumps({"box": f"B12345{n}"})}
            call: Any = {"id": "c", "type": "function", "function": function}
            result = json.loads((await session.call("agent", call)).content)
            assert result["state"] in STATES
            assert 0 <= result["count"] <= 1800
    assert plain.counted["taken"] == 0
    assert held.counted["taken"] == held.counted["asked"] == 8


def test_what_the_whole_traffic_determines_is_no_gap_of_a_part() -> None:
    """A total of what is asked for: two episodes show nothing of it, sixty do."""

    def counted(seed: int) -> Episode:
        def told(rng: random.Random, args: dict[str, Any]) -> dict[str, Any]:
            return answer(rng, args) | {"total": args["here"] + args["there"]}

        rng = random.Random(seed)
        asked = {"box": f"B{rng.randrange(10**5, 10**6)}"}
        asked |= {name: rng.randint(10, 900) for name in ("here", "there")}
        return recorded(f"e{seed}", [("open", asked)], lambda _, args: told(rng, args))

    few, more = [counted(n) for n in range(2)], [counted(n) for n in range(2, 60)]
    part, whole = learn(few), learn([*few, *more])
    assert "/total" in {path for lesson in lessons(part, more) for path in lesson.real}
    within = left_open(whole, [*few, *more])
    found = list(lessons(part, more, within))
    assert len(found) == len(more)
    assert {path for lesson in found for path in lesson.real} == {"/state", "/count"}
    assert list(lessons(part, more, {})) == []
