"""`mstar-ray ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import GOES_ON, Set

Tables = Annotated[str, typer.Option(metavar="NAME|FILE", help="Tables, rows, settings, seeds.")]

Profile = Annotated[str | None, typer.Option(help="A smaller form that the recipe names: small.")]

Table = Annotated[list[str] | None, typer.Option(help="Only this table; repeatable.")]

Row = Annotated[list[str] | None, typer.Option(help="Only this row; repeatable.")]

Seed = Annotated[list[int] | None, typer.Option(help="Only this seed; repeatable.")]

AtOnce = Annotated[int, typer.Option(min=1, help="Runs under way together, on a Ray cluster.")]

Json = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Results, one record a cell; the page lies beside it as .md and .html. Default: "
        "docs/results/RECIPE.json, or RECIPE-PROFILE.json.",
    ),
]

Across = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD",
        help="A table may mix results that differ in this: commit, recipe, base or grader. The "
        "page names all of them.",
    ),
]

DryRun = Annotated[bool, typer.Option(help="Say what would be run, and stop.")]

OnlyPage = Annotated[bool, typer.Option(help="Compute nothing, write the page.")]


def ablate(
    *,
    recipe: Tables = "ablate",
    profile: Profile = None,
    table: Table = None,
    row: Row = None,
    seed: Seed = None,
    set_: Set = None,
    at_once: AtOnce = 1,
    json: Json = None,
    across: Across = None,
    dry_run: DryRun = False,
    only_page: OnlyPage = False,
) -> None:
    """The paper's tables over seeds: each cell a run, all in one store, resumable.

    Goes on where it was when given again: a finished cell is never computed twice.

    Example: mstar-ray ablate --table 2 --row top-2-prm --seed 31
    """
    with ending(GOES_ON):
        from jobs.ablate import __main__ as work

        named = "-".join([Path(recipe).stem, *([] if profile is None else [profile])])
        asked = work.Asked(
            recipe, profile, table or (), row or (), seed or (), set_ or (), at_once,
            json or Path("docs/results") / f"{named}.json", across or (),
        )  # fmt: skip
        code = 0
        if only_page:
            work.only_page(asked)
        else:
            code = work.ablate(asked, dry_run=dry_run)
    raise typer.Exit(code)
