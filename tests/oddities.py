"""JSON with something odd in one place: what people, programs and models really send."""

import copy
from collections.abc import Iterator
from typing import Any

ODD: list[Any] = [
    None, True, -1, 0, 10**30, 10**400, 1.5, "", "x", "\ud800", "a\nb", "y" * 5000, [], [1], [[]],
    {}, {"a": 1}, [{"type": "text", "text": 5}], [{"type": "custom", "id": "c", "function": "f"}],
]  # fmt: skip
Path = tuple[Any, ...]


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Every place in a JSON value."""
    if at:
        yield at
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths(value[key], (*at, key))


def variants(value: Any) -> Iterator[Any]:
    """The value with every odd thing in every place."""
    for at in paths(value):
        for odd in ODD:
            made = copy.deepcopy(value)
            holder = made
            for key in at[:-1]:
                holder = holder[key]
            holder[at[-1]] = odd
            yield made
