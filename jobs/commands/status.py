"""`mstar-ray status`."""

from __future__ import annotations

from pathlib import Path

from jobs.runtime.cli import ending
from jobs.runtime.options import Place, RunInStore, StoreOption, one_place


def status(place: Place = None, store: StoreOption = None, run: RunInStore = None) -> None:
    """What a run is doing and has done, from its store alone; without a store, every run in ./out.

    A driver at work is not disturbed: nothing is written, no lease is taken.

    Example: mstar-ray status out/digits
    """
    with ending():
        from jobs.status import overview, status

        if (place, store, run) == (None, None, None):
            overview(Path("out"))
        else:
            status(one_place(place, store), run)
