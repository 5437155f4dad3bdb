"""`mstar-ray diff`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.runtime.cli import ending


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The folder of a run; a run of --store.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    store: Annotated[
        str | None, typer.Option(metavar="STORE", help="A and B are runs in this store.")
    ] = None,
    other: Annotated[
        str | None, typer.Option(metavar="STORE", help="B is a run in this one.")
    ] = None,
) -> None:
    """The first step at which two runs part, and in what they differ; 1 when they do.

    Example: mstar-ray diff out/digits out/again
    """
    with ending():
        from jobs.diff import diff

        same = diff((store or a, a if store else None), (other or store or b,
                    b if other or store else None))  # fmt: skip
    raise typer.Exit(0 if same else 1)
