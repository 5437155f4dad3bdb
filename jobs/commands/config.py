"""`mstar-ray config`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import Run, Set, Store, settings


def config(
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "--config",
            metavar="NAME|FILE",
            help="Print this recipe with every setting, as YAML.",
        ),
    ] = None,
    set_: Set = None,
    run: Run = None,
    store: Store = None,
) -> None:
    """Print every setting with its default and meaning; with --recipe or --set, what they come to.

    Example: mstar-ray config --recipe digits --set generate.samples=16
    """  # fmt: skip
    with ending():
        from jobs.config import manual, resolved

        if recipe is None and not (set_ or run or store):
            print("\n".join(manual()))
        else:
            print(resolved(settings(recipe or "digits", set_, run, store)), end="")
