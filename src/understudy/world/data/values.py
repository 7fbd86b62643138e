"""JSON values as the world sees them: leaves, text forms, formats of identifiers."""

import json
import math
import random
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

WORD = re.compile(r"[A-Za-z0-9_]+(?:[-.:/@][A-Za-z0-9_]+)*")
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?|\d\d:\d\d(:\d\d)?.*")
_MARK = "\ufeff"  # of byte order, which some systems begin their texts with
_LARGEST = 1e100  # of a number that is reckoned with: products of two of them are finite
CUT = 40  # characters of a text that its format is of
DEPTH = 64  # of the values that are taken apart
SIZES: dict[str, Callable[[str], int]] = {
    "characters": len,
    "bytes": lambda text: len(text.encode(errors="replace")),
    "lines": lambda text: len(text.splitlines()),
    "words": lambda text: len(text.split()),
}
Scalar = None | bool | int | float | str


def parse(text: str) -> Any:
    """The JSON value of a text, or the text itself where it is none or is nested too deep."""
    if not text or text[0] not in '{["-0123456789tfn \n\t\r\ufeff':
        return text
    try:
        value = json.loads(text.removeprefix(_MARK))
    except (ValueError, RecursionError):
        return text
    return text if text.count("[") + text.count("{") > DEPTH and too_deep(value) else value


def too_deep(value: Any) -> bool:
    """Whether lists and objects are nested deeper than DEPTH."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(DEPTH):
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, (dict, list))
        ]
    return bool(level)


def same(a: Any, b: Any) -> bool:
    """Equality as JSON has it: true is not 1, 2 is 2.0."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return bool(a == b) if type(a) is type(b) or (is_number(a) and is_number(b)) else False


def is_number(value: Any) -> bool:
    """Whether a value can be reckoned with: NaN, infinities and what is near them cannot."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and -_LARGEST < value < _LARGEST


def operate(op: str, a: float, b: float) -> float:
    """Arithmetic rounded to cents, an integer where it is one of integers; `~` is the product in
    whole numbers."""
    if op == "~":
        return math.floor(a * b + 0.5)
    value = a * b if op == "*" else a + b if op == "+" else a - b
    return value if isinstance(value, int) else round(value, 2)


def column_sum(items: list[Any], name: str) -> float | None:
    """The sum of a field of records, to cents; None where one of them has no number there."""
    column = [r.get(name) if isinstance(r, dict) else None for r in items]
    numbers = [v for v in column if v is not None and is_number(v)]
    return round(sum(numbers), 2) if len(numbers) == len(column) else None


def is_date(value: Any) -> bool:
    return isinstance(value, str) and _DATE.fullmatch(value) is not None


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Scalar leaves with JSON pointers (list positions as numbers)."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{escape(key)}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from leaves(item, f"{path}/{i}")
    else:
        yield path, value


def columns(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Scalar leaves with list positions collapsed to `#`: equal paths make one column."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from columns(item, f"{path}/{escape(key)}")
    elif isinstance(value, list):
        for item in value:
            yield from columns(item, f"{path}/#")
    else:
        yield path, value


def texts_in(value: Any) -> Iterator[str]:
    """The texts of a value, the keys of its objects among them."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, str):
        yield value


def records(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in a value, outermost first, with its collapsed path."""
    if isinstance(value, dict):
        yield path, value
        if depth < 4:
            for key, item in value.items():
                if isinstance(item, (dict, list)):
                    yield from records(item, f"{path}/{escape(key)}", depth + 1)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, list)):
                yield from records(item, f"{path}/#", depth + 1)


def escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1") if "~" in key or "/" in key else key


def unescape(key: str) -> str:
    return key.replace("~1", "/").replace("~0", "~")


def at(value: Any, path: str) -> Any:
    """The value at a JSON pointer; KeyError where there is none."""
    for part in path.split("/")[1:]:
        if isinstance(value, dict):
            value = value[unescape(part)]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise KeyError(path)
    return value


def put(value: dict[str, Any], path: str, item: Any) -> None:
    """Set an item at a pointer of object keys, making the objects on the way."""
    *parents, last = [unescape(p) for p in path.split("/")[1:]]
    for part in parents:
        value = value.setdefault(part, {})
    value[last] = item


def writable(text: str) -> str:
    """A text without lone surrogates, which no encoding can write."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass").decode(errors="replace")
    return text


def text_form(value: Any) -> str:
    """A scalar as it stands in prose."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def kind_of(value: Any) -> str:
    """The JSON type's name, an empty string and an empty list told apart."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string" if value.strip() else "empty"
    return "array" if isinstance(value, list) else "object"


def pattern(text: str) -> str:
    """The format of a text's first CUT characters: letters A/a, digits 0, the rest as it is; long
    runs are cut."""
    out = []
    for c in text[:CUT]:
        out.append("0" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c)
    return re.sub(r"a{3,}", "a+", "".join(out))


def chance(seed: int | str, *key: object) -> float:
    """A number in [0, 1) that depends on its arguments alone."""
    return zlib.crc32(repr((seed, key)).encode()) / 2**32


def with_values(value: Any, values: Mapping[str, Any], path: str = "") -> Any:
    """A value with others at some JSON pointers."""
    if path in values:
        return values[path]
    if isinstance(value, dict):
        return {k: with_values(v, values, f"{path}/{escape(k)}") for k, v in value.items()}
    if isinstance(value, list):
        return [with_values(v, values, f"{path}/{i}") for i, v in enumerate(value)]
    return value


def call_key(name: str, args: Any) -> str:
    return name + json.dumps(args, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class FreshIds:
    """A format of identifiers that a system makes up: mined from samples, drawn at random."""

    def __init__(self, kind: str, template: Sequence[str], low: int = 0, high: int = 0) -> None:
        self.kind, self.template, self.low, self.high = kind, list(template), low, high

    @classmethod
    def mine(cls, samples: Sequence[Any]) -> "FreshIds | None":
        """None where the samples share no format."""
        if samples and all(isinstance(s, int) and not isinstance(s, bool) for s in samples):
            return cls("int", [], min(samples), max(samples))
        texts = [s for s in samples if isinstance(s, str)]
        if len(texts) < len(samples) or not texts:
            return None
        lengths = {len(t) for t in texts}
        if len(lengths) == 1:
            places = ["".join(sorted(set(column))) for column in zip(*texts, strict=True)]
            wide = [_widen(p) for p in places]
            return cls("places", wide) if any(len(p) > 1 for p in wide) else None
        split = [re.fullmatch(r"(.*?)(\d{1,4000})", t, re.DOTALL) for t in texts]
        prefixes = {m.group(1) for m in split if m}
        if all(split) and len(prefixes) == 1:
            numbers = [int(m.group(2)) for m in split if m]
            return cls("prefix", [prefixes.pop()], min(numbers), max(numbers))
        return None

    def draw(self, rng: random.Random) -> Any:
        if self.kind == "int":
            return rng.randint(self.high + 1, self.high + max(10, self.high - self.low))
        if self.kind == "prefix":
            width = max(10, self.high - self.low)
            return f"{self.template[0]}{rng.randint(self.high + 1, self.high + width)}"
        return "".join(p if len(p) == 1 else rng.choice(p) for p in self.template)

    def to_json(self) -> list[Any]:
        return [self.kind, self.template, self.low, self.high]

    @classmethod
    def from_json(cls, data: list[Any]) -> "FreshIds":
        return cls(*data)


def _widen(seen: str) -> str:
    """The characters of one place: what was seen, widened to the usual alphabets."""
    if len(seen) <= 2:
        return seen
    digits, letters = "0123456789", "abcdefghijklmnopqrstuvwxyz"
    for alphabet in (digits, "0123456789abcdef", letters, letters.upper()):
        if set(seen) <= set(alphabet):
            return alphabet
    upper = digits + letters.upper()
    return upper if set(seen) <= set(upper) and len(seen) > 9 else seen
