"""What torch compiles computes the same numbers, and is compiled once for batches of any size."""

import random
from functools import cache
from itertools import chain

import pytest
import torch
from exact_models import random_rows, relative_error, small_model
from torch._dynamo.utils import counters

from understudy.models.lora import LoraConfig, inject_lora
from understudy.train import compiling, head, layers
from understudy.train.head import head_logprobs
from understudy.train.optimiser import TrainerConfig
from understudy.train.trainer import Trainer

torch.set_num_threads(1)
GPU = torch.cuda.is_available()


def adapted(model):
    inject_lora(model, LoraConfig(rank=1, alpha=2))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def told(model, rows, **config):
    """Logprobs of the rows and the gradient of a step on them."""
    trainer = Trainer(model, TrainerConfig(grad_clip=None, **config))
    caught = []
    trainer.optimiser.step = lambda: caught.append(
        torch.cat([p.grad.flatten() for p in trainer.parameters.values()]).cpu()
    )
    logprobs = torch.tensor(list(chain.from_iterable(trainer.logprobs(rows))))
    trainer.step(rows)
    return logprobs, caught[0]


def by(monkeypatch, backend):
    """What would be compiled is given to this backend, anew."""
    torch._dynamo.reset()
    counters.clear()
    own = cache(lambda function: compiling.compiled.__wrapped__(function, backend))
    for module in (head, layers):
        monkeypatch.setattr(module, "compiled", own)


def test_one_compilation_is_for_batches_of_any_size(monkeypatch):
    """Layers and head, with gradients and without; what a compiler would be given is counted."""
    by(monkeypatch, "eager")
    model = adapted(small_model(dtype=torch.float32))
    seen = set()
    for seed, count in enumerate((30, 2, 60, 8, 1)):
        rows = random_rows(random.Random(seed), count=count, longest=60)
        config = {"max_tokens_per_microbatch": 100_000, "layout": ("tree", "packed")[seed % 2]}
        wanted = told(model, rows, compile=False, **config)
        for own, other in zip(told(model, rows, compile=True, **config), wanted, strict=True):
            assert relative_error(own, other) < 1e-5
        seen.add(counters["stats"]["unique_graphs"])
        assert not counters["graph_break"]
    assert len(seen) == 1
    assert seen.pop() <= 10


@pytest.mark.skipif(not GPU, reason="there is no CUDA device")
def test_on_a_gpu_it_compiles_where_nobody_says():
    model = small_model(dtype=torch.float32, head_dim=32)
    assert Trainer(model).config.compile is False
    assert Trainer(model.cuda()).config.compile is True
    assert Trainer(model, TrainerConfig(layout="padded")).config.compile is False


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3", "llama", "qwen2"])
def test_compiled_steps_are_those_of_the_same_code_as_it_is(kind):
    model = adapted(small_model(kind, dtype=torch.float32))
    for seed in range(2):
        rows = random_rows(random.Random(seed), count=20)
        wanted = told(model, rows, compile=False)
        for own, other in zip(told(model, rows, compile=True), wanted, strict=True):
            assert relative_error(own, other) < 1e-5


@pytest.mark.skipif(not GPU, reason="there is no CUDA device")
def test_on_a_gpu_compiled_steps_are_those_of_the_cpu():
    rows = random_rows(random.Random(3), count=20)
    wanted = told(adapted(small_model(dtype=torch.float32, head_dim=32)), rows)
    model = adapted(small_model(dtype=torch.float32, head_dim=32)).cuda()
    for own, other in zip(told(model, rows, compile=True), wanted, strict=True):
        assert relative_error(own, other) < 1e-4


def test_what_cannot_be_compiled_is_refused():
    for other in ({"gradient_checkpointing": True}, {"layout": "padded"}):
        with pytest.raises(ValueError, match=r"knows no compiled layers: take compile=false"):
            TrainerConfig(compile=True, **other)
    model = small_model(dtype=torch.float32)
    model.model.layers[1] = type("OtherLayer", (torch.nn.Module,), {})()
    with pytest.raises(ValueError, match="compile knows no layers of Qwen3Model"):
        Trainer(model, TrainerConfig(compile=True)).step(random_rows(random.Random(0)))


@pytest.mark.parametrize("narrow", ["nothing", "weight", "both"])
@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if GPU else [])])
def test_by_bf16_halves_the_head_is_nearly_float32s(narrow, device):
    """Logprobs over a hundred times nearer than bf16 products are; gradients as near as those."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(256, 500).to(device)
    linear.weight.data.mul_(10)
    hidden = torch.randn(64, 256, device=device)
    if narrow != "nothing":
        linear = linear.bfloat16()
    hidden = (hidden.bfloat16() if narrow == "both" else hidden).requires_grad_()
    owner, target = torch.arange(64, device=device), torch.randint(0, 500, (64,), device=device)
    exact = torch.nn.Linear(256, 500).double().to(device)
    exact.load_state_dict({k: v.double() for k, v in linear.state_dict().items()})
    wide = hidden.detach().double().requires_grad_()
    found = []
    for h, lin, halves in ((wide, exact, False), (hidden, linear, True)):
        out = head_logprobs(h, lin, owner, target, by_halves=halves, chunk=40)
        grads = torch.autograd.grad(out.logprobs_E.sum(), [h, *lin.parameters()])
        found.append((out.logprobs_E.double(), out.entropy_U.double(), [g.double() for g in grads]))
    (logprobs, entropy, grads), (own_logprobs, own_entropy, own_grads) = found
    rounded = torch.log_softmax(
        hidden.bfloat16().double() @ linear.weight.bfloat16().double().t() + linear.bias, -1
    )[owner, target]
    assert relative_error(own_logprobs, logprobs) < 1e-5
    assert relative_error(own_entropy, entropy) < 1e-4
    error = relative_error(own_logprobs, logprobs)
    assert narrow == "both" or relative_error(rounded, logprobs) > 100 * error
    for own, other in zip(own_grads, grads, strict=True):
        assert relative_error(own, other) < 1e-2
