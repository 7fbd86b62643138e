import itertools
import math
import random
import weakref

import pytest
import torch
from exact_models import gradients, random_rows, relative_error, small_model
from torch.utils._python_dispatch import TorchDispatchMode

from understudy.core.rows import Entry, Row
from understudy.train.advantages import group_advantages
from understudy.train.head import chunk_of, head_logprobs
from understudy.train.losses import kl_estimate
from understudy.train.trainer import NonFiniteError, Trainer, TrainerConfig
from understudy.train.value_head import ValueHead

torch.set_num_threads(1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunked_head_equals_full_logits(bias, temperature, chunk):
    torch.manual_seed(0)
    head = torch.nn.Linear(5, 11, bias=bias).double()
    hidden = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    owner = torch.tensor([0, 0, 1, 3, 4, 4, 4, 7])
    target = torch.tensor([1, 2, 10, 0, 5, 5, 6, 3])
    upstream = torch.randn(8, dtype=torch.float64)
    out = head_logprobs(hidden, head, owner, target, temperature, chunk)
    (out.logprobs_E * upstream).sum().backward()
    got = [hidden.grad, *(p.grad for p in head.parameters())]
    hidden.grad = None
    head.zero_grad()
    full = torch.log_softmax(head(hidden) / temperature, -1)
    (full[owner, target] * upstream).sum().backward()
    expected = [hidden.grad, *(p.grad for p in head.parameters())]
    assert relative_error(out.logprobs_E, full[owner, target]) < 1e-10
    assert relative_error(out.entropy_U, -(full.exp() * full).sum(-1)) < 1e-10
    for a, b in zip(got, expected, strict=True):
        assert relative_error(a, b) < 1e-10


class Largest(TorchDispatchMode):
    """The most bytes of a tensor of logits, and of all of them that were there at one time."""

    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary, self.one, self.together, self.alive = vocabulary, 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dim() == 2 and out.shape[1] == self.vocabulary:
            storage = out.untyped_storage()
            self.one = max(self.one, storage.nbytes())
            self.alive = {k: ref for k, ref in self.alive.items() if ref() is not None}
            self.alive[storage.data_ptr()] = weakref.ref(out)
            sizes = [
                t.untyped_storage().nbytes() for r in self.alive.values() if (t := r()) is not None
            ]
            self.together = max(self.together, sum(sizes))
        return out


@pytest.mark.parametrize("vocabulary", [1000, 3000])
def test_the_logits_of_a_chunk_have_a_bound_in_bytes(monkeypatch, vocabulary):
    """Whatever the vocabulary; the numbers are those of one chunk."""
    torch.manual_seed(0)
    head = torch.nn.Linear(4, vocabulary, bias=False).requires_grad_(False)
    hidden = torch.randn(300, 4, requires_grad=True)
    owner, target = torch.arange(300), torch.randint(0, vocabulary, (300,))
    whole = head_logprobs(hidden, head, owner, target)
    (wanted,) = torch.autograd.grad(whole.logprobs_E.sum(), hidden)
    monkeypatch.setattr("understudy.train.head.LOGITS", 100_000)
    with Largest(vocabulary) as seen:
        out = head_logprobs(hidden, head, owner, target)
        out.logprobs_E.sum().backward()
    assert 50_000 < seen.one <= 100_000
    assert seen.together <= 2 * seen.one
    assert relative_error(out.logprobs_E, whole.logprobs_E) < 1e-6
    assert relative_error(out.entropy_U, whole.entropy_U) < 1e-6
    assert relative_error(hidden.grad, wanted) < 1e-6


def test_a_vocabulary_of_150_000_has_chunks_below_a_quarter_of_a_gibibyte():
    assert 400 * 151_936 * 4 < chunk_of(151_936, torch.float32) * 151_936 * 4 <= 256 * 2**20
    assert chunk_of(10**9, torch.float32) == 1


def test_a_head_in_bf16_is_raised_and_no_wide_copy_is_kept_for_the_backward_pass():
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=False).bfloat16()
    wide = torch.nn.Linear(16, 50, bias=False)
    wide.weight.data.copy_(head.weight.data)
    owner, target = torch.arange(7), torch.randint(0, 50, (7,))
    hidden = torch.randn(7, 16).bfloat16().requires_grad_()
    raised = hidden.detach().float().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = head_logprobs(hidden, head, owner, target)
    assert torch.equal(out.logprobs_E, head_logprobs(raised, wide, owner, target).logprobs_E)
    assert not [t for t in kept if t.dtype == torch.float32 and t.numel() >= head.weight.numel()]
    out.logprobs_E.sum().backward()
    head_logprobs(raised, wide, owner, target).logprobs_E.sum().backward()
    assert torch.equal(hidden.grad, raised.grad.bfloat16())
    assert torch.equal(head.weight.grad, wide.weight.grad.bfloat16())


def test_on_policy_the_ratio_is_one_and_the_kl_zero():
    model = small_model()
    trainer = Trainer(model, TrainerConfig(lr=0.05))
    rows = random_rows(random.Random(0), streams=("rl",))
    recorded = trainer.logprobs(rows)
    rows = [
        Row(r.ids, tuple(e._replace(anchor=a) for e, a in zip(r.entries, lp, strict=True)))
        for r, lp in zip(rows, recorded, strict=True)
    ]
    first = trainer.step(rows)
    assert first.ratio_mean == pytest.approx(1, abs=1e-12)
    assert first.kl == pytest.approx(0, abs=1e-12)
    assert first.clipped_share == 0
    second = trainer.step(rows)
    assert second.kl > 1e-6
    assert trainer.steps == 2


def test_supervised_steps_learn_a_row_by_heart():
    model = small_model(dtype=torch.float32)
    trainer = Trainer(model, TrainerConfig(lr=0.02))
    ids = (1, 2, 3, 4, 5, 6, 7)
    row = Row(ids, tuple(Entry(t - 1, ids[t], "ce", 1.0) for t in range(1, 7)))
    losses = [trainer.step([row]).loss["ce"] for _ in range(40)]
    assert losses[-1] < 0.05 < losses[0]
    assert sum(trainer.logprobs([row])[0]) > -0.5


def test_policy_gradient_equals_exact_enumeration_of_a_two_step_bandit():
    """Three arms, two steps, softmax policy: every outcome as a row, weighted by its probability,
    gives the gradient of the expected reward."""
    model = small_model()
    reward = {o: random.Random(o).uniform(-1, 1) for o in range(9)}
    arms = (3, 4, 5)
    prompt = (1, 2)

    def log_policy(first, second=None):
        """Logprobs under the whole vocabulary; outcomes off the arms have reward 0."""
        logits = model(input_ids=torch.tensor([[*prompt, first]])).logits[0]
        logp = torch.log_softmax(logits, -1)
        return logp[1, first], None if second is None else logp[2, second]

    expected = torch.zeros((), dtype=torch.float64)
    rows = []
    for o, (a, b) in enumerate(itertools.product(arms, arms)):
        one, two = log_policy(a, b)
        expected = expected + (one + two).exp() * reward[o]
        weight = float((one + two).exp().detach()) * reward[o]
        entries = (Entry(1, a, "rl", weight, float(one.detach())),
                   Entry(2, b, "rl", weight, float(two.detach())))  # fmt: skip
        rows.append(Row((*prompt, a, b), entries))
    expected.backward()
    exact = gradients(model).clone()
    trainer = Trainer(model, TrainerConfig(grad_clip=None))
    caught = {}
    trainer.optimiser.step = lambda: caught.update(gradient=gradients(model).clone())
    metrics = trainer.step(rows)
    # loss = -sum(...) / count, so the gradient of the expected reward is -count * gradient
    assert relative_error(-metrics.count["rl"] * caught["gradient"], exact) < 1e-10


def test_nothing_to_train_is_said_and_changes_nothing():
    model = small_model()
    trainer = Trainer(model, TrainerConfig())
    before = [p.clone() for p in model.parameters()]
    rows = [Row(r.ids, tuple(e._replace(weight=0.0) for e in r.entries))
            for r in random_rows(random.Random(0))]  # fmt: skip
    for nothing in ([], rows, [Row((1, 2, 3))]):
        metrics = trainer.step(nothing)
        assert "nothing to train" in metrics.skipped
        assert metrics.tokens_computed == 0
    assert trainer.steps == 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_non_finite_steps_are_skipped_and_then_stop_the_run():
    model = small_model()
    trainer = Trainer(model, TrainerConfig(max_skipped=2))
    before = [p.clone() for p in model.parameters()]
    bad = [Row((1, 2, 3), (Entry(0, 2, "ce", math.nan),))]
    assert "not finite" in trainer.step(bad).skipped
    with pytest.raises(NonFiniteError, match="2 steps"):
        trainer.step(bad)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_steps_of_the_value_head_alone_say_nothing_of_the_models():
    """Finite ones do not hide that the model's are not; their own are counted apart."""
    model = small_model()
    trainer = Trainer(model, TrainerConfig(max_skipped=3), value_head=ValueHead.of(model))
    bad = [Row((1, 2, 3), (Entry(0, 2, "ce", math.nan),))]
    value = [Row((1, 2, 3), (Entry(1, 0, "value", 1.0, 0.5),))]
    wild = [Row((1, 2, 3), (Entry(1, 0, "value", 1.0, math.inf),))]
    for _ in range(2):
        trainer.step(bad)
        assert trainer.step(value).skipped is None
        assert "not finite" in trainer.step(wild).skipped
    assert (trainer.skipped_in_a_row, trainer.head_skipped_in_a_row) == (2, 1)
    with pytest.raises(NonFiniteError, match="3 steps in a row"):
        trainer.step(bad)
    trainer.step(wild)
    with pytest.raises(NonFiniteError, match="3 steps of the value head in a row"):
        trainer.step(wild)


def test_entries_without_an_anchor_are_refused():
    trainer = Trainer(small_model(), TrainerConfig())
    with pytest.raises(ValueError, match="no anchor"):
        trainer.step([Row((1, 2), (Entry(0, 2, "rl", 1.0, None, "episode-7"),))])


def test_a_model_with_nothing_to_train_is_refused():
    model = small_model().requires_grad_(False)
    with pytest.raises(ValueError, match="requires a gradient"):
        Trainer(model)


def test_schedules():
    config = TrainerConfig(lr=1.0, warmup_steps=2, total_steps=10, schedule="linear")
    assert [config.lr_at(s) for s in (0, 1, 2, 6, 10, 20)] == [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert TrainerConfig(lr=1.0, schedule="cosine", total_steps=4).lr_at(2) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="total_steps"):
        TrainerConfig(schedule="cosine").lr_at(5)


def test_advantages():
    plain = group_advantages([1.0, 0.0, 0.0, 5.0], trainable=[True, True, True, False])
    assert plain.values == pytest.approx((2 / 3, -1 / 3, -1 / 3, None))
    assert not plain.flat
    scaled = group_advantages([1.0, 0.0], divide_by_std=True)
    assert scaled.values == pytest.approx((1.0, -1.0), rel=1e-5)
    flat = group_advantages([0.3, 0.3, 0.3, 9.0], trainable=[True, True, True, False])
    assert flat.flat
    assert flat.values == (0.0, 0.0, 0.0, None)
    assert group_advantages([1.0], trainable=[False]).flat
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="episode 1"):
            group_advantages([0.0, wrong])


def test_kl_estimate_is_unbiased():
    torch.manual_seed(0)
    p, q = (torch.randn(6, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    exact = (p.exp() * (p - q)).sum()  # KL(sampler p || policy q)
    assert float((p.exp() * kl_estimate(q - p)).sum()) == pytest.approx(float(exact), rel=1e-10)
    assert bool((kl_estimate(torch.randn(100)) >= 0).all())
