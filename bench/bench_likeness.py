"""Conversations with a learned world beside real ones, and how far real ones are apart.

`width`: users mined from one half of the demo's traffic (its incumbent, without HTTP), against the
users of the other half, who hold the same tickets and hear the same agent (world.width). The rest:
world, users and a stand-in for the agent learned from one half of the airline conversations, where
they are there, against the other half, over random splits (recipes.likeness): its real calls in
the world with their `true` history and on the world's `own` results, its agent's words said to the
`users`, and conversations that are `played`.

Of each figure: `real`, over the range of the two halves; `simulated`; its `distance` from real
ones that nobody learned from; `halves`, the distance of real halves from each other, up to that
which 95% of them are within. The `within` count the figures that are as near as these, or that
pass the gate of their own (coverage at least 90% of what the real half covers, entropy no lower).
Figures that are 0 of all and in every split, such as the errors of a tool that never fails, are
counted alone.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.airline import FOLDER, found
from bench.figures import Figure, figure, interval
from bench.incumbents import traffic_of

if TYPE_CHECKING:
    from understudy.core.types import Episode
    from understudy.world import likeness, width


def run(traffic: int = 1000, splits: int = 5, airline: Path = FOLDER) -> dict[str, Figure]:
    """Half of `traffic` episodes is mined; `splits` of the airline conversations."""
    with tempfile.TemporaryDirectory() as folder:
        figures = _width(asyncio.run(traffic_of(Path(folder), 50, 0, traffic)))
    file = airline / "conversations.jsonl.gz"
    return figures | (_conversations(file, splits) if found(file) else {})


def _width(episodes: Sequence["Episode"]) -> dict[str, Figure]:
    from understudy.core.types import parted
    from understudy.recipes.user_width import measure_users, mine_users, mined_speakers

    known, heldout = parted(episodes, salt="users:")
    report = asyncio.run(measure_users(mined_speakers(mine_users(known)), heldout))
    shown: dict[str, Figure] = {}
    for line in report.lines:
        shown |= _line(f"width: {line.name}", line, [line.real])
    return _within("width", report.lines) | shown


def _conversations(file: Path, splits: int) -> dict[str, Figure]:
    from understudy.core.chat_files import import_file
    from understudy.recipes.likeness import ALONE, PLAYED, REPLAYED, USERS, measure_likeness

    report = asyncio.run(measure_likeness(list(import_file(file)), splits=splits, quiet=True))
    names = {REPLAYED: "true", ALONE: "own", USERS: "users", PLAYED: "played"}
    shown: dict[str, Figure] = {}
    zero = 0
    for line in report.lines:
        real = [x for x in (line.other, line.real) if x is not None]
        if not any((*real, line.simulated, line.distance, line.bound)):
            zero += 1
            continue
        near = f", within in {line.splits_within} of {line.splits}"
        kept = near if line.bound is not None else ""
        shown |= _line(f"{names[line.group]}: {line.name}", line, real, kept)
    shown["figures of 0 everywhere"] = figure([zero], f"of {len(report.lines)}")
    for who, lived in report.rollouts.items():
        for calls, share in lived.items():
            shown[f"rollouts, {who}, {calls} calls"] = figure([share], "exact so far")
    for reason, count in report.left_out.items():
        shown[f"left out: {reason}"] = figure([count], "over all splits")
    counted: dict[str, Figure] = {}
    for group, name in names.items():
        own = [line for line in report.lines if line.group == group and line.within is not None]
        counted |= _within(name, own) if own else {}
    return counted | shown


def _line(
    name: str, line: "likeness.Line | width.Line", real: Sequence[float], kept: str = ""
) -> dict[str, Figure]:
    """A figure's rows; `kept` says in how many splits it was near enough."""
    shown = {f"{name}, real": figure(real, line.unit)} if real else {}
    if line.simulated is not None:
        shown[f"{name}, simulated"] = figure([line.simulated], line.unit)
    shown[f"{name}, distance"] = figure([line.distance], f"simulated from real{kept}")
    if line.real_distance is not None:
        high = max(line.real_distance, line.bound or 0.0)
        shown[f"{name}, halves"] = interval(line.real_distance, "real from real", 0.0, high)
    return shown


def _within(name: str, lines: Sequence["likeness.Line | width.Line"]) -> dict[str, Figure]:
    count = sum(bool(line.within) for line in lines)
    return {f"{name}: within": figure([count], f"of {len(lines)} figures")}
