"""Learn a world from episodes and measure it on episodes kept aside."""

from collections.abc import Sequence
from pathlib import Path

from understudy.core.types import HELDOUT_SHARE, Episode, parted
from understudy.runs.progress import Progress
from understudy.world.config import WorldConfig
from understudy.world.fidelity.crossfit import check, correct, cross_fit
from understudy.world.fidelity.report import FidelityReport, fidelity
from understudy.world.guarding.guards import Guard
from understudy.world.known.order import arranged, in_time
from understudy.world.learn import learn
from understudy.world.traffic.transitions import (
    custom_calls,
    transitions,
    unanswered_calls,
    uncalled_results,
)


def learn_world(
    episodes: Sequence[Episode],
    out: Path,
    heldout: float = HELDOUT_SHARE,
    second: Path | None = None,
    quiet: bool = False,
) -> FidelityReport:
    """A world in the folder `out`, with `fidelity.json` beside it.

    Doubt is corrected by predictions of episodes that were not learned from: cross-fitted ones
    for the world that is measured, those kept aside too for the one that is written.

    Fidelity is measured on a world that has not seen the episodes kept aside; the world that is
    written has learned from all of them. Where no kept-aside episode has a call with a result, or
    none else has, nothing is measured, and the report's `unmeasured` says so. Calls that the world
    cannot learn from are left out and counted by their reason (see world.traffic.aside). Where
    state lasts between episodes, they are read in the order of time (world.known.order). Raises
    ValueError where there is nothing to learn from.

    With `second`, a second world is learned too, from one half of the scenarios, and the first
    from the other half alone; what real episodes of the first half show the second world is kept
    with it (world.guarding.guards).
    """
    if not episodes:
        raise ValueError("there are no episodes to learn from; capture or import some first")
    timed = in_time(episodes)
    every, lasts = arranged(episodes, parted(episodes, heldout)[0] or None)
    episodes, config = every, WorldConfig(lasting=lasts)
    if second is not None:
        episodes, others = parted(every, salt="half:")
        beside = learn(others, config)
        beside.moments.place(beside.episode_ids, every)
        Guard.learn(beside, episodes).save(second)
    rest, apart = parted(episodes, heldout)
    unmeasured = _unmeasured(rest, apart)
    with Progress("learn the world", total=3, unit="parts", quiet=quiet) as progress:
        found = cross_fit(episodes if unmeasured else rest, config)
        progress.advance()
        if unmeasured:
            report = FidelityReport(0, 0, unmeasured=unmeasured)
        else:
            measured = learn(rest, config, timed)
            measured.moments.place(measured.episode_ids, every)
            kept_aside = check(measured, 2, rest, apart)
            correct(measured, rest, found)
            report = fidelity(measured, apart, rest)
            found += kept_aside
        progress.advance()
        custom = sum(custom_calls(e) for e in episodes)
        if custom:
            report.left_out["of custom tools, which take free text"] = custom
        unanswered = sum(unanswered_calls(e) for e in episodes)
        if unanswered:
            report.left_out["whose result was not captured"] = unanswered
        uncalled = sum(uncalled_results(e) for e in episodes)
        if uncalled:
            report.left_out["of which the result alone was captured, or a second one"] = uncalled
        world = learn(episodes, config, timed)
        report.left_out |= world.left_out
        correct(world, episodes, found)
        world.fidelity = report.to_json()
        world.save(out)
        progress.advance()
    return report


def _unmeasured(rest: Sequence[Episode], apart: Sequence[Episode]) -> str | None:
    """Why fidelity cannot be measured with these episodes to learn from and these kept aside."""
    if not any(transitions(e) for e in apart):
        why = f": none of these {len(apart)} episodes has a tool call with a result"
        return f"not measured, nothing was kept aside to measure it on{why if apart else ''}"
    if not any(transitions(e) for e in rest):
        return f"not measured, all calls with results are in the {len(apart)} episodes kept aside"
    return None
