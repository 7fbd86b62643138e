"""The cache's blocks, admission by memory, prompts in pieces, and room made for others."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openai
import pytest
import torch
from engine_models import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_exactness import BASE, engine_for, max_gap, prompts_for, teacher_logprobs

from understudy.core.chatml import ChatMLRenderer
from understudy.core.types import ModelRef, Sample, Sampling
from understudy.engine.cache import BLOCK, Cache, Ids, Slot, blocks_for
from understudy.engine.errors import EngineBusyError, EngineError
from understudy.engine.pending import Pending
from understudy.engine.server import Server, server_url, start_server
from understudy.engine.torch_engine import TorchEngine
from understudy.engine.weights import shape_of
from understudy.models.adapters import save_adapter
from understudy.models.lora import LoraConfig, adapter_tensors, inject_lora

TOKEN = (
    3 * 2 * 2 * 32 * 4
)  # bytes of the test model's keys and values: layers, k and v, heads, D, 4


def consistent(cache: Cache) -> None:
    """Every block is free or held, as often as it is referred to, and the budget is kept."""
    held = Counter(
        b for s in cache.slots for b in cache.tables[s.index, : cache.counts[s.index]].tolist()
    )
    assert {b: int(n) for b, n in enumerate(cache.refs) if n} == held
    assert set(cache.free) == {b for b, n in enumerate(cache.refs) if n == 0}
    assert len(cache.free) == len(set(cache.free))
    assert cache.room() >= 0
    for entry in cache.entries:
        assert entry.leaning == sum(s.entry is entry for s in cache.slots)
    for slot in cache.slots:
        rows = int(cache.lengths[slot.index] - cache.plens[slot.index])
        assert blocks_for(rows) <= cache.counts[slot.index]


def placed(cache: Cache, of: object, ids: Ids) -> Slot:
    """A slot that runs these ids, as far as can be on what is there."""
    match = cache.match(of, ids)
    slot = cache.take(keep=match.slot)
    assert slot is not None
    if match.length:
        cache.adopt(slot, match)
    cache.reserve(slot, len(ids))
    cache.activate(slot, of, ids, 100)
    cache.lengths[slot.index] = len(ids)
    return slot


def test_a_block_that_others_share_is_not_written_to() -> None:
    """One of two sequences that share a block goes another way in the middle of it."""
    shape = shape_of(make_model().config)
    cache = Cache(shape, 4, torch.float32, torch.device("cpu"), 24 * BLOCK)
    model, ids = object(), np.arange(BLOCK + 10, dtype=np.int32)
    first, second = placed(cache, model, ids), placed(cache, model, ids)
    assert cache.tables[first.index, 0] == cache.tables[second.index, 0]
    cache.release(first)
    cache.truncate(first, BLOCK // 2)
    cache.reserve(first, BLOCK)
    held = cache.lengths[first.index]
    assert held == 0 or cache.tables[first.index, 0] != cache.tables[second.index, 0]
    consistent(cache)


def test_no_model_finds_what_lies_there_for_another() -> None:
    """Neither in a slot nor in a prefix entry; of its own it finds all."""
    cache = Cache(shape_of(make_model().config), 6, torch.float32, torch.device("cpu"), 24 * BLOCK)
    own, other, ids = object(), object(), np.arange(100, dtype=np.int32)
    cache.crowd = 3 * 96
    for n in range(4):
        placed(cache, own, ids)
        assert cache.match(other, ids).length == 0
        assert len(cache.entries) == (n > 1)  # three of them run
    assert all(s.entry is cache.entries[0] for s in cache.slots if s.of is own)
    consistent(cache)
    assert cache.match(own, ids).length == 99


class Histories:
    """Sequences of a few branching histories of two models in a small cache. The keys are written
    as the ids, above 100 for the second model, so that what a slot holds can be read back."""

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw
        shape = shape_of(make_model().config)
        self.cache = Cache(shape, 6, torch.float32, torch.device("cpu"), 24 * BLOCK)
        self.cache.crowd = self.draw(st.sampled_from((0, 3 * BLOCK, 300)))
        self.models = [object(), object()]
        self.active: list[Slot] = []

    def come(self) -> None:
        if len(self.active) == 5:
            return
        cache, model = self.cache, self.draw(st.sampled_from(self.models))
        parts = self.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
        story = [np.random.RandomState(p + 7 * i).randint(0, 99, 2 * BLOCK)
                 for i, p in enumerate(parts)]  # fmt: skip
        ids = np.concatenate(story)[: self.draw(st.integers(2, 5 * BLOCK))].astype(np.int32)
        match = cache.match(model, ids)
        slot = match.slot if match.in_place else cache.take(keep=match.slot)
        if slot is not None and not match.in_place and match.length:
            cache.adopt(slot, match)
        if slot is not None and not self._start(slot, model, ids) and not match.in_place:
            cache.clear(slot)

    def grow(self) -> None:
        if self.active:
            slot = self.draw(st.sampled_from(self.active))
            n, more = int(self.cache.lengths[slot.index]), self.draw(st.integers(1, 20))
            if n + more < 400 and self.cache.reserve(slot, n + more):
                self.cache.ids[slot.index, n : n + more] = self.draw(st.integers(0, 99))
                self._write(slot.index, n, n + more)

    def end(self) -> None:
        if self.active:
            self.cache.release(self.active.pop(self.draw(st.integers(0, len(self.active) - 1))))

    def turn(self) -> None:
        """An idle sequence is cut and goes another way from there."""
        idle = [s for s in self.cache.slots if self.cache.idle[s.index]]
        if idle:
            slot = self.draw(st.sampled_from(idle))
            self.cache.truncate(
                slot, self.draw(st.integers(0, int(self.cache.lengths[slot.index])))
            )
            kept = self.cache.ids[slot.index, : int(self.cache.lengths[slot.index])]
            more = self.draw(st.lists(st.integers(0, 99), min_size=1, max_size=50))
            self._start(slot, slot.of, np.array([*kept, *more], dtype=np.int32))

    def drop(self) -> None:
        self.cache.drop(self.draw(st.sampled_from(self.models)))

    def _start(self, slot: Slot, model: object, ids: Ids) -> bool:
        if not self.cache.reserve(slot, len(ids)):
            return False
        self.cache.activate(slot, model, ids, len(ids) + 200)
        self._write(slot.index, int(self.cache.lengths[slot.index]), len(ids))
        self.active.append(slot)
        return True

    def _write(self, slot: int, first: int, last: int) -> None:
        for p in range(first, last):
            row = p - int(self.cache.plens[slot])
            block = int(self.cache.tables[slot, row // BLOCK])
            for kv in self.cache.kv:
                kv[block, :, :, row % BLOCK] = int(self.cache.ids[slot, p]) + self._base(slot)
        self.cache.lengths[slot] = last

    def _base(self, slot: int) -> int:
        return 100 * self.models.index(self.cache.slots[slot].of)

    def check(self) -> None:
        cache = self.cache
        consistent(cache)
        for slot in (s.index for s in cache.slots if s.of is not None):
            n, plen = int(cache.lengths[slot]), int(cache.plens[slot])
            own = cache.rows(1, slot, n - plen)[0, 0, :, 0].numpy()
            entry = cache.slots[slot].entry
            before = [] if entry is None else entry.kv[1, 0, 0, :plen, 0].numpy()
            expected = cache.ids[slot, :n] + self._base(slot)
            assert np.concatenate([before, own]).tolist() == expected.tolist()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_whatever_comes_and_goes_each_sequence_finds_its_own_keys(data: st.DataObject) -> None:
    histories = Histories(data)
    for _ in range(data.draw(st.integers(5, 30))):
        getattr(histories, data.draw(st.sampled_from(["come", "grow", "end", "turn", "drop"])))()
        histories.check()


@pytest.mark.parametrize("kernel", ["auto", "off"])
async def test_prompts_in_pieces_give_the_same(kernel: str) -> None:
    """Prompts of up to 500 tokens fed 48 at a time, beside others that decode."""
    model = make_model()
    whole, pieces = (
        engine_for(model, kernel=kernel),
        engine_for(model, kernel=kernel, wave_tokens=48),
    )
    prompts = prompts_for(8, 500, random.Random(2))
    found = []
    for engine in (whole, pieces):
        samples = [
            engine.sample(p, BASE, Sampling(max_tokens=20, seed=i)) for i, p in enumerate(prompts)
        ]
        found.append(await asyncio.gather(*samples))
        engine.close()
    for a, b, prompt in zip(*found, prompts, strict=True):
        assert a.ids == b.ids
        assert max_gap(b.logprobs, teacher_logprobs(model, prompt, b)) < 1e-4


async def test_who_makes_room_draws_the_same_tokens() -> None:
    """Twelve requests in a memory for about four: some start, grow, and have to go on later."""
    model = make_model()
    roomy = engine_for(model, threads=1)
    tight = engine_for(model, threads=1, memory=700 * TOKEN, context=400)
    prompts = prompts_for(12, 100, random.Random(3))
    sampling = [Sampling(max_tokens=150, seed=i) for i in range(len(prompts))]
    chunks: dict[int, list[int]] = {i: [] for i in range(len(prompts))}
    expected = await asyncio.gather(
        *(roomy.sample(p, BASE, s) for p, s in zip(prompts, sampling, strict=True))
    )
    samples = await asyncio.gather(
        *(
            tight.sample(p, BASE, s, on_chunk=chunks[i].extend)
            for i, (p, s) in enumerate(zip(prompts, sampling, strict=True))
        )
    )
    preempted, cache = tight.counters().preempted, tight.shards[0].cache
    roomy.close(), tight.close()
    assert preempted > 0
    assert cache.max_blocks * BLOCK <= 700
    consistent(cache)
    for i, (a, b) in enumerate(zip(expected, samples, strict=True)):
        assert a.ids == b.ids
        assert chunks[i] == list(b.ids)
        assert max_gap(b.logprobs, teacher_logprobs(model, prompts[i], b)) < 1e-4


async def test_a_thousand_requests_on_a_small_memory() -> None:
    """Those above the bound are told to come later; every other is answered."""
    engine = engine_for(make_model(), threads=1, memory=640 * TOKEN, max_pending=400)
    prompts = prompts_for(1000, 40, random.Random(4))
    found = await asyncio.gather(
        *(engine.sample(p, BASE, Sampling(max_tokens=3)) for p in prompts), return_exceptions=True
    )
    engine.close()
    busy = [f for f in found if isinstance(f, EngineBusyError)]
    assert all(1 <= b.retry_after_s <= 60 for b in busy)
    assert 0 < len(busy) <= 600
    answered = [f for f in found if isinstance(f, Sample)]
    assert len(answered) + len(busy) == 1000
    assert all(len(a.ids) == 3 or a.ids[-1] == 2 for a in answered)


async def test_too_many_requests_over_http_are_told_when_to_come_back(
    renderer: ChatMLRenderer,
) -> None:
    """The official client, which by itself would wait and try again, sees 429 and Retry-After."""
    engine = TorchEngine(
        make_model(), "tiny", renderer.stop_ids, threads=1, memory=640 * TOKEN, max_pending=2
    )
    runner = await start_server(Server(engine, renderer, renderer.decode, renderer.encode))
    client = openai.AsyncOpenAI(base_url=f"{server_url(runner)}/v1", api_key="-", max_retries=0)
    asked = [
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=30
        )
        for _ in range(20)
    ]
    found = await asyncio.gather(*asked, return_exceptions=True)
    refused = [f for f in found if isinstance(f, openai.RateLimitError)]
    patient = await client.with_options(max_retries=10).chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=3
    )
    await runner.cleanup()
    await engine.aclose()
    assert refused
    assert all(int(r.response.headers["retry-after"]) >= 1 for r in refused)
    assert len(refused) + sum(not isinstance(f, BaseException) for f in found) == 20
    assert patient.choices[0].finish_reason


async def test_what_waits_for_an_adapter_is_pending_too(tmp_path: Path) -> None:
    model, config = make_model(), LoraConfig(rank=2)
    inject_lora(model, config)
    save_adapter(tmp_path / "a", adapter_tensors(model), config, "base")
    engine = engine_for(make_model(), max_pending=2)
    disk = engine.register(ModelRef("base", "a"), str(tmp_path / "a"))
    for ref in (BASE, disk):
        asked = [engine.sample([5] * 9, ref, Sampling(max_tokens=3)) for _ in range(20)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(f, EngineBusyError) for f in found) == 18
    engine.close()


async def test_when_to_come_back_is_told_by_how_long_requests_take() -> None:
    pending = Pending(1)
    assert pending.retry_after() == 1
    with pending.one():
        with pytest.raises(EngineBusyError), pending.one():
            pass
        assert pending.count == 1
    pending._seconds.clear()
    pending._seconds.extend([20.0] * 5)
    assert pending.retry_after() == 10
    pending._seconds.extend([1000.0] * 100)
    assert pending.retry_after() == 60


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 (another thread brings it about)
            await asyncio.sleep(0)


async def test_who_has_gone_is_forgotten_behind_one_that_waits() -> None:
    """Two requests are given up while one without room stands before them."""
    engine = engine_for(make_model(), threads=1, max_slots=1)
    running = asyncio.Event()
    long = Sampling(max_tokens=300, temperature=0, stop=())
    first = asyncio.create_task(
        engine.sample([7] * 8, BASE, long, on_chunk=lambda _: running.set())
    )
    await running.wait()
    behind = [asyncio.create_task(engine.sample([8] * 8, BASE, long)) for _ in range(3)]
    await asyncio.sleep(0)
    assert engine.shards[0].load == 4
    for task in behind[1:]:
        task.cancel()
    steps = engine.counters().steps
    await until(lambda: engine.counters().steps > steps + 2)
    assert engine.shards[0].load == 2
    assert not first.done()
    behind[0].cancel()
    await first
    engine.close()


async def test_a_stop_string_needs_a_decoder() -> None:
    engine = engine_for(make_model(), threads=1)
    with pytest.raises(ValueError, match="decoder"):
        await engine.sample([5] * 9, BASE, Sampling(max_tokens=3, stop=("x",)))
    engine.close()


async def test_a_small_memory_lowers_the_context() -> None:
    engine = engine_for(make_model(), threads=1, memory=128 * TOKEN)
    with pytest.raises(ValueError, match="the model's context is 128"):
        await engine.sample([5] * 128, BASE, Sampling(max_tokens=4))
    sample = await engine.sample([5] * 100, BASE, Sampling(max_tokens=400, temperature=0))
    engine.close()
    assert len(sample.ids) <= 28
    with pytest.raises(ValueError, match="hold no block"):
        engine_for(make_model(), threads=1, memory=10)


async def test_a_nan_in_one_sequence_fails_that_request_alone() -> None:
    """The base's embedding of one id is NaN: who is fed it fails, the others go on."""
    model = make_model()
    engine = engine_for(model, threads=1)
    prompts = [[x for x in p if x != 77] for p in prompts_for(6, 60, random.Random(5))]
    alone = [await engine.sample(p, BASE, Sampling(max_tokens=8, seed=1)) for p in prompts]
    engine.close()
    with torch.no_grad():
        model.model.embed_tokens.weight[77] = torch.nan
    model.config.tie_word_embeddings = False  # the head stays whole
    model.lm_head.weight = torch.nn.Parameter(make_model().lm_head.weight.detach().clone())
    engine = engine_for(model, threads=1)
    bad = [*prompts[0][:20], 77, *prompts[0][20:]]
    found = await asyncio.gather(
        *(engine.sample(p, BASE, Sampling(max_tokens=8, seed=1)) for p in [bad, *prompts]),
        return_exceptions=True,
    )
    again = await engine.sample(prompts[0], BASE, Sampling(max_tokens=8, seed=1))
    engine.close()
    assert isinstance(found[0], EngineError)
    assert [f.ids for f in found[1:]] == [a.ids for a in alone]  # type: ignore[union-attr]
    assert again.ids == alone[0].ids
