"""Biases on logits, and the likeliest tokens of each draw."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from engine_models import VOCAB, make_model
from test_engine_exactness import BASE, engine_for, max_gap, prompts_for, teacher_logprobs

from understudy.core.types import Sample, Sampling
from understudy.engine.torch_engine import TorchEngine

PROMPT = prompts_for(1, 40, random.Random(1))[0]


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model()


@pytest.fixture(scope="module")
def engine(model: Any) -> Iterator[TorchEngine]:
    made = engine_for(model)
    yield made
    made.close()


async def say(engine: TorchEngine, **sampling: Any) -> Sample:
    return await engine.sample(PROMPT, BASE, Sampling(**{"max_tokens": 30, **sampling}))


async def test_what_is_forbidden_is_never_drawn_and_what_is_forced_always(
    engine: TorchEngine,
) -> None:
    free = await asyncio.gather(*(say(engine, seed=s) for s in range(8)))
    drawn = {i for s in free for i in s.ids}
    banned = tuple((i, -100.0) for i in drawn)
    without = await asyncio.gather(*(say(engine, seed=s, logit_bias=banned) for s in range(8)))
    assert not drawn & {i for s in without for i in s.ids}
    forced = await asyncio.gather(
        *(say(engine, temperature=t, logit_bias=((77, 100.0),)) for t in (0.0, 0.7, 1.5))
    )
    assert {i for s in forced for i in s.ids} == {77}


async def test_logprobs_are_of_the_biased_distribution(model: Any, engine: TorchEngine) -> None:
    bias = ((5, 2.5), (9, -4.0), (200, 1.0))
    s, plain = await asyncio.gather(
        say(engine, temperature=0.7, seed=3, logit_bias=bias), say(engine, temperature=0.7, seed=3)
    )
    ids = torch.tensor([[*PROMPT, *s.ids]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(PROMPT) - 1 : -1]
    for token, value in bias:
        logits[:, token] += value
    expected = torch.log_softmax(logits / 0.7, -1).gather(1, ids[0, len(PROMPT) :, None])[:, 0]
    assert max_gap(s.logprobs, expected.tolist()) < 1e-4
    assert max_gap(plain.logprobs, teacher_logprobs(model, PROMPT, plain, 0.7)) < 1e-4


async def test_the_likeliest_are_those_of_a_score_where_nothing_narrows(
    engine: TorchEngine,
) -> None:
    told, greedy, fewer, none = await asyncio.gather(
        say(engine, seed=1, top_logprobs=5), say(engine, temperature=0.0, top_logprobs=20),
        say(engine, seed=2, top_logprobs=1), say(engine, seed=2),
    )  # fmt: skip
    for sample, k in ((told, 5), (greedy, 20), (fewer, 1)):
        scores = await engine.score([*PROMPT, *sample.ids], BASE, k)
        assert len(sample.top) == len(sample.ids)
        for got, wanted in zip(sample.top, scores.top[len(PROMPT) - 1 :], strict=True):
            assert [i for i, _ in got] == [i for i, _ in wanted]
            assert max_gap([p for _, p in got], [p for _, p in wanted]) < 1e-4
    assert [top[0] for top in greedy.top] == list(zip(greedy.ids, greedy.logprobs, strict=True))
    assert (none.top, none.ids) == ((), fewer.ids)


async def test_the_likeliest_are_of_the_narrowed_distribution(engine: TorchEngine) -> None:
    sample = await say(engine, temperature=0.8, top_k=3, seed=5, top_logprobs=9)
    for i, logprob, top in zip(sample.ids, sample.logprobs, sample.top, strict=True):
        assert len(top) == 3
        assert dict(top)[i] == pytest.approx(logprob, abs=1e-6)
        assert sum(2.718281828**p for _, p in top) == pytest.approx(1, abs=1e-5)


async def test_wrong_ones_are_refused(engine: TorchEngine) -> None:
    for wrong, why in (
        ({"logit_bias": ((VOCAB, 1.0),)}, f"the token {VOCAB}"),
        ({"logit_bias": ((-1, 1.0),)}, "the token -1"),
        ({"logit_bias": ((1, 100.5),)}, "from -100 to 100"),
        ({"logit_bias": ((1, float("nan")),)}, "from -100 to 100"),
        ({"top_logprobs": 21}, "between 0 and 20"),
    ):
        with pytest.raises(ValueError, match=why):
            await say(engine, **wrong)
