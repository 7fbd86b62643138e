"""Lists that calls grow: by one record, or by all of them once more with their signs turned."""

from collections.abc import Iterator
from typing import Any

from understudy.world.data.values import column_sum, escape, is_number
from understudy.world.known.context import Context, Source, branches, resolve
from understudy.world.traffic.joint import AND

PLUS = "/~+"  # path of the added record under its list's


def mirrored(record: Any) -> Any:
    """A record with the sign of its numbers turned."""
    if isinstance(record, dict):
        return {k: mirrored(v) for k, v in record.items()}
    return -record if is_number(record) else record


def edits(c: Context, result: Any) -> Iterator[tuple[Source, str, list[Any]]]:
    """(source, path of the list in a record, the list before) of what may be grown. Lists of what
    has no name (world.traffic.nameless) are empty where nothing is known of them."""
    for p, domain, item in c.ids:
        if p == AND and isinstance(result, dict):
            known = c.state.fields((domain, item))
            for name in (n for n, v in result.items() if isinstance(v, list) and n not in known):
                yield ("append", p, name), f"/{escape(name)}", []
        for name, value in c.state.fields((domain, item)).items():
            if isinstance(value, list):
                path = f"/{escape(name)}"
                yield ("append", p, name), path, value
                if any(is_number(v) for r in value for _, v in branches(r)):
                    yield ("mirror", p, name), path, value


def explains(source: Source, before: list[Any], after: Any) -> bool:
    """Whether an edit of the list before gives the list after, whatever the added record is."""
    if not isinstance(after, list) or after[: len(before)] != before:
        return False
    added = after[len(before) :]
    if source[0] == "mirror":
        return bool(added) and added == [mirrored(r) for r in before]
    return len(added) == 1


def mirror(source: Source, c: Context) -> Any:
    """(list, provenance, source) of a list followed by its mirror image."""
    found = resolve(("ref", *source[1:]), c)
    if found is None or not isinstance(found[0], list):
        return None
    return [*found[0], *(mirrored(r) for r in found[0])], "inferred", "sign turned"


def before_it(source: Source, c: Context) -> list[Any] | None:
    """The list that a record is added to."""
    found = resolve(("ref", *source[1:]), c)
    if found is None:
        return [] if source[1] == AND else None
    return found[0] if isinstance(found[0], list) else None


def aggregates(source: Source, items: list[Any]) -> Iterator[tuple[Source, float]]:
    """How many items a list has, and the sums of its records' numbers."""
    yield ("count", source), len(items)
    for name in items[0] if items and isinstance(items[0], dict) else ():
        total = column_sum(items, name)
        if total is not None:
            yield ("sum", source, name), total


def totals(numbers: dict[Source, float]) -> dict[Source, float]:
    """Each sum times the length of each other list of the same kind of source."""
    counts = [(s, n) for s, n in numbers.items() if s[0] == "count" and s[1][0] == "ref"]
    return {
        ("total", s, k): round(value * n, 2)
        for s, value in numbers.items()
        if s[0] == "sum"
        for k, n in counts
        if k[1] != s[1]
    }
