"""Two attempts at one task, shown as text: which is better?"""

from __future__ import annotations

from random import Random

from . import words as w
from .api import Service, make_service
from .script import Json, Script
from .types import Dialogue, Split

FLAWS = ("gave_up", "error", "wrong_place", "wrong_number", "nothing_done")


def _line(name: str, arguments: Json, result: str) -> str:
    return f"{name}({', '.join(f'{k}={v}' for k, v in arguments.items())}) -> {result}"


def _attempt(rng: Random, api: Service, place: str, size: int, flaw: str, other: str) -> str:
    """The lines of one attempt; without a flaw it does what was asked."""
    slot = api.slot("place")
    assert slot is not None
    count = next((x for x in api.slots if x.kind in ("people", "count")), None)
    chosen, final = api.ids.new(), api.finals.new()
    arguments: Json = {slot.name: other if flaw == "wrong_place" else place}
    if count:
        arguments[count.name] = size + rng.randrange(1, 5) if flaw == "wrong_number" else size
    lines = [_line(api.search, arguments, chosen)]
    if flaw == "gave_up":
        return "\n".join([*lines, "Sorry, I could not do it."])
    if flaw == "nothing_done":
        return "\n".join([*lines, f"Here is {chosen}."])
    if flaw == "error":
        lines.append(_line(api.act, {api.item_arg: chosen}, f"error: {rng.choice(_ERRORS)}"))
        return "\n".join([*lines, "Sorry, it failed."])
    lines.append(_line(api.act, {api.item_arg: chosen}, f"{api.final} {final}"))
    return "\n".join([*lines, f"Done, {api.final} {final}."])


_ERRORS = ("sold out", "declined", "not permitted", "expired")


def compare(rng: Random, split: Split) -> Dialogue:
    """Three judgements; letters are balanced."""
    s = Script(rng, split, "compare")
    names = w.Names(rng, split)
    api = make_service(rng, split, confirm=False, details=False, limit=False, sort=False,
                       person=False, choice=False, cancel=False)  # fmt: skip
    letters = rng.choice((("A", "B"), ("1", "2")))
    s.system(rng.choice(("You judge attempts.", "Compare two attempts at a task.", "")))
    count = next((x for x in api.slots if x.kind in ("people", "count")), None)
    for _ in range(3):
        place, other, size = names.proper(), names.proper(), rng.randrange(1, 8)
        flaw = rng.choice([f for f in FLAWS if count or f != "wrong_number"])
        winner = rng.randrange(2)
        texts = [_attempt(rng, api, place, size, f, other) for f in ("", flaw)]
        if winner == 1:
            texts.reverse()
        amount = f", {size} {count.word}" if count else ""
        shown = "\n".join(f"{n}:\n{t}" for n, t in zip(letters, texts, strict=True))
        s.user(f"Task: {api.verbs['act']} {api.noun} in {place}{amount}\n{shown}\nWhich is better?")
        s.say(letters[winner], "compare")
    return s.done()
