"""A cheap score: assistant turns whose every token is the most likely one, given the true prefix.

For a turn that begins at the true prefix this is the same as greedy decoding word for word, in one
forward pass.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from .data import Encoder
from .net import Shape, TinyNet

SEED = 9_000_000_000


def load(run: Path, raw: bool = False) -> TinyNet:
    """The run's averaged (or last) weights."""
    saved = load_file(str(run / ("checkpoint" if raw else "average")) + ".safetensors")
    net = TinyNet(Shape(**json.loads((run / "options.json").read_text())["shape"]))
    with torch.no_grad():
        for name, p in net.weights.items():
            p.copy_(saved["model/" + name if raw else name])
    return net


def documents(encoder: Encoder, split: str, count: int) -> list[tuple[Any, Any, Any]]:
    """(dialogue, ids, whether each position is inside an assistant turn), family by family."""
    from tiny_corpus import FAMILIES, generate

    names = sorted(FAMILIES)
    out = []
    for i in range(count):
        rng = Random(SEED + i)
        dialogue = generate(SEED + i, split, names[i % len(names)])  # type: ignore[arg-type]
        ids, weight = encoder.document(dialogue, rng, 0.0)
        if len(ids) <= 2048:
            out.append((dialogue, ids, weight > 0))
    return out


@torch.no_grad()
def turn_scores(run: Path, split: str, count: int, raw: bool = False) -> dict[str, Any]:
    """Share of exact turns for each `family kind` and each kind, with counts."""
    encoder, net = Encoder(run), load(run, raw)
    emb = net.weights["lm_head.weight"].bfloat16()
    hits: dict[str, list[bool]] = defaultdict(list)
    for dialogue, ids, inside in documents(encoder, split, count):
        x = torch.from_numpy(ids)
        h = net.hidden(x, torch.arange(len(ids)), [len(ids)])
        pick = np.flatnonzero(inside)
        guess = (h[pick - 1].bfloat16() @ emb.T).argmax(-1).numpy()
        right = np.zeros(len(ids), bool)
        right[pick] = guess == ids[pick]
        edge = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
        spans = list(zip(edge[::2], edge[1::2], strict=True))
        turns = [i for i, m in enumerate(dialogue.messages) if m["role"] == "assistant"]
        place = dict(zip(turns, spans, strict=True))
        for probe in dialogue.probes:
            begin, end = place[probe.message]
            ok = bool(right[begin:end].all())
            hits[f"{dialogue.family} {probe.kind}"].append(ok)
            hits[f"all {probe.kind}"].append(ok)
    return {k: (round(float(np.mean(v)), 3), len(v)) for k, v in sorted(hits.items())}


def main() -> None:
    import argparse

    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("run", type=Path)
    p.add_argument("--count", type=int, default=440)
    p.add_argument("--raw", action="store_true")
    a = p.parse_args()
    for split in ("train", "new", "heldout"):
        scores = turn_scores(a.run, split, a.count, a.raw)
        print(split, "  ".join(f"{k} {v:.2f}/{n}" for k, (v, n) in scores.items()))


if __name__ == "__main__":
    main()
