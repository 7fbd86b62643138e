"""Small random models and random rows for the exactness tests."""

import random

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from understudy.core.rows import Entry, Row

VOCABULARY = 23


def small_model(kind="qwen3", dtype=torch.float64, seed=0, tied=True, head_dim=4):
    torch.manual_seed(seed)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": head_dim,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
        "initializer_range": 0.3,
        "attn_implementation": "sdpa",
    }
    if kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**shape))
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**shape | {"head_dim": 4}))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape))
    return _with_exact_norms(model) if dtype == torch.float64 else model.to(dtype)


def _with_exact_norms(model):
    """Hugging Face's norms work in float32 whatever the model's type: put float64 ones there."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                norm = torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon)
                setattr(parent, name, norm)
    return model.to(torch.float64)


def random_rows(rng: random.Random, count=7, longest=30, streams=("rl", "ce", "kl")):
    """Rows that leave each other anywhere: each continues a random prefix of an earlier one."""
    rows = []
    for i in range(count):
        start = []
        if rows and rng.random() < 0.85:
            other = rng.choice(rows).ids
            start = list(other[: rng.randint(1, len(other))])
        extra = rng.randint(1, max(1, longest - len(start)))
        ids = (*start, *(rng.randrange(VOCABULARY) for _ in range(extra)))
        entries = []
        for t in range(1, len(ids)):
            if rng.random() < 0.5:
                stream = rng.choice(streams)
                anchor = None if stream == "ce" else -rng.uniform(1.0, 5.0)
                weight = rng.uniform(0.1, 1.0) * (rng.choice((-1, 1)) if stream == "rl" else 1)
                entries.append(Entry(t - 1, ids[t], stream, weight, anchor, f"s{i}"))
        rows.append(Row(ids, tuple(entries)))
    return rows


def branching_rows(rng: random.Random, levels=5):
    """2 ** `levels` rows of `levels` + 1 turns, each turn an observation and a sampled span.
    In each span but the last, two siblings part after two tokens or three: a group whose members
    agree for a while in every turn. Sampled tokens have `rl` entries of their row's advantage, some
    of them `kl` ones too, and observations `ce`."""
    rows = []

    def grow(ids, sampled, level):
        ids = [*ids, *(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 3)))]
        start, shared = len(ids), rng.randint(2, 3)
        ids += [rng.randrange(VOCABULARY) for _ in range(shared)]
        sampled = [*sampled, *range(start, len(ids))]
        if level == levels:
            rows.append(_weighted(rng, ids, sampled, f"s{len(rows)}"))
            return
        for token in rng.sample(range(VOCABULARY), 2):
            rest = [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 2))]
            own = range(len(ids), len(ids) + 1 + len(rest))
            grow([*ids, token, *rest], [*sampled, *own], level + 1)

    grow([], [], 0)
    return rows


def _weighted(rng, ids, sampled, name):
    advantage, entries = rng.uniform(-1, 1), []
    for t in range(1, len(ids)):
        anchor = -rng.uniform(1.0, 5.0)
        if t not in sampled:
            entries.append(Entry(t - 1, ids[t], "ce", 0.1, None, name))
            continue
        entries.append(Entry(t - 1, ids[t], "rl", advantage, anchor, name))
        if rng.random() < 0.3:
            entries.append(Entry(t - 1, ids[t], "kl", 0.5, anchor, name))
    return Row(tuple(ids), tuple(entries))


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def relative_error(a, b):
    return float((a - b).norm() / b.norm())
