"""Texts with slots: how a tool words its failures and its prose."""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from understudy.world.data.values import SIZES, WORD, leaves, text_form
from understudy.world.known.context import Context, Source, hop, resolve, tuplify
from understudy.world.outcomes import by_words
from understudy.world.outcomes.frames import opened, quoted

Span = tuple[int, int, list[Source]]
_DOTS = re.compile(r"\.\.\.|\u2026")
_LONG, _LEAST = 12, 4  # characters of a value that is shortened, and of what is left at each end
_MOST = 200  # characters that are left at an end, at most
_FEW = 8  # forms of a tool that are kept even where each came once
PROSE = ("ok:prose", "err:other")  # outcome classes of texts without a form


def abstract(text: str, c: Context) -> tuple[str, list[tuple[str, list[Source]]]]:
    """A text's form with `{}` for what varies, and each slot's value with its possible sources.

    Words that hold a digit, the tool's name, and values of the call's arguments are slots, such
    values also where they are quoted with their middle left out, and fields of its things where
    the tool's texts have such (world.results.quotes).
    """
    spans = spans_of(text, c, quoted(text, c.tool.quotes))
    slots = [(text[start:stop], found) for start, stop, found in spans]
    form, words = opened(form_of(text, spans), c.tool.frames)
    for place, word in words:
        slots.insert(place, (word, _named(c).get(word, [])))
    return form, [(said, own + _known(said, c, bare=not own)) for said, own in slots]


def spans_of(text: str, c: Context, first: Iterable[tuple[int, int]]) -> list[Span]:
    """What varies in a text, with its sources in the call; the spans that are `first` to it
    before all others."""
    named = _named(c)
    own = ((start, stop, named.get(text[start:stop], [])) for start, stop in first)
    return _spans(text, named, chain(own, _shortened(text, c)))


def form_of(
    text: str, spans: Iterable[Span], marks: Mapping[tuple[int, int], str] | None = None
) -> str:
    """A text with `{}`, or what `marks` has for it, for each span."""
    out: list[str] = []
    end = 0
    for start, stop, _ in spans:
        out.append(text[end:start].replace("{", "{{").replace("}", "}}"))
        out.append((marks or {}).get((start, stop), "{}"))
        end = stop
    out.append(text[end:].replace("{", "{{").replace("}", "}}"))
    return "".join(out)


def _named(c: Context) -> dict[str, list[Source]]:
    """The texts that a call says, and its tool's name."""
    named: dict[str, list[Source]] = {}
    for path, value in leaves(c.args):
        if value is not None and not isinstance(value, bool):
            named.setdefault(text_form(value), []).append(("arg", path))
    for i, p in enumerate(c.tool.missing(c.args)):
        named.setdefault(p, []).append(("missing", i))
    for i, p in enumerate(c.tool.extra(c.args)):
        named.setdefault(p, []).append(("extra", i))
    named.setdefault(c.tool.name, []).insert(0, ("tool",))
    return named


def _known(said: str, c: Context, bare: bool) -> list[Source]:
    """The fields of the call's things, and the lengths of its lists and texts, that a slot may
    show; where nothing else is found for a `bare` one, also fields of what its things refer to."""
    found: list[Source] = [
        ("clash", n) for n, met in enumerate(c.clashes) if met and text_form(met[0]) == said
    ]
    for p, domain, item in c.ids:
        for name, value in c.state.fields((domain, item)).items():
            if isinstance(value, (str, int, float)) and text_form(value) == said:
                found.append(("ref", p, name))
            elif isinstance(value, str) and said.isdecimal():
                found += _sizes(("ref", p, name), value, said)
            elif isinstance(value, list) and said == str(len(value)):
                found.append(("count", ("ref", p, name)))
    for path, value in leaves(c.args):
        if isinstance(value, str) and said.isdecimal():
            found += _sizes(("arg", path), value, said)
    return found or (_far(said, c) if bare else found)


def _far(said: str, c: Context) -> list[Source]:
    found: list[Source] = []
    for p, domain, item in c.ids:
        for name in c.state.fields((domain, item)):
            to = hop(c, p, name)
            for far, value in (
                c.state.fields(to).items() if to not in (None, (domain, item)) else ()
            ):
                if isinstance(value, (str, int, float)) and text_form(value) == said:
                    found.append(("ref2", p, name, far))
                elif isinstance(value, list) and said == str(len(value)):
                    found.append(("count", ("ref2", p, name, far)))
    return found


def _sizes(source: Source, value: str, said: str) -> list[Source]:
    return [("long", what, source) for what, size in SIZES.items() if str(size(value)) == said]


def once(forms: Counter[str], most: int) -> frozenset[str]:
    """The forms of a tool's texts that are prose, not forms of their own: those that came once,
    where there are more than `most` forms, or where most texts are such (the Good-Turing estimate:
    so is the next one)."""
    single = frozenset(form for form, n in forms.items() if n == 1)
    many = len(forms) > most or (len(forms) > _FEW and len(single) > 0.5 * forms.total())
    return single if many else frozenset()


def _shortened(text: str, c: Context) -> Iterator[Span]:
    """Where a text quotes an argument with its middle left out: the beginning, dots, the end."""
    for dots in _DOTS.finditer(text):
        before, after = text[: dots.start()], text[dots.end() :]
        for path, value in leaves(c.args):
            if not isinstance(value, str) or len(value) < _LONG:
                continue
            head = _overlap(before[::-1], value, turned=True)
            tail = _overlap(after, value, turned=False)
            if min(head, tail) >= _LEAST and head + tail < len(value):
                source = ("short", ("arg", path), head, dots.group(), tail)
                yield dots.start() - head, dots.end() + tail, [source]


def _overlap(beside: str, value: str, turned: bool) -> int:
    """How many characters beside the dots are the value's: its first ones, read backwards from
    the dots (`turned`), or its last ones."""
    for n in range(min(len(beside), len(value), _MOST), 0, -1):
        if beside[:n] == (value[:n][::-1] if turned else value[-n:]):
            return n
    return 0


def _spans(text: str, named: dict[str, list[Source]], quoted: Iterable[Span]) -> list[Span]:
    taken: list[Span] = []  # in their order
    for span in quoted:
        _take(taken, span)
    long = [v for v in named if len(v) >= 3 and v in text]
    for value in sorted(long, key=len, reverse=True):
        for m in re.finditer(rf"(?<![A-Za-z0-9_]){re.escape(value)}(?![A-Za-z0-9_])", text):
            _take(taken, (m.start(), m.end(), named[value]))
    for m in WORD.finditer(text):
        if any(ch.isdigit() for ch in m.group()):
            _take(taken, (m.start(), m.end(), named.get(m.group(), [])))
    return taken


def _take(taken: list[Span], span: Span) -> None:
    """Add a span to others that do not overlap, unless it overlaps one."""
    i = bisect_left(taken, span[0], key=lambda s: s[0])
    before, after = taken[max(0, i - 1) : i], taken[i : i + 1]
    if all(s[1] <= span[0] for s in before) and all(span[1] <= s[0] for s in after):
        taken.insert(i, span)


@dataclass(slots=True)
class Template:
    """One form of text. `slots`: per slot its sources, most often right first, each with its
    precision; `samples`: what the slot held. `flag`: the error flag that went with it."""

    form: str
    slots: list[list[tuple[Source, float]]] = field(default_factory=list)
    samples: list[list[str]] = field(default_factory=list)
    flag: float = 1.0
    count: int = 0

    @classmethod
    def learn(
        cls, form: str, seen: Sequence[tuple[list[tuple[str, list[Source]]], bool]]
    ) -> "Template":
        template = cls(form, count=len(seen))
        template.flag = sum(f for _, f in seen) / len(seen)
        for i in range(len(seen[0][0])):
            hits: Counter[Source] = Counter()
            texts: Counter[str] = Counter()
            for slots, _ in seen:
                texts[slots[i][0]] += 1
                hits.update(x for x in slots[i][1] if x[0] != "told")
            n = len(seen)
            by = by_words.mine([slots[i] for slots, _ in seen])
            if by is not None and by[1] > max(hits.values(), default=0):
                hits[by[0]] = by[1]
            (common, times) = texts.most_common(1)[0]
            if (times == n and n > 2) or (times > 0.95 * n and n > 20):
                hits[("const", common)] = times
            order = {"const": 1, "count": 2}  # behind others that are right as often
            ranked = sorted(hits.items(), key=lambda h: (-h[1], order.get(h[0][0], 0), str(h[0])))
            template.slots.append([(s, k / n) for s, k in ranked if k >= 0.3 * n][:4])
            template.samples.append([t for t, _ in texts.most_common(20)])
        return template

    def render(self, c: Context, draw: float) -> tuple[str, float]:
        """The text in a context, and the share of slots that nothing but a sample could fill."""
        texts, guessed = [], 0
        for sources, samples in zip(self.slots, self.samples, strict=True):
            for source, _ in sources:
                if source[0] == "by":
                    found = by_words.value_of(source, c.args)
                else:
                    value = resolve(source, c)
                    found = None if value is None else text_form(value[0])
                if found is not None:
                    texts.append(found)
                    break
            else:
                texts.append(samples[int(draw * len(samples))] if samples else "")
                guessed += 1
        out = self.form.format(*texts)
        return out, guessed / max(1, len(self.slots))

    def to_json(self) -> list[Any]:
        return [self.form, self.slots, self.samples, self.flag, self.count]

    @classmethod
    def from_json(cls, data: list[Any]) -> "Template":
        form, slots, samples, flag, count = data
        read = [[(tuplify(s), p) for s, p in slot] for slot in slots]
        return cls(form, read, samples, flag, count)
