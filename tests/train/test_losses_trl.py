"""The losses of `rl` against TRL's own GRPO loss, on the same sampled tokens.

TRL's `_compute_loss` is called as it is, on a stand-in for its trainer that gives it our model's
logprobs by full logits. Rows have an observation between two sampled spans (`tool_mask`).
"""

import random
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from exact_models import VOCABULARY, relative_error, small_model
from oracles import BOUND, backward, entries_at, row_logprobs, step, two_turns

from understudy.core.rows import Row
from understudy.train.aggregate import aggregate
from understudy.train.losses import LossConfig

torch.set_num_threads(1)
GRPOTrainer = pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer
COUNT, LONGEST = 7, 40
WIDE = {"clip_low": 0.2, "clip_high": 0.3}
SAME = {"epsilon_low": 0.2, "epsilon_high": 0.3}
CLOSE = {"epsilon_low": 0.05, "epsilon_high": 0.06}
CASES = {
    # name: (our loss, our aggregation, what TRL is told)
    "dapo": (LossConfig(rl="clip", **WIDE), "token", {"loss_type": "dapo", **SAME}),
    "bnpo": (LossConfig(rl="clip", **WIDE), "token", {"loss_type": "bnpo", **SAME}),
    "grpo": (LossConfig(rl="clip", **WIDE), "sequence", {"loss_type": "grpo", **SAME}),
    "by episode": (LossConfig(rl="clip", **WIDE), "rollout", {"loss_type": "grpo", **SAME}),
    "dr_grpo": (LossConfig(rl="clip", **WIDE), "constant", {"loss_type": "dr_grpo", **SAME}),
    "cispo": (LossConfig(ratio_cap=1.5), "token", {"loss_type": "cispo", "epsilon_high": 1.5}),
    "gspo": (
        LossConfig(rl="gspo", clip_low=0.05, clip_high=0.06),
        "sequence",
        {"loss_type": "grpo", "importance_sampling_level": "sequence", **CLOSE},
    ),
    "luspo": (
        LossConfig(rl="gspo", clip_low=0.05, clip_high=0.06),
        "constant",
        {"loss_type": "luspo", "importance_sampling_level": "sequence", **CLOSE},
    ),
    "two-sided clip": (
        LossConfig(rl="clip", ratio_cap=1.6, **WIDE),
        "token",
        {"loss_type": "dapo", "delta": 1.6, **SAME},
    ),
    "off-policy mask": (
        LossConfig(rl="clip", off_policy_mask=0.05, **WIDE),
        "token",
        {"loss_type": "dapo", "off_policy_mask_threshold": 0.05, **SAME},
    ),
    "sequence mask": (
        LossConfig(rl="clip", sequence_mask=1.5, **WIDE),
        "sequence",
        {"loss_type": "grpo", "sequence_mask": 1.5, **SAME},
    ),
    "truncated": (  # TRL's vLLM `token_truncate` on a REINFORCE that has no ratio of its own
        LossConfig(rl="reinforce", ratio_cap=1.2),
        "token",
        {"loss_type": "cispo", "epsilon_high": 1e9, "token_truncate": 1.2},
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_losses_equal_trls(name, dtype):
    loss, how, options = CASES[name]
    model = small_model(dtype=dtype, seed=2)
    rows, inputs = a_batch(model, dtype)
    expected = trl_loss(model, rows, inputs, options, dtype)
    gradient = backward(model, expected)
    tokens = {"dr_grpo": COUNT * LONGEST, "luspo": COUNT}.get(name)
    got, metrics = step(model, aggregate(rows, how, tokens=tokens), loss=loss)
    assert metrics.loss["rl"] == pytest.approx(float(expected.detach()), rel=BOUND[dtype])
    assert relative_error(got, gradient) < BOUND[dtype]
    assert 0 < metrics.clipped_share < 1
    for masked in (metrics.masked or {}).values():
        assert 0 < masked < metrics.count["rl"]


def a_batch(model, dtype):
    """Our rows, whose sampler differs a little from the model, and TRL's padded tensors of them."""
    rng = random.Random(4)
    rows, length = [], 0
    tensors = {k: torch.zeros(COUNT, LONGEST, dtype=dtype) for k in ("sampled", "old")}
    completion = torch.zeros(COUNT, LONGEST, dtype=dtype)
    for n in range(COUNT):
        ids, places = two_turns(rng, VOCABULARY, f"e{n}")
        bare = entries_at(ids, places, "rl", 1.0, [0.0] * len(places))
        logp = row_logprobs(model, ids, bare).detach()
        anchors = [float(v) + rng.gauss(0, 0.3) for v in logp]
        weight = rng.choice([-1, 1]) * rng.uniform(0.5, 1.5)
        rows.append(Row(ids, entries_at(ids, places, "rl", weight, anchors, f"e{n}")))
        start = places[0]
        completion[n, : len(ids) - start] = 1
        for t, anchor in zip(places, anchors, strict=True):
            tensors["sampled"][n, t - start], tensors["old"][n, t - start] = 1, anchor
        length = max(length, len(ids) - start)
    inputs = {
        "prompt_ids": torch.zeros(COUNT, 4, dtype=torch.long),
        "prompt_mask": torch.ones(COUNT, 4, dtype=torch.long),
        "completion_ids": torch.zeros(COUNT, LONGEST, dtype=torch.long),
        "completion_mask": completion,
        "tool_mask": tensors["sampled"],
        "advantages": torch.tensor([r.entries[0].weight for r in rows], dtype=dtype),
        "old_per_token_logps": tensors["old"],
        "num_items_in_batch": tensors["sampled"].sum(),
    }
    return rows, inputs


def trl_loss(model, rows, inputs, options, dtype):
    logps = torch.zeros(COUNT, LONGEST, dtype=dtype)
    for n, row in enumerate(rows):
        start = row.entries[0].position
        at = torch.tensor([e.position - start for e in row.entries])
        logps = logps.index_put((torch.tensor(n), at), row_logprobs(model, row.ids, row.entries))
    inputs = dict(inputs)
    difference = (logps.detach() - inputs["old_per_token_logps"]) * inputs["tool_mask"]
    sequence_mask, truncate = options.get("sequence_mask"), options.get("token_truncate")
    if sequence_mask:  # as TRL has it, less the ratio itself, which the surrogate corrects by
        product = difference.sum(-1, keepdim=True).exp()
        inputs["importance_sampling_ratio"] = (product <= sequence_mask).to(dtype)
    if truncate:
        inputs["importance_sampling_ratio"] = difference.exp().clamp(max=truncate)
        del inputs["old_per_token_logps"]  # TRL then takes the policy's own: ratio 1
    stand_in = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(delta=options.get("delta"), use_bias_correction_kl=False),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        off_policy_mask_threshold=options.get("off_policy_mask_threshold"),
        importance_sampling_level=options.get("importance_sampling_level", "token"),
        loss_type=options["loss_type"],
        epsilon_low=options.get("epsilon_low"),
        epsilon_high=options["epsilon_high"],
        use_vllm=bool(sequence_mask or truncate),
        vllm_importance_sampling_correction=True,
        max_completion_length=LONGEST,
        beta=0.0,
        top_entropy_quantile=1.0,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    return GRPOTrainer._compute_loss(stand_in, model, inputs)
