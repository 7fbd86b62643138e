"""Packed training batches, made by a process of its own from the corpus generator."""

from __future__ import annotations

import hashlib
import multiprocessing as mp
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Full
from random import Random
from typing import Any

import numpy as np

from .recipe import STAGES, Stage


@dataclass(frozen=True)
class DataOptions:
    """What is packed, and how much each token counts."""

    tokens: int = 4096  # positions in one packed batch
    chunk: int = 192  # documents packed together
    longest: int = 2048  # longer documents are left out, and counted
    mixture: dict[str, float] = field(default_factory=dict)  # instead of the stages, if given
    chunks: int = 500  # of the whole run, for the stages' shares
    begun: bool = False  # the weights have been through the first stages: the last one only


@dataclass
class Batch:
    """`tokens` positions of whole documents; `pick` are the positions whose next token counts."""

    ids: np.ndarray
    position: np.ndarray
    lengths: list[int]
    pick: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    family: np.ndarray
    chunk: int
    index: int
    skipped: int
    final: bool = False


def _seed(*parts: object) -> int:
    text = ":".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class Encoder:
    """Dialogues to ids and loss weights."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.start = self.tok.token_to_id("<|im_start|>")
        self.end = self.tok.token_to_id("<|im_end|>")
        self.head = self.tok.encode("<|im_start|>assistant\n").ids

    def encode(self, text: str) -> list[int]:
        return list(self.tok.encode(text).ids)

    def document(self, dialogue: Any, rng: Random, context: float) -> tuple[Any, Any]:
        """ids (L,) and the weight of each as a target (L,); of the tokens outside assistant turns
        a share, `context`, carries loss."""
        from understudy.core.chatml import render_text

        text = render_text(dialogue.messages, dialogue.tools)
        ids = np.array(self.encode(text), dtype=np.int64)
        draw = np.random.default_rng(rng.getrandbits(64)).random(len(ids))
        weight = (draw < context).astype(np.float32)
        turns = sum(m["role"] == "assistant" for m in dialogue.messages)
        h = len(self.head)
        begins = [i for i in np.flatnonzero(ids == self.start) if list(ids[i : i + h]) == self.head]
        ends = np.flatnonzero(ids == self.end)
        assert len(begins) == turns, "assistant turns and messages differ"
        for begin in begins:
            end = ends[np.searchsorted(ends, begin)]
            weight[begin + h : end + 1] = 1.0
        weight[0] = 0.0
        return ids, weight


def stage(share: float) -> Stage:
    """The stage at this share of the run."""
    return next((s for s in STAGES if share < s.end), STAGES[-1])


def family_names() -> list[str]:
    """The corpus's families, in the order of the metrics."""
    from tiny_corpus import FAMILIES

    return sorted(FAMILIES)


def chunk_batches(
    encoder: Encoder, options: DataOptions, seed: int, rank: int, chunk: int
) -> list[Batch]:
    """The batches of one chunk of documents: a pure function of its arguments."""
    from tiny_corpus import generate

    now = stage(1.0 if options.begun else chunk / options.chunks)
    mixture = dict(options.mixture) or now.mixture
    names = sorted(mixture)
    index = {n: i for i, n in enumerate(family_names())}
    documents, skipped = [], 0
    for i in range(options.chunk):
        rng = Random(_seed(seed, rank, chunk, i))
        family = rng.choices(names, [mixture[n] for n in names])[0]
        dialogue = generate(rng.getrandbits(60), "train", family)
        ids, weight = encoder.document(dialogue, rng, now.context)
        if len(ids) > options.longest:
            skipped += 1
            continue
        documents.append((ids, weight, index[family]))
    bins: list[list[tuple[Any, Any, int]]] = []
    room: list[int] = []
    for doc in documents:
        size = len(doc[0])
        at = next((b for b, r in enumerate(room) if r >= size), None)
        if at is None:
            bins.append([])
            room.append(options.tokens)
            at = len(bins) - 1
        bins[at].append(doc)
        room[at] -= size
    order = list(range(len(bins)))
    Random(_seed(seed, rank, chunk, "order")).shuffle(order)
    out = [_pack(bins[b], options.tokens, chunk, i, skipped) for i, b in enumerate(order)]
    out[-1].final = True
    return out


def _pack(docs: list[tuple[Any, Any, int]], tokens: int, chunk: int, i: int, skip: int) -> Batch:
    ids = np.zeros(tokens, np.int64)
    position = np.zeros(tokens, np.int64)
    weight = np.zeros(tokens, np.float32)
    family = np.zeros(tokens, np.int64)
    lengths, at = [], 0
    for doc_ids, doc_weight, name in docs:
        n = len(doc_ids)
        ids[at : at + n] = doc_ids
        position[at : at + n] = np.arange(n)
        weight[at : at + n - 1] = doc_weight[1:]
        family[at : at + n] = name
        lengths.append(n)
        at += n
    pick = np.flatnonzero(weight)
    pad = -len(pick) % 512
    target = np.concatenate([ids[pick + 1], np.zeros(pad, np.int64)])
    picked = np.concatenate([weight[pick], np.zeros(pad, np.float32)])
    names = np.concatenate([family[pick], np.full(pad, -1)])
    pick = np.concatenate([pick, np.zeros(pad, np.int64)])
    return Batch(ids, position, lengths, pick, target, picked, names, chunk, i, skip)


def _produce(
    queue: Any, folder: str, options: DataOptions, seed: int, rank: int, chunk: int, parent: int
) -> None:
    os.nice(2)
    encoder = Encoder(Path(folder))
    while True:
        try:
            batches = chunk_batches(encoder, options, seed, rank, chunk)
        except Exception as error:
            queue.put(error)
            raise
        while os.getppid() == parent:
            try:
                queue.put(batches, timeout=5)
                break
            except Full:
                continue
        else:
            return
        chunk += 1


def stream(
    folder: Path, options: DataOptions, seed: int, rank: int, chunk: int, index: int
) -> Iterator[Batch]:
    """Batches from position (chunk, index) on, made in the background until it is closed."""
    context = mp.get_context("spawn")
    queue = context.Queue(maxsize=3)
    arguments = (queue, str(folder), options, seed, rank, chunk, os.getpid())
    process = context.Process(target=_produce, args=arguments, daemon=True)
    process.start()
    first = True
    try:
        while True:
            batches = queue.get(timeout=600)
            if isinstance(batches, Exception):
                raise RuntimeError("a chunk could not be made") from batches
            yield from (batches[index:] if first else batches)
            first = False
    finally:
        process.terminate()
        process.join()
