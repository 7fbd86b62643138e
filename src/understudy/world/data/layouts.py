"""Results that are laid out as texts, read as records and written as texts again.

A tool may tell a record in lines of `name: value`, in XML, or in a sentence. What is learned is
learned of the record; what is predicted is laid out as the tool does it. A layout is taken where
nearly all texts of a tool are the same again when they are read and written.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from understudy.world.data.markup import Markup
from understudy.world.data.sentences import Sentence
from understudy.world.data.values import text_form

_LEAST, _SURE = 8, 0.95
_MOST_KEYS, _OFTEN = 60, 0.3
_LONGEST = 20_000  # characters of a text that is read
_PAIR = re.compile(r"([^\s:=][^:=]{0,59}?)(: ?| ?= ?)(.*)")
_ITEM = re.compile(r"([-*\u2022] )(.*)")
_ASIDE = re.compile(r"([^()]*[^() ]) \(([^()]+)\)")
_WHOLE = re.compile(r"0|[1-9]\d{0,14}")
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,6})?")


@dataclass(slots=True)
class Lines:
    """Lines of names and values in their order. `keys`: the names, digits in them as `#`, each
    with what is between it and its value; `kinds`: of a value that is no plain text: `number`,
    `list` (of items with commas), `numbers` (such a list of whole ones), `aside` (more of it in
    parentheses), `items` (a list of the lines that follow); `empty`: how a list without items is
    written; `bullet`: before an item."""

    keys: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    empty: dict[str, str] = field(default_factory=dict)
    bullet: str = "- "

    def read(self, text: str) -> dict[str, Any] | None:
        """The record that a text tells; None where it is laid out otherwise."""
        lines = _split(text, self.bullet)
        if lines is None or any(key not in self.keys for key, *_ in lines):
            return None
        record: dict[str, Any] = {}
        for key, _, raw, numbers, items in lines:
            if key in record or (items and self.kinds.get(key) != "items"):
                return None
            record |= {f"{key} {n}": number for n, number in enumerate(numbers, 1)}
            record |= self._value(key, raw, items)
        return record

    def _value(self, key: str, raw: str, items: list[str]) -> dict[str, Any]:
        kind = self.kinds.get(key)
        if kind == "items":
            return {key: items}
        if kind == "number" and _NUMBER.fullmatch(raw):
            return {key: float(raw) if "." in raw else int(raw)}
        if kind in ("list", "numbers"):
            items = [] if raw == self.empty.get(key) else raw.split(", ")
            whole = kind == "numbers" and all(map(_WHOLE.fullmatch, items))
            return {key: [int(v) for v in items] if whole else items}
        found = _ASIDE.fullmatch(raw) if kind == "aside" else None
        return {key: found[1], f"{key} ()": found[2]} if found else {key: raw}

    def write(self, record: Any) -> str:
        """The text that tells a record."""
        out = []
        for key, between in self.keys.items():
            value = record.get(key)
            if value is None:
                continue
            count = iter(range(1, 99))
            said = re.sub("#", lambda _: text_form(record.get(f"{key} {next(count)}", 0)), key)  # noqa: B023
            if self.kinds.get(key) == "items":
                items = value if isinstance(value, list) else [value]
                out += [said + between.rstrip(), *(self.bullet + text_form(v) for v in items)]
                continue
            if isinstance(value, list):
                text = ", ".join(text_form(v) for v in value) or self.empty.get(key, "")
                if not value and key not in self.empty:
                    continue
            else:
                text = text_form(value)
            if self.kinds.get(key) == "aside" and f"{key} ()" in record:
                text += f" ({text_form(record[f'{key} ()'])})"
            out.append(said + (between + text if text else between.rstrip()))
        return "\n".join(out)


_Line = tuple[str, str, str, list[int], list[str]]  # key, what is between, value, numbers, items


def _split(text: str, bullet: str) -> list[_Line] | None:
    """The lines of a text, those with a bullet with the line before them."""
    found: list[_Line] = []
    for line in text.split("\n"):
        item = _ITEM.fullmatch(line)
        if item and found and item[1] == bullet:
            found[-1][4].append(item[2])
            continue
        pair = _PAIR.fullmatch(line)
        name, between, value = pair.groups() if pair else (line, "", "")
        if "#" in name or not name.strip():
            return None
        numbers = [int(n) for n in re.findall(r"(?<!\w)(?:0|[1-9]\d{0,14})(?!\w)", name)]
        key = re.sub(r"(?<!\w)(?:0|[1-9]\d{0,14})(?!\w)", "#", name)
        found.append((key, between, value, numbers, []))
    return found


def _mine_lines(texts: Sequence[str]) -> Lines | None:
    found = Lines()
    bullets = Counter(m[1] for t in texts for line in t.split("\n") if (m := _ITEM.match(line)))
    found.bullet = bullets.most_common(1)[0][0] if bullets else "- "
    raws: dict[str, list[str]] = defaultdict(list)
    between: dict[str, Counter[str]] = defaultdict(Counter)
    order: list[str] = []
    with_items: set[str] = set()
    for text in texts:
        at = 0
        for key, mark, raw, _, items in _split(text, found.bullet) or ():
            if key not in between:
                order.insert(at, key)
            at = order.index(key) + 1
            between[key][mark] += 1
            raws[key].append(raw)
            with_items |= {key} if items else set()
            if len(order) > _MOST_KEYS:
                return None
    told = [k for k in order if any(raws[k])]
    shared = sum(len(raws[k]) for k in order) >= _OFTEN * len(order) * len(texts)
    if len(told) < 2 or not shared or any(len(raws[k]) < 2 for k in order):
        return None
    for key in order:
        found.keys[key] = max(between[key], key=lambda m: (between[key][m], m))
        kind = "items" if key in with_items and not any(raws[key]) else _kind(raws[key])
        if kind:
            found.kinds[key] = kind
        blank = {r for r in raws[key] if not any(ch.isalnum() for ch in r)}
        if kind in ("list", "numbers") and len(blank) == 1:
            found.empty[key] = blank.pop()
    return found


def _kind(raws: Sequence[str]) -> str:
    """What the values of a name are, as their texts tell."""
    if all(_NUMBER.fullmatch(r) for r in raws):
        exact = all(text_form(float(r) if "." in r else int(r)) == r for r in raws)
        return "number" if exact else ""
    said = [r for r in raws if any(ch.isalnum() for ch in r)]
    several = [r.split(", ") for r in said if ", " in r]
    items = Counter(item for r in said for item in r.split(", "))
    blank = {r for r in raws if r not in said}
    if len(several) >= 2 and len(blank) < 2 and all(map(_WHOLE.fullmatch, items)):
        return "numbers"
    words = not any(" " in item or not item for item in items)
    if len(several) >= 2 and words and len(blank) < 2 and items.total() >= 2 * len(items):
        return "list"
    return "aside" if said and all(_ASIDE.fullmatch(r) for r in raws) else ""


Layout = Lines | Markup | Sentence
_KINDS: dict[str, type[Lines] | type[Markup] | type[Sentence]] = {
    "lines": Lines, "xml": Markup, "sentence": Sentence
}  # fmt: skip


def to_json(layout: Layout) -> dict[str, Any]:
    kind = next(kind for kind, own in _KINDS.items() if isinstance(layout, own))
    return {"kind": kind, **asdict(layout)}


def from_json(data: dict[str, Any]) -> Layout:
    return _KINDS[data["kind"]](**{name: value for name, value in data.items() if name != "kind"})


def mine(good: Sequence[tuple[str, str]]) -> dict[str, Layout]:
    """By tool, the layout of its texts (tool, text) that are no failures."""
    texts: dict[str, list[str]] = defaultdict(list)
    for tool, text in good:
        texts[tool].append(text)
    found: dict[str, Layout] = {}
    for tool, own in texts.items():
        if len(own) < _LEAST or any(len(t) > _LONGEST for t in own):
            continue
        for layout in (Markup.mine(own), _mine_lines(own), Sentence.mine(own)):
            if layout is not None and _exact(layout, own):
                found[tool] = layout
                break
    return found


def _exact(layout: Layout, texts: Sequence[str]) -> bool:
    read = [layout.read(t) for t in texts]
    right = sum(r is not None and layout.write(r) == t for r, t in zip(read, texts, strict=True))
    return right >= _SURE * len(texts)
