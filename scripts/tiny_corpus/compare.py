"""Two attempts at one task, shown as text: which is better?"""

from __future__ import annotations

from random import Random
from typing import Any

from . import phrases
from . import words as w
from .api import Api, make_api
from .goal import Goal, make_goal
from .script import Json, Script
from .types import Dialogue, Split

FLAWS = (
    "gave_up", "wrong_item", "over_cap", "errors", "wrong_id", "no_result", "wrong_place",
    "invented",
)  # fmt: skip


def _line(name: str, arguments: Json, result: str) -> str:
    return f"{name}({', '.join(f'{k}={v}' for k, v in arguments.items())}) -> {result}"


def _attempt(s: Script, api: Api, goal: Goal, flaw: str) -> list[str]:
    """The lines of one attempt: without a flaw ("") it reaches the goal."""
    rng = s.rng
    order = goal.order or (api.price, True)
    fitting = [i for i in goal.items if goal.cap is None or i[api.price] <= goal.cap]
    fitting.sort(key=lambda i: i[order[0]], reverse=not order[1])
    item = fitting[0]
    place = goal.place
    if flaw == "wrong_item":
        item = rng.choice(fitting[1:])
    if flaw == "over_cap":
        item = rng.choice([i for i in goal.items if i[api.price] > (goal.cap or 0)])
    if flaw == "wrong_place":
        place = w.place_name(rng, s.split)
    shown = "; ".join(
        f"{i[api.id_field]} {' '.join(f'{f} {i[f]}' for f in api.numeric)}" for i in goal.items
    )
    lines = [_line(api.search, {api.place: place}, shown)]
    if flaw == "gave_up":
        ends = ["Sorry, I could not do it.", "Please try again later.", "I can't help with that."]
        return (
            [*lines, f'"{rng.choice(ends)}"'] if rng.random() < 0.6 else [f'"{rng.choice(ends)}"']
        )
    chosen = item[api.id_field]
    final: Any = api.finals.new()
    if flaw == "errors":
        for _ in range(rng.choice((1, 2, 2))):
            lines.append(_line(api.act, {api.item_arg: api.ids.new()}, "error: unknown"))
    if flaw == "wrong_id":
        lines.append(_line(api.act, {api.item_arg: api.ids.new()}, "error: unknown"))
        return [*lines, f'"{rng.choice(("It is done.", "Done.", "All set."))}"']
    if flaw == "no_result":
        return [*lines, f'"{rng.choice(("Here is the list.", "I found some.", "Which one?"))}"']
    lines.append(_line(api.act, {api.item_arg: chosen}, f"{api.final_field} {final}"))
    told = api.finals.new() if flaw == "invented" else final
    return [*lines, f'"Done: {told}"']


def compare(rng: Random, split: Split) -> Dialogue:
    """One or two judgements; letters are balanced."""
    s = Script(rng, split, "compare")
    api = make_api(
        rng, split, confirm=False, details=False, size=False, span=False, person=False, sort=False,
        cancel=False, attribute=False, option=False,
    )  # fmt: skip
    names = rng.choice((("A", "B"), ("A", "B"), ("1", "2"), ("X", "Y")))
    form = rng.choice(("{w}", "{w}", "{w}", "Better: {w}", "Answer: {w}", "{w}."))
    asks = {
        "{w}": (
            f"Which is better? Answer {names[0]} or {names[1]}.",
            "Better one? Only its name.",
            f"{names[0]} or {names[1]}?",
        ),
        "Better: {w}": ('Answer "Better: ..."',),
        "Answer: {w}": ('Which is better? Write "Answer: ..."',),
        "{w}.": ("Which attempt is better?", "Who did better?"),
    }[form]
    ask = rng.choice(asks)
    rule_text, criterion = _criterion(rng)
    intro = rng.choice(
        ("You judge attempts.", "Compare two attempts at a task.", "You are a judge.", "")
    )
    s.system(" ".join(part for part in (intro, rule_text) if part))
    mark = rng.choice(("Attempt {n}:", "{n}:", "[{n}]", "Agent {n}:"))
    for _ in range(rng.choice((1, 2, 2))):
        flaw = criterion or rng.choice(FLAWS)
        goal = _goal(rng, s, api, flaw)
        task = phrases.request(rng, api, goal)
        good = _attempt(s, api, goal, "")
        if criterion == "longer":
            bad = _attempt(s, api, goal, "")
            good = [good[0], _line(api.search, {api.place: goal.place}, "same"), *good[1:]]
            if rule_text in _SHORTER:
                good, bad = bad, good
        else:
            bad = _attempt(s, api, goal, flaw)
        winner = rng.randrange(2)
        texts = [good, bad] if winner == 0 else [bad, good]
        shown = "\n".join(
            mark.format(n=n) + "\n" + "\n".join(f"- {line}" for line in lines)
            for n, lines in zip(names, texts, strict=True)
        )
        s.user(f"{rng.choice(('Task', 'Request', 'User'))}: {task}\n{shown}\n{ask}")
        s.say(form.format(w=names[winner]), "compare")
    return s.done()


_SHORTER = ["The shorter attempt is better.", "Fewer calls are better."]
_LONGER = ["The one that checks twice is better.", "More calls are better."]


def _criterion(rng: Random) -> tuple[str, str]:
    """A rule of the judge and what the two attempts differ in; mostly none."""
    if rng.random() < 0.15:
        return rng.choice(_SHORTER + _LONGER), "longer"
    return "", ""


def _goal(rng: Random, s: Script, api: Api, flaw: str) -> Goal:
    """A goal whose list allows the flaw: two that fit, one above the limit."""
    while True:
        goal = make_goal(
            rng, s, api, missing=False, count=rng.choice((2, 3, 3)), order=True, methods=1,
            cap=flaw == "over_cap",
        )  # fmt: skip
        prices = [i[api.price] for i in goal.items]
        if flaw == "wrong_item" and len(prices) < 2:
            continue
        if flaw == "over_cap" and (goal.cap is None or max(prices) <= goal.cap):
            continue
        return goal
