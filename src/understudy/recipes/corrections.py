"""Corrections: what people said of an agent's turns, and the context of one who has read it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from understudy.core.openai_wire import message_problem
from understudy.core.types import Completion, Episode, Feedback, Message, text_of

Place = Literal["system", "episode"]
_BY_PEOPLE = ("user", "reviewer", "demonstration")


@dataclass(frozen=True, slots=True)
class Correction:
    """A turn of an agent with what is wrong with it, in words (`told`) or by the right reply
    (`shown`), or both."""

    id: str
    turn: Completion
    told: str | None
    shown: Message | None


def corrections_of(
    episode: Episode, name: str | None = None
) -> tuple[list[Correction], Counter[str]]:
    """What users and reviewers said in words of the agent's turns, or showed; under one `name`, or
    any. And why other feedback of people is left out, counted.

    Said of a completion, it is of that turn; said of the episode, in words, of each of its turns:
    one who has read it knows where it applies. Feedback that praises (true, or a number above 0)
    corrects nothing.
    """
    turns = {c.id: c for c in episode.completions if _is_turn(c)}
    found: list[Correction] = []
    left_out: Counter[str] = Counter()
    for said in sorted(episode.feedback, key=lambda f: (f.created_at, f.id)):
        if said.source not in _BY_PEOPLE or (name is not None and said.name != name):
            continue
        told, shown = (said.comment or "").strip() or None, _shown(said)
        if said.source == "demonstration" and shown is None:
            left_out["a demonstration that is no assistant's message"] += 1
        elif told is None and shown is None:
            left_out["feedback without words"] += 1
        elif said.source != "demonstration" and _praises(said.value):
            left_out["praise"] += 1
        elif not turns:
            left_out["of an episode without a whole reply of the agent"] += 1
        elif said.completion_id is not None and said.completion_id not in turns:
            left_out["of a completion that is no whole reply of the agent"] += 1
        elif said.completion_id is not None:
            found.append(Correction(said.id, turns[said.completion_id], told, shown))
        elif shown is not None and len(turns) != 1:
            left_out["a demonstration that names no completion"] += 1
        else:
            found += [Correction(f"{said.id}/{n}", turn, told, shown)
                      for n, turn in enumerate(turns.values())]  # fmt: skip
    return found, left_out


def turns_of(episode: Episode) -> list[Completion]:
    """The agent's whole replies."""
    return [c for c in episode.completions if _is_turn(c)]


def hindsight(
    messages: Sequence[Message], correction: Correction, place: Place, form: str
) -> tuple[Message, ...]:
    """`messages` as one reads them who has read the correction's words, put as `form` says.

    `system`: they end the system prompt. `episode`: what was corrected goes before, as it happened,
    with its correction behind it, as in SDPO (arXiv 2601.20802); the context is twice as long, and
    what the tools said then is known before they are asked.
    """
    words = form.replace("{text}", correction.told or "")
    system, rest = _parted(messages)
    if place == "system":
        return ({"role": "system", "content": f"{system}\n{words}" if system else words}, *rest)
    assert correction.turn.message is not None
    _, before = _parted(correction.turn.request.messages)
    head: list[Message] = [{"role": "system", "content": system}] if system else []
    return (
        *head,
        *before,
        correction.turn.message,
        {"role": "user", "content": words},
        {"role": "assistant", "content": "Understood."},
        *rest,
    )


def _parted(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """The system prompt, and what follows it."""
    if messages and messages[0]["role"] in ("system", "developer"):
        return text_of(messages[0].get("content")), list(messages[1:])
    return "", list(messages)


def _is_turn(c: Completion) -> bool:
    return c.status == "ok" and c.message is not None and c.request.purpose == "agent"


def _praises(value: Any) -> bool:
    return isinstance(value, bool | int | float) and value > 0


def _shown(said: Feedback) -> Message | None:
    """The reply that a demonstration gives: text, or an assistant's message."""
    if said.source != "demonstration":
        return None
    if isinstance(said.value, str) and said.value.strip():
        return {"role": "assistant", "content": said.value}
    if not isinstance(said.value, dict) or said.value.get("role") != "assistant":
        return None
    return None if message_problem(said.value) else cast(Message, said.value)
