"""A service that tells of walks in prose, seldom twice alike: traffic for the language model."""

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from understudy.core.types import Episode, ToolResult
from world.recorded import Call, recorded

DOGS = ("Rex", "Luna", "Max", "Nala", "Otto", "Paula", "Kira", "Senta")
PLACES = ("garden", "river", "station", "field", "beach", "market", "wood")
ENDS = ("came home tired", "found a stick", "met two others", "would not turn back", "lost a shoe",
        "saw a train", "slept well")  # fmt: skip
SKIES = ("rain", "sun", "fog", "wind", "snow")


def told(rng: random.Random, args: dict[str, Any]) -> str:
    one, other = rng.sample(ENDS, 2)
    return (
        f"In the {rng.choice(SKIES)} {args['dog']} walked {args['minutes']} minutes to the "
        f"{args['place']}, {one} and {other}."
    )


def walk(seed: int) -> Episode:
    """An episode of two walks."""
    rng = random.Random(seed)
    calls: list[Call] = [("walk", {"dog": rng.choice(DOGS), "place": rng.choice(PLACES),
                                   "minutes": rng.randint(5, 999)}) for _ in range(2)]  # fmt: skip
    episode = recorded(f"e{seed}", calls, lambda _, args: told(rng, args))
    good = {call: ToolResult(r.content, False) for call, r in episode.results.items()}
    return replace(episode, results=good)


def folder_of(path: Path, train: int, test: int) -> Path:
    """A benchmark folder of walks."""
    path.mkdir()
    with gzip.open(path / "replays.jsonl.gz", "wt") as file:
        for n in range(train + test):
            episode = walk(n)
            messages = [
                {**m, "is_error": False} if m["role"] == "tool" else m for m in episode.messages
            ]
            split = "train" if n < train else "test"
            row = {"episode": episode.id, "split": split, "messages": messages}
            file.write(json.dumps(row) + "\n")
    return path
