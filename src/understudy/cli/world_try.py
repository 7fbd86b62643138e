"""Calling a world's tools by hand, to see what it answers, why, how sure it is and what changes."""

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from understudy.core.types import Provenance
from understudy.world.language.filler import Answering
from understudy.world.model import WorldSession
from understudy.world.results.changes import Changes, of_call
from understudy.world.serving.entities import type_names

HELP = """\
  TOOL ARGUMENTS   call a tool; arguments as one JSON object, or as name=value ...:
                     search text="two words" limit=5
                     search {"text": "two words", "limit": 5}
  tools            the tools and their parameters, [those that may be left out] in brackets
  state            the things of this session, each value with where it comes from
  new [SEED]       a fresh session
  help, quit
  A value is observed (the call or a real result says it), remembered (from the traffic), inferred
  (by a rule that the traffic bears) or invented. Doubt is the chance that an answer is wrong."""


def play(
    world: Answering,
    lines: Iterable[str],
    say: Callable[[str], None] = print,
    seed: int = 0,
) -> None:
    """Carry out one line after the other until `quit` or the end. What a line gets wrong is said
    in one line; the session goes on."""
    session = world.session(seed)
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if not word:
            continue
        if word in ("quit", "exit"):
            return
        if word == "help":
            say(HELP)
        elif word == "tools":
            say("\n".join(map(tool_line, session.tools())))
        elif word == "state":
            say(state_text(session) or "  nothing yet: call a tool")
        elif word == "new":
            if rest and not rest.strip().lstrip("-").isdigit():
                say(f"  a seed is a whole number, not {rest.strip()}")
                continue
            session = world.session(int(rest or seed))
            say("  a fresh session")
        else:
            _call(session, word, rest.strip(), say)


def _call(session: WorldSession, name: str, rest: str, say: Callable[[str], None]) -> None:
    known = [t["function"]["name"] for t in session.tools()]
    if name not in known:
        say(f"  no tool {name}; there are {', '.join(known)}; `help` says what else there is")
        return
    try:
        arguments = arguments_of(rest)
    except ValueError as wrong:
        say(f"  {wrong}")
        return
    before = session.state.copy()
    result = session.step(name, json.dumps(arguments))
    say(("error " if result.is_error else "") + pretty(result.content))
    if result.provenance:
        say(sources_text(result.provenance))
    say(f"  call {len(session.state.calls)}, doubt {result.doubt:.2f}")
    say(changes_text(session, of_call(before, session.state)) or "  changes nothing")


def sources_text(provenance: Sequence[Provenance]) -> str:
    """Where the values of a result come from, a line each."""
    width = max((len(p.path) for p in provenance), default=0)
    return "\n".join(
        f"  {p.path or '(all)':{max(width, 5)}}  {p.kind:10}  {source_words(p.source)}".rstrip()
        for p in provenance
    )


def source_words(source: str) -> str:
    """A source as people count: the first call is call 1."""
    word, _, number = source.partition(" ")
    return f"call {int(number) + 1}" if word == "call" and number.isdecimal() else source


def arguments_of(text: str) -> dict[str, Any]:
    """`{"a": 1}` or `a=1 b="two words"`: a value that is JSON is taken as such, any other as text.

    Raises ValueError with what is wrong.
    """
    if not text:
        return {}
    if text.startswith("{"):
        try:
            value = json.loads(text)
        except json.JSONDecodeError as wrong:
            raise ValueError(f"the arguments are no JSON: {wrong}") from None
        return dict(value)
    found: dict[str, Any] = {}
    try:
        parts = shlex.split(text)
    except ValueError:
        raise ValueError('a quotation mark is not closed: write name="two words"') from None
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise ValueError(f'write arguments as name=value or as {{"name": value}}, not {part}')
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def pretty(content: str) -> str:
    """A result to read: JSON over several lines where it is long."""
    if len(content) < 80:
        return content
    try:
        return json.dumps(json.loads(content), indent=2, ensure_ascii=False)
    except json.JSONDecodeError:
        return content


def tool_line(tool: Any) -> str:
    function = tool["function"]
    schema = function.get("parameters") or {}
    needed = schema.get("required") or []
    names = [n if n in needed else f"[{n}]" for n in schema.get("properties") or {}]
    return "  " + " ".join([function["name"], *names])


def state_text(session: WorldSession) -> str:
    """What the session knows of each thing: value, kind and source of each of its fields."""
    names, lines = type_names(session.world.ids), []
    for (domain, item), thing in session.state.things.items():
        bare = "" if thing.fields else "  (named; no result showed it)"
        lines.append(f"  {names.get(domain, domain)} {item}{bare}")
        for name, (value, kind, source) in thing.fields.items():
            told = f"{kind}, {source_words(source)}"
            lines.append(f"    {name} = {json.dumps(value, ensure_ascii=False)}  {told}")
    return "\n".join(lines)


def changes_text(session: WorldSession, changes: Changes) -> str:
    """What a call changed, thing by thing: the fields of new and of changed ones, `before -> after`
    where they had another value, and the things that listings show no longer."""
    names, lines = type_names(session.world.ids), []
    for (domain, item), fields in groupby(changes.fields, key=lambda c: c.key):
        own = list(fields)
        lines.append(f"  {'new' if own[0].made else 'changed'} {names.get(domain, domain)} {item}")
        for c in own:
            was = "" if c.made else f"{json.dumps(c.before, ensure_ascii=False)} -> "
            lines.append(f"    {c.field}: {was}{json.dumps(c.after, ensure_ascii=False)}")
    lines += [f"  no longer listed: {names.get(d, d)} {item}" for d, item in changes.gone]
    return "\n".join(lines)
