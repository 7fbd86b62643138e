"""A stand-in for a judge's model: answers by rule what the fenced data calls for."""

import json
import re
from collections.abc import Callable

from understudy.core.types import Completion, Episode, Message, Request

Shown = dict[str, list[Message]]
Answer = str | dict[str, object] | BaseException


def shown_to_judge(request: Request) -> tuple[list[Message], Shown]:
    """The shared beginning and the trajectories by id, read from a RULER request."""
    text = str(request.messages[1]["content"])
    blocks = re.findall(r"^([^\n]+):\n([0-9a-f]{16})\n(.*?)\n\2$", text, re.DOTALL | re.MULTILINE)
    shared: list[Message] = []
    trajectories: Shown = {}
    for title, _, body in blocks:
        lines = [] if body == "(nothing more)" else body.split("\n")
        messages = [json.loads(line) for line in lines]
        if title.startswith("Trajectory "):
            trajectories[title.removeprefix("Trajectory ")] = messages
        else:
            shared = messages
    return shared, trajectories


class StandInJudge:
    """A Chat that answers with `rule(trajectories)`; every request is kept."""

    def __init__(self, *rules: Callable[[Shown], Answer]) -> None:
        self.rules = list(rules)
        self.requests: list[Request] = []

    async def complete(self, request: Request) -> Completion:
        self.requests.append(request)
        rule = self.rules[min(len(self.requests), len(self.rules)) - 1]
        answer = rule(shown_to_judge(request)[1])
        if isinstance(answer, BaseException):
            raise answer
        message: Message = {"role": "assistant", "content": None}
        if isinstance(answer, str):
            message["content"] = answer
        else:
            function = {"name": "submit_scores", "arguments": json.dumps(answer)}
            message["tool_calls"] = [{"id": "c", "type": "function", "function": function}]  # type: ignore[typeddict-item]
        return Completion(f"j{len(self.requests)}", request, "ok", message)


def scores(values: dict[str, object]) -> dict[str, object]:
    return {
        "scores": [
            {"trajectory_id": i, "explanation": f"because {i}", "score": v}
            for i, v in values.items()
        ]
    }


def by_length(shown: Shown) -> Answer:
    """The rule of most tests: the more messages, the better."""
    return scores({i: min(1.0, len(m) / 10) for i, m in shown.items()})


def episode(name: str, *messages: Message, **fields: object) -> Episode:
    """An episode of one completion: the last assistant message is its reply."""
    from understudy.core.types import ModelRef

    at = max(i for i, m in enumerate(messages) if m["role"] == "assistant")
    request = Request(tuple(messages[:at]), ModelRef("agent"))
    done = Completion(f"{name}-c", request, "ok", messages[at])
    return Episode(name, (done,), tail=tuple(messages[at + 1 :]), **fields)  # type: ignore[arg-type]
