"""`understudy train report`: a run's curves, counts and configuration as one page."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder; it may still be going.")],
    html: Annotated[
        Path | None, typer.Option(help="The page's file; RUN/report.html where it is not named.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="A folder for curves.png and an SVG for each chart.")
    ] = None,
) -> None:
    """Write a run's page: reward, success, entropy, KL, loss, speed, staleness, what was left out
    and why, checkpoints, configuration. One file that loads nothing.

    Example: understudy train report runs/rehearsed --plots build/plots
    """
    from understudy.runs.directory import Run
    from understudy.runs.report import write_report
    from understudy.runs.training_page import page
    from understudy.runs.training_plots import write_plots

    opened = Run.open(run, read_only=True)
    print(write_report(page(opened), html or run / "report.html"))
    if plots is not None:
        written = write_plots(opened, plots)
        print(f"{len(written)} plots in {plots}")
