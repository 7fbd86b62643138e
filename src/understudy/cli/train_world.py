"""`understudy train world`: a model for what a world leaves open."""

from typing import Any

from understudy.cli.data import DEFAULT_STORE, StoreOption, captured
from understudy.cli.options import (
    ConfigOption,
    IsolatedOption,
    QuietOption,
    RunArgument,
    SetOption,
    ThreadsOption,
    WorkloadOption,
)
from understudy.cli.running import fit_threads, opened_run
from understudy.cli.world_language import KeyOption, ModelOption, UrlOption


def world(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    workload: WorkloadOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    language_url: UrlOption = None,
    language_model: ModelOption = None,
    language_key_env: KeyOption = None,
    isolated: IsolatedOption = False,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Teach an adapter to fill what a learned world leaves open: values that nothing determines.

    A quarter of the scenarios is not taught. On their calls the model is tried against the world's
    own drafts, and only where it is no worse its values are taken later. With --language-url
    nothing is taught: the model there is tried on the same calls, and the run remembers it.
    Episodes of the held-out split are left out, unless --set split=all.

    Example: understudy train world runs/world --workload support
    """
    from understudy.cli.world_language import remote
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.teach_language import LanguageConfig, train_language
    from understudy.recipes.world_language import try_remote
    from understudy.runs.config import load_config

    named = remote(language_url, language_model, language_key_env)
    if isolated:
        if named is not None:
            raise ValueError("--isolated lets nothing out: a remote model cannot be asked")
        only_the_store([store])
    settings = load_config(LanguageConfig, config, overrides or [])
    fit_threads(threads)
    found = captured(store, workload)
    trial: Any
    with opened_run(run, settings) as opened:
        if named is not None:
            language = try_remote(found, named, settings.split, quiet)
            language.save(opened)
            trial = language.trial
        else:
            result, trial = train_language(opened, found, settings, quiet)
            print(f"{result.steps} steps on {result.kept} lessons; adapter in {result.adapter}")
            for reason, count in result.rows_left_out.items():
                print(f"  left out: {count} lessons, {reason}")
    print(f"tried: {', '.join(f'{n} {what}' for what, n in trial.counted.items())}")
    for line in trial.table():
        print(f"  {line}")
