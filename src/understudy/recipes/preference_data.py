"""Preferences and thumbs: from captured episodes, or from a file in TRL's conversational format.

A file holds one JSON object a line, gzip by its suffix. Pairs: `prompt`, `chosen` and `rejected`,
each a list of messages; without `prompt`, what both begin with is it. Thumbs: `prompt`,
`completion` and `label`. Either may have `tools`, a list or the list as JSON text. What cannot be
used is counted with its reason.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

from understudy.core import strict_json
from understudy.core.chat_files import open_lines
from understudy.core.forest import canonical_message, final_conversations
from understudy.core.openai_wire import message_problem, tools_problem
from understudy.core.types import (
    Episode,
    Message,
    Split,
    Tool,
    canonical_json,
    is_function,
    select_reward,
    split_of,
    why_no_reward,
)
from understudy.judges.check import conversation
from understudy.runs.directory import Run, read_json

CUSTOM = "calls of custom tools, which the chat format cannot say"


@dataclass(frozen=True, slots=True)
class Said:
    """A prompt, and what was said from there on."""

    id: str
    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()

    @property
    def conversation(self) -> tuple[str, tuple[Message, ...], tuple[Tool, ...]]:
        """Its id, what it began with, and its tools."""
        return self.id, self.prompt, self.tools


@dataclass(frozen=True, slots=True)
class Pair:
    """Two completions of one prompt, the first the better one."""

    chosen: Said
    rejected: Said

    def row(self) -> dict[str, Any]:
        """As `read_pairs` reads it."""
        return _row(self.chosen) | {
            "id": [self.chosen.id, self.rejected.id],
            "chosen": list(self.chosen.completion),
            "rejected": list(self.rejected.completion),
        }


@dataclass(frozen=True, slots=True)
class Thumb:
    """A completion that somebody found good, or not."""

    said: Said
    desirable: bool

    def row(self) -> dict[str, Any]:
        """As `read_thumbs` reads it."""
        completion = list(self.said.completion)
        return _row(self.said) | {
            "id": self.said.id,
            "completion": completion,
            "label": self.desirable,
        }


class _Kept(Protocol):
    def row(self) -> dict[str, Any]: ...


T = TypeVar("T", bound=_Kept)
Found = tuple[list[T], Counter[str]]
Splits = Split | Literal["all"]


def pairs_of(
    episodes: Iterable[Episode], feedback: str, split: Splits, per_scenario: int, seed: int
) -> tuple[list[Pair], Counter[str]]:
    """Pairs of episodes of one scenario of which one has more reward; reasons for what makes none.

    Where a scenario has more than `per_scenario` pairs, so many of them are drawn.
    """
    left_out: Counter[str] = Counter()
    groups: dict[str, list[tuple[float, Said]]] = {}
    for episode in episodes:
        reward = select_reward(episode.feedback, feedback)
        said = _only_said(episode)
        if split not in ("all", split_of(episode.scenario_id or episode.id)):
            left_out[f"episodes, not of the split {split}"] += 1
        elif reward is None:
            left_out[f"episodes, {why_no_reward(episode.feedback, feedback)}"] += 1
        elif isinstance(said, str):
            left_out[f"episodes, {said}"] += 1
        elif episode.scenario_id is None:
            left_out["episodes, without a scenario to compare within"] += 1
        else:
            groups.setdefault(episode.scenario_id, []).append((reward, said))
    pairs: list[Pair] = []
    for scenario, group in sorted(groups.items()):
        if len(group) == 1:
            left_out["episodes, alone in their scenario"] += 1
            continue
        found, more = _pairs_in(sorted(group, key=lambda item: item[1].id))
        left_out += more
        rng = random.Random(f"{seed}:{scenario}")
        drawn = sorted(rng.sample(range(len(found)), min(per_scenario, len(found))))
        left_out["pairs, more than a scenario gives"] += len(found) - len(drawn)
        pairs += [found[i] for i in drawn]
    return pairs, +left_out


def _pairs_in(group: Sequence[tuple[float, Said]]) -> tuple[list[Pair], Counter[str]]:
    found: list[Pair] = []
    left_out: Counter[str] = Counter()
    for (high, better), (low, worse) in product(group, group):
        if high <= low:
            continue
        if (_text(better.prompt), better.tools) != (_text(worse.prompt), worse.tools):
            left_out["pairs, of different prompts"] += 1
        elif _text(better.completion) == _text(worse.completion):
            left_out["pairs, of equal completions"] += 1
        else:
            found.append(Pair(better, worse))
    if len({reward for reward, _ in group}) == 1:
        left_out["scenarios, whose feedback does not differ"] += 1
    return found, left_out


def thumbs_of(
    episodes: Iterable[Episode], feedback: str, split: Splits, threshold: float
) -> tuple[list[Thumb], Counter[str]]:
    """Each conversation of an episode with feedback, desirable from `threshold` on."""
    thumbs: list[Thumb] = []
    left_out: Counter[str] = Counter()
    for episode in sorted(episodes, key=lambda e: (e.scenario_id or e.id, e.id)):
        reward = select_reward(episode.feedback, feedback)
        found = final_conversations(episode.completions)
        if split not in ("all", split_of(episode.scenario_id or episode.id)):
            left_out[f"episodes, not of the split {split}"] += 1
        elif reward is None:
            left_out[f"episodes, {why_no_reward(episode.feedback, feedback)}"] += 1
        elif not found:
            left_out["episodes, without a whole reply"] += 1
        else:
            for n, one in enumerate(found):
                said = _said(f"{episode.id}/{n}", one.messages, one.tools)
                if isinstance(said, str):
                    left_out[f"conversations, {said}"] += 1
                else:
                    thumbs.append(Thumb(said, reward >= threshold))
    return thumbs, left_out


def _only_said(episode: Episode) -> Said | str:
    """What the episode's one agent said, or why there is no such thing."""
    agents = len(final_conversations(episode.completions))
    if agents != 1:
        return "of several agents" if agents else "without a whole reply"
    return _said(episode.id, conversation(episode), episode.tools)


def _said(id_: str, messages: Sequence[Message], tools: Sequence[Tool]) -> Said | str:
    first = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
    calls = [call for m in messages for call in m.get("tool_calls") or []]
    if not all(is_function(call) for call in calls):
        return CUSTOM
    return Said(id_, tuple(messages[:first]), tuple(messages[first:]), tuple(tools))


def read_pairs(path: str | Path) -> tuple[list[Pair], Counter[str]]:
    """The pairs of a file, and the lines left out."""
    return _read(Path(path), _pair)


def read_thumbs(path: str | Path) -> tuple[list[Thumb], Counter[str]]:
    """The thumbs of a file, and the lines left out."""
    return _read(Path(path), _thumb)


def begun_with(
    run: Run, name: str, find: Callable[[], Found[T]], read: Callable[[Path], Found[T]]
) -> Found[T]:
    """What `find` finds, written into the run when it begins: a resumed run goes on with that.

    Raises ValueError where nothing is found, or what was written is damaged.
    """
    file, reasons = run.artefacts / f"{name}.jsonl", "left_out.json"
    if not file.exists():
        found, left_out = find()
        if not found:
            why = dict(left_out) or "none were given"
            raise ValueError(f"there are no {name} to train on: {why}")
        run.write_artefact(reasons, dict(left_out))
        run.write_artefact(file.name, "".join(json.dumps(item.row()) + "\n" for item in found))
    kept, damaged = read(file)
    if damaged:
        raise ValueError(f"{file} is damaged ({dict(damaged)}): begin a new run")
    return kept, Counter(read_json(run.artefacts / reasons))


def _read(path: Path, parse: Callable[[Mapping[str, Any], str], T]) -> Found[T]:
    found: list[T] = []
    left_out: Counter[str] = Counter()
    with open_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = strict_json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not a JSON object")
                found.append(parse(row, f"{path.name}:{number}"))
            except json.JSONDecodeError:
                left_out["lines, not valid JSON"] += 1
            except (ValueError, RecursionError) as error:
                left_out[f"lines, {error}"] += 1
    return found, left_out


def _pair(row: Mapping[str, Any], where: str) -> Pair:
    chosen, rejected = _messages(row, "chosen"), _messages(row, "rejected")
    if row.get("prompt") is None:
        shared = next(
            (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
            min(len(chosen), len(rejected)),
        )
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    else:
        prompt = _messages(row, "prompt")
    ids = row.get("id")
    both = ids if isinstance(ids, list) and len(ids) == 2 else [f"{where}+", f"{where}-"]
    tools = _tools(row)
    _check(prompt, chosen, "chosen")
    _check(prompt, rejected, "rejected")
    return Pair(
        Said(str(both[0]), prompt, chosen, tools), Said(str(both[1]), prompt, rejected, tools)
    )


def _thumb(row: Mapping[str, Any], where: str) -> Thumb:
    prompt, completion = _messages(row, "prompt"), _messages(row, "completion")
    if not isinstance(row.get("label"), bool):
        raise ValueError("label is not true or false")
    _check(prompt, completion, "completion")
    said = Said(str(row.get("id") or where), prompt, completion, _tools(row))
    return Thumb(said, row["label"])


def _messages(row: Mapping[str, Any], key: str) -> tuple[Message, ...]:
    given = row.get(key)
    if not isinstance(given, list) or not given:
        raise ValueError(f"{key} is not a list of messages")
    for message in given:
        problem = message_problem(message)
        if problem is not None:
            raise ValueError(f"a message of {key} {problem}")
    return tuple(cast(list[Message], given))


def _check(prompt: Sequence[Message], completion: Sequence[Message], key: str) -> None:
    if not prompt:
        raise ValueError("there is no prompt")
    if not any(m["role"] == "assistant" for m in completion):
        raise ValueError(f"{key} holds no assistant message")
    calls = [c for m in (*prompt, *completion) for c in m.get("tool_calls") or []]
    if not all(is_function(call) for call in calls):
        raise ValueError(CUSTOM)


def _tools(row: Mapping[str, Any]) -> tuple[Tool, ...]:
    tools = row.get("tools") or []
    if isinstance(tools, str):
        tools = strict_json.loads(tools)
    problem = tools_problem(tools)
    if problem is not None:
        raise ValueError(f"tools {problem}")
    return tuple(tools)


def _row(said: Said) -> dict[str, Any]:
    tools = {"tools": json.dumps(list(said.tools))} if said.tools else {}
    return {"prompt": list(said.prompt), **tools}


def _text(messages: Sequence[Message]) -> str:
    return canonical_json([canonical_message(m) for m in messages])
