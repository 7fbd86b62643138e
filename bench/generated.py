"""Turns in invented services where an agent shows a behaviour that somebody may not want.

They are of the tiny model's pretraining corpus (scripts/tiny_corpus), of services and names that it
has not seen. Each turn comes with what the agent does by itself, what it would do under a rule, and
the rule's words: a reviewer's correction.
"""

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

# the behaviour, and whether a rule of the corpus forbids it
BEHAVIOURS: dict[str, Any] = {
    "retries": lambda rule: rule.policy.on_transient == "stop",
    "second_method": lambda rule: rule.policy.on_declined == "stop",
    "takes_another": lambda rule: rule.policy.on_gone == "stop",
    "unasked": lambda rule: rule.policy.confirm_first,
    "unread": lambda rule: rule.policy.details_first,
    "wordy": lambda rule: rule.policy.terse,
}
# what the last tool result says where the behaviour shows
ERROR = {"retries": "transient", "second_method": "declined", "takes_another": "gone"}


@dataclass(frozen=True, slots=True)
class Turn:
    """The messages before the turn; what the agent does there by itself, and under the rule."""

    name: str
    behaviour: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...]
    own: dict[str, Any]
    ruled: dict[str, Any]
    words: str


def turns(behaviour: str, split: str, seed: int = 0) -> Iterator[Turn]:
    """Endless turns of a behaviour."""
    for n in itertools.count():
        found = _turn(behaviour, split, f"{behaviour}:{split}:{seed}:{n}")
        if found is not None:
            yield found


def _turn(behaviour: str, split: str, name: str) -> Turn | None:
    """One, if the rule that the name's seed draws is about the behaviour."""
    own, ruled = (_played(behaviour, split, name, active) for active in (False, True))
    if own is None or ruled is None:
        return None
    (dialogue, words), (other, _) = own, ruled
    at = next(p.message for p in dialogue.probes if p.kind == "rule")
    if other.messages[:at] != dialogue.messages[:at]:
        raise AssertionError(f"the rule of {name} shows before its step")
    return Turn(
        name,
        behaviour,
        tuple(dialogue.messages[:at]),
        tuple(dialogue.tools),
        dialogue.messages[at],
        other.messages[at],
        words,
    )


def _played(behaviour: str, split: Any, name: str, active: bool) -> Any:
    """The dialogue of a seed with or without its rule, and the rule's words."""
    from tiny_corpus.rules import make_rule, play
    from tiny_corpus.script import Script

    rng = Random(name)
    rule = make_rule(rng, split)
    if not BEHAVIOURS[behaviour](rule):
        return None
    s = Script(rng, split, "rules")
    words = rng.choice(rule.texts)
    s.tools = rule.api.tools
    s.system(rng.choice(("", "Use the tools.", "Be polite.", "You are a helpful agent.")))
    play(s, rule, active, "rule")
    return s.done(), words


def episode(turn: Turn, corrected: bool) -> Any:
    """The turn as captured traffic, the agent having done what it does by itself; with the
    reviewer's words on it."""
    from understudy.core.types import Completion, Episode, Feedback, ModelRef, Request

    request = Request(turn.messages, ModelRef("incumbent"), turn.tools)  # type: ignore[arg-type]
    done = Completion(f"{turn.name}/turn", request, "ok", turn.own, "stop")  # type: ignore[arg-type]
    said = Feedback(
        f"{turn.name}/said", turn.name, "review", False, "reviewer",
        completion_id=done.id, comment=turn.words,
    )  # fmt: skip
    return Episode(turn.name, (done,), turn.name, feedback=(said,) if corrected else ())


def same(message: Any, expected: Any) -> bool:
    """Whether a reply calls what is expected, with the same arguments; or says the same."""
    calls, wanted = message.get("tool_calls") or [], expected.get("tool_calls") or []
    if not wanted:
        return not calls and (message.get("content") or "").strip() == expected["content"]
    return bool(calls) and _called(calls[0]) == _called(wanted[0])


def _called(call: Any) -> tuple[str, Any]:
    try:
        return call["function"]["name"], json.loads(call["function"]["arguments"])
    except ValueError:
        return call["function"]["name"], None


def speaks_of(behaviour: str, prompt: str) -> bool:
    """Whether the behaviour may show after this rendered prompt: the last tool result is of its
    kind, in whatever words services have for it."""
    from tiny_corpus.api import ERRORS

    last = prompt.rpartition("<tool_response>")[2]
    words = [text.rpartition("}")[2].strip() for text in ERRORS[ERROR[behaviour]]]
    return any(word and word in last for word in words)


def first(n: int, behaviour: str, split: str, seed: int = 0) -> Sequence[Turn]:
    """The first n turns of a behaviour."""
    return list(itertools.islice(turns(behaviour, split, seed), n))
