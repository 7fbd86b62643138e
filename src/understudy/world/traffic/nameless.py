"""Things that have no name because a session has but one of them: its basket, its draft, where it
stands.

A tool that takes no arguments shows such a thing; others that answer in the same form change it,
and some change it that show something else. Its identifier is a joint one (world.traffic.joint) of
no arguments at all.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.world.traffic.transitions import Step

_LEAST, _SURE = 2, 0.5
_SAME = 0.95  # of a tool's results, those that have its usual form
Form = tuple[str, ...]


def mine(
    good: Sequence[Step], keys: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, str], dict[str, str]]:
    """The tools that show such things, and those that change them without showing them, each with
    its kind. `good` are calls that went well, `keys` the records that have identifiers."""
    forms: dict[str, Counter[Form | None]] = defaultdict(Counter)
    silent: dict[str, bool] = defaultdict(lambda: True)
    for s in good:
        whole = isinstance(s.value, dict) and "" not in keys.get(s.name, {})
        forms[s.name][tuple(sorted(s.value)) if whole else None] += 1
        silent[s.name] &= not s.args
    usual: dict[Form, list[str]] = defaultdict(list)
    for tool, own in sorted(forms.items()):
        form, n = own.most_common(1)[0]
        if form is not None and len(form) > 1 and n >= _SAME * own.total():
            usual[form].append(tool)
    shows: dict[str, str] = {}
    changes: dict[str, str] = {}
    for _, tools in sorted(usual.items()):
        readers = [t for t in tools if silent[t]]
        if readers and len(tools) > 1:
            domain = f"n{len(set(shows.values()))}"
            shows |= dict.fromkeys(tools, domain)
            changes |= dict.fromkeys(_changing(good, tools, readers), domain)
    return shows, {t: d for t, d in changes.items() if t not in shows}


def _changing(good: Sequence[Step], tools: Sequence[str], readers: Sequence[str]) -> list[str]:
    """The other tools after whose calls the thing is often another than it was seen before."""
    differs: Counter[str] = Counter()
    times: Counter[str] = Counter()
    episode, shown = -1, None
    between: set[str] = set()
    for s in good:
        if s.episode != episode:
            episode, shown, between = s.episode, None, set()
        if s.name not in tools:
            between.add(s.name)
            continue
        if s.name in readers and shown is not None and len(between) == 1:
            times.update(between)
            differs.update(between if s.value != shown else ())
        shown, between = s.value, set()
    return [t for t, n in differs.items() if n >= _LEAST and n >= _SURE * times[t]]
