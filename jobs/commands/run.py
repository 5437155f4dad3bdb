"""`mstar-ray run`."""

from __future__ import annotations

from jobs.runtime.cli import ending
from jobs.runtime.options import GOES_ON, BadRows, Recipe, Run, Set, Store, TakeOver, settings


def run(
    recipe: Recipe = "digits",
    set_: Set = None,
    run: Run = None,
    store: Store = None,
    bad_rows: BadRows = None,
    *,
    take_over: TakeOver = False,
) -> None:
    """Run the self-evolving loop, or go on with a run that was interrupted.

    What it leaves lies in OUT/RUN (out/digits): summary.json, TensorBoard files, and the store
    unless it is elsewhere. Started again, it goes on; a finished run says so.

    Example: mstar-ray run --recipe digits --run mine --set run.seed=1
    """
    with ending(GOES_ON):
        from jobs.run import evolve
        from jobs.runtime.bad_rows import bad_rows_to

        with bad_rows_to(bad_rows):
            evolve(settings(recipe, set_, run, store), take_over=take_over)
