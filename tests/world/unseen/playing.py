"""Traffic of a service written in Python: rows as `understudy.world.fidelity.bench` reads them, and
what really happened, which only a scorer sees."""

import copy
import inspect
import json
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

Call = tuple[str, dict[str, Any]]
Agent = Generator[Call, Any, None]  # is sent each result, Refused where the call failed
SLIPS = 0.07  # share of calls that are made wrong before they are made right


class Refused(Exception):
    """A call that the service refuses; the argument is what it answers."""


@dataclass(frozen=True)
class Service:
    """`malformed` words a call that is wrong in itself: (what, tool, argument) to an answer.
    `flagged`: whether failures carry the error flag. `dump` writes what is not a text. `lasting`:
    an episode finds what those before it left."""

    name: str
    start: Callable[[random.Random], Any]
    tools: dict[str, Callable[..., Any]]
    agent: Callable[[random.Random, Any], Agent]
    malformed: Callable[[str, str, str], Any]
    flagged: bool = True
    wrap: Callable[[Any, bool], Any] = lambda value, failed: value
    dump: Callable[[Any], str] = json.dumps
    lasting: bool = False


def word(names: int | None, name: str) -> str:
    """A name as it is, or with a seed a random word for it."""
    if names is None:
        return name
    rng = random.Random(f"{names}:{name}")
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(4))


def play_all(
    service: Service, episodes: int, names: int | None = None
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """So many episodes, in their order."""
    state = service.start(random.Random(service.name)) if service.lasting else None
    return [play(service, seed, names, state) for seed in range(episodes)]


def play(
    service: Service, seed: int, names: int | None = None, state: Any = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One episode: its row, and for each call whether the state changed, whether an equal call
    was answered otherwise before, and the kind of a call that is wrong in itself. With `names`, a
    seed, tools, arguments and fields have random names. Without a `state` it begins anew."""
    rng = random.Random(f"{service.name}:{seed}")
    state = service.start(rng) if state is None else state
    agent = service.agent(rng, state)
    name = f"{service.name}-{seed}"
    messages: list[dict[str, Any]] = []
    hidden: list[dict[str, Any]] = []
    shown: dict[str, str] = {}
    planned = next(agent, None)
    while planned is not None and len(hidden) < 24:
        tool, args = planned
        kind = None
        if rng.random() < SLIPS:
            args, kind = _slip(rng, service, tool, args)
        before = copy.deepcopy(state)
        value, failed = _answer(service, state, tool, args, names)
        wrapped = service.wrap(value, failed)
        text = wrapped if isinstance(wrapped, str) else service.dump(_renamed(wrapped, names))
        key = tool + json.dumps(args, sort_keys=True)
        hidden.append(
            {
                "episode": name, "step": len(hidden), "kind": kind, "failed": failed,
                "state_changed": not failed and before != state,
                "effect_revealing": key in shown and shown[key] != text,
            }
        )  # fmt: skip
        shown[key] = text
        call = f"c{len(hidden)}"
        written = json.dumps(_renamed(args, names))
        function = {"name": word(names, tool), "arguments": written}
        made = {"id": call, "type": "function", "function": function}
        messages.append({"role": "assistant", "content": None, "tool_calls": [made]})
        flag = failed and service.flagged
        told = {"role": "tool", "tool_call_id": call, "content": text, "is_error": flag}
        messages.append(told)
        if kind is None:
            try:
                planned = agent.send(Refused(value) if failed else value)
            except StopIteration:
                break
    split = "test" if random.Random(f"split:{name}").random() < 0.25 else "train"
    return {"episode": name, "scenario": name, "split": split, "messages": messages}, hidden


def _renamed(value: Any, names: int | None) -> Any:
    if isinstance(value, dict):
        return {word(names, k): _renamed(v, names) for k, v in value.items()}
    return [_renamed(v, names) for v in value] if isinstance(value, list) else value


def _answer(
    service: Service, state: Any, tool: str, args: dict[str, Any], names: int | None
) -> tuple[Any, bool]:
    """What the service answers, and whether the call failed."""
    said = word(names, tool)
    function = service.tools[tool]
    wanted = dict(list(inspect.signature(function).parameters.items())[1:])
    for p in args:
        if p not in wanted:
            return service.malformed("extra", said, word(names, p)), True
    for p, parameter in wanted.items():
        if p not in args:
            if parameter.default is inspect.Parameter.empty:
                return service.malformed("missing", said, word(names, p)), True
        elif not isinstance(args[p], parameter.annotation):
            return service.malformed("type", said, word(names, p)), True
    try:
        return function(state, **args), False
    except Refused as refused:
        return refused.args[0], True


def _slip(
    rng: random.Random, service: Service, tool: str, args: dict[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """The call made wrong, and how; some slips are none for this call."""
    kind = rng.choice(["missing_arg", "extra_arg", "wrong_type", "wrong_id", "wrong_id"])
    args = dict(args)
    if kind == "extra_arg":
        args[rng.choice(["verbose", "note_", "lang"])] = rng.choice(["yes", "en", "x"])
        return args, kind
    names = list(args)
    if not names:
        return args, None
    p = rng.choice(names)
    if kind == "missing_arg":
        wanted = inspect.signature(service.tools[tool]).parameters[p]
        if wanted.default is not inspect.Parameter.empty:
            return args, None
        del args[p]
    elif kind == "wrong_type":
        args[p] = [args[p]] if isinstance(args[p], str) else str(args[p])
    else:
        ids = [q for q in names if isinstance(args[q], (str, int)) and _has_digit(args[q])]
        if not ids:
            return args, None
        args[ids[0]] = _misspelt(rng, args[ids[0]])
    return args, kind


def _has_digit(value: Any) -> bool:
    return not isinstance(value, bool) and any(ch.isdigit() for ch in str(value))


def _misspelt(rng: random.Random, value: Any) -> Any:
    text = str(value)
    places = [i for i, ch in enumerate(text) if ch.isdigit()]
    i = rng.choice(places)
    other = rng.choice([d for d in "123456789" if d != text[i]])
    text = text[:i] + other + text[i + 1 :]
    return int(text) if isinstance(value, int) else text
