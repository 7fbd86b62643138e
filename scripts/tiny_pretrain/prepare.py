"""The tokenizer of a run, trained on the corpus's train split."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from .net import Shape
from .tokenizer import save, token_texts, train

DOCUMENTS = 6000


def texts(seed: int, count: int = DOCUMENTS) -> Iterator[str]:
    """Rendered dialogues of the train split, and its words."""
    from tiny_corpus import generate
    from tiny_corpus.words import COMMON, pool
    from understudy.core.chatml import render_text

    for i in range(count):
        dialogue = generate((seed << 32) + i, "train")
        yield render_text(dialogue.messages, dialogue.tools)
        if i % 20 == 0:
            yield " ".join(pool(COMMON, "train"))


def prepare(run: Path, seed: int, keep: bool = True) -> None:
    """A fresh run folder, with the package's tokenizer where there is one and `keep` is set."""
    for name in ("metrics.jsonl", "evals.jsonl", "state.json", "checkpoint.safetensors"):
        (run / name).unlink(missing_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    package = Path(__file__).parents[2] / "src/understudy/models/tiny"
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    if (run / "tokenizer.json").exists():
        pass
    elif keep and (package / "tokenizer.json").exists():
        for name in names:
            shutil.copy(package / name, run / name)
    else:
        save(train(texts(seed), Shape.vocab), run, Shape.max_positions)
    from tokenizers import Tokenizer

    table = token_texts(Tokenizer.from_file(str(run / "tokenizer.json")))
    (run / "tokens.json").write_text(json.dumps(table, ensure_ascii=False))


def vocabulary(run: Path) -> int:
    """How many tokens the run's tokenizer has."""
    return len(json.loads((run / "tokens.json").read_text()))
