"""Conversations with a learned world beside real ones, and how far real ones are apart.

`width`: users mined from one half of the demo's traffic (its incumbent, without HTTP, several
seeds), against the users of the other half, who hold the same tickets and hear the same agent
(world.users.width). The rest: world, users and a stand-in for the agent learned from one half of
the airline conversations, where they are there, against the other half, over random splits
(recipes.likeness): its calls `replayed` in the world with their true history, and `alone` on the
world's own results; its agent's words said to the `users`; conversations that are `played`.

Of each figure: `real`, of real conversations (both halves, where both have it); `simulated`; its
`distance` from those that nobody learned from; `halves`, the distance of real halves from each
other, up to that which 95% of them are within. `within` counts the figures that are as near as
these, or that pass the gate of their own (coverage at least 90% of what the real half covers,
entropy no lower). Figures that are 0 of all in every split, such as the errors of a tool that never
fails, are counted alone.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.airline import FOLDER, found
from bench.figures import Figure, figure, interval
from bench.incumbents import traffic_of

if TYPE_CHECKING:
    from understudy.world.likeness import conversations as likeness
    from understudy.world.users import width


def run(
    traffic: int = 1000,
    seeds: Sequence[int] = (0, 1, 2),
    splits: int = 5,
    airline: Path = FOLDER,
) -> dict[str, Figure]:
    """`traffic` episodes of each seed; `splits` of the airline conversations."""
    figures = _width(traffic, seeds)
    file = airline / "conversations.jsonl.gz"
    return figures | (_conversations(file, splits) if found(file) else {})


def _width(traffic: int, seeds: Sequence[int]) -> dict[str, Figure]:
    from understudy.core.types import parted
    from understudy.recipes.user_width import measure_users, mine_users, mined_speakers

    reports: list[list[width.Line]] = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            episodes = asyncio.run(traffic_of(Path(folder), 50, seed, traffic))
        known, heldout = parted(episodes, salt="users:")
        speakers = mined_speakers(mine_users(known))
        reports.append(asyncio.run(measure_users(speakers, heldout, seed)).lines)
    kept = [sum(line.within for line in lines) for lines in reports]
    shown = {"width: within": figure(kept, f"of {len(reports[0])} figures")}
    for lines in zip(*reports, strict=True):
        name, unit = f"width: {lines[0].name}", lines[0].unit
        shown[f"{name}, real"] = figure([line.real for line in lines], unit)
        shown[f"{name}, simulated"] = figure([line.simulated for line in lines], unit)
        shown |= _distances(name, lines, sum(line.within for line in lines), len(lines))
    return shown


def _conversations(file: Path, splits: int) -> dict[str, Figure]:
    from understudy.core.chat_files import import_file
    from understudy.recipes.likeness import ALONE, PLAYED, REPLAYED, USERS, measure_likeness

    report = asyncio.run(measure_likeness(list(import_file(file)), splits=splits, quiet=True))
    names = {REPLAYED: "replayed", ALONE: "alone", USERS: "users", PLAYED: "played"}
    shown: dict[str, Figure] = {}
    zero = 0
    for line in report.lines:
        real = [x for x in (line.other, line.real) if x is not None]
        if not any((*real, line.simulated, line.distance, line.bound)):
            zero += 1
            continue
        name = f"{names[line.group]}: {line.name}"
        if real:
            shown[f"{name}, real"] = figure(real, line.unit)
        if line.simulated is not None:
            shown[f"{name}, simulated"] = figure([line.simulated], line.unit)
        judged = line.splits if line.within is not None else 0
        shown |= _distances(name, [line], line.splits_within, judged)
    shown["figures of 0 everywhere"] = figure([zero], f"of {len(report.lines)}")
    for who, lived in report.rollouts.items():
        for calls, share in lived.items():
            shown[f"rollouts, {who}, {calls} calls"] = figure([share], "exact so far")
    for reason, count in report.left_out.items():
        shown[f"left out: {reason}"] = figure([count], "over all splits")
    for group, name in names.items():
        all_within = [line.within for line in report.lines if line.group == group]
        own = [within for within in all_within if within is not None]
        if own:
            shown[f"{name}: within"] = figure([sum(own)], f"of {len(own)} figures")
    return shown


def _distances(
    name: str, lines: Sequence["likeness.Line | width.Line"], kept: int, judged: int
) -> dict[str, Figure]:
    """How far simulated ones are from real ones, near enough in `kept` of the `judged` seeds or
    splits, and real halves from each other."""
    near = f", within in {kept} of {judged}" if judged else ""
    far = figure([line.distance for line in lines], f"simulated from real{near}")
    halves = [line.real_distance for line in lines if line.real_distance is not None]
    if not halves:
        return {f"{name}, distance": far}
    own = median(halves)
    most = max(own, median(line.bound or 0.0 for line in lines))
    return {f"{name}, distance": far,
            f"{name}, halves": interval(own, "real from real", 0.0, most)}  # fmt: skip
