"""`mstar-ray gc`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.runtime.cli import ending
from jobs.runtime.options import Place, StoreOption, one_place


def gc(
    place: Place = None,
    store: StoreOption = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is listed.")] = False,
    min_age_h: Annotated[float, typer.Option(min=0.0, help="Hours; younger is kept.")] = 24.0,
) -> None:
    """List what no run of a store needs; with --delete, remove it.

    Refuses while a driver lives, and where a ledger is damaged: nobody knows what that one named.

    Example: mstar-ray gc out/digits --delete
    """
    with ending("interrupted; what was removed stays removed, start it again"):
        from jobs.gc import gc

        gc(one_place(place, store), min_age_h, delete=delete)
