"""How many tokens an adapter was trained on, run by run: what stands beside its weights."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TRAINED = "trained"  # the key in an adapter's metadata
_METADATA = "understudy.json"  # models.adapters.METADATA, which is not to be had without torch


@dataclass(frozen=True, slots=True)
class Trained:
    """The tokens that one run trained on, as the meter counts them. `run` is the run's id, `recipe`
    the name of its recipe, `parameters` are the base's where they are known."""

    run: str
    recipe: str
    tokens: int
    parameters: int | None = None

    @classmethod
    def read(cls, metadata: Mapping[str, object]) -> "tuple[Trained, ...] | None":
        """Of an adapter by its metadata, the oldest run first; None where nothing is known (older
        adapters, others'). Raises ValueError for what `written` did not make."""
        said: Any = metadata.get(TRAINED)
        if said is None:
            return None
        try:
            found = tuple(cls(**one) for one in said)
        except TypeError:
            found = None
        if found is None or not all(map(_whole, found)):
            raise ValueError(f"{TRAINED!r} is no list of runs with their tokens")
        return found


def told_by(folder: str | Path) -> tuple[Trained, ...] | None:
    """`Trained.read` of what stands beside an adapter or a model. Raises ValueError, with the
    file's name, where that is damaged."""
    file = Path(folder) / _METADATA
    try:
        said = json.loads(file.read_text()) if file.is_file() else {}
        return Trained.read(said if isinstance(said, dict) else {})
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def written(runs: Iterable[Trained]) -> list[dict[str, Any]]:
    """What an adapter's metadata holds under TRAINED."""
    return [asdict(run) for run in runs]


def merged(runs: Iterable[Trained]) -> tuple[Trained, ...]:
    """Each run once, at the place where it came first, with the most tokens that were told of it:
    what it wrote early is a part of what it wrote late."""
    found: dict[str, Trained] = {}
    for one in runs:
        known = found.get(one.run)
        if known is None or one.tokens > known.tokens:
            found[one.run] = one
    return tuple(found.values())


def _whole(one: Trained) -> bool:
    counts = [one.tokens] + ([] if one.parameters is None else [one.parameters])
    texts = isinstance(one.run, str) and isinstance(one.recipe, str) and one.run != ""
    return texts and all(type(n) is int and n >= 0 for n in counts)
