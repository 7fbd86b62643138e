"""What decides how a call goes: its conditions, in the order in which a tool looks at them, and the
situation."""

from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from typing import Any

from understudy.world.outcomes.features import Feature
from understudy.world.outcomes.tree import Node, decide, grow


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


def outcome_tree(rows: Sequence[tuple[dict[Feature, Any], str]], hard: Container[str]) -> Node:
    """A tree of outcomes in which a lasting failure that chance brought counts once, however
    often the call was repeated; one that the situation brings counts every time."""
    fresh = [r for r in rows if r[0][("rep",)] not in hard or r[0][("rep",)] != r[1]]
    if len(fresh) in (0, len(rows)):
        return grow([r[0] for r in rows], [r[1] for r in rows])
    first = grow([r[0] for r in fresh], [r[1] for r in fresh])
    chance: dict[str, list[bool]] = defaultdict(list)
    for row, label in fresh:
        counts = decide(first, row.get)
        lasting = sum(n for k, n in counts.items() if k in hard or k.startswith("ok"))
        chance[label].append(counts[label] < 0.9 * lasting)
    stays = {label for label, seen in chance.items() if sum(seen) > 0.5 * len(seen)}
    kept = [r for r in rows if r[0][("rep",)] != r[1] or r[1] not in stays]
    return grow([r[0] for r in kept], [r[1] for r in kept])
