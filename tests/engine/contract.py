"""What every engine must do, as cases over an `Engine` and nothing else.

A `Subject` is an engine with a base of 300 tokens called "base", which stops at STOPS, and adapter
folders that fit it. test_contract.py runs each case on each engine.
"""

import asyncio
import json
import math
import random
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from understudy.core.protocols import Engine
from understudy.core.types import ModelRef, Sample, Sampling
from understudy.engine.errors import UnknownModelError

VOCAB, CONTEXT = 300, 1024
BASE = ModelRef("base")
STOPS = tuple(range(200, 212))


@dataclass
class Subject:
    engine: Engine
    endless: Engine  # the same without stop ids
    adapters: list[Path]  # folders of four adapters
    wide: Path  # of one for another base
    drawn: Callable[[], Awaitable[int]]  # tokens that `endless` sampled so far
    running: Callable[[], Awaitable[int]]  # requests that it is answering
    decode: Callable[[list[int]], str]
    special: tuple[int, ...] = ()  # ids that are no text
    constrained: bool = True  # has constrained decoding


def prompt(n: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(20, 200) for _ in range(n)]


def gap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


async def scored(subject: Subject, ids: list[int], sample: Sample) -> tuple[float, ...]:
    """The teacher-forced logprobs of what was sampled after these ids."""
    scores = await subject.engine.score([*ids, *sample.ids], sample.model)
    return scores.logprobs[len(ids) - 1 :]


async def logprobs_are_the_teacher_forced_ones(subject: Subject) -> None:
    prompts = [prompt(5 + 7 * n, n) for n in range(8)]
    options = Sampling(max_tokens=12)
    samples = await asyncio.gather(*(subject.engine.sample(p, BASE, options) for p in prompts))
    for ids, s in zip(prompts, samples, strict=True):
        assert s.model == BASE
        assert 1 <= len(s.ids) <= 12
        assert all(0 <= i < VOCAB for i in s.ids)
        assert gap(s.logprobs, await scored(subject, ids, s)) < 1e-4


async def greedy_takes_the_likeliest(subject: Subject) -> None:
    ids = prompt(30)
    s = await subject.engine.sample(ids, BASE, Sampling(0.0, max_tokens=10))
    scores = await subject.engine.score([*ids, *s.ids], BASE, top_k=3)
    assert len(scores.top) == len(scores.logprobs) == len(ids) + len(s.ids) - 1
    for n, token in enumerate(s.ids):
        top = scores.top[len(ids) - 1 + n]
        assert [v for _, v in top] == sorted((v for _, v in top), reverse=True)
        assert len(top) == 3
        near = [i for i, v in top if top[0][1] - v < 1e-5]
        assert token in near
    assert gap(s.logprobs, scores.logprobs[len(ids) - 1 :]) < 1e-4


async def logprobs_are_of_the_narrowed_distribution(subject: Subject) -> None:
    ids = prompt(20)
    s = await subject.engine.sample(ids, BASE, Sampling(0.7, top_k=2, max_tokens=12, seed=1))
    top = (await subject.engine.score([*ids, *s.ids], BASE, top_k=2)).top[len(ids) - 1 :]
    for token, logprob, two in zip(s.ids, s.logprobs, top, strict=True):
        weights = {i: math.exp(v / 0.7) for i, v in two}
        assert abs(logprob - math.log(weights[token] / sum(weights.values()))) < 1e-3
    surest = await subject.engine.sample(ids, BASE, Sampling(top_p=1e-6, max_tokens=5))
    assert gap(surest.logprobs, (0.0,) * len(surest.ids)) < 1e-5


async def the_likeliest_are_told(subject: Subject) -> None:
    ids, options = prompt(20), Sampling(max_tokens=12, seed=2, top_logprobs=4)
    s = await subject.engine.sample(ids, BASE, options)
    streamed = await subject.engine.sample(ids, BASE, options, on_chunk=lambda _: None)
    top = (await subject.engine.score([*ids, *s.ids], BASE, top_k=4)).top[len(ids) - 1 :]
    for told, again, wanted in zip(s.top, streamed.top, top, strict=True):
        assert [i for i, _ in told] == [i for i, _ in again] == [i for i, _ in wanted]
        assert gap(*(tuple(v for _, v in pairs) for pairs in (told, wanted))) < 1e-4
    two = Sampling(0.7, top_k=2, max_tokens=6, seed=2, top_logprobs=5)
    for token, logprob, told in (
        (i, p, dict(t))
        for x in [await subject.engine.sample(ids, BASE, two)]
        for i, p, t in zip(x.ids, x.logprobs, x.top, strict=True)
    ):
        assert len(told) == 2
        assert abs(told[token] - logprob) < 1e-5
    assert (await subject.engine.sample(ids, BASE, Sampling(max_tokens=2))).top == ()


async def biases_are_added(subject: Subject) -> None:
    ids = prompt(20)
    plain = await subject.engine.sample(ids, BASE, Sampling(0.0, max_tokens=1))
    (likeliest,), (logprob,) = plain.ids, plain.logprobs
    barred = Sampling(max_tokens=8, seed=1, logit_bias=((likeliest, -100.0),))
    assert likeliest not in (await subject.engine.sample(ids, BASE, barred)).ids
    forced = Sampling(max_tokens=4, logit_bias=((77, 100.0),))
    always = await subject.engine.sample(ids, BASE, forced)
    assert always.ids == (77,) * 4
    assert gap(always.logprobs, (0.0,) * 4) < 1e-4
    raised = Sampling(0.0, max_tokens=1, logit_bias=((likeliest, 1.5),))
    p = math.exp(logprob + 1.5)
    expected = math.log(p / (p + 1 - math.exp(logprob)))
    assert gap((await subject.engine.sample(ids, BASE, raised)).logprobs, (expected,)) < 1e-4


async def a_seed_fixes_the_tokens(subject: Subject) -> None:
    ids, options = prompt(25), Sampling(max_tokens=16, seed=7)
    alone = await subject.engine.sample(ids, BASE, options)
    others = [subject.engine.sample(prompt(9, n), BASE, Sampling(max_tokens=9)) for n in range(6)]
    again, *_ = await asyncio.gather(subject.engine.sample(ids, BASE, options), *others)
    assert again.ids == alone.ids
    more = [Sampling(max_tokens=16, seed=s) for s in (8, -1, 2**64 - 2)]
    rest = [await subject.engine.sample(ids, BASE, o) for o in more]
    assert len({alone.ids, *(s.ids for s in rest)}) == 4


async def it_stops_at_stop_ids_and_at_the_limit(subject: Subject) -> None:
    options = [Sampling(max_tokens=25, seed=n) for n in range(24)]
    samples = await asyncio.gather(
        *(subject.engine.sample(prompt(10, n), BASE, o) for n, o in enumerate(options))
    )
    for s in samples:
        assert not set(s.ids[:-1]) & set(STOPS)
        assert s.finish_reason == ("stop" if s.ids[-1] in STOPS else "length")
        assert s.finish_reason == "stop" or len(s.ids) == 25
    assert {s.finish_reason for s in samples} == {"stop", "length"}
    long = prompt(CONTEXT - 5)
    assert len((await subject.engine.sample(long, BASE, Sampling(max_tokens=50))).ids) <= 5


async def it_stops_at_stop_strings(subject: Subject) -> None:
    for seed in range(40):
        ids = prompt(12, seed)
        whole = await subject.engine.sample(ids, BASE, Sampling(0.0, max_tokens=12))
        words = [subject.decode([i]) for i in whole.ids]
        found = [n for n, w in enumerate(words) if w.isascii() and w.isalnum() and 2 <= n < 10]
        if found:
            break
    n = words.index(words[found[0]])
    options = Sampling(0.0, max_tokens=12, stop=("never so", words[n]))
    cut = await subject.engine.sample(ids, BASE, options)
    assert (cut.ids, cut.finish_reason) == (whole.ids[: n + 1], "stop")
    assert len(cut.logprobs) == n + 1


async def chunks_are_the_sample_in_order(subject: Subject) -> None:
    seen: list[list[int]] = []
    options = Sampling(max_tokens=25, seed=3)
    s = await subject.engine.sample(
        prompt(15), BASE, options, on_chunk=lambda ids: seen.append(list(ids))
    )
    assert tuple(i for ids in seen for i in ids) == s.ids
    assert len(seen) > 1 or len(s.ids) == 1
    whole = await subject.engine.sample(prompt(15), BASE, options)
    assert whole.ids == s.ids
    assert gap(whole.logprobs, s.logprobs) < 1e-4


async def a_cancelled_request_ends(subject: Subject) -> None:
    for streamed in (True, False):
        before, begun, own, calm = await subject.drawn(), asyncio.Event(), 0, 0
        on_chunk = (lambda _, seen=begun: seen.set()) if streamed else None
        long = Sampling(max_tokens=900)
        task = asyncio.create_task(
            subject.endless.sample(prompt(10), BASE, long, on_chunk=on_chunk)
        )
        while not (begun.is_set() if streamed else await subject.drawn() > before + own + 3):
            own += len((await _one(subject)).ids)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while calm < 3:  # it draws for nobody else
            seen = await subject.drawn()
            await _one(subject)
            alone = await subject.drawn() - seen == 1 and not await subject.running()
            calm = calm + 1 if alone else 0
        assert await subject.drawn() - before < 900


async def _one(subject: Subject) -> Sample:
    return await subject.endless.sample(prompt(5), BASE, Sampling(max_tokens=1))


async def what_is_in_flight_keeps_its_version(subject: Subject) -> None:
    engine, name, ids = subject.endless, ModelRef("base", "flight"), prompt(40)
    await engine.load(ModelRef("base", "flight", 1), str(subject.adapters[0]))
    options = Sampling(max_tokens=150, seed=5)
    alone = await engine.sample(ids, name, options)
    begun = asyncio.Event()
    task = asyncio.create_task(engine.sample(ids, name, options, on_chunk=lambda _: begun.set()))
    await begun.wait()
    await engine.load(ModelRef("base", "flight", 2), str(subject.adapters[1]))
    await engine.unload(ModelRef("base", "flight", 1))
    old, new = await task, await engine.sample(ids, name, options)
    assert (alone.model.version, old.model.version, new.model.version) == (1, 1, 2)
    assert old.ids == alone.ids
    assert gap(old.logprobs, alone.logprobs) < 1e-4
    assert new.ids != old.ids
    with pytest.raises(UnknownModelError, match="flight@1"):
        await engine.sample(ids, alone.model, options)
    await engine.unload(name)


async def versions_count_up_and_share_no_prefix(subject: Subject) -> None:
    engine, name, ids = subject.engine, ModelRef("base", "counted"), prompt(300)
    for number, folder in enumerate(subject.adapters, start=1):
        await engine.load(name, str(folder))
        first = await engine.sample(ids, name, Sampling(max_tokens=6))
        again = await engine.sample(ids, name, Sampling(max_tokens=6))
        assert first.model == again.model == ModelRef("base", "counted", number)
        assert first.cached_tokens == 0
        assert 0 < again.cached_tokens < len(ids)
        for s in (first, again):
            assert gap(s.logprobs, await scored(subject, ids, s)) < 1e-4
    with pytest.raises(UnknownModelError):  # the newest two are kept
        await engine.sample(ids, ModelRef("base", "counted", 2), Sampling())
    await engine.sample(ids, ModelRef("base", "counted", 3), Sampling(max_tokens=1))
    base, tuned = [await engine.score(ids[:50], m) for m in (BASE, name)]
    assert gap(base.logprobs, tuned.logprobs) > 1e-2
    await engine.unload(name)
    with pytest.raises(UnknownModelError, match="counted"):
        await engine.sample(ids, name, Sampling())


async def a_folder_written_anew_is_not_fed_old_prefixes(subject: Subject) -> None:
    engine, name, ids = subject.engine, ModelRef("base", "anew", 1), prompt(300, 3)
    folder = subject.wide.parent / "anew"
    shutil.rmtree(folder, ignore_errors=True)
    for adapter in subject.adapters[:2]:
        shutil.copytree(adapter, folder)
        await engine.load(name, str(folder))
        first, again = [await engine.sample(ids, name, Sampling(max_tokens=6)) for _ in range(2)]
        assert first.cached_tokens == 0 < again.cached_tokens
        for s in (first, again):
            assert gap(s.logprobs, await scored(subject, ids, s)) < 1e-4
        await engine.unload(name)
        shutil.rmtree(folder)


async def adapters_of_one_batch_are_each_their_own(subject: Subject) -> None:
    refs = []
    for n, folder in enumerate(subject.adapters):
        refs.append(ModelRef("base", f"mixed{n}", 1))
        await subject.engine.load(refs[-1], str(folder))
    await _together(subject, refs)
    for ref in refs:
        await subject.engine.unload(ref)


async def the_base_rides_with_adapters(subject: Subject) -> None:
    refs = [ModelRef("base", "beside0", 1), BASE, ModelRef("base", "beside1", 1)]
    for ref, folder in zip(refs[::2], subject.adapters, strict=False):
        await subject.engine.load(ref, str(folder))
    await _together(subject, refs)
    for ref in refs[::2]:
        await subject.engine.unload(ref)


async def _together(subject: Subject, refs: list[ModelRef]) -> None:
    ids, options = prompt(30), Sampling(max_tokens=8, seed=1)
    samples = await asyncio.gather(*(subject.engine.sample(ids, r, options) for r in refs * 3))
    for ref, s in zip(refs * 3, samples, strict=True):
        assert s.model == ref
        assert gap(s.logprobs, await scored(subject, ids, s)) < 1e-4
    assert len({s.ids for s in samples}) == len(refs)


async def what_does_not_load_is_said(subject: Subject) -> None:
    name = ModelRef("base", "faulty")
    corrupt = subject.wide.parent / "corrupt"
    corrupt.mkdir(exist_ok=True)
    for file in subject.adapters[0].iterdir():
        (corrupt / file.name).write_bytes(file.read_bytes()[:500])
    config = "adapter_config.json"
    (corrupt / config).write_text((subject.adapters[0] / config).read_text())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        await subject.engine.load(name, str(corrupt / "nowhere"))
    for folder in (corrupt, subject.wide):
        with pytest.raises(ValueError) as caught:
            await subject.engine.load(name, str(folder))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError):
        await subject.engine.load(BASE, str(subject.adapters[0]))
    with pytest.raises(UnknownModelError, match="faulty"):
        await subject.engine.sample(prompt(5), name, Sampling())
    await subject.engine.sample(prompt(5), BASE, Sampling(max_tokens=2))


async def unknown_models_are_named(subject: Subject) -> None:
    unknown = (ModelRef("other"), ModelRef("base", "nobody"), ModelRef("base", "nobody", 3))
    for ref in unknown:
        with pytest.raises(UnknownModelError, match=str(ref)):
            await subject.engine.sample(prompt(5), ref, Sampling())
        with pytest.raises(UnknownModelError, match=str(ref)):
            await subject.engine.score(prompt(5), ref)
        with pytest.raises(UnknownModelError, match=str(ref)):
            await subject.engine.unload(ref)
    with pytest.raises(ValueError, match="base"):
        await subject.engine.unload(BASE)


async def what_cannot_be_served_is_refused(subject: Subject) -> None:
    for bad in ([], [VOCAB + 5], [-1]):
        with pytest.raises(ValueError):
            await subject.engine.sample(bad, BASE, Sampling(max_tokens=2))
        with pytest.raises(ValueError):
            await subject.engine.score(bad, BASE)
    with pytest.raises(ValueError, match=f"{CONTEXT + 9} tokens, the model's context is {CONTEXT}"):
        await subject.engine.sample(prompt(CONTEXT + 9), BASE, Sampling())
    wrong = (
        Sampling(max_tokens=0), Sampling(top_p=0.0), Sampling(temperature=-1.0), Sampling(top_k=-1),
        Sampling(top_logprobs=21), Sampling(top_logprobs=-1), Sampling(logit_bias=((1, 101.0),)),
    )  # fmt: skip
    for sampling in wrong:
        with pytest.raises(ValueError) as caught:
            await subject.engine.sample(prompt(5), BASE, sampling)
        assert "\n" not in str(caught.value)


async def a_grammar_is_kept_to(subject: Subject) -> None:
    if not subject.constrained:
        pytest.skip("this engine has no constrained decoding")
    lark = 'start: "cab" | "bad" "e"'
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema |= {"additionalProperties": False, "x-guidance": {"whitespace_flexible": False}}
    form = json.dumps({"grammars": [{"json_schema": schema}]})
    for seed in range(6):
        options = Sampling(max_tokens=40, seed=seed)
        word = await subject.engine.sample(prompt(9, seed), BASE, options, lark)
        said = json.loads(
            text(subject, await subject.engine.sample(prompt(9, seed), BASE, options, form))
        )
        assert text(subject, word) in ("cab", "bade")
        assert word.finish_reason == "stop"
        assert said in ({"ok": True}, {"ok": False})
    for wrong in ("start: nothing", json.dumps({"grammars": [{"lark_grammar": "start: nothing"}]})):
        with pytest.raises(ValueError, match="nothing"):
            await subject.engine.sample(prompt(9), BASE, Sampling(), wrong)


def text(subject: Subject, sample: Sample) -> str:
    """What was said, without special tokens."""
    return subject.decode([i for i in sample.ids if i not in (*STOPS, *subject.special)])


CASES = [
    logprobs_are_the_teacher_forced_ones,
    greedy_takes_the_likeliest,
    logprobs_are_of_the_narrowed_distribution,
    the_likeliest_are_told,
    biases_are_added,
    a_seed_fixes_the_tokens,
    it_stops_at_stop_ids_and_at_the_limit,
    it_stops_at_stop_strings,
    chunks_are_the_sample_in_order,
    a_cancelled_request_ends,
    what_is_in_flight_keeps_its_version,
    versions_count_up_and_share_no_prefix,
    a_folder_written_anew_is_not_fed_old_prefixes,
    adapters_of_one_batch_are_each_their_own,
    the_base_rides_with_adapters,
    what_does_not_load_is_said,
    unknown_models_are_named,
    what_cannot_be_served_is_refused,
    a_grammar_is_kept_to,
]
