"""Which model fills what a world leaves open, as commands are told: an adapter's run, or a remote
model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from understudy.recipes.world_language import Language

RunOption = Annotated[
    Path | None,
    typer.Option("--language", help="A run of `train world`: its model fills what is left open."),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--language-url", help="Or an OpenAI-compatible endpoint, such as https://host/v1."
    ),
]
ModelOption = Annotated[
    str | None, typer.Option("--language-model", help="The model's name at that endpoint.")
]
KeyOption = Annotated[
    str | None,
    typer.Option("--language-key-env", help="The environment variable that holds its key."),
]


def remote(url: str | None, model: str | None, key_env: str | None) -> Any:
    """The remote model of these options; None where none is named. Raises ValueError for half of
    them."""
    from understudy.recipes.world_language import Remote

    if url is None and model is None and key_env is None:
        return None
    if url is None or model is None:
        raise ValueError("a remote model needs both --language-url and --language-model")
    found = Remote(url=url, model=model, key_env=key_env)
    _ = found.key  # a missing one is said before any work
    return found


def _one(run: Path | None, url: str | None, model: str | None, key_env: str | None) -> Any:
    """The remote model where one is named. Raises ValueError where a run is named too."""
    named = remote(url, model, key_env)
    if run is not None and named is not None:
        raise ValueError("name either --language or --language-url, not both")
    return named


def language(
    run: Path | None, url: str | None, model: str | None, key_env: str | None
) -> "Language | None":
    """The model of these options; None where none is named. A remote one is untried: whatever fits
    of its values is taken."""
    from understudy.recipes.world_language import Language

    named = _one(run, url, model, key_env)
    if run is not None:
        return Language.load(run)
    if named is None:
        return None
    typer.echo(
        "this model is untried, so every value that fits is taken; `understudy train world RUN "
        "--language-url URL --language-model NAME` tries it on captured episodes",
        err=True,
    )
    return Language(None, remote=named)


def for_bench(run: Path | None, url: str | None, model: str | None, key_env: str | None) -> Any:
    """Opens the model of these options, given a world and the episodes that it learned from (see
    world.fidelity.bench): an adapter is trained on them where its run is not done, a remote one
    tried."""
    from understudy.recipes.teach_language import LanguageConfig, train_language
    from understudy.recipes.world_language import Language, try_remote
    from understudy.runs.directory import Run

    named = _one(run, url, model, key_env)
    if run is None and named is None:
        return None

    def opened(world: Any, train: Any) -> Any:
        if run is None:
            return try_remote(train, named, "all").opened()
        if not (run / "artefacts" / "language.json").exists():
            config = LanguageConfig(split="all")
            begun = (run / "run.json").exists()
            with Run.open(run) if begun else Run.create(run, config) as opened:
                train_language(opened, train, config)
        return Language.load(run).opened()

    return opened
