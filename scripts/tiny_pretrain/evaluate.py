"""Probes on held-out APIs: greedy continuations from the true prefix, by the shipped path."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, get_args

import torch

from understudy.core.chatml import call_error, parse_assistant, render_text

FIRST_SEED = 7_000_000_000
ITEMS = range(2, 7)


@dataclass(frozen=True)
class Case:
    """One probe: the prompt, what must come, and in which figures it counts."""

    figures: tuple[str, ...]
    family: str
    prompt: str
    expected: dict[str, Any] | str
    tools: list[dict[str, Any]]


def items_shown(messages: Sequence[dict[str, Any]]) -> int | None:
    """Length of the longest list in the last tool result or message that holds one."""
    for message in reversed(messages):
        if message["role"] == "assistant":
            continue
        text = message.get("content") or ""
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            continue
        lists = list(value.values()) if isinstance(value, dict) else [value]
        sizes = [len(v) for v in lists if isinstance(v, list)]
        if sizes:
            return max(sizes)
    return None


def cases(count: int, longest: int = 6000, split: str = "new") -> list[Case]:
    """`count` probes of every kind, of choices for each number of items; deterministic.

    A dialogue gives at most one of each kind, drawn among its own.
    """
    from tiny_corpus import FAMILIES, ProbeKind, generate

    held: dict[str, int] = defaultdict(int)
    wanted = {*get_args(ProbeKind), *(f"choice {n}" for n in ITEMS)} - {"choice"}
    out: list[Case] = []
    for i in range(count * 400):
        if all(held[w] >= count for w in wanted):
            break
        dialogue = generate(FIRST_SEED + i, split, FAMILIES[i % len(FAMILIES)])  # type: ignore[arg-type]
        taken: set[str] = set()
        for probe in Random(i).sample(dialogue.probes, len(dialogue.probes)):
            figures = [probe.kind]
            before = dialogue.messages[: probe.message]
            if probe.kind == "choice":
                figures.append(f"choice {items_shown(before)}")
            key = figures[-1]
            if isinstance(probe.expected, dict):
                figures.append("valid")
            if key in taken or held[key] >= count:
                continue
            prompt = render_text(before, dialogue.tools, add_generation_prompt=True)  # type: ignore[arg-type]
            if len(prompt) > longest:
                continue
            taken.add(key)
            held[key] += 1
            out.append(
                Case(tuple(figures), dialogue.family, prompt, probe.expected, dialogue.tools)
            )
    return out


@torch.no_grad()
def answers(folder: Path, prompts: Sequence[str], batch: int = 48) -> list[str]:
    """Greedy continuations up to <|im_end|>, prompts of like length together."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tok = AutoTokenizer.from_pretrained(str(folder))
    tok.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    sizes = [len(tok.encode(p)) for p in prompts]
    order = sorted(range(len(prompts)), key=lambda i: sizes[i])
    out = [""] * len(prompts)
    for at in range(0, len(order), batch):
        chosen = order[at : at + batch]
        x = tok([prompts[i] for i in chosen], return_tensors="pt", padding=True)
        y = model.generate(
            input_ids=x["input_ids"], attention_mask=x["attention_mask"], max_new_tokens=120,
            do_sample=False,
        )  # fmt: skip
        for i, ids in zip(chosen, y[:, x["input_ids"].shape[1] :], strict=True):
            text = tok.decode(ids, skip_special_tokens=False)
            out[i] = text.split("<|im_end|>")[0] if "<|im_end|>" in text else text + "<|cut|>"
    return out


def is_right(case: Case, text: str) -> bool:
    """Whether the first call equals the expected one; or the text the expected string."""
    if isinstance(case.expected, str):
        return text.strip() == case.expected
    calls = parse_assistant(text).get("tool_calls") or []
    if not calls:
        return False
    try:
        arguments = json.loads(calls[0]["function"]["arguments"])
    except json.JSONDecodeError:
        return False
    expected = case.expected
    return calls[0]["function"]["name"] == expected["name"] and arguments == expected["arguments"]


def is_valid(case: Case, text: str) -> bool:
    """Ended, parsed, a known tool, required and typed arguments."""
    calls = parse_assistant(text).get("tool_calls") or []
    ended = not text.endswith("<|cut|>")
    return ended and bool(calls) and all(call_error(c, case.tools) is None for c in calls)  # type: ignore[arg-type]


def wilson(hits: int, n: int, z: float = 1.96) -> dict[str, float]:
    """Mean and 95% Wilson interval."""
    if n == 0:
        return {"mean": math.nan, "low": 0.0, "high": 1.0, "n": 0}
    p, d = hits / n, 1 + z * z / n
    mid = (p + z * z / (2 * n)) / d
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return {
        "mean": round(p, 4),
        "low": round(max(0.0, mid - half), 4),
        "high": round(min(1.0, mid + half), 4),
        "n": n,
    }


def score(held: Sequence[Case], texts: Sequence[str]) -> dict[str, Any]:
    """Figures by kind and by family of the dialogue."""
    hits: dict[str, list[bool]] = defaultdict(list)
    family: dict[str, list[bool]] = defaultdict(list)
    for case, text in zip(held, texts, strict=True):
        right = is_right(case, text)
        family[f"{case.family}: {case.figures[0]}"].append(right)
        for figure in case.figures:
            hits[figure].append(is_valid(case, text) if figure == "valid" else right)
    return {
        "figures": {k: wilson(sum(v), len(v)) for k, v in sorted(hits.items())},
        "families": {k: wilson(sum(v), len(v)) for k, v in sorted(family.items())},
    }


SPLITS = ("new", "heldout")


def evaluate_run(
    run: Path, model: Path | None, docs: Path | None, count: int, threads: int
) -> None:
    """Evaluate an exported folder or the run's averaged weights; print, and write where asked.

    Without `docs` only on the first of the splits.
    """
    from .export import write_model
    from .report import history, plot, table

    torch.set_num_threads(threads)
    state = json.loads((run / "state.json").read_text()) if (run / "state.json").exists() else {}
    begun = time.monotonic()
    splits: dict[str, Any] = {}
    wrong: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            write_model(run, Path(folder))
        for split in SPLITS if docs else SPLITS[:1]:
            held = cases(count, split=split)
            texts = answers(model or Path(folder), [c.prompt for c in held])
            splits[split] = score(held, texts)
            wrong += [
                {"split": split, "figures": c.figures, "family": c.family, "prompt": c.prompt,
                 "expected": c.expected, "got": t}
                for c, t in zip(held, texts, strict=True)
                if not is_right(c, t)
            ]  # fmt: skip
    result = {
        "tokens": state.get("tokens"),
        "train_seconds": state.get("seconds"),
        "eval_seconds": round(time.monotonic() - begun, 1),
        "splits": splits,
    }
    with (run / "evals.jsonl").open("a") as out:
        out.write(json.dumps(result) + "\n")
    (run / "wrong.json").write_text(json.dumps(wrong, indent=1, ensure_ascii=False))
    print(table(result))
    if docs is not None:
        if told := history(run, "metrics.jsonl"):  # all that these weights have seen
            result |= {"tokens": told[-1]["tokens"], "train_seconds": told[-1]["seconds"]}
        docs.mkdir(parents=True, exist_ok=True)
        (docs / "eval.json").write_text(json.dumps(result, indent=2) + "\n")
        plot(run, docs)
