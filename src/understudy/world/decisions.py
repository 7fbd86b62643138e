"""Which of a call's conditions decide: a list in the order in which a tool looks at them."""

from collections import Counter


def count_conditions(rows: list[tuple[list[str], str]]) -> dict[str, dict[str, int]]:
    """A list of decisions: each condition, with how often it went with each outcome class.

    A call of several conditions counts under the one that stands first, which is the one that goes
    most surely with one failure; that is the one that the tool looks at first.
    """
    rest = [(set(found), label) for found, label in rows if found]
    rank = {k: i for i, k in enumerate(dict.fromkeys(k for found, _ in rows for k in found))}
    table: dict[str, dict[str, int]] = {}
    while rest:
        tallies: dict[str, Counter[str]] = {}
        for found, label in rest:
            for condition in found:
                tallies.setdefault(condition, Counter())[label] += 1
        first = max(tallies, key=lambda k: (_purity(tallies[k]), -rank[k]))
        table[first] = dict(tallies[first])
        rest = [(found, label) for found, label in rest if first not in found]
    return table


def _purity(counts: Counter[str]) -> float:
    """The share of the commonest failure, half a call of another outcome added."""
    most = max((n for k, n in counts.items() if k.startswith("err")), default=0)
    return most / (counts.total() + 0.5)
