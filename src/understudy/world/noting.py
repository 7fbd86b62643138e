"""What the values of an argument look like, as a tool's calls show it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from understudy.world.context import ToolFacts
from understudy.world.formats import formats, has_format, loose
from understudy.world.memory import two
from understudy.world.ranges import range_of
from understudy.world.transitions import Step
from understudy.world.values import is_number, kind_of

_FORMS = 50  # forms of texts that were refused, of an argument


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
