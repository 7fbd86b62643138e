"""What the values of an argument look like, as a tool's calls show it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from understudy.core.types import Tool
from understudy.world.data.formats import formats, has_format, loose
from understudy.world.data.ranges import range_of
from understudy.world.data.values import is_number, kind_of
from understudy.world.known.context import ToolFacts
from understudy.world.known.memory import two
from understudy.world.traffic.transitions import Step

_FORMS = 50  # forms of texts that were refused, of an argument


def facts_of(
    tool: str, found: Sequence[Step], declared: Tool | None, ids: dict[str, str], tools: list[str]
) -> ToolFacts:
    """What a tool's calls and its schema, where one is declared, say of its arguments; `ids` are
    those that name things, `tools` all tools that went well."""
    good = [s for s in found if not s.failed]
    spec = (declared["function"].get("parameters") or {}) if declared is not None else {}
    properties = list(spec.get("properties") or {})
    counts = Counter(p for s in good for p in s.args)
    known = properties or [p for p, n in counts.items() if n >= 0.01 * len(good)]
    required = list(spec.get("required") or ())
    if not properties:
        always = [p for p, n in counts.items() if n == len(good) >= 5 and p in known]
        required += [p for p in always if p not in required]
    facts = ToolFacts(tool, known, required, tools=tools)
    for p in known:
        note_values(facts, p, [s.args[p] for s in found if p in s.args], p not in ids)
        note_good(facts, p, [s for s in good if p in s.args])
        note_refused(facts, p, [s.args[p] for s in found if s.failed and p in s.args])
    return facts


def note_values(facts: ToolFacts, p: str, values: Sequence[Any], amount: bool) -> None:
    """Whether an argument has few values, or numbers, of all calls; the range of an amount."""
    scalars = [v for v in values if not isinstance(v, (dict, list))]
    distinct = {repr(v): v for v in scalars}
    if scalars and len(scalars) > 0.8 * len(values) and len(distinct) <= 24:
        facts.categorical[p] = list(distinct.values())
    if scalars and sum(map(is_number, scalars)) > 0.8 * len(scalars):
        facts.numeric.append(p)
    numbers = [v for v in scalars if is_number(v)]
    if numbers and amount:
        facts.ranges[p] = range_of(numbers)


def note_good(facts: ToolFacts, p: str, good: Sequence[Step]) -> None:
    """The JSON types, the words and the formats of an argument, of calls that went well."""
    kinds = Counter(kind_of(s.args[p]) for s in good)
    facts.kinds[p] = [k for k, n in kinds.items() if n > 0.02 * sum(kinds.values())]
    texts = [(s.args[p], s.origin) for s in good if isinstance(s.args[p], str)]
    if p in facts.categorical and len(texts) >= 5 * len({text for text, _ in texts}):
        facts.words[p] = {}
        for text, origin in texts:
            two(facts.words[p].setdefault(text, []), origin)
    if forms := formats(texts):
        facts.patterns[p] = forms


def note_refused(facts: ToolFacts, p: str, values: Sequence[Any]) -> None:
    """The formats of an argument in calls that failed, of those that no good call had."""
    good = facts.patterns.get(p, [])
    odd = Counter(loose(v) for v in values if isinstance(v, str) and not has_format(v, good))
    if good and odd:
        facts.refused[p] = [form for form, _ in odd.most_common(_FORMS)]
