"""Losses and gradients by full logits, one row at a time, with nothing of ours."""

import math
from itertools import pairwise

import torch
from exact_models import gradients

from understudy.core.rows import Entry, Row
from understudy.train.trainer import Trainer, TrainerConfig

BOUND = {torch.float64: 1e-10, torch.float32: 1e-5}


def row_logprobs(model, ids, entries):
    """Of each entry its target's logprob, with gradient."""
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    logp = torch.log_softmax(logits, -1)
    return torch.stack([logp[e.position, e.target] for e in entries])


def trained(row):
    return [e for e in row.entries if e.weight != 0]


def plain_rl(model, rows, loss):
    """The sum of the terms over the number of entries, and how many each mask left out. What has
    one sample id is one sequence."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    masked = {"sequence_mask": 0, "off_policy_mask": 0, "difference_mask": 0}
    episodes = {}
    for row in rows:
        entries = trained(row)
        for e, lp in zip(
            entries, row_logprobs(model, row.ids, entries) if entries else (), strict=True
        ):
            episodes.setdefault(e.sample_id, []).append((e, lp))
    for pairs in episodes.values():
        count += len(pairs)
        logs = [float(lp.detach()) - e.anchor for e, lp in pairs]
        product, mean = math.exp(sum(logs)), sum(logs) / len(logs)
        for (e, lp), log in zip(pairs, logs, strict=True):
            v = float(lp.detach())
            keep = True
            if loss.sequence_mask and product > loss.sequence_mask:
                keep, masked["sequence_mask"] = False, masked["sequence_mask"] + 1
            if loss.off_policy_mask and e.weight < 0 and -mean > loss.off_policy_mask:
                keep, masked["off_policy_mask"] = False, masked["off_policy_mask"] + 1
            if loss.difference_mask and (
                abs(math.exp(v) - math.exp(e.anchor)) > loss.difference_mask
            ):
                keep, masked["difference_mask"] = False, masked["difference_mask"] + 1
            if keep:
                total = total + _term(loss, e.weight, lp, v, log, product, mean)
    on = {name: n for name, n in masked.items() if getattr(loss, name) is not None}
    return total / count, on


def _term(loss, weight, logp, value, log, product, mean):
    cap = loss.ratio_cap or math.inf
    if loss.rl == "reinforce" and loss.ratio_cap is None:
        return -weight * logp
    if loss.rl == "dppo":
        moved = math.exp(value) - math.exp(value - log)
        if (weight > 0 and moved > loss.clip_high) or (weight < 0 and moved < -loss.clip_low):
            return 0.0
    if loss.rl in ("cispo", "dppo", "reinforce"):
        ratio = product if loss.ratio_level == "sequence" else math.exp(log)
        return -min(ratio, cap) * weight * logp
    ratio = math.exp(mean if loss.rl == "gspo" else log)
    moving = ratio * torch.exp(logp - value)  # its value is the ratio, its gradient the token's
    low, high = 1 - loss.clip_low, 1 + loss.clip_high
    one = moving * weight if ratio <= cap else _constant(cap * weight)
    clipped = min(max(ratio, low), high)
    other = moving * weight if low <= ratio <= high else _constant(clipped * weight)
    return -(one if float(one.detach()) <= float(other.detach()) else other)


def _constant(value):
    return torch.tensor(value, dtype=torch.float64)


def backward(model, loss):
    """The gradient of a loss of the model."""
    model.zero_grad()
    loss.backward()
    found = gradients(model).clone()
    model.zero_grad()
    return found


def step(model, rows, **config):
    """The gradient of the trainer's step, as the optimiser sees it, and its metrics."""
    seen = []
    trainer = Trainer(model, TrainerConfig(**{"grad_clip": None} | config))
    trainer.optimiser.step = lambda: seen.append(gradients(model).clone())  # and moves nothing
    metrics = trainer.step(rows)
    return seen[0], metrics


def level(rows):
    """The rows with one weight for each sample, as an episode's advantage is."""
    weights = {}
    for row in rows:
        for e in trained(row):
            weights.setdefault(e.sample_id, e.weight)
    return [
        Row(r.ids, tuple(e._replace(weight=weights[e.sample_id]) for e in r.entries))
        for r in rows
        if trained(r)
    ]


def broken(rows, parts=3):
    """The rows as episodes of up to so many rows each, far apart from one another in the order of
    their ids: histories that the chat template broke."""
    episodes = -(-len(rows) // parts)
    return [
        Row(r.ids, tuple(e._replace(sample_id=f"b{n % episodes}") for e in r.entries))
        for n, r in enumerate(rows)
    ]


def weightless(rows):
    return [Row(r.ids, tuple(e._replace(weight=0.0) for e in r.entries)) for r in rows]


def two_turns(rng, vocabulary, sample_id):
    """A prompt, a sampled span, an observation, a sampled span; the longest of 4 + 3 + 6 + 3 + 6.
    Returns ids and where the sampled tokens are."""
    ends = [rng.randint(2, 4)]
    for longest in (6, 3, 6):
        ends.append(ends[-1] + rng.randint(1, longest))
    ids = tuple(rng.randrange(vocabulary) for _ in range(ends[-1]))
    spans = [span for n, span in enumerate(pairwise(ends)) if n != 1]
    return ids, [t for a, b in spans for t in range(a, b)]


def entries_at(ids, places, stream, weight, anchors, sample_id=""):
    return tuple(
        Entry(t - 1, ids[t], stream, weight, anchor, sample_id)
        for t, anchor in zip(places, anchors, strict=True)
    )
