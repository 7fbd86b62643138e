"""Samples that follow a grammar: valid, exact, apart from their company; and what is refused."""

import asyncio
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from test_engine_exactness import max_gap
from tokenizers import Tokenizer

from families import save_model
from understudy.core.types import ModelRef, Sample, Sampling
from understudy.engine.errors import EngineBusyError
from understudy.engine.torch_engine import EngineError, TorchEngine
from understudy.models.loading import LoadedBase, load_base

TEMPLATES = ("qwen2_5", "qwen3", "llama3_1")


class Held:
    """A random model of a family in an engine."""

    def __init__(self, base: LoadedBase, **options: Any) -> None:
        self.base, self.ref = base, ModelRef(base.name)
        self.engine = TorchEngine(
            base.model, base.name, base.renderer.stop_ids, threads=1, tokenizer=base.tokenizer,
            decode_text=base.renderer.decode, **options,
        )  # fmt: skip
        self.prompt = base.renderer.encode("Where is it?")

    async def say(self, grammar: str | None, sampling: Sampling | None = None) -> Sample:
        drawn = sampling or Sampling(max_tokens=3000)
        return await self.engine.sample(self.prompt, self.ref, drawn, grammar)

    def text(self, sample: Sample) -> str:
        stops = self.base.renderer.stop_ids
        return self.base.renderer.decode([i for i in sample.ids if i not in stops])

    @torch.no_grad()
    def teacher(self, sample: Sample, grammar: str, temperature: float) -> list[float]:
        """Logprobs of a plain pass over the sample, renormalised over what the grammar allows."""
        model: Any = self.base.model
        ids = torch.tensor([[*self.prompt, *sample.ids]])
        rows = model(ids).logits[0, len(self.prompt) - 1 : -1] / temperature
        matcher = self.engine._grammars.matcher(grammar)
        found = []
        for row, token in zip(rows, sample.ids, strict=True):
            mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            allowed = np.unpackbits(mask, bitorder="little")[: len(row)].astype(bool)
            kept = row.masked_fill(~torch.from_numpy(allowed), -torch.inf)
            found.append(float(torch.log_softmax(kept, -1)[token]))
            assert matcher.consume_token(token)
        return found


@pytest.fixture(scope="module", params=TEMPLATES)
def held(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Held]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    made = Held(load_base(str(save_model(folder, request.param))))
    yield made
    made.engine.close()


def by_schema(schema: Any) -> str:
    options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return LLMatcher.grammar_from_json_schema(schema, overrides=options)  # type: ignore[arg-type]


def _range(low: int, high: int) -> Any:
    return st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)


STRINGS = st.one_of(
    _range(0, 6).map(lambda r: {"type": "string", "minLength": r[0], "maxLength": r[1]}),
    st.sampled_from(["^[a-z]{2,4}$", "^(a|bc)?[0-9]{3}$", "^é+!$"]).map(
        lambda p: {"type": "string", "pattern": p, "maxLength": 9}
    ),
    st.sampled_from(["date", "time", "uuid", "ipv4"]).map(
        lambda f: {"type": "string", "format": f}
    ),
)
TEXTS = st.lists(
    st.sampled_from(["a", "é", "e\u0301", '"', "\\", "\n", "\x01", "日", "<", "<tool_call>",
                     "</think>", "<|im_end|>", "<|eot_id|>"]), max_size=4,
).map("".join)  # fmt: skip
LISTED = st.lists(
    st.none() | st.booleans() | st.integers(-99, 99) | TEXTS,
    min_size=1, max_size=4,
).map(lambda values: {"enum": values})  # fmt: skip
NUMBERS = st.one_of(
    st.sampled_from(["integer", "number"]).map(lambda t: {"type": t}),
    _range(-999, 999).map(lambda r: {"type": "integer", "minimum": r[0], "maximum": r[1]}),
    _range(-9, 9).map(lambda r: {"type": "number", "minimum": r[0], "exclusiveMaximum": r[1] + 1}),
    st.integers(2, 9).map(lambda n: {"type": "integer", "multipleOf": n, "minimum": 0}),
)
SIMPLE = st.one_of(
    STRINGS, LISTED, NUMBERS, st.just({"type": "boolean"}), st.just({"type": ["null", "boolean"]}),
    st.just({"$ref": "#/$defs/shared"}),
)  # fmt: skip


def _object(properties: dict[str, Any], needed: set[str]) -> dict[str, Any]:
    required = sorted(needed & properties.keys())
    return {"type": "object", "properties": properties, "required": required,
            "additionalProperties": False}  # fmt: skip


def _nested(inner: Any) -> Any:
    names = TEXTS.filter(bool)
    return st.one_of(
        st.builds(_object, st.dictionaries(names, inner, max_size=3), st.sets(names, max_size=3)),
        st.tuples(inner, _range(0, 3)).map(
            lambda p: {"type": "array", "items": p[0], "minItems": p[1][0], "maxItems": p[1][1]}
        ),
        st.lists(inner, min_size=1, max_size=2).map(
            lambda parts: {
                "type": "array",
                "prefixItems": parts,
                "items": False,
                "minItems": len(parts),
            }
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        LISTED.map(
            lambda s: {
                "type": "object",
                "patternProperties": {"^[a-z]{1,3}$": s},
                "additionalProperties": False,
            }
        ),
    )


SHARED = {"$defs": {"shared": {"type": "array", "items": {"enum": ["x", 1]}, "maxItems": 2}}}
SCHEMAS = st.recursive(SIMPLE, _nested, max_leaves=6).map(lambda schema: {**SHARED, **schema})


@given(schemas=st.lists(SCHEMAS, min_size=12, max_size=12))
@settings(max_examples=10, deadline=None)
def test_whatever_a_random_model_says_is_valid(held: Held, schemas: list[Any]) -> None:
    async def all_at_once() -> list[Sample]:
        return await asyncio.gather(*(held.say(by_schema(s)) for s in schemas))

    for schema, sample in zip(schemas, asyncio.run(all_at_once()), strict=True):
        assert sample.finish_reason == "stop"
        jsonschema.validate(json.loads(held.text(sample)), schema)


RECORD: Any = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "n": {"type": "integer"}},
    "required": ["name", "n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
async def test_logprobs_are_of_what_the_grammar_allowed(held: Held, temperature: float) -> None:
    grammar = by_schema(RECORD)
    drawn = Sampling(temperature, max_tokens=60, seed=4)
    samples = await asyncio.gather(*(held.say(grammar, drawn) for _ in range(3)))
    for sample in samples:
        assert max_gap(sample.logprobs, held.teacher(sample, grammar, temperature or 1.0)) < 1e-4


async def test_a_grammar_beside_it_leaves_a_seeded_request_alone(held: Held) -> None:
    free = Sampling(0.8, top_p=0.9, max_tokens=40, seed=3)
    alone, grammar = await held.say(None, free), by_schema(RECORD)
    crowd = await asyncio.gather(
        held.say(None, free), *(held.say(grammar) for _ in range(9)), held.say(None, free)
    )
    for sample in (crowd[0], crowd[-1]):
        assert sample.ids == alone.ids
        assert max_gap(sample.logprobs, alone.logprobs) < 1e-4


async def test_a_sample_ends_where_nothing_but_the_stop_is_left(held: Held) -> None:
    fixed = await held.say('start: "ok" "!"')
    assert (held.text(fixed), fixed.finish_reason) == ("ok!", "stop")
    assert fixed.ids[-1] not in held.base.renderer.stop_ids
    exactly = await held.say('start: "ok"', Sampling(max_tokens=len(fixed.ids) - 1))
    assert (held.text(exactly), exactly.finish_reason) == ("ok", "stop")
    cut = await held.say('start: "ok" /[a-z]{40}/', Sampling(max_tokens=3))
    assert (len(cut.ids), cut.finish_reason) == (3, "length")
    open_ended = await held.say("start: /[0-9]+/", Sampling(max_tokens=500))
    assert open_ended.ids[-1] in held.base.renderer.stop_ids


REFUSED = [
    (by_schema({"type": "integer", "minimum": 5, "maximum": 3}), r"minimum \(5\) is greater"),
    (by_schema({"enum": []}), "anyOf is empty"),
    (by_schema({"allOf": [{"type": "string"}, {"type": "null"}]}), "incompatible types"),
    (by_schema({"type": "string", "pattern": "^a$", "minLength": 5}), "Regex is empty"),
    (by_schema({"$ref": "#"}), "nothing that ends follows it"),
    (by_schema({"type": "string", "pattern": "(?=a)b"}), "look-around"),
    ("start: start", "nothing that ends follows it"),
    ("start: (", "Expected token"),
    ("start: <|nobody|>", "unknown special token"),
    ("start: %json {", "EOF while parsing"),
    ("", "[Ee]mpty grammar"),
]


@pytest.mark.parametrize(("grammar", "why"), REFUSED)
async def test_what_nothing_can_follow_is_refused_in_one_line(
    held: Held, grammar: str, why: str
) -> None:
    before = held.engine.counters().prompt_tokens
    with pytest.raises(ValueError, match=why) as caught:
        await held.say(grammar)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert held.engine.counters().prompt_tokens == before


async def test_a_dead_end_fails_alone(held: Held) -> None:
    """A vocabulary without some byte comes where it cannot go on."""
    tokenizer = copy.deepcopy(held.base.tokenizer)
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = told["model"]["vocab"]
    vocabulary["unused"] = vocabulary.pop("~")
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(told))
    lacking = Held(replace(held.base, tokenizer=tokenizer))
    results = await asyncio.gather(
        lacking.say('start: "so" "~"'), lacking.say(by_schema(RECORD)), lacking.say(None),
        return_exceptions=True,
    )  # fmt: skip
    assert isinstance(results[0], EngineError)
    assert str(results[0]).startswith("the grammar cannot go on: ")
    assert "\n" not in str(results[0])
    for sample in results[1:]:
        assert isinstance(sample, Sample)
    assert lacking.engine.shards[0].load == 0
    assert (await lacking.say('start: "ok"')).finish_reason == "stop"
    lacking.engine.close()


async def test_what_waits_for_its_grammar_is_pending(held: Held) -> None:
    bounded = Held(held.base, max_pending=2)
    asked = [bounded.say(f'start: "ok{i}"') for i in range(20)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    bounded.engine.close()
    assert sum(isinstance(f, EngineBusyError) for f in found) == 18


async def test_a_grammar_needs_the_tokenizer(held: Held) -> None:
    engine = TorchEngine(held.base.model, held.base.name, (0,), threads=1)
    with pytest.raises(ValueError, match="no tokenizer"):
        await engine.sample(held.prompt, held.ref, Sampling(), 'start: "a"')
    engine.close()
