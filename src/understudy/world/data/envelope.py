"""The object that a service puts all its results into: {"ok": true, "data": ...}.

It says nothing of the result. What is learned is learned of what is inside, and what is predicted
is put into it again. Failures keep theirs, which differs. Where a tool lays its results out as
texts, what is inside is what they tell (world.data.layouts).
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.world.data.layouts import Layout
from understudy.world.data.values import escape, kind_of, parse

_LEAST, _SURE = 10, 0.95


@dataclass(slots=True)
class Envelope:
    """`always`: the keys in their order with what they always hold, that of the result too;
    `inside`: the key of the result, "" where there is no envelope; `layout`: of a tool's texts."""

    inside: str = ""
    always: dict[str, Any] = field(default_factory=dict)
    layout: Layout | None = None

    def opened(self, value: Any) -> Any:
        """What is in an envelope; a value that is in none as it is."""
        if self.layout is not None and isinstance(value, str):
            told = self.layout.read(value)
            return value if told is None else told
        if not self.inside or not isinstance(value, dict) or value.keys() != self.always.keys():
            return value
        fits = all(value[k] == v for k, v in self.always.items() if k != self.inside)
        return value[self.inside] if fits else value

    def closed(self, value: Any) -> Any:
        """A value in the envelope."""
        return {**self.always, self.inside: value} if self.inside else value

    def text(self, value: Any, separators: tuple[str, str] = (", ", ": ")) -> str:
        """A value as a result is written: laid out, or in the envelope."""
        if self.layout is not None and isinstance(value, (dict, list)):
            return self.layout.write(value)
        return json.dumps(self.closed(value), ensure_ascii=False, separators=separators)

    def path(self, path: str) -> str:
        """Where in the envelope a path of the result is."""
        return f"/{escape(self.inside)}{path}" if self.inside else path

    def read(self, text: str) -> Any:
        """What a result's text says inside of its envelope."""
        return self.opened(parse(text))


def mine(good: Sequence[tuple[str, Any]]) -> Envelope:
    """The envelope of the results (tool, value) that are no failures: nearly all have the same two
    keys or more, and all but one hold the same everywhere."""
    inside = [(tool, v) for tool, v in good if isinstance(v, dict)]
    forms = Counter(tuple(v) for _, v in inside)
    if not forms:
        return Envelope()
    form, n = forms.most_common(1)[0]
    tools = {tool for tool, v in inside if tuple(v) == form}
    if len(form) < 2 or len(tools) < 2 or n < max(_LEAST, _SURE * len(good)):
        return Envelope()
    values: dict[str, Counter[str]] = defaultdict(Counter)
    whole = [v for _, v in inside if tuple(v) == form]
    for v in whole:
        for key in form:
            values[key][repr(v[key])] += 1
    varied = [key for key in form if len(values[key]) > 1]
    held = Counter(kind_of(v[varied[0]]) for v in whole) if len(varied) == 1 else Counter[str]()
    if held["object"] + held["array"] < 0.5 * len(whole) or len(varied) != 1:
        return Envelope()
    return Envelope(varied[0], {**whole[0], varied[0]: None})
