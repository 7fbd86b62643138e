"""Results without what a world made up."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from understudy.core.types import Completion, Episode, Message, Provenance, ToolResult
from understudy.world.data.values import escape, parse


def masked(episode: Episode, doubtful: float) -> dict[str, str]:
    """The results that hold something made up, by call, with null for every value that is marked
    as invented, and, where the doubt is `doubtful` or more (0: never), for all values but those
    that are marked on their own as observed or remembered: a list of which the traffic shows every
    record is doubted for what it lists, and holds nothing that was made up.

    Results carry their provenance in `Episode.results` alone: others are taken as they are.
    """
    found = {call: _bare(result, doubtful) for call, result in episode.results.items()}
    return {call: text for call, text in found.items() if text != episode.results[call].content}


def with_results(episode: Episode, contents: Mapping[str, str]) -> Episode:
    """The episode with other contents of these calls' results; what the agent said and did of the
    true ones stays."""
    completions = tuple(_completion(c, contents) for c in episode.completions)
    results = {
        call: replace(result, content=contents.get(call, result.content))
        for call, result in episode.results.items()
    }
    tail = tuple(_message(m, contents) for m in episode.tail)
    return replace(episode, completions=completions, results=results, tail=tail)


def hidden(value: Any, path: str = "") -> Any:
    """A value with null for all leaves at or under a JSON pointer."""
    return _masked(value, {path: True}, "", False)


def _bare(result: ToolResult, doubtful: float) -> str:
    """A result's content without what is made up; a text that is no JSON is one value."""
    kinds = _made_up(result.provenance, result.doubt >= doubtful > 0)
    if not any(kinds.values()):
        return result.content
    value = parse(result.content)
    bare = _masked(value, kinds, "", False)
    return result.content if bare == value else json.dumps(bare, ensure_ascii=False)


def _made_up(marks: Sequence[Provenance], doubted: bool) -> dict[str, bool]:
    """Whether what is at or under a JSON pointer is to be hidden."""
    if not doubted:
        return {m.path: m.kind == "invented" for m in marks}
    kept = ("observed", "remembered")
    return {m.path: m.kind not in kept for m in marks} | {"": True}


def _masked(value: Any, kinds: Mapping[str, bool], path: str, invented: bool) -> Any:
    """The nearest mark at or above a leaf says where it comes from."""
    invented = kinds.get(path, invented)
    if isinstance(value, dict):
        return {k: _masked(v, kinds, f"{path}/{escape(k)}", invented) for k, v in value.items()}
    if isinstance(value, list):
        return [_masked(v, kinds, f"{path}/{i}", invented) for i, v in enumerate(value)]
    return None if invented else value


def _completion(completion: Completion, contents: Mapping[str, str]) -> Completion:
    messages = tuple(_message(m, contents) for m in completion.request.messages)
    return replace(completion, request=replace(completion.request, messages=messages))


def _message(message: Message, contents: Mapping[str, str]) -> Message:
    text = contents.get(message.get("tool_call_id", ""))
    return message if text is None else {**message, "content": text}
