"""`mstar-ray bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import Recipe, Set


def bench(
    *,
    recipe: Recipe = "digits",
    set_: Set = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ROW", help="A row; as often as wanted.")
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="Try the benches out: figures mean nothing.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that count.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/bench"),
) -> None:
    """Speed and memory beside the bare engines; 1 when a bar is missed.

    Example: mstar-ray bench --only generation
    """
    with ending():
        from jobs.bench import bench

        reached = bench(recipe, set_ or [], only or [], small=small, rounds=rounds, out=out)
    raise typer.Exit(0 if reached else 1)
