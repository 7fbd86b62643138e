"""Failures that stay: which classes do, on which arguments they hang, how often they strike."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from understudy.world.data.values import call_key
from understudy.world.known.context import ToolFacts
from understudy.world.known.memory import Memory
from understudy.world.tools import Hard
from understudy.world.traffic.failing import TRANSIENT
from understudy.world.traffic.ids import Ids
from understudy.world.traffic.transitions import Step

Trail = Sequence[tuple[Step, str]]


def mine_hard(
    tool: str, trails: Sequence[Trail], facts: ToolFacts, ids: Ids, memory: Memory
) -> dict[str, Hard]:
    """The lasting failure classes of a tool.

    Whether a class lasts is a Beta posterior over repeated identical calls; its prior leans on
    wording alone where the traffic never repeated one.
    """
    own = [[(s, label) for s, label in trail if s.name == tool] for trail in trails]
    classes = Counter(label for t in own for _, label in t if label.startswith("err"))
    found = {}
    for label, n in classes.items():
        again, stayed, kept, broken, moved = _repeats(own, label)
        passing = TRANSIENT.search(label) is not None
        base = n / max(1, sum(map(len, own)))
        prior, weight = (base, 4.0) if passing else (0.97, 3.0)
        persist = (stayed + prior * weight) / (again + weight)
        if persist < 0.6:
            continue
        if stayed >= 0.97 * again:
            persist = 1.0  # nothing seen speaks for a way out
        scope = _scope(facts, ids, memory, tool, kept, broken, moved)
        hard = Hard(scope, persist)
        if len(scope) == 1:
            _by_id(hard, own, label)
        found[label] = hard
    return found


def _repeats(
    own: Sequence[Trail], label: str
) -> tuple[int, int, Counter[str], Counter[str], Counter[str]]:
    """Of calls after a failure of this class in the same episode: identical ones and how many
    failed alike; per argument, others with an equal value that failed alike (`kept`) and that
    went well (`broken`), and those that differ in this argument alone and went well (`moved`)."""
    again = stayed = 0
    kept: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for trail in own:
        for i, (first, outcome) in enumerate(trail):
            if outcome != label:
                continue
            key = call_key(first.name, first.args)
            for later, result in trail[i + 1 :]:
                told = result == label or result.startswith("ok")  # another failure tells nothing
                identical = call_key(later.name, later.args) == key
                if told and identical:
                    again += 1
                    stayed += result == label
                for p, value in first.args.items():
                    if later.args.get(p) == value:
                        kept[p] += result == label and not identical
                        broken[p] += result.startswith("ok")
                    elif all(later.args.get(q) == v for q, v in first.args.items() if q != p):
                        moved[p] += result.startswith("ok")
                if result != label:
                    break
    return again, stayed, kept, broken, moved


def _scope(
    facts: ToolFacts,
    ids: Ids,
    memory: Memory,
    tool: str,
    kept: Counter[str],
    broken: Counter[str],
    moved: Counter[str],
) -> list[str]:
    """The one argument on which a failure is seen to hang, or none for all of them together."""
    lasting = {p for p, d in ids.args.get(tool, {}).items() if memory.versions.get(d)}
    seen = {p for p in facts.known if kept[p] or moved[p] or len(facts.known) == 1}
    fits = [p for p in facts.known if p in seen and broken[p] <= 0.1 * kept[p]]
    few = [p for p in fits if p in facts.categorical and p not in facts.numeric]
    ranked = sorted(
        [p for p in fits if p in lasting or (p in few and moved[p] > 1)],
        key=lambda p: (moved[p] == 0, p not in lasting, -moved[p], p),
    )
    return ranked[:1]


def _by_id(hard: Hard, own: Sequence[Trail], label: str) -> None:
    """Rates by thing, shrunk by how much they differ beyond chance (method of moments)."""
    tally: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for trail in own:
        seen: set[str] = set()
        for s, outcome in trail:
            value = repr(s.args.get(hard.scope[0]))
            if value not in seen and (outcome == label or outcome.startswith("ok")):
                seen.add(value)
                tally[value][0] += outcome == label
                tally[value][1] += 1
    groups = [(k, n) for k, n in tally.values() if n > 1]
    total = sum(n for _, n in groups)
    if len(groups) < 4 or total < 20:
        return
    mean = sum(k for k, _ in groups) / total
    if not 0 < mean < 1:
        return
    spread = sum(n * (k / n - mean) ** 2 for k, n in groups)
    chance = (len(groups) - 1) * mean * (1 - mean)
    room = (total - sum(n * n for _, n in groups) / total) * mean * (1 - mean)
    excess = max(0.0, (spread - chance) / max(room, 1e-9))
    noise = (2 * (len(groups) - 1)) ** 0.5 * mean * (1 - mean)
    if excess > 0.02 and spread - chance > 3 * noise:
        hard.strength = max(1.0, (1 - excess) / excess)
        hard.by_id = dict(tally)
