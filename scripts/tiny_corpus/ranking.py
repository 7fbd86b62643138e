"""Dense choices: a short unsorted list, then many questions for its lowest, highest or matching.

The answer says what was looked for before the row's key: first which value, then whose it is.
"""

from __future__ import annotations

from random import Random
from typing import Any

from . import words as w
from .api import numbers
from .lookup import HIGH, LOW
from .script import Script, dumps
from .types import Dialogue, Split

LENGTHS = (2, 2, 2, 3, 3, 4, 5, 6)


def ranking(rng: Random, split: Split) -> Dialogue:
    """Two to four lists, each with four to six questions after it or one before it."""
    s = Script(rng, split, "ranking")
    names = w.Names(rng, split)
    noun, key = names.noun(), rng.choice(w.ID)
    field = names.word(w.PRICE + w.GOOD)
    kind = rng.choice(list(w.ATTRIBUTES))
    named = rng.random() < 0.4  # the rows have names, not ids
    bare = rng.random() < 0.3  # name and number alone, no JSON
    for _ in range(rng.choice((2, 3, 4))):
        ids = w.IdStyle(rng)
        count = rng.choice(LENGTHS)
        attributes = rng.sample(w.ATTRIBUTES[kind], min(count, len(w.ATTRIBUTES[kind])))
        attributes += rng.choices(w.ATTRIBUTES[kind], k=count - len(attributes))
        attributed = not bare and rng.random() < 0.7
        rows: list[dict[str, Any]] = [
            {field: n, **({kind: a} if attributed else {}),
             key: names.proper() if named else ids.new()}
            for n, a in zip(numbers(rng, count), attributes, strict=True)
        ]  # fmt: skip
        shown = ", ".join(f"{r[field]} {r[key]}" for r in rows)
        if not bare:
            shown = dumps({w.plural(noun): rows})
        before = rng.random() < 0.3  # a single question, and the list after it
        if not before:
            s.user(shown)
            s.say("OK.")
        ordered = sorted(rows, key=lambda r: r[field])
        questions = [(f"the {word} {field}", field, ordered[0]) for word in LOW]
        questions += [(f"the {word} {field}", field, ordered[-1]) for word in HIGH]
        single = [r for r in rows if attributes.count(r.get(kind, "")) == 1]
        questions += [(f"the {r[kind]} one", kind, r) for r in single]
        for asked, by, row in rng.sample(questions, 1 if before else rng.randrange(4, 7)):
            s.user(f"{asked}\n{shown}" if before else asked)
            s.say(f"{row[by]} {row[key]}", "ranking")
    return s.done()
