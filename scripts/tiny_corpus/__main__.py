"""Print dialogues: `python -m tiny_corpus --show 5 --family choice --seed 3`."""

from __future__ import annotations

import argparse
import time
from typing import cast

from understudy.core.chatml import render_text
from understudy.core.types import Message, Tool

from . import FAMILIES, Dialogue, generate


def text_of(dialogue: Dialogue) -> str:
    """The dialogue as the model reads it."""
    return render_text(cast(list[Message], dialogue.messages), cast(list[Tool], dialogue.tools))


def main() -> None:
    parser = argparse.ArgumentParser(description="Print dialogues of the pretraining corpus.")
    parser.add_argument("--show", type=int, default=3, help="how many dialogues of each family")
    parser.add_argument("--family", default="", help="families whose name starts so (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "heldout", "new"), default="train")
    parser.add_argument("--stats", action="store_true", help="lengths and speed instead")
    args = parser.parse_args()
    names = [name for name in FAMILIES if name.startswith(args.family)]
    if not names:
        parser.error(f"no family starts with {args.family!r}; there are {', '.join(FAMILIES)}")
    for name in names:
        if args.stats:
            _stats(name, args.seed, args.split)
            continue
        for i in range(args.show):
            dialogue = generate(args.seed + i, args.split, name)
            print(f"=== {name} {args.seed + i}")
            print(text_of(dialogue), end="")
            for probe in dialogue.probes:
                print(f"  [{probe.message}] {probe.kind}: {probe.expected}")


def _stats(name: str, seed: int, split: str) -> None:
    start = time.perf_counter()
    dialogues = [generate(seed + i, split, name) for i in range(1000)]  # type: ignore[arg-type]
    ms = time.perf_counter() - start
    lengths = sorted(len(text_of(d)) for d in dialogues)
    probes = sum(len(d.probes) for d in dialogues) / 1000
    print(
        f"{name:14} {ms:5.2f} ms  characters mean {sum(lengths) / 1000:6.0f}  p99 {lengths[990]:5}"
        f"  max {lengths[-1]:5}  probes {probes:.1f}"
    )


if __name__ == "__main__":
    main()
