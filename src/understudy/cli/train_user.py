"""`understudy train user`: a model that plays the users."""

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


def user(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
    workload: WorkloadOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    isolated: IsolatedOption = False,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Teach an adapter to say what users said: it reads a user's goal, manner and conversation.

    It is tried at turns of the held-out split: how many of the facts that real users told there its
    replies tell, beside the base's.

    Example: understudy train user runs/user --workload support
    """
    from understudy.recipes.isolation import only_the_store
    from understudy.recipes.user import UserConfig, train_user
    from understudy.runs.config import load_config

    if isolated:
        only_the_store([store])
    settings = load_config(UserConfig, config, overrides or [])
    fit_threads(threads)
    found = captured(store, workload)
    with opened_run(run, settings) as opened:
        result = train_user(opened, found, settings, quiet)
    distilled, told = result.distilled, result.told
    print(f"{distilled.steps} steps on {distilled.kept} turns; adapter in {distilled.adapter}")
    for reason, count in distilled.rows_left_out.items():
        print(f"  left out: {count} turns, {reason}")
    if told is not None:
        print(f"of {told.facts} facts at {told.turns} held-out turns it tells {told.trained:.0%}, "
              f"the base {told.base:.0%}")  # fmt: skip
