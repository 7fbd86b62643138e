"""What each tool does, told from its traffic alone: descriptions that can be handed to an agent.

Tools whose names say nothing and that nobody described are described by what their calls show:
what they take, give and change, what must come before them, how they fail. Each statement is
checked against the calls that the world counted or remembers, and is made only where at least
`Bar.least` calls show it and a share of `Bar.sure` of them agree; reasons of failures are given
from a share of 0.9 on, failures that pass when repeated set aside.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from understudy.core.types import Tool
from understudy.runs.progress import Progress
from understudy.world.data.values import texts_in
from understudy.world.describing.facts import Bar, Case, Fact, case_of
from understudy.world.describing.facts_of_arguments import facts_of_arguments, few_values, schema_of
from understudy.world.describing.facts_of_failures import facts_of_failures, unworded
from understudy.world.describing.facts_of_results import facts_of_changes, facts_of_results
from understudy.world.model import World

_QUOTES = re.compile(r'"((?:[^"\\]|\\.)*)"')  # values, as JSON writes them


def describe(
    world: World, bar: Bar | None = None, progress: Progress | None = None
) -> dict[str, list[Fact]]:
    """The statements of each tool. Raises ValueError for a world without counts."""
    bar = bar or Bar()
    if not any(model.evidence.classes for model in world.models.values()):
        raise ValueError("this world holds no counts of its traffic: learn it again")
    found = {}
    for name, model in world.models.items():
        case = case_of(world, model, bar)
        told = [
            *facts_of_arguments(case),
            *facts_of_results(case),
            *facts_of_changes(case),
            *facts_of_failures(case),
        ]
        found[name] = list({(f.kind, f.about, f.text): f for f in told}.values())
        if progress is not None:
            progress.advance(statements=sum(map(len, found.values())))
    return found


def described_tools(
    world: World, facts: dict[str, list[Fact]], bar: Bar | None = None
) -> list[Tool]:
    """The tools as an OpenAI `tools` array: what was declared of them stays, and is completed by
    the statements and by the types, values and required arguments that the traffic shows; not by
    statements that quote sentences of the traffic (`withheld` counts them)."""
    declared = {t["function"]["name"]: t for t in world.declared}
    names = list(dict.fromkeys([*declared, *facts]))
    made = []
    for name in names:
        if name not in facts:
            made.append(declared[name])  # the traffic never called it
            continue
        case = case_of(world, world.models[name], bar or Bar())
        own = declared.get(name)
        made.append(_tool(case, _plain(case, facts[name]), own["function"] if own else {}))
    return made


def withheld(world: World, facts: dict[str, list[Fact]], bar: Bar | None = None) -> int:
    """How many statements `described_tools` shortens or leaves out; see `_plain`."""
    cases = {name: case_of(world, world.models[name], bar or Bar()) for name in facts}
    kept = {name: _plain(case, facts[name]) for name, case in cases.items()}
    return sum(f not in kept[name] for name, own in facts.items() for f in own)


def _plain(case: Case, facts: Sequence[Fact]) -> list[Fact]:
    """The statements that quote no sentence of the traffic: whoever wrote one into a record must
    not speak to the agent through what its tools are said to do. How often a tool fails is said
    without the words of the failure then, so that what is said of when it does has its subject."""
    names = {text for args, value in case.calls for text in texts_in([args, value])}
    sentences = [text for text in names if not is_plain(text)]

    def quotes(f: Fact) -> bool:
        told = all(is_plain(quote) for quote in _QUOTES.findall(f.text))
        return not told or any(text in f.text for text in sentences)

    short = (replace(f, text=unworded(f.text)) if quotes(f) else f for f in facts)
    return [f for f in short if not quotes(f)]


def is_plain(text: str) -> bool:
    """Whether a text is a name or a value, not a sentence: short, of few words, on one line."""
    return len(text) <= 40 and len(text.split()) <= 3 and text.isprintable() and "`" not in text


def _tool(case: Case, facts: Sequence[Fact], declared: Any) -> Tool:
    parts = [declared.get("description") or "", description(facts)]
    text = " ".join(p for p in parts if p)
    function = {
        **declared,
        "name": case.tool,
        **({"description": text} if text else {}),
        "parameters": _parameters(case, facts, declared.get("parameters") or {}),
    }
    return {"type": "function", "function": function}  # type: ignore[typeddict-item]


def description(facts: Iterable[Fact]) -> str:
    """The statements of a tool as one text; those of its arguments stand with the arguments."""
    facts = list(facts)
    said = [f.text for kind in ("gives", "changes", "needs") for f in facts if f.kind == kind]
    failures: dict[str, list[str]] = {}
    for f in facts:
        if f.kind == "fails":
            failures.setdefault(f.about, []).append(f.text.removesuffix("."))
    for first, *more in failures.values():
        aside = "; ".join(t[:1].lower() + t[1:] for t in dict.fromkeys(more))
        said.append(f"{first}: {aside}." if aside else f"{first}.")
    return " ".join(dict.fromkeys(said))


def _parameters(case: Case, facts: Sequence[Fact], declared: dict[str, Any]) -> dict[str, Any]:
    known, given = case.model.facts, declared.get("properties") or {}
    properties: dict[str, Any] = {}
    for p in dict.fromkeys([*given, *known.known]):
        values = [args[p] for args, _ in case.calls if p in args]
        schema = {**schema_of(values, case.bar.least), **given.get(p, {})}
        few = few_values(case, p)
        if (
            few
            and all(is_plain(v) for v in few if isinstance(v, str))
            and schema.get("type") == "string"
        ):
            schema.setdefault("enum", few)
        own = [given.get(p, {}).get("description") or ""]
        own += [f.text for f in facts if f.kind == "takes" and f.about == p]
        text = " ".join(dict.fromkeys(t for t in own if t and t != "Required."))
        properties[p] = {**schema, "description": text} if text else schema
    required = [f.about for f in facts if f.kind == "takes" and f.text == "Required."]
    return {
        "type": "object",
        **declared,
        "properties": properties,
        "required": declared.get("required", required),
    }
