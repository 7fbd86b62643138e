"""Answers of an engine of ours keep to the sets that a schema lists."""

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch

from understudy.core.protocols import Renderer
from understudy.core.types import Completion, Episode, ModelRef, Request, Sampling
from understudy.engine.chat import LocalChat
from understudy.models.loading import LoadedBase, load_base
from understudy.recipes.learner import make_engine
from understudy.recipes.structured import Constrained
from understudy.world.language.filler import CHOSEN, SCHEMA, LanguageWorld
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


def asked(**places: Any) -> Request:
    schema = {"type": "object", "properties": places}
    return Request(
        ({"role": "user", "content": "Is the box open?"},), BASE,
        sampling=Sampling(0.0, max_tokens=24), metadata={SCHEMA: schema},
    )  # fmt: skip


class Written(LocalChat):
    """A chat whose model writes this, whatever it is asked."""

    def __init__(self, chat: LocalChat, text: str, reason: Any = "stop") -> None:
        super().__init__(chat.engine, chat.renderer, chat.base)
        self.text, self.reason = text, reason

    async def complete(self, request: Request, on_ids: Any = None) -> Completion:
        message: Any = {"role": "assistant", "content": self.text}
        return Completion("c", request, "ok", message, self.reason, output_ids=(1,))


def likelihood(base: LoadedBase, request: Request, text: str) -> float:
    """The log-probability of an answer's text, by the Hugging Face model itself."""
    renderer: Renderer = base.renderer
    prompt = renderer.prompt_ids(request.messages, ())
    ids = [*prompt, *base.renderer.encode(text)]
    with torch.inference_mode():
        logits = base.model(torch.tensor([ids])).logits[0].float()
    scores = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
    return float(scores.gather(1, torch.tensor(ids[len(prompt) :])[:, None]).sum())


async def test_what_is_outside_of_a_set_gives_way_to_the_likeliest(
    base: LoadedBase, chat: LocalChat
) -> None:
    request = asked(**{"1": {"type": "integer"}, "2": {"type": "string", "enum": STATES},
                       "3": {"type": "boolean"}, "4": {"type": "string"}})  # fmt: skip
    text = '{"1": 7, "2": "ajar", "3": 1, "4": "tall"}'
    done = await Constrained(Written(chat, text)).complete(request)
    got = json.loads(str(done.message["content"]))  # type: ignore[index]
    begun = '\n{"1": 7, "2": '
    best = max(STATES, key=lambda s: likelihood(base, request, begun + json.dumps(s)))
    assert got["2"] == best
    begun += json.dumps(best) + ', "3": '
    yes, no = (likelihood(base, request, begun + text) for text in ("true", "false"))
    assert got["3"] is (yes > no)
    assert [got["1"], got["4"]] == [7, "tall"]
    assert done.extra[CHOSEN] == 2
    assert done.output_ids is None  # nobody sampled that


async def test_what_keeps_to_the_sets_stays_as_it_was_sampled(chat: LocalChat) -> None:
    request = asked(**{"1": {"type": "string", "enum": STATES}, "2": {"type": "boolean"}})
    for text in (f'so {{"1": "{state}", "2": true}}' for state in STATES):
        done = await Constrained(Written(chat, text)).complete(request)
        assert done.message == {"role": "assistant", "content": text}
        assert done.output_ids == (1,)
    free = asked(**{"1": {"type": "string"}})
    done = await Constrained(Written(chat, "none of it")).complete(free)
    assert done.message == {"role": "assistant", "content": "none of it"}


async def test_a_value_that_was_cut_off_is_none(chat: LocalChat) -> None:
    request = asked(**{"1": {"type": "integer"}, "2": {"type": "integer"}, "3": {"enum": STATES}})
    done = await Constrained(Written(chat, '{"1": 5, "2": 12', "length")).complete(request)
    got = json.loads(str(done.message["content"]))  # type: ignore[index]
    assert list(got) == ["1", "3"]
    assert got["1"] == 5
    assert got["3"] in STATES
    assert done.finish_reason == "stop"


def answer(rng: random.Random, args: dict[str, Any]) -> dict[str, Any]:
    count = rng.randint(2, 900)
    return {"box": args["box"], "state": rng.choice(STATES), "count": count}


def played(seed: int) -> Episode:
    rng = random.Random(seed)
    box = f"B{rng.randrange(10**5, 10**6)}"
    return recorded(f"e{seed}", [("open", {"box": box})], lambda _, args: answer(rng, args))


async def test_a_base_that_was_taught_nothing_says_one_of_the_set(chat: LocalChat) -> None:
    world = learn([played(seed) for seed in range(90)])
    plain, chosen = (LanguageWorld(world, c, BASE) for c in (chat, Constrained(chat)))
    for owner in (plain, chosen):
        session = owner.session(5)
        for n in range(4):
            function = {"name": "open", "arguments": json.dumps({"box": f"B12345{n}"})}
            call: Any = {"id": "c", "type": "function", "function": function}
            assert json.loads((await session.call("agent", call)).content)["state"] in STATES
    assert plain.counted["taken"] == 0
    assert chosen.counted["taken"] == chosen.counted["chosen of a set"] == 4
