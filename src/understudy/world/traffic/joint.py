"""Things that several arguments name together: the stock of an article at a site, the free hours of
a person on a day.

A tool whose results differ with each of its arguments, and are the same where all are the same,
reads such a thing. Its identifier is what the arguments say, joined; other tools name it by
arguments that take the same values.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from understudy.world.data.values import WORD, call_key, is_number, parse
from understudy.world.traffic.transitions import Step

AND = "&"  # between arguments of a joint identifier, and between its values
_LEAST = 5  # pairs of calls that show something
_NUMBERS = 8  # words of a text that are fields
_MOST = 4  # joint identifiers of a tool's call


def parts(argument: str) -> list[str]:
    """The arguments of a joint identifier; one where it is none."""
    return argument.split(AND)


def value_of(argument: str, args: dict[str, Any]) -> Any:
    """What arguments name together; None where one is missing or is no scalar. What none at all
    name (world.traffic.nameless) is the only one of its kind."""
    if argument == AND:
        return AND
    found = [args.get(p) for p in parts(argument)]
    if len(found) == 1:
        return found[0] if isinstance(found[0], (str, int)) else None
    if not all(isinstance(v, (str, int)) and not isinstance(v, bool) for v in found):
        return None
    return AND.join(map(str, found))


def mine(
    all_steps: Sequence[Step], known: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The joint identifiers of the tools that read such things (tool -> arguments joined), and of
    all tools (tool -> arguments joined -> domain). `known` are identifiers of one argument."""
    by_tool: dict[str, list[Step]] = defaultdict(list)
    for s in all_steps:
        if s.failed:
            continue
        by_tool[s.name].append(s)
    readers: dict[str, str] = {}
    named: dict[str, dict[str, str]] = defaultdict(dict)
    for tool, calls in sorted(by_tool.items()):
        names = _reads(calls)
        if names and _repeats([s for s in all_steps if s.name == tool]):
            readers[tool] = AND.join(names)
            domain = known.get(tool, {}).get(readers[tool], f"j{len(readers)}")
            named[tool][readers[tool]] = domain
            if domain in known.get(tool, {}).values():
                continue
            for other, theirs in by_tool.items():
                for label in _named(names, calls, theirs) if other != tool else ():
                    named[other].setdefault(label, domain)
    return readers, dict(named)


def _reads(calls: Sequence[Step]) -> list[str]:
    """The arguments that a tool's result hangs on together; none where it is no such tool."""
    names = sorted(calls[0].args)
    whole = [s for s in calls if sorted(s.args) == names]
    texts = all(isinstance(s.value, str) for s in whole)
    if not 2 - texts <= len(names) <= 3 or len(whole) < 0.98 * len(calls):
        return []
    if not texts and not all(isinstance(s.value, dict) and not _lists(s.value) for s in whole):
        return []
    if any(value_of(AND.join(names), s.args) is None for s in whole):
        return []
    first: dict[tuple[Any, ...], dict[int, str]] = defaultdict(dict)
    for s in whole:
        key = tuple(s.args[p] for p in names)
        bare = s.value
        if isinstance(bare, dict):
            bare = {k: v for k, v in bare.items() if v not in s.args.values()}
        first[key].setdefault(s.episode, call_key("", bare))
    again = [Counter(told.values()) for told in first.values() if len(told) > 1]
    same = sum(c.most_common(1)[0][1] - 1 for c in again)
    if same < _LEAST or same < 0.6 * sum(c.total() - 1 for c in again):
        return []
    usual = {key: Counter(t.values()).most_common(1)[0][0] for key, t in first.items()}
    for i in range(len(names)):
        groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)
        for key, told in usual.items():
            groups[key[:i] + key[i + 1 :]].append(told)
        several = [g for g in groups.values() if len(g) > 1]
        differ = sum(len(set(g)) > 1 for g in several)
        if len(several) < min(2, len(names) - 1) or sum(map(len, several)) < _LEAST:
            return []
        if differ < 0.8 * len(several):
            return []
    return names


def free(calls: Iterable[Step]) -> list[str]:
    """The tools whose texts have no few forms: they are what somebody wrote."""
    forms: dict[str, set[str]] = defaultdict(set)
    whole: dict[str, set[str]] = defaultdict(set)
    for s in calls:
        if not s.failed and isinstance(s.value, str):
            whole[s.name].add(s.value)
            bare = s.value
            for p, value in s.args.items():
                bare = bare.replace(str(value), p) if value else bare
            forms[s.name].add(WORD.sub(lambda m: "#" if _numbers(m[0]) else m[0], bare))
    return sorted(t for t, own in forms.items() if len(own) > max(5, 0.3 * len(whole[t])))


def record(tool: str, text: str) -> dict[str, Any]:
    """A text as a record: the whole under the tool's name, and its first words with digits."""
    words = [m[0] for m in WORD.finditer(text) if _numbers(m[0])][:_NUMBERS]
    return {tool: text} | {f"{tool} {i}": _number(w) for i, w in enumerate(words)}


def _numbers(word: str) -> bool:
    return any(map(str.isdigit, word))


def _number(word: str) -> Any:
    value = parse(word)
    return value if is_number(value) else word


def _repeats(calls: Sequence[Step]) -> bool:
    """Whether what went well once in an episode often does so again."""
    went: dict[tuple[int, str], bool] = {}
    again: list[bool] = []
    for s in calls:
        key = s.episode, call_key("", s.args)
        if went.get(key):
            again.append(not s.failed)
        went[key] = went.get(key, False) or not s.failed
    return sum(again) >= max(2, 0.3 * len(again))


def _lists(value: dict[str, Any]) -> bool:
    """Whether a result holds records in a list."""
    return any(isinstance(v, list) and any(isinstance(r, dict) for r in v) for v in value.values())


def _named(names: Sequence[str], calls: Sequence[Step], theirs: Sequence[Step]) -> Iterator[str]:
    """The arguments of another tool that name such things: all their values are such values, that
    of an argument with the same name is it."""
    known = {p: {s.args[p] for s in calls} for p in names}
    given: dict[str, set[Any]] = defaultdict(set)
    for s in theirs:
        for p, value in s.args.items():
            if isinstance(value, (str, int)) and not isinstance(value, bool):
                given[p].add(value)
    always = {p for p in given if sum(p in s.args for s in theirs) >= 0.95 * len(theirs)}
    choices = []
    for p in names:
        fits = [
            q for q in sorted(always)
            if len(given[q]) > 1 and len(given[q] & known[p]) >= 0.8 * len(given[q])
        ]  # fmt: skip
        choices.append([p] if p in fits else fits)
    found = [c for c in product(*choices) if len(set(c)) == len(c)]
    if len(found) <= _MOST:
        yield from (AND.join(c) for c in found)
