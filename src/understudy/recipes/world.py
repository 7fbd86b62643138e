"""Learn a world from episodes and measure it on episodes kept aside."""

from collections.abc import Sequence
from pathlib import Path

from understudy.core.types import Episode, split_of
from understudy.runs.directory import write_json
from understudy.world.fidelity import FidelityReport, fidelity
from understudy.world.learn import learn
from understudy.world.model import World
from understudy.world.transitions import custom_calls


def learn_world(episodes: Sequence[Episode], out: Path, heldout: float = 0.15) -> FidelityReport:
    """A world in the folder `out`, with `fidelity.json` beside it.

    Fidelity is measured on a world that has not seen the episodes kept aside; the world that is
    written has learned from all of them. Calls of custom tools are left out and counted. Raises
    ValueError where there is nothing to learn from.
    """
    apart = [e for e in episodes if split_of(e.scenario_id or e.id, heldout) == "heldout"]
    rest = [e for e in episodes if split_of(e.scenario_id or e.id, heldout) == "train"]
    if not rest:
        raise ValueError("there are no episodes to learn from; capture or import some first")
    report = fidelity(learn(rest), apart)
    custom = sum(custom_calls(e) for e in episodes)
    if custom:
        report.left_out["of custom tools, which take free text"] = custom
    learned: World = learn(episodes)
    learned.save(out)
    write_json(out / "fidelity.json", report.to_json())
    return report
