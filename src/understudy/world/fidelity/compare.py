"""A result beside the real one: what of the real one could be known, and what of that is right."""

import re
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from understudy.core.types import Transition, canonical_json
from understudy.world.data.values import columns, parse
from understudy.world.known.state import State
from understudy.world.lists.listings import list_in
from understudy.world.results.changes import changed, shown
from understudy.world.traffic.transitions import Failures, Step

Scores = dict[str, float | None]  # None: the column does not apply to the call
Leaves = Counter[tuple[str, str]]  # (path, value as JSON)


@dataclass(slots=True)
class Truth:
    """A real result; its leaves by what could be known of them: `determined` by the arguments or
    what the episode showed before, `recalled` from the traffic, the rest free."""

    step: Step
    leaves: Leaves
    determined: Leaves
    recalled: Leaves
    free: list[tuple[str, Any]]
    reveals: bool  # the episode showed another answer to this call before

    @classmethod
    def of(
        cls, s: Step, episode: Container[str], traffic: Container[str], reveals: bool
    ) -> "Truth":
        own = {str(v) for _, v in columns(s.args)}
        parts: tuple[Leaves, Leaves] = (Counter(), Counter())
        free = []
        for path, value in columns(s.value):
            text = str(value)
            if value is None or text in own or text in episode:
                parts[0][path, canonical_json(value)] += 1
            elif text in traffic:
                parts[1][path, canonical_json(value)] += 1
            else:
                free.append((path, value))
        return cls(s, leaf_counts(s.value), *parts, free, reveals)

    @property
    def label(self) -> str:
        """The outcome class, in words without numbers."""
        return label_of(self.step.value, self.step.failed)

    def ceiling(self) -> Scores:
        """What one scores who is right about all that could be known."""
        scores = self.scores(self.step.content, self.step.flag)
        if not self.step.failed and self.free:
            scores["exact"] = 0.0
            scores["revealing"] = None if scores["revealing"] is None else 0.0
            scores["leaf_f1"] = 1 - len(self.free) / self.leaves.total()
        return scores

    def scores(self, text: str, flag: bool) -> Scores:
        """The columns for a result that was predicted in this one's place."""
        s, guess = self.step, self.step.read(text)
        got = leaf_counts(guess)
        free = {p for p, _ in self.free}
        known = Counter({k: n for k, n in self.leaves.items() if k[0] not in free})
        kept = Counter({k: n for k, n in got.items() if k[0] not in free})
        exact = float(text == s.content or guess == s.value)
        typed = Counter(type(v).__name__ for _, v in self.free)
        guessed = Counter(type(v).__name__ for p, v in columns(guess) if p in free)
        same = float(guess == s.value)
        good = not s.failed
        return {
            "exact": exact,
            "exact_but_free": float(kept == known and got.total() == self.leaves.total())
            if good else same,
            "leaf_f1": leaf_f1(got, self.leaves),
            "known_f1": leaf_f1(kept, known) if good else same,
            "determined_f1": _part_f1(got, self.determined, self.leaves) if good else None,
            "recalled_f1": _part_f1(got, self.recalled, self.leaves) if good else None,
            "free_type": (typed & guessed).total() / len(self.free) if self.free else None,
            "flag": float(flag == s.flag),
            "list_f1": _list_f1(s.value, guess) if good else None,
            "revealing": exact if self.reveals else None,
        }  # fmt: skip


def leaf_counts(value: Any) -> Leaves:
    """How often a JSON value holds each (path, value) at its leaves, places in lists aside."""
    return Counter((p, canonical_json(v)) for p, v in columns(value))


def leaf_f1(got: Counter[Any], real: Counter[Any]) -> float:
    """F1 of counted leaves; 1 where there are none."""
    total = got.total() + real.total()
    return 2 * (got & real).total() / total if total else 1.0


def _part_f1(got: Leaves, part: Leaves, whole: Leaves) -> float | None:
    """F1 over a part of the real leaves: what was predicted at their paths, less what is right
    about others there."""
    if not part:
        return None
    paths = {p for p, _ in part}
    there = Counter({k: n for k, n in got.items() if k[0] in paths})
    return leaf_f1(there - ((there & whole) - part), part)


def _list_f1(real: Any, guess: Any) -> float | None:
    both = list_in(real), list_in(guess)
    if both[0] is None:
        return None
    a = {canonical_json(r) for r in both[0][1]}
    b = {canonical_json(r) for r in both[1][1]} if both[1] else set()
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0


def label_of(value: Any, failed: bool) -> str:
    """The outcome class of a result: the keys of a success, the words of a failure."""
    if isinstance(value, dict) and not failed:
        return "ok" + canonical_json(sorted(value))
    text = value if isinstance(value, str) else canonical_json(value) if failed else "ok[]"
    return re.sub(r"[\w.-]+", lambda m: "#" if re.search(r"\d", m.group()) else m.group(), text)


def failed(failures: Failures, name: str, text: str, flag: bool) -> bool:
    """Whether a predicted result says that its call failed."""
    return failures.failed(Transition("", 0, (), name, "{}", text, flag), parse(text))


def changes(state: State, s: Step, value: Any, ok: bool) -> set[tuple[Any, str, str]]:
    """The fields of things known to the session that a result shows with another value, see
    world.results.changes: (thing, field, new value as JSON)."""
    after = state.copy()
    after.observe(s.name, s.args, "ok:" if ok else "err:", value)
    return {(c.key, c.field, canonical_json(c.after)) for c in changed(shown(state), shown(after))}
