"""`mstar-ray report loop`, `report prm`, `report dynamics` and `report searches`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import EXIT_CODES, Folders, Place, RunInStore, StoreOption, one_place

report = typer.Typer(name="report", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="The file of rows that is written.")]


@report.callback()
def _report() -> None:
    """Rows, tables and pooled differences of finished runs of several seeds."""


@report.command(epilog=EXIT_CODES)
def loop(runs: Folders, out: Out = Path("out/report/loop.json")) -> None:
    """Warm-up, control and final of runs of the self-evolving loop.

    Example: mstar-ray report loop out/seed0 out/seed1 out/seed2
    """
    with ending():
        from jobs.report import loop

        loop(runs, out)


@report.command("prm", epilog=EXIT_CODES)
def report_prm(
    *,
    top2: Annotated[list[str], typer.Option(help="Runs that keep the two best of a query.")],
    random2: Annotated[list[str], typer.Option(help="Runs that keep two at random.")],
    all_: Annotated[list[str], typer.Option("--all", help="Runs that keep all correct ones.")],
    data: Annotated[
        Path | None, typer.Option(help="The digits data; default: OUT/data/digits.")
    ] = None,
    out: Out = Path("out/report/prm.json"),
) -> None:
    """What the process reward model was worth: runs of the same seeds with and without it.

    Example: mstar-ray report prm --top2 out/top2-0 --random2 out/random2-0 --all out/all-0
    """
    with ending():
        from jobs.report import prm

        prm(top2, random2, all_, data, out)


@report.command(epilog=EXIT_CODES)
def dynamics(
    place: Place = None,
    store: StoreOption = None,
    run: RunInStore = None,
    *,
    out: Annotated[Path, typer.Option(help="The folder that is written.")] = Path(
        "out/report/dynamics"
    ),
) -> None:
    """What a run found out across temperatures: searches, Pass@K, Reward-Pass@2, their cost.

    Writes exploration.json, dynamics.csv and plots like the paper's Figures 3 to 5.

    Example: mstar-ray report dynamics out/digits-adaptive
    """
    with ending():
        from jobs.report import dynamics

        dynamics(one_place(place, store), out, run)


@report.command(epilog=EXIT_CODES)
def searches(
    count: Annotated[int, typer.Option(min=10, help="Searches for each point of a curve.")] = 1000,
    out: Annotated[Path, typer.Option(help="The folder that is written.")] = Path(
        "out/report/searches"
    ),
) -> None:
    """What each rule of choosing a temperature does in simulated searches whose truth is known.

    Example: mstar-ray report searches --count 1000
    """
    with ending():
        from jobs.report import searches

        searches(count, out)
