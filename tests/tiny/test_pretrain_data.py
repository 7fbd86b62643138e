"""What pretraining reads: drills that are true, and batches that follow from their seed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from tiny_pretrain.binding import NUMBERS
from tiny_pretrain.data import DRILLS, Batch, DataOptions, Encoder, chunk_batches
from tiny_pretrain.prepare import prepare
from tiny_pretrain.pseudo import pseudo_word
from understudy.core.chatml import call_error

SMALL = DataOptions(tokens=1024, chunk=12, longest=1024, chunks=4)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    run = tmp_path_factory.mktemp("run")
    prepare(run, 1)
    return Encoder(Path(run))


def drilled(name: str, encoder: Encoder, count: int = 120) -> Iterator[Any]:
    for seed in range(count):
        rng = Random(seed)
        parts = [*encoder.pieces, *(pseudo_word(rng) for _ in range(50))]
        yield DRILLS[name](rng, parts)


@pytest.mark.parametrize("name", DRILLS)
def test_a_drills_calls_fit_their_tools_and_its_probes_hold(name: str, encoder: Encoder) -> None:
    probes = 0
    for dialogue in drilled(name, encoder):
        assert dialogue.family == name
        assert dialogue.messages[-1]["role"] == "assistant"
        names = [t["function"]["name"] for t in dialogue.tools]
        assert len(set(names)) == len(names)
        opened: list[str] = []
        for message in dialogue.messages:
            if message["role"] == "tool":
                assert message["tool_call_id"] == opened.pop()
            for call in message.get("tool_calls") or ():
                assert call_error(call, dialogue.tools) is None, call
                opened = [call["id"]]
        for probe in dialogue.probes:
            probes += 1
            message = dialogue.messages[probe.message]
            assert message["role"] == "assistant"
            if isinstance(probe.expected, str):
                assert message["content"] == probe.expected != ""
            else:
                function = message["tool_calls"][0]["function"]
                said = {"name": function["name"], "arguments": json.loads(function["arguments"])}
                assert said == probe.expected
    assert probes > 250


@pytest.mark.parametrize("name", DRILLS)
def test_what_a_drill_expects_was_said_before(name: str, encoder: Encoder) -> None:
    for dialogue in drilled(name, encoder):
        for probe in dialogue.probes:
            if isinstance(probe.expected, str) and name == "binding":
                continue  # a question for what is missing
            values = probe.expected
            values = list(values["arguments"].values()) if isinstance(values, dict) else [values]
            before = dialogue.messages[: probe.message]
            text = " ".join(m.get("content") or "" for m in before).lower()
            text = re.sub(r"\\u[0-9a-f]{4}", lambda m: json.loads(f'"{m.group()}"'), text)
            for value in values:
                shown = value if isinstance(value, str) else json.dumps(value)
                words = [NUMBERS[value]] if type(value) is int and value < 13 else []
                assert any(w.lower() in text for w in (shown, *words)), (value, text)


def test_a_chunk_follows_from_its_seed_rank_and_number(encoder: Encoder) -> None:
    first = chunk_batches(encoder, SMALL, 5, 0, 1)
    again = chunk_batches(encoder, SMALL, 5, 0, 1)
    assert len(first) == len(again)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.ids, b.ids)
        assert np.array_equal(a.weight, b.weight)
    for other in ((6, 0, 1), (5, 1, 1), (5, 0, 2)):
        assert not np.array_equal(chunk_batches(encoder, SMALL, *other)[0].ids, first[0].ids)


def test_batches_hold_whole_documents_and_the_token_after_each_position(encoder: Encoder) -> None:
    batches: list[Batch] = [b for c in range(4) for b in chunk_batches(encoder, SMALL, 1, 0, c)]
    assert [b.final for b in chunk_batches(encoder, SMALL, 1, 0, 0)][-1]
    for batch in batches:
        assert sum(batch.lengths) <= len(batch.ids) == SMALL.tokens
        ends = np.cumsum(batch.lengths)
        for begin, end in zip(ends - batch.lengths, ends, strict=True):
            assert batch.position[begin:end].tolist() == list(range(end - begin))
            assert batch.ids[begin] == encoder.start
        real = batch.weight > 0
        assert real.any()
        assert np.array_equal(batch.target[real], batch.ids[batch.pick[real] + 1])
        assert not set((batch.pick[real] + 1).tolist()) & set(ends.tolist())
