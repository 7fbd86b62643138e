"""Gradients of distillation and of echoed observations, against exact enumeration."""

import itertools
import random

import pytest
import torch
from exact_models import VOCABULARY, gradients, random_rows, relative_error, small_model

from understudy.core.rows import Row, SampledRow, Span, policy_rows
from understudy.core.teaching import anchored_row, behind, forward_row, reverse_row
from understudy.core.types import Completion, Episode, ModelRef, Request
from understudy.train.losses import LossConfig
from understudy.train.trainer import Trainer, TrainerConfig

torch.set_num_threads(1)
PROMPT = (1, 2)
FREE = TrainerConfig(grad_clip=None, loss=LossConfig(ratio_cap=1e12))


def two_steps(model):
    """Log-probabilities of the first token (V,), and of the second after each first (V, V)."""
    first = torch.arange(VOCABULARY)
    ids = torch.cat([torch.tensor(PROMPT).expand(VOCABULARY, -1), first[:, None]], 1)
    logp = torch.log_softmax(model(input_ids=ids).logits, -1)
    return logp[0, 1], logp[:, 2]


def sampled(a, b, sampler):
    """The row of one outcome, and how likely the sampler comes to it."""
    one, two = sampler
    logprobs = (float(one[a]), float(two[a, b]))
    row = SampledRow((*PROMPT, a, b), (Span(2, 4, logprobs, "c"),))
    return row, float((one[a] + two[a, b]).exp())


def summed_gradient(model, rows):
    """Of the sum of the terms of the rows' one stream."""
    trainer = Trainer(model, FREE)
    caught = {}
    trainer.optimiser.step = lambda: caught.update(gradient=gradients(model).clone())
    metrics = trainer.step(rows)
    (count,) = metrics.count.values()
    return count * caught["gradient"]


def exact(model, divergence, sampler):
    """The gradient of a divergence at each state that the sampler comes to."""
    model.zero_grad(set_to_none=True)
    one, two = two_steps(model)
    weight_A = sampler[0].exp()
    (divergence(one, 0) + (weight_A * divergence(two, 1)).sum()).backward()
    found = gradients(model).clone()
    model.zero_grad(set_to_none=True)
    return found


@pytest.fixture(scope="module")
def three():
    """A policy, and what a teacher and an older policy say in its place."""
    with torch.no_grad():
        return small_model(), two_steps(small_model(seed=1)), two_steps(small_model(seed=2))


OUTCOMES = list(itertools.product(range(VOCABULARY), repeat=2))


@pytest.mark.parametrize("stale", [False, True])
def test_distilled_rows_have_the_gradient_of_the_reverse_kl(three, stale):
    model, teacher, older = three
    with torch.no_grad():
        now = two_steps(model)
    sampler = older if stale else now

    def reverse(logp, step):
        return (logp.exp() * (logp - teacher[step])).sum(-1)

    wanted = exact(model, reverse, sampler)

    def rows(make):
        found = []
        for a, b in OUTCOMES:
            row, weight = sampled(a, b, sampler)
            said = [float(teacher[0][a]), float(teacher[1][a, b])]
            found.append(make(row, said, [float(now[0][a]), float(now[1][a, b])], weight))
        return found

    right = rows(lambda row, said, own, w: reverse_row(row, said, own if stale else None, w))
    assert relative_error(summed_gradient(model, right), wanted) < 1e-9
    anchored = rows(lambda row, said, own, w: anchored_row(row, said, w))
    error = relative_error(summed_gradient(model, anchored), wanted)
    if stale:  # a `kl` entry takes what was sampled for what the policy samples
        assert error > 0.1
        old = rows(lambda row, said, own, w: reverse_row(row, said, None, w))
        assert relative_error(summed_gradient(model, old), wanted) > 0.1
    else:
        assert error < 1e-9


def test_the_teachers_likeliest_tokens_have_the_gradient_of_the_forward_kl(three):
    model, teacher, older = three

    def forward(logp, step):
        return (teacher[step].exp() * (teacher[step] - logp)).sum(-1)

    def top(logp):
        return list(enumerate(logp.tolist()))

    rows = []
    for a, b in OUTCOMES:
        row, weight = sampled(a, b, older)
        rows.append(forward_row(row, [top(teacher[0]), top(teacher[1][a])], weight))
    # a place of k entries weighs as one: the stream's count is k times that of the places
    got = summed_gradient(model, rows) / VOCABULARY
    assert relative_error(got, exact(model, forward, older)) < 1e-9


def test_distilled_rows_need_a_logprob_for_each_token():
    row = SampledRow((1, 2, 3), (Span(1, 3, (-1.0, -2.0), "c"),))
    with pytest.raises(ValueError, match="2 sampled tokens, 1 logprobs of the teacher"):
        reverse_row(row, [-1.0])
    with pytest.raises(ValueError, match="no recorded logprobs"):
        reverse_row(SampledRow((1, 2), (Span(1, 2, (), "c"),)), [-1.0])
    with pytest.raises(ValueError, match=r"\[1, 2\] in number"):
        forward_row(row, [[(3, -1.0)], [(3, -1.0), (4, -2.0)]])


def test_behind_another_prompt_the_sampled_tokens_stay():
    row = SampledRow((1, 2, 3, 4, 5, 6), (Span(2, 3, (-1.0,), "a"), Span(4, 6, (-1.0, -1.0), "b")))
    ids, moved = behind((7, 8, 9, 9), row)
    assert ids == (7, 8, 9, 9, 3, 4, 5, 6)
    assert [ids[t + moved] for span in row.spans for t in range(span.start, span.end)] == [3, 5, 6]


def turn(name, prompt, output):
    request = Request(({"role": "user", "content": "x"},), ModelRef("m"))
    logprobs = tuple(-0.5 for _ in output)
    return Completion(name, request, "ok", prompt_ids=prompt, output_ids=output, logprobs=logprobs)


def episode():
    """Two turns that continue each other, then one that does not."""
    return Episode("e", (
        turn("a", (1, 2), (3, 4)),
        turn("b", (1, 2, 3, 4, 10, 11, 12), (5,)),
        turn("c", (1, 9), (6, 7)),
        turn("d", (1, 9, 6, 7, 13), (8,)),
    ))  # fmt: skip


def test_echo_is_on_what_came_between_samples_and_nowhere_else():
    rows, stats = policy_rows(episode(), 0.5, echo=0.1)
    echoed = [[e.target for e in row.entries if e.stream == "ce"] for row in rows]
    assert echoed == [[10, 11, 12], [13]]
    assert [[e.target for e in row.entries if e.stream == "rl"] for row in rows] == [
        [3, 4, 5], [6, 7, 8]
    ]  # fmt: skip
    for row in rows:
        assert all(row.ids[e.position + 1] == e.target for e in row.entries)
        places = [e.position for e in row.entries]
        assert len(set(places)) == len(places)
    assert {e.weight for row in rows for e in row.entries if e.stream == "ce"} == {0.1}
    assert stats.trained == 10
    plain, _ = policy_rows(episode(), 0.5)
    assert [r.entries for r in plain] == [
        tuple(e for e in r.entries if e.stream == "rl") for r in rows
    ]


def test_echo_adds_its_own_gradient_and_leaves_the_policys_as_it_is():
    model = small_model()

    def gradient(rows):
        trainer = Trainer(model, TrainerConfig(grad_clip=None))
        caught = {}
        trainer.optimiser.step = lambda: caught.update(gradient=gradients(model).clone())
        trainer.step(rows)
        return caught["gradient"]

    both, _ = policy_rows(episode(), 0.5, echo=0.1)
    plain, _ = policy_rows(episode(), 0.5)
    echo = [Row(r.ids, tuple(e for e in r.entries if e.stream == "ce")) for r in both]
    assert relative_error(gradient(both) - gradient(echo), gradient(plain)) < 1e-10
    more = random_rows(random.Random(0), streams=("rl",))  # the streams have counts of their own
    apart = gradient([*plain, *more]) + gradient(echo)
    assert relative_error(gradient([*both, *more]), apart) < 1e-10
