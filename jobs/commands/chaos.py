"""`mstar-ray chaos`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import Recipe, Set


def chaos(
    *,
    recipe: Recipe = "chaos",
    set_: Set = None,
    kills: Annotated[int | None, typer.Option(min=1, help="How many; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the plan: order, delays, moments.")] = 0,
    examples: Annotated[int, typer.Option(min=0, help="Of the driver's state machine.")] = 5000,
    controls: Annotated[bool, typer.Option(help="Also runs that must come out different.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for result, runs and logs.")] = Path("out"),
) -> None:
    """Kill a run on a local S3 server at every stage, and compare what it made; 1 when it differs.

    Example: mstar-ray chaos --kills 3
    """
    with ending():
        from jobs.chaos.__main__ import run_chaos

        holds = run_chaos(recipe, set_ or [], kills, seed, examples, controls=controls, out=out)
    raise typer.Exit(0 if holds else 1)
