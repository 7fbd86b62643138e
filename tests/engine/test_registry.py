"""Adapters on disk, in memory and in flight: slots, pins, versions, what is cached meanwhile."""

import asyncio
import gc
import random
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import make_model
from test_adapters import adapted
from test_engine_exactness import BASE, engine_for, max_gap, prompts_for, teacher_logprobs

from understudy.core.types import ModelRef, Sampling
from understudy.engine.errors import EngineError
from understudy.engine.torch_engine import TorchEngine, UnknownModelError
from understudy.models.adapters import save_adapter
from understudy.models.lora import adapter_tensors

GREEDY = Sampling(max_tokens=12, temperature=0)
LONG = Sampling(max_tokens=200, logit_bias=((2, -100.0),))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, Path]]:
    """Six adapters on disk, each with the model that has it."""
    folder = tmp_path_factory.mktemp("adapters")
    found = []
    for seed in range(6):
        model, config = adapted("qwen3", seed + 1)
        path = save_adapter(folder / f"a{seed}", adapter_tensors(model), config, "base")
        found.append((model, path))
    return found


def serving(stored: list[tuple[Any, Path]], **options: Any) -> tuple[TorchEngine, list[ModelRef]]:
    engine = engine_for(make_model(), **options)
    names = [ModelRef("base", f"a{i}") for i in range(len(stored))]
    return engine, [engine.register(n, str(p)) for n, (_, p) in zip(names, stored, strict=True)]


async def test_more_adapters_than_slots_each_answers_as_itself(stored: Any) -> None:
    engine, refs = serving(stored, slots=2)
    prompts = prompts_for(30, 40, random.Random(1))
    samples = await asyncio.gather(
        *(engine.sample(p, refs[i % 6], GREEDY) for i, p in enumerate(prompts))
    )
    assert engine.registry.in_memory <= 2
    assert engine.registry.evictions == engine.registry.loads - engine.registry.in_memory
    engine.close()
    for i, sample in enumerate(samples):
        assert sample.model == refs[i % 6]
        expected = teacher_logprobs(stored[i % 6][0], prompts[i], sample)
        assert max_gap(sample.logprobs, expected) < 1e-4


async def test_prefixes_outlive_the_weights_but_not_a_new_file(stored: Any, tmp_path: Path) -> None:
    """An adapter that was sent out finds its prefix again; once its file is written anew, not."""
    path = tmp_path / "a"
    first, config = adapted("qwen3", 1)
    save_adapter(path, adapter_tensors(first), config, "base")
    engine, refs = serving(stored, slots=1)
    ref = engine.register(ModelRef("base", "mine"), str(path))
    prompt = prompts_for(1, 90, random.Random(2))[0]
    assert (await engine.sample(prompt, ref, GREEDY)).cached_tokens == 0
    await engine.sample(prompt, refs[1], GREEDY)
    again = await engine.sample(prompt, ref, GREEDY)
    assert again.cached_tokens == len(prompt) - 1
    await engine.sample(prompt, refs[1], GREEDY)
    second, config = adapted("qwen3", 9)
    save_adapter(path, adapter_tensors(second), config, "base")
    anew = await engine.sample(prompt, ref, GREEDY)
    engine.close()
    assert anew.cached_tokens == 0
    assert max_gap(anew.logprobs, teacher_logprobs(second, prompt, anew)) < 1e-4


async def test_a_pinned_adapter_stays_and_full_slots_are_said(stored: Any) -> None:
    engine, refs = serving(stored, slots=1)
    await engine.load(ModelRef("base", "kept", 1), str(stored[0][1]), pinned=True)
    prompt = prompts_for(1, 20, random.Random(3))[0]
    with pytest.raises(EngineError, match="pinned"):
        await engine.sample(prompt, refs[1], GREEDY)
    await engine.sample(prompt, ModelRef("base", "kept"), GREEDY)
    assert engine.registry.loads == 1
    engine.close()


async def test_nobody_waits_for_ever_behind_a_busy_adapter(stored: Any) -> None:
    """One adapter is asked again and again, always in flight; another has its turn."""
    engine, refs = serving(stored, slots=1)
    prompt = prompts_for(1, 20, random.Random(4))[0]
    answered = asyncio.Event()

    async def again_and_again() -> int:
        n = 0
        while not answered.is_set():
            await engine.sample(prompt, refs[0], GREEDY)
            n += 1
        return n

    busy = [asyncio.create_task(again_and_again()) for _ in range(4)]
    await engine.sample(prompt, refs[0], GREEDY)
    async with asyncio.timeout(30):
        sample = await engine.sample(prompt, refs[1], GREEDY)
    answered.set()
    counts = await asyncio.gather(*busy)
    engine.close()
    assert sample.model == refs[1]
    assert min(counts) > 0


async def test_the_working_set_above_the_slots_raises_an_alarm(
    stored: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine, refs = serving(stored, slots=3)
    prompt = prompts_for(1, 10, random.Random(5))[0]
    for i in range(3):
        await engine.sample(prompt, refs[i], Sampling(max_tokens=1))
    assert not engine.registry.alarmed
    assert not caplog.records
    for i in range(6):
        await engine.sample(prompt, refs[i], Sampling(max_tokens=1))
    engine.close()
    assert engine.registry.alarmed
    assert engine.registry.working_set == 6
    assert len([r for r in caplog.records if "slots" in r.getMessage()]) == 1


async def test_a_file_that_breaks_meanwhile_fails_its_requests_alone(
    stored: Any, tmp_path: Path
) -> None:
    model, config = adapted("qwen3", 1)
    path = save_adapter(tmp_path / "a", adapter_tensors(model), config, "base")
    engine, refs = serving(stored, slots=2)
    ref = engine.register(ModelRef("base", "mine"), str(path))
    (path / "adapter_model.safetensors").write_bytes(b"\x10" * 100)
    prompt = prompts_for(1, 20, random.Random(6))[0]
    found = await asyncio.gather(
        *(engine.sample(prompt, r, GREEDY) for r in (ref, refs[0], refs[1], ref)),
        return_exceptions=True,
    )
    with pytest.raises(ValueError, match="corrupt"):
        await engine.load(ModelRef("base", "mine"), str(path))
    engine.close()
    assert [isinstance(f, EngineError) for f in found] == [True, False, False, True]
    assert "corrupt" in str(found[0])


async def test_replacing_one_adapter_under_load(stored: Any) -> None:
    """While five adapters answer, one is replaced in place again and again, its prefixes cached:
    each of its answers is wholly of the version that it says, and no other's changes."""
    engine = engine_for(make_model())
    for i, (model, _) in enumerate(stored[:5]):
        engine.load_weights(
            ModelRef("base", f"a{i}"), adapter_tensors(model), adapted("qwen3", i)[1]
        )
    prompts = prompts_for(5, 80, random.Random(7))
    before = [await engine.sample(prompts[i], ModelRef("base", f"a{i}"), GREEDY) for i in range(5)]
    versions: dict[int, Any] = {1: stored[0][0]}
    stop = asyncio.Event()

    async def replace() -> None:
        for version in range(2, 8):
            model, config = adapted("qwen3", 20 + version)
            versions[version] = model
            engine.load_weights(ModelRef("base", "a0"), adapter_tensors(model), config)
            for _ in range(3):
                await engine.sample(prompts[0], BASE, Sampling(max_tokens=2))
        stop.set()

    async def ask(i: int) -> list[Any]:
        found = []
        while not stop.is_set():
            found.append(await engine.sample(prompts[i], ModelRef("base", f"a{i}"), GREEDY))
        return found

    replacing = asyncio.create_task(replace())
    found = await asyncio.gather(*(ask(i) for i in range(5)))
    await replacing
    last = await engine.sample(prompts[0], ModelRef("base", "a0"), GREEDY)
    engine.close()
    for i in range(1, 5):
        assert {f.ids for f in found[i]} == {before[i].ids}
    seen = {f.model.version for f in found[0]} | {last.model.version}
    assert len(seen) > 2
    assert last.model.version == 7
    for f in [*found[0], last]:
        expected = teacher_logprobs(versions[f.model.version], prompts[0], f)
        assert max_gap(f.logprobs, expected) < 1e-4


def test_an_unknown_name_says_what_there_is(stored: Any) -> None:
    engine, _ = serving(stored)
    with pytest.raises(UnknownModelError, match="a0@1, a1@1"):
        engine.resolve(ModelRef("base", "nobody"))
    with pytest.raises(UnknownModelError, match="on disk"):
        engine.resolve(ModelRef("base", "a1"))
    engine.close()


def alive(tensors: list[weakref.ref[torch.Tensor]]) -> int:
    gc.collect()
    return sum(t() is not None for t in tensors)


async def test_what_was_sent_out_has_left_the_memory(stored: Any) -> None:
    """Its keys and values stay, its weights do not."""
    engine, refs = serving(stored, slots=1)
    seen: dict[int, weakref.ref[torch.Tensor]] = {}
    for i in range(12):
        await engine.sample(prompts_for(1, 40, random.Random(i % 6))[0], refs[i % 6], GREEDY)
        tensor = engine.resolve(refs[i % 6]).lora[0]["o"].a
        seen[i] = weakref.ref(tensor)
        del tensor
    assert alive(list(seen.values())) == 1
    engine.close()


async def test_the_one_asked_for_longest_ago_goes(stored: Any) -> None:
    engine, refs = serving(stored, slots=2)
    for i in (0, 1, 0, 2):
        await engine.sample([5] * 9, refs[i], Sampling(max_tokens=1))
    held = [engine.registry.find(r).model is not None for r in refs[:3]]
    engine.close()
    assert held == [True, False, True]


async def test_slots_are_given_in_the_order_of_asking(stored: Any) -> None:
    engine, refs = serving(stored, slots=1)
    running = asyncio.Event()
    first = engine.sample([5] * 9, refs[0], LONG, on_chunk=lambda _: running.set())
    tasks = [asyncio.create_task(first)]
    await running.wait()
    ended: list[int] = []

    async def ask(i: int) -> None:
        await engine.sample([5] * 9, refs[i], Sampling(max_tokens=1))
        ended.append(i)

    for i in (3, 1, 4, 2):
        tasks.append(asyncio.create_task(ask(i)))
    await asyncio.gather(*tasks)
    engine.close()
    assert ended == [3, 1, 4, 2]


async def test_as_many_are_emptied_as_are_asked_for(stored: Any) -> None:
    """Of three that answer, two take no more requests while two others wait."""
    engine, refs = serving(stored, slots=3)
    tasks = []
    for ref in refs[:3]:
        running = asyncio.Event()
        answer = engine.sample([5] * 9, ref, LONG, on_chunk=lambda _, e=running: e.set())
        tasks.append(asyncio.create_task(answer))
        await running.wait()
    tasks += [
        asyncio.create_task(engine.sample([5] * 9, refs[i], Sampling(max_tokens=1))) for i in (3, 4)
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    leaving = [engine.registry.find(r).leaving is not None for r in refs[:3]]
    await asyncio.gather(*tasks)
    engine.close()
    assert leaving == [True, True, False]


async def test_a_file_that_is_replaced_while_it_is_read_has_no_prefixes(
    stored: Any, tmp_path: Path
) -> None:
    """Old keys and values belong to the old weights, whenever the new ones came."""
    path = tmp_path / "a"
    first, config = adapted("qwen3", 1)
    second, _ = adapted("qwen3", 9)
    save_adapter(path, adapter_tensors(first), config, "base")
    engine, refs = serving(stored, slots=1)
    ref = engine.register(ModelRef("base", "mine"), str(path))
    prompt = prompts_for(1, 90, random.Random(2))[0]
    await engine.sample(prompt, ref, GREEDY)
    await engine.sample(prompt, refs[1], GREEDY)
    read = engine.registry._read

    def replaced_meanwhile(ref: ModelRef, path: str) -> Any:
        save_adapter(path, adapter_tensors(second), config, "base")
        return read(ref, path)

    engine.registry._read = replaced_meanwhile
    anew = await engine.sample(prompt, ref, GREEDY)
    engine.close()
    assert anew.cached_tokens == 0
    assert max_gap(anew.logprobs, teacher_logprobs(second, prompt, anew)) < 1e-4


async def test_loading_is_no_traffic(stored: Any, caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_for(make_model(), slots=2)
    for i, (_, path) in enumerate(stored):
        await engine.load(ModelRef("base", f"a{i}"), str(path))
    engine.close()
    assert not engine.registry.alarmed
    assert engine.registry.working_set == 0
    assert not caplog.records


async def test_a_load_that_finds_no_slot_leaves_the_name_as_it_was(stored: Any) -> None:
    engine, _ = serving([], slots=1)
    kept, other = ModelRef("base", "kept"), ModelRef("base", "other")
    await engine.load(kept, str(stored[0][1]), pinned=True)
    for ref in (kept, other):
        with pytest.raises(EngineError, match="pinned"):
            await engine.load(ref, str(stored[1][1]))
    assert (await engine.sample([5] * 9, kept, GREEDY)).model == ModelRef("base", "kept", 1)
    with pytest.raises(UnknownModelError):
        engine.registry.find(other)
    engine.close()


async def test_a_version_is_never_given_twice_and_an_old_one_refused(stored: Any) -> None:
    engine, _ = serving([])
    name, paths = ModelRef("base", "a"), [str(p) for _, p in stored]
    for path in paths[:3]:
        await engine.load(name, path)
    with pytest.raises(ValueError, match="older than the 2 versions"):
        await engine.load(ModelRef("base", "a", 1), paths[0])
    await engine.unload(ModelRef("base", "a", 3))
    await engine.load(name, paths[4])
    versions = {m.ref.version for m in engine.models() if m.ref.adapter}
    engine.close()
    assert versions == {2, 4}


async def test_few_tokens_merge_no_adapter(stored: Any) -> None:
    engine, refs = serving(stored)
    merged = engine.shards[0]._merged
    await engine.sample([5] * 60, refs[0], Sampling(max_tokens=1))
    assert not merged
    await engine.sample([6] * 300, refs[0], Sampling(max_tokens=1))
    assert len(merged) == 1
    engine.close()
