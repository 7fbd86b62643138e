"""What a language model adds to a world: an adapter of the tiny base in the gaps of three worlds.

Traffic of the demo's incumbent, without HTTP; airline replays, where they are there (their train
split to learn from, their test split to predict); a synthetic service that answers in prose. An
adapter is taught on the traffic that the world learns from, tried on scenarios kept apart
(world.language.trial), and asked for what the world leaves open in calls that neither has seen.

`invented`: values that nothing determined; `taken`: those that are the model's, `right`: those that
are as they really were. `valid`: of the results that hold a value of the model, those of a form
that the traffic shows (world.fidelity.forms), and `valid_real`: of the real results. `words`: the
F1 of the words of results that are texts. Then each column of the fidelity report
(world.fidelity.report) without and with the model, with its 95% interval; `columns_lower` counts
those that it lowers.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from bench.airline import FOLDER, found
from bench.figures import Figure, figure, interval
from bench.incumbents import traffic_of

HOURS = True  # a quarter of one, most of it on the replays: by name only

if TYPE_CHECKING:
    from understudy.core.types import Episode
    from understudy.world.fidelity.floor import Said
    from understudy.world.fidelity.report import FidelityReport
    from understudy.world.model import World


def run(
    traffic: int = 1000, walks: int = 200, airline: Path = FOLDER, settings: Sequence[str] = ()
) -> dict[str, Figure]:
    """A fifth of `traffic` and of `walks` is kept to be predicted; `settings` are of the adapter's
    training."""
    from understudy.core.types import parted
    from understudy.world.fidelity.bench import episode_of, replay_rows
    from walks import walk

    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        demo = parted(asyncio.run(traffic_of(folder, 50, 0, traffic)), 0.2, "language:")
        told = [walk(n) for n in range(walks)]
        services = {"demo": demo, "prose": (told[: -walks // 5], told[-walks // 5 :])}
        if found(airline / "replays.jsonl.gz"):
            rows = replay_rows(airline)
            services["airline"] = (
                [episode_of(row) for row in rows if row["split"] == "train"],
                [episode_of(row) for row in rows if row["split"] == "test"],
            )
        for name, (train, test) in services.items():
            own = _measured(folder / name, train, test, settings)
            figures |= {f"{name}_{label}": value for label, value in own.items()}
    return figures


def _measured(
    folder: Path, train: Sequence["Episode"], test: Sequence["Episode"], settings: Sequence[str]
) -> dict[str, Figure]:
    from understudy.recipes.teach_language import LanguageConfig, train_language
    from understudy.recipes.world_language import Language
    from understudy.runs.config import load_config
    from understudy.runs.directory import Run
    from understudy.world.fidelity.crossfit import calibrated
    from understudy.world.fidelity.report import fidelity, filled_results

    config = load_config(LanguageConfig, None, ["split=all", *settings])
    with Run.create(folder, config) as taught:
        train_language(taught, train, config)
    world = calibrated(train)

    async def asked() -> tuple[Mapping[tuple[int, int], "Said"], int]:
        async with Language.load(folder).opened() as filled:
            owner = filled(world)
            return await filled_results(owner, test), owner.counted["taken"]

    filled, taken = asyncio.run(asked())
    report = fidelity(world, test, train, filled=filled)
    return _gaps(world, test, filled, taken) | _columns(report)


def _gaps(
    world: "World",
    test: Sequence["Episode"],
    filled: Mapping[tuple[int, int], "Said"],
    taken: int,
) -> dict[str, Figure]:
    """What became of the values that nothing determined, and of the results that hold them."""
    from understudy.world.data.values import leaves, same
    from understudy.world.fidelity.compare import failed
    from understudy.world.fidelity.forms import Forms
    from understudy.world.fidelity.scoring import walk
    from understudy.world.language.filler import gaps
    from understudy.world.language.trial import word_f1

    forms, right = Forms(world), Counter[str]()
    valid: dict[str, list[bool]] = {"valid": [], "valid_real": []}
    words: dict[str, list[float]] = {"without": [], "with": []}
    for n, episode in enumerate(test):
        for m in walk(world, episode, n, set()):
            s, (text, flag) = m.truth.step, filled[n, m.truth.step.index]
            said = {"without": m.text, "with": text}
            real: dict[str, Any] = dict(leaves(s.value))
            paths = gaps(m.prediction, m.context) if m.context is not None else []
            right["invented"] += len(paths)
            for who, told in said.items():
                values = dict(leaves(s.read(told)))
                right[who] += sum(
                    p in real and p in values and same(values[p], real[p]) for p in paths
                )
                if isinstance(s.value, str) and not s.failed:
                    words[who].append(word_f1(told, s.content))
            if text != m.text:
                fails = failed(world.failures, s.name, text, flag)
                valid["valid"].append(bool(forms.valid(m.context, text, fails)))
            if m.context is not None:
                valid["valid_real"].append(bool(forms.valid(m.context, s.content, s.failed)))
    of = f"of {right['invented']} values"
    shown = {
        "invented": figure([right["invented"]], "values"),
        "taken": figure([taken], of),
        **{f"right_{who}": figure([right[who]], f"{of} that are right") for who in words},
    }
    for label, judged in valid.items():
        if judged:
            shown[label] = figure([100 * fmean(judged)], f"% of {len(judged)} results")
    for who, found_ in words.items():
        if found_:
            shown[f"words_{who}"] = figure([fmean(found_)], f"F1 of {len(found_)} texts")
    return shown


def _columns(report: "FidelityReport") -> dict[str, Figure]:
    """Every column that applies to some call, without and with the model."""
    shown: dict[str, Figure] = {}
    lower = total = 0
    for column, own in report.model.items():
        if not own["n"]:
            continue
        total += 1
        lower += own["value"] < report.overall[column]["value"] - 1e-9
        for who, f in (("without", report.overall[column]), ("with", own)):
            value, low, high = (100 * f[k] for k in ("value", "low", "high"))
            shown[f"{column}_{who}"] = interval(value, "%", min(low, value), max(high, value))
    return {"columns_lower": figure([lower], f"of {total} columns")} | shown
