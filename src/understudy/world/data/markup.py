"""XML texts as records, and records as XML of the same form."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import unescape
from typing import Any

from understudy.world.data.values import text_form

_TAG = re.compile(r'<(/?)([\w:.-]+)((?:\s+[\w:.-]+="[^"<]*")*)\s*(/?)>')
_ATTRIBUTE = re.compile(r'([\w:.-]+)="([^"<]*)"')
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,6})?")
_TEXT = "#text"
_DEEPEST = 32


@dataclass(slots=True)
class _Node:
    tag: str
    attributes: dict[str, str]
    children: list["_Node"]
    text: str = ""


@dataclass(slots=True)
class Markup:
    """A form of XML. `root`: its outermost element; `orders`: by path, the attributes (`@name`)
    and elements in one; `lists`: by path of an element that holds many of one, their tag; `many`:
    paths of elements that come more than once beside others; `numbers`: paths of numbers;
    `before`: what the text begins with; `step`: spaces of indentation, below 0 without lines;
    `short`: whether an empty element is one tag."""

    root: str = ""
    orders: dict[str, list[str]] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)
    many: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    before: str = ""
    step: int = -1
    short: bool = False

    def read(self, text: str) -> Any | None:
        """The record that a text holds; None where it is of another form."""
        tree = _tree(text.removeprefix(self.before))
        if tree is None or tree.tag != self.root:
            return None
        return self._value(tree, tree.tag)

    def _value(self, node: _Node, path: str) -> Any:
        if path in self.lists:
            return [self._value(child, f"{path}/{child.tag}") for child in node.children]
        if path not in self.orders:
            return self._scalar(path, node.text)
        record: dict[str, Any] = {
            f"@{k}": self._scalar(f"{path}/@{k}", v) for k, v in node.attributes.items()
        }
        for child in node.children:
            own = f"{path}/{child.tag}"
            value = self._value(child, own)
            if own in self.many:
                record.setdefault(child.tag, []).append(value)
            else:
                record[child.tag] = value
        return record | ({_TEXT: self._scalar(f"{path}/{_TEXT}", node.text)} if node.text else {})

    def _scalar(self, path: str, text: str) -> Any:
        if path in self.numbers and _NUMBER.fullmatch(text):
            return float(text) if "." in text else int(text)
        return text

    def write(self, value: Any) -> str:
        """The text of a record."""
        lines = self._lines(self.root, value, self.root, 0)
        return self.before + ("" if self.step < 0 else "\n").join(lines)

    def _lines(self, tag: str, value: Any, path: str, depth: int) -> Iterator[str]:
        space = " " * (max(0, self.step) * depth)
        attributes, text, children = "", "", list[tuple[str, Any]]()
        if path in self.lists:
            items = value if isinstance(value, list) else [value]
            children = [(self.lists[path], item) for item in items]
        elif isinstance(value, dict):
            for name in self.orders.get(path, ()):
                held = value.get(name)
                if held is None:
                    continue
                if name.startswith("@"):
                    attributes += f' {name[1:]}="{_escaped(text_form(held), quote=True)}"'
                elif name == _TEXT:
                    text = _escaped(text_form(held))
                elif f"{path}/{name}" in self.many and isinstance(held, list):
                    children += [(name, item) for item in held]
                else:
                    children.append((name, held))
        elif value is not None and not isinstance(value, list):
            text = _escaped(text_form(value))
        if not children:
            whole = f"<{tag}{attributes}>{text}</{tag}>"
            yield space + (f"<{tag}{attributes}/>" if self.short and not text else whole)
            return
        yield f"{space}<{tag}{attributes}>"
        for name, held in children:
            yield from self._lines(name, held, f"{path}/{name}", depth + 1)
        yield f"{space}</{tag}>"

    @classmethod
    def mine(cls, texts: Sequence[str]) -> "Markup | None":
        """The form of XML that texts have; None where they are of none, or of several, or hold no
        record."""
        before = _before(texts[0])
        trees = [_tree(t.removeprefix(before)) for t in texts]
        read = [t for t in trees if t is not None]
        roots = Counter(t.tag for t in read)
        if not roots or roots.most_common(1)[0][1] < 0.95 * len(texts):
            return None
        found = cls(roots.most_common(1)[0][0], before=before)
        nodes: dict[str, list[_Node]] = defaultdict(list)
        for tree in read:
            _collect(tree, tree.tag, nodes)
        values: dict[str, list[str]] = defaultdict(list)
        for path, own in nodes.items():
            found._describe(path, own, values)
        if found.root not in found.orders and found.root not in found.lists:
            return None  # a text between two tags is no record
        found.numbers = [p for p, said in values.items() if all(map(_is_number, said))]
        forms = [(step, short) for step in (-1, 2, 4, 0, 1, 3) for short in (False, True)]

        def right(form: tuple[int, bool]) -> int:
            found.step, found.short = form
            return sum(found.write(found.read(t)) == t for t in texts[:40])

        found.step, found.short = max(forms, key=right)
        return found

    def _describe(self, path: str, own: Sequence[_Node], values: dict[str, list[str]]) -> None:
        """Take what the elements at a path hold."""
        counts = [Counter(child.tag for child in n.children) for n in own]
        tags = {tag for c in counts for tag in c}
        bare = not any(n.attributes or n.text.strip() for n in own)
        if bare and len(tags) == 1 and {c.total() for c in counts} != {1}:
            self.lists[path] = tags.pop()
            return
        if not tags and not any(n.attributes for n in own):
            values[path] += [n.text for n in own]
            return
        order: list[str] = []
        for n in own:
            at = 0
            for name in (*(f"@{k}" for k in n.attributes), *(c.tag for c in n.children)):
                if name not in order:
                    order.insert(at, name)
                at = order.index(name) + 1
            for k, v in n.attributes.items():
                values[f"{path}/@{k}"].append(v)
            if n.text:
                values[f"{path}/{_TEXT}"].append(n.text)
        self.orders[path] = [*order, _TEXT]
        self.many += [f"{path}/{t}" for t in sorted(tags) if any(c[t] > 1 for c in counts)]


def _is_number(text: str) -> bool:
    return (
        bool(_NUMBER.fullmatch(text))
        and text_form(float(text) if "." in text else int(text)) == text
    )


def _before(text: str) -> str:
    found = re.match(r"<\?xml[^<>]*\?>\s*", text)
    return found.group() if found else ""


def _escaped(text: str, quote: bool = False) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace('"', "&quot;") if quote else text


def _collect(node: _Node, path: str, found: dict[str, list[_Node]]) -> None:
    found[path].append(node)
    for child in node.children:
        _collect(child, f"{path}/{child.tag}", found)


def _tree(text: str) -> _Node | None:
    """The element that a text is, without a text between others; None where it is no such one."""
    top = _Node("", {}, [])
    open_ = [top]
    end = 0
    for m in _TAG.finditer(text):
        between = text[end : m.start()]
        end = m.end()
        closing, tag, attributes, empty = m.groups()
        if between.strip() or (closing and between and not open_[-1].children):
            open_[-1].text += unescape(between)
        if closing:
            if len(open_) < 2 or open_[-1].tag != tag:
                return None
            node = open_.pop()
            if node.children and node.text.strip():
                return None
            continue
        found = {k: unescape(v) for k, v in _ATTRIBUTE.findall(attributes)}
        node = _Node(tag, found, [])
        open_[-1].children.append(node)
        if not empty:
            open_.append(node)
        if len(open_) > _DEEPEST:
            return None
    whole = len(open_) == 1 and len(top.children) == 1 and not top.text and not text[end:].strip()
    return top.children[0] if whole and not top.text else None
