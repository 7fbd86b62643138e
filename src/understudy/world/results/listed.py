"""A listing among the other keys of a result."""

from typing import Any

from understudy.world.results.shapes import Shape


def counts_of(shape: Shape) -> list[str]:
    """The keys beside a listing that always hold how many records it has."""
    assert shape.listing is not None
    first = shape.donors[-1]
    return [
        key
        for key in first
        if all(
            d.get(key) == len(d.get(shape.listing, ())) and isinstance(d.get(key), int)
            for d in shape.donors
        )
    ]


def inserted(value: Any, shape: Shape, listed: list[Any], counts: dict[str, int]) -> Any:
    """The listing at its place among the other keys, counts of it kept true."""
    assert shape.listing is not None
    donor = shape.donors[-1]
    own = value if isinstance(value, dict) else {}
    out: dict[str, Any] = {}
    for key in donor:
        if key == shape.listing:
            out[key] = listed
        elif key in own:
            out[key] = counts.get(key, own[key])
    return out
